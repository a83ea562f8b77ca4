"""An ImageNet folder (one sub-folder a class) with ILSVRC XML boxes."""

import csv
import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from assay.harness.types import Sample
from torch import Tensor

from .annotations import difficult_flags, read_voc_xml
from .decoding import DataError, Reading
from .images import Transform
from .listing import files_fingerprint, image_files, read_names, read_text, require_unique

CLASS_COUNT = 1000
WNID = re.compile(r"n\d{8}")

WHERE = (
    "Put the images at <root>/<images>/<wnid>/*.JPEG, the annotations of the ILSVRC localization task at "
    "<root>/<annotations>/*.xml, and the 1000 wnids (one a line, sorted) at <root>/wnids.txt; then "
    "dataset.root=/path/to/root. ImageNet is obtained from its owners; its licence forbids us to ship it."
)


class ImageNet:
    """ImageNet images, by default those with boxes; a class index is the rank of its wnid.

    Args:
        root: folder that holds `images` and `annotations`.
        images: folder of class folders, relative to root.
        annotations: folder of XML files named as the images, relative to root, or null for no boxes.
        split: name of the split in tables.
        transform: settings of `datasets.images.Transform`.
        box_origin: index of the first pixel column in the XML files (0, or 1 as in PASCAL); both ends inclusive.
        unreadable: images that cannot be read, as of `datasets.folder.Folder`.

    Raises:
        DataError: the folder, the class list or an image's annotation is missing.
    """

    def __init__(
        self,
        root: str,
        images: str = "val",
        annotations: str | None = "bbox/val",
        split: str = "val",
        transform: Mapping[str, str | int] | None = None,
        box_origin: int = 0,
        unreadable: str = "refuse",
    ) -> None:
        self.root, self.reading = Path(root).expanduser(), Reading.of("stored", unreadable)
        self.folder = self.root / images
        self.annotations = self.root / annotations if annotations else None
        self.transform = Transform(**(transform or {}))  # type: ignore[arg-type]
        self.box_origin = box_origin
        if not self.folder.is_dir():
            raise DataError(f"no ImageNet images at {self.folder.absolute()}. {WHERE}")
        found = image_files(self.folder)
        files = [path for path in found if path.parent.name in self.index_of]
        if not files:
            raise DataError(f"{len(found)} images below {self.folder}, none in a folder named by its wnid. {WHERE}")
        wnids = {path.parent.name for path in found if WNID.fullmatch(path.parent.name)}
        if strange := sorted(wnids - self.index_of.keys()):
            raise DataError(f"{self.folder} has images of {', '.join(strange[:5])}, which the list of wnids has not")
        require_unique((_name(path) for path in files), self.folder)
        kept = self.reading.sift(files, self.reading.failure, self.folder)
        self.files, self.skipped, self.split = kept.items, kept.skipped, kept.split(split)

    @cached_property
    def wnids(self) -> list[str]:
        """The 1000 class identifiers, in the order of the network's outputs."""
        listed = self.root / "wnids.txt"
        if listed.is_file():
            return read_wnids(listed)
        names = [path.name for path in self.folder.iterdir() if path.is_dir()]
        if len(names) != CLASS_COUNT:
            raise DataError(
                f"{len(names)} classes at {self.folder} and no {listed}, so a class index is unknown. {WHERE}"
            )
        return sorted(names)

    @cached_property
    def index_of(self) -> dict[str, int]:
        """wnid -> class index."""
        return {wnid: index for index, wnid in enumerate(self.wnids)}

    @cached_property
    def classes(self) -> Sequence[str]:
        """Class names from <root>/classes.csv (columns wnid, name) where it exists, wnids otherwise."""
        return class_names(self.root, self.wnids)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        path = self.files[index]
        image = self.reading.image(path, self.files)
        framed = self.transform(image)
        label = self.index_of[path.parent.name]
        boxes = {c: framed.boxes(b) for c, b in self._boxes(path, image.size).items()}
        boxes = {c: b for c, b in boxes.items() if len(b)}
        return Sample(
            _name(path),
            framed.image,
            (label,),
            framed.size0,
            boxes,
            difficult=difficult_flags(boxes, framed.size0),
        )

    def _boxes(self, path: Path, size: tuple[int, int]) -> dict[int, Tensor]:
        if self.annotations is None:
            return {}
        file = self.annotations / f"{path.stem}.xml"
        if not file.is_file():
            raise DataError(f"{path} has no annotation at {file}. {WHERE}")
        return read_voc_xml(file, self.index_of, self.box_origin, size)

    def fingerprint(self) -> str:
        """Names and sizes of images, contents of annotations, and the class list."""
        annotated = sorted(self.annotations.glob("*.xml")) if self.annotations else []
        files = files_fingerprint(self.root, self.files, contents=annotated)
        return hashlib.sha256(" ".join([files, *self.wnids]).encode()).hexdigest()[:20]


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def class_names(root: Path, wnids: Sequence[str]) -> Sequence[str]:
    """Names of classes from <root>/classes.csv (columns wnid, name) where it exists, wnids otherwise."""
    path = root / "classes.csv"
    if not path.is_file():
        return wnids
    rows = [*csv.DictReader(read_text(path).splitlines())]
    if not rows or not {"wnid", "name"} <= rows[0].keys():
        raise DataError(f"{path} has no columns wnid and name: give a class a line, or remove the file")
    names = {row["wnid"]: row["name"] for row in rows}
    return [names.get(wnid, wnid) for wnid in wnids]


def read_wnids(path: Path) -> list[str]:
    """ImageNet's 1000 class identifiers from a text file, in the order of the network's outputs."""
    if not path.is_file():
        raise DataError(f"no list of ImageNet's wnids at {path.absolute()}: put the {CLASS_COUNT} there, one a line")
    names = read_names(path)
    if len(set(names)) != CLASS_COUNT:
        raise DataError(f"{path} lists {len(set(names))} wnids, ImageNet has {CLASS_COUNT}: put one a line")
    if len(names) != CLASS_COUNT:
        raise DataError(f"{path} has {len(names)} lines for {CLASS_COUNT} wnids: put each once")
    return sorted(names)
