"""WebDataset tars: images with a class (`KEY.cls`) and, where they have them, boxes (`KEY.json`)."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from typing import Any

from assay.harness.types import Sample
from PIL import Image

from .annotations import BoxedObject, box_fault, boxes_by_class, difficult_flags, outside
from .class_names import class_names
from .decoding import DataError, Reading, decode_image, failure_of, unreadable_among
from .images import Transform
from .listing import files_fingerprint
from .tars import Packed, packed_samples

HINT = "Put the tars at <root>/<files>; then dataset.root=/path/to/root 'dataset.files=val-*.tar'."
OVER_PX = 1.0  # by which a box may reach beyond its image; tools round
NO_LABEL = -1


class WebDataset:
    """The samples of tars, one tar after the other; each is read from its place, in any order.

    A class is a whole number, as text, in KEY.cls; -1 says that this image has none. Boxes are, as torchvision's
    detectors take them, `{"boxes": [[x0, y0, x1, y1], ...], "labels": [class, ...]}` in each sample's JSON, in
    half-open pixel edges; without labels the targets are the classes of the boxes.

    Args:
        root: folder of the tars.
        files: name or glob pattern of the tars, relative to root; several are taken in alphabetical order.
        images: endings of images, of which each sample has one; endings are told without regard to case.
        label: ending of the files with the class; null: no labels are read.
        boxes: ending of the files with boxes; null: no boxes are read.
        classes: names of the classes, as of `datasets.class_names`; null: the numbers up to the highest.
        split: name of the split in tables.
        transform: settings of `datasets.images.Transform`.
        orientation: which pixels are read, and boxes counted in: `stored`, as they lie in the file, or `upright`, as a
            viewer shows a photograph with an EXIF orientation.
        unreadable: samples without an image, or with one that cannot be read, as of `datasets.folder.Folder`.

    Raises:
        DataError: no tar, one that is damaged, a key twice, a label or box that is none, some samples without a label,
            an ending that no sample has.
    """

    def __init__(
        self,
        root: str,
        files: str = "*.tar",
        images: Sequence[str] = ("jpg", "jpeg", "png", "webp"),
        label: str | None = "cls",
        boxes: str | None = None,
        classes: str | Sequence[str] | None = None,
        split: str = "test",
        transform: Mapping[str, Any] | None = None,
        orientation: str = "stored",
        unreadable: str = "refuse",
    ) -> None:
        self.root, self.endings = Path(root).expanduser(), tuple(each.lower() for each in images)
        self.label, self.boxes = label and label.lower(), boxes and boxes.lower()
        self.reading, self.transform = Reading.of(orientation, unreadable), Transform.of(transform)
        self.tars = self._found(files)
        every = [sample for tar in self.tars for sample in packed_samples(tar)]
        kept = self.reading.sift(every, self._failure, self.root)
        self.samples, self.skipped, self.split = kept.items, kept.skipped, kept.split(split)
        self._check_endings()
        self.labels = self._read_labels()
        self.objects = [_objects(each, self.boxes) if self.boxes else [] for each in self.samples]
        named = class_names(classes)
        self.classes: Sequence[str] = named or [str(index) for index in range(self._highest() + 1)]
        self._check_classes()

    @property
    def borders(self) -> list[int]:
        """Where a tar begins: no shard reaches across."""
        counts = {tar: 0 for tar in self.tars}
        for sample in self.samples:
            counts[sample.tar] += 1
        return [0, *accumulate(counts.values())]

    def _found(self, files: str) -> list[Path]:
        if not files or Path(files).is_absolute():
            raise DataError(f"dataset.files={files}: give a name or pattern below dataset.root={self.root}. {HINT}")
        if found := sorted(self.root.glob(files)):
            return found
        raise DataError(f"no tar {files} at {self.root.absolute()}. {HINT}")

    def _check_endings(self) -> None:
        """A name that no sample has would read nothing, without a word."""
        held = {ending for each in self.samples for ending in each.members}
        for setting, ending in (("label", self.label), ("boxes", self.boxes)):
            if self.samples and ending and ending not in held:
                raise DataError(
                    f"dataset.{setting}={ending}: no sample of {self.root} has such a file: there are "
                    f"{', '.join(sorted(held))}: name one of them, or dataset.{setting}=null to read none"
                )

    def _read_labels(self) -> list[int | None]:
        labelled = [self.label is not None and self.label in each.members for each in self.samples]
        if any(labelled) and not all(labelled):
            first = self.samples[labelled.index(False)]
            raise DataError(
                f"{first} has no .{self.label}, and others have: add it (-1: no label), or dataset.label=null"
            )
        return [
            _label(each, str(self.label)) if has else None for each, has in zip(self.samples, labelled, strict=True)
        ]

    def _numbers(self, index: int) -> list[int]:
        """All classes that a sample names."""
        label = self.labels[index]
        return [*([] if label is None else [label]), *(int(each.name) for each in self.objects[index])]

    def _highest(self) -> int:
        return max((number for index in range(len(self)) for number in self._numbers(index)), default=-1)

    def _check_classes(self) -> None:
        for index, sample in enumerate(self.samples):
            for number in self._numbers(index):
                if not 0 <= number < len(self.classes):
                    raise DataError(f"{sample}: class {number} is none of {len(self.classes)}: mend dataset.classes")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        sample = self.samples[index]
        try:
            image = self._image(sample)
        except DataError as error:
            raise unreadable_among(self.samples, self._failure, error) from error
        framed, objects = self.transform(image), self.objects[index]
        for each in objects:
            if why := outside(each.edges, image.size, OVER_PX):
                raise DataError(f"{sample}.{self.boxes}: {why}")
        found = boxes_by_class(objects, {name: int(name) for name in {each.name for each in objects}}, framed)
        label = self.labels[index]
        targets = tuple(found) if label is None and self.boxes else () if label is None else (label,)
        name = f"{sample.tar.relative_to(self.root).with_suffix('').as_posix()}/{sample.key}"
        flags = difficult_flags(found, framed.size0)
        return Sample(name, framed.image, targets, framed.size0, found, difficult=flags)

    def _image(self, sample: Packed) -> Image.Image:
        found = [ending for ending in self.endings if ending in sample.members]
        if len(found) != 1:
            held = ", ".join(f".{ending}" for ending in sample.members)
            raise DataError(
                f"{sample} holds {len(found)} images ({held}): give it one of dataset.images={[*self.endings]}"
            )
        return decode_image(BytesIO(sample.read(found[0])), f"{sample}.{found[0]}", self.reading.orientation)

    def _failure(self, sample: Packed) -> str | None:
        return failure_of(lambda: self._image(sample))

    def fingerprint(self) -> str:
        """Names and sizes of the tars and of all that is in them, labels and boxes."""
        digest = hashlib.sha256(files_fingerprint(self.root, self.tars).encode())
        for sample, label, objects in zip(self.samples, self.labels, self.objects, strict=True):
            sizes = {ending: member.size for ending, member in sample.members.items()}
            digest.update(f"{sample.key} {sizes} {label} {objects}\n".encode())
        return digest.hexdigest()[:20]


def _label(sample: Packed, ending: str) -> int | None:
    """What KEY.cls says: a whole number; None for -1."""
    text = sample.read(ending)
    try:
        found = int(text)
    except ValueError as error:
        raise DataError(f"{sample}.{ending}: {text[:40]!r} is no class: write a whole number, as 7") from error
    if found < NO_LABEL:
        raise DataError(f"{sample}.{ending}: {found} is no class: write a whole number, as 7, or -1 for none")
    return None if found == NO_LABEL else found


def _whole(label: Any) -> int:
    """The number of a class; ValueError for one that is not whole."""
    if int(label) != label:
        raise ValueError(f"label {label} is no whole number")
    return int(label)


def _objects(sample: Packed, ending: str) -> list[BoxedObject]:
    """The boxes of a sample's JSON; none where it has no such file."""
    if ending not in sample.members:
        return []
    try:
        about = json.loads(sample.read(ending))
        pairs = [*zip(about["boxes"], about["labels"], strict=True)]
        made = [
            BoxedObject(str(_whole(label)), [float(x0), float(y0), float(x1), float(y1)], False)
            for (x0, y0, x1, y1), label in pairs
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{sample}.{ending} holds no boxes ({type(error).__name__}: {error}): "
            '{"boxes": [[x0, y0, x1, y1], ...], "labels": [class, ...]}'
        ) from error
    for each in made:
        if why := box_fault(each.edges):
            raise DataError(f"{sample}.{ending}: {why}")
    return made
