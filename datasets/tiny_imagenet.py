"""Tiny-ImageNet (200 classes, 64x64) in the official layout, with the boxes of its validation images."""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from assay.harness.types import Sample

from .annotations import difficult_flags, outside
from .decoding import DataError, Reading
from .imagenet import read_wnids
from .images import Transform
from .listing import files_fingerprint, read_classes, read_text, require_files, require_unique

HINT = (
    "Put the official folder (Stanford CS231n) at <root>, so that <root>/wnids.txt, <root>/val/val_annotations.txt and "
    "<root>/val/images exist; then dataset.root=/path/to/tiny-imagenet-200."
)


class Entry(NamedTuple):
    """One line of the annotations; edges are x0, y0, x1, y1, half-open, or None where the published box is void."""

    path: Path
    label: int
    edges: tuple[int, int, int, int] | None


class TinyImageNet:
    """Validation or training images with one box each, where the published box has an area.

    A few published boxes have zero width or height: those images keep their label and have no box, and one
    warning says how many there are.

    Args:
        root: the folder tiny-imagenet-200.
        split: val or train.
        imagenet_wnids: text file with ImageNet's 1000 wnids, relative to root: labels become ImageNet's, for
            networks with its 1000 outputs. null: a class is the rank of its wnid among the 200.
        transform: settings of `datasets.images.Transform`.
        unreadable: images that cannot be read, as of `datasets.folder.Folder`.

    Raises:
        DataError: a folder, list or image is missing, or a line or wnid cannot be read.
    """

    def __init__(
        self,
        root: str,
        split: str = "val",
        imagenet_wnids: str | None = None,
        transform: Mapping[str, Any] | None = None,
        unreadable: str = "refuse",
    ) -> None:
        if split not in ("train", "val"):
            raise DataError(f"split={split!r}: choose train or val (the test images have no published labels)")
        self.root, self.reading = Path(root).expanduser(), Reading.of("stored", unreadable)
        self.transform = Transform.of(transform)
        require_files([self.root / "wnids.txt", *_annotations(self.root, split)], HINT)
        own = sorted(read_classes(self.root / "wnids.txt"))
        self.classes: Sequence[str] = read_wnids(self.root / imagenet_wnids) if imagenet_wnids else own
        entries = self._entries(split)
        require_files([entry.path for entry in entries], HINT)
        require_unique((entry.path.stem for entry in entries), self.root)
        kept = self.reading.sift(entries, lambda entry: self.reading.failure(entry.path), self.root)
        self.entries, self.skipped, self.split = kept.items, kept.skipped, kept.split(split)
        self.annotations = _annotations(self.root, split)
        if void := sum(entry.edges is None for entry in self.entries):
            warnings.warn(f"{self.root}: {void} published boxes have no area; their images have no box", stacklevel=2)

    def _entries(self, split: str) -> list[Entry]:
        index_of = {wnid: index for index, wnid in enumerate(self.classes)}
        found = []
        for file in _annotations(self.root, split):
            for number, line in enumerate(read_text(file).splitlines(), 1):
                try:
                    name, *wnid, x0, y0, x1, y1 = line.split("\t")
                    label = index_of[wnid[0] if wnid else file.parent.name]
                    edges = _edges(int(x0), int(y0), int(x1), int(y1))
                    found.append(Entry(file.parent / "images" / name, label, edges))
                except KeyError as error:
                    raise DataError(f"{file}:{number}: {error} is in no list of {len(self.classes)} wnids") from error
                except ValueError as error:
                    raise DataError(f"{file}:{number}: {line!r} is no annotation ({error})") from error
        return found

    def _files(self) -> list[Path]:
        return [entry.path for entry in self.entries]

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample:
        path, label, edges = self.entries[index]
        image = self.reading.image(path, self._files())
        if edges and (why := outside(edges, image.size)):
            raise DataError(f"{path}: its box {why}: mend its line in {self.annotations[0]}")
        framed = self.transform(image)
        boxes = framed.boxes(torch.tensor([edges])) if edges else torch.zeros(0, 4)
        found = {label: boxes} if len(boxes) else {}
        flags = difficult_flags(found, framed.size0)
        return Sample(path.stem, framed.image, (label,), framed.size0, found, difficult=flags)

    def fingerprint(self) -> str:
        """Names and sizes of the images, contents of the annotations, classes."""
        digest = files_fingerprint(self.root, self._files(), self.annotations)
        return hashlib.sha256(f"{digest} {self.classes}".encode()).hexdigest()[:20]


def _annotations(root: Path, split: str) -> list[Path]:
    """Annotation files: one for val; one a class for train, in order, whose lines leave out the wnid."""
    if split == "val":
        return [root / "val" / "val_annotations.txt"]
    return sorted((root / "train").glob("*/*_boxes.txt")) or [root / "train" / "<wnid>" / "<wnid>_boxes.txt"]


def _edges(x0: int, y0: int, x1: int, y1: int) -> tuple[int, int, int, int] | None:
    """Published corners count from 0 and include both ends (63 is the last column)."""
    return (x0, y0, x1 + 1, y1 + 1) if x1 > x0 and y1 > y0 else None
