"""PASCAL VOC 2007 and 2012 in the official layout: boxes and, on request, segmentation masks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from assay.harness.types import Sample
from PIL import Image
from torch import Tensor

from .annotations import BoxedObject, boxes_by_class, difficult_flags, read_objects
from .decoding import BROKEN, DataError, Reading
from .images import Framed, Transform
from .listing import class_indices, files_fingerprint, read_names, require_files, require_unique

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)  # alphabetical; class c is palette index c + 1 of the segmentations
INDEX_OF = {name: index for index, name in enumerate(CLASSES)}
IGNORED = 255  # palette index of borders and of PASCAL-difficult objects
FIRST_PIXEL = 1  # the XML files count pixels from 1 and include both ends of a box
MASKS = ("none", "class", "foreground")

HINT = (
    "Put the official devkit at <root>/VOCdevkit/VOC<year>/{JPEGImages,Annotations,ImageSets,SegmentationClass}; "
    "then dataset.root=/path/to/root. Or dataset.download=true: torchvision fetches it from its home."
)


class VOC:
    """Images with all their boxes; the targets are the classes with an object that is not PASCAL-difficult.

    The region of a class is the union of all its boxes, PASCAL-difficult ones included. `Sample.difficult`
    is not PASCAL's flag but the pointing game's, whose published list leaves PASCAL-difficult objects out of
    both the area and the company (87 of 87 pairs of 56 images agree so, 86 otherwise).

    Args:
        root: folder that holds VOCdevkit.
        year: 2007 or 2012.
        image_set: train, val, trainval or test: a list in ImageSets/Main, or in ImageSets/Segmentation when
            masks are asked for. Where no lists are, every image with the annotations asked for.
        mask: `class` (one mask a class), `foreground` (any object, for every class), or `none`.
        exclude_classes: names of classes that are no targets; they still count as company for `difficult`.
        transform: settings of `datasets.images.Transform`.
        download: let torchvision fetch the image set if its list is not there.
        unreadable: images that cannot be read, as of `datasets.folder.Folder`.

    Raises:
        DataError: a folder, list, image or annotation is missing, or a class name is unknown.
    """

    classes: Sequence[str] = CLASSES

    def __init__(
        self,
        root: str,
        year: int = 2012,
        image_set: str = "val",
        mask: str = "none",
        exclude_classes: Sequence[str] = (),
        transform: Mapping[str, Any] | None = None,
        download: bool = False,
        unreadable: str = "refuse",
    ) -> None:
        if mask not in MASKS:
            raise DataError(f"mask={mask!r}: choose one of {', '.join(MASKS)}")
        self.root, self.image_set, self.mask = Path(root).expanduser(), image_set, mask
        self.reading = Reading.of("stored", unreadable)
        self.folder = self.root / "VOCdevkit" / f"VOC{year}"
        self.excluded = class_indices(exclude_classes, CLASSES, "exclude_classes")
        self.transform = Transform.of(transform)
        if download:
            self._download(year, image_set)
        if not self.folder.is_dir():
            raise DataError(f"no VOC{year} at {self.folder.absolute()}. {HINT}")
        names = self._names()
        require_unique(names, self._lists() / f"{image_set}.txt")
        parts = ["JPEGImages", "Annotations", *(["SegmentationClass"] if mask != "none" else [])]
        require_files([self._file(part, name) for name in names for part in parts], HINT)
        kept = self.reading.sift(names, lambda name: self.reading.failure(self._file("JPEGImages", name)), self.folder)
        self.names, self.skipped, self.split = kept.items, kept.skipped, kept.split(image_set)

    def _lists(self) -> Path:
        return self.folder / "ImageSets" / ("Main" if self.mask == "none" else "Segmentation")

    def _names(self) -> list[str]:
        """Names of the images, in the order of the list."""
        listed = self._lists() / f"{self.image_set}.txt"
        if listed.is_file():
            return read_names(listed)
        if available := sorted(path.stem for path in self._lists().glob("*.txt") if "_" not in path.stem):
            raise DataError(
                f"image_set={self.image_set!r} has no list {listed}; there are {', '.join(available)}. {HINT}"
            )
        part = "Annotations" if self.mask == "none" else "SegmentationClass"
        return sorted(path.stem for path in (self.folder / part).glob("[!.]*.*"))

    def _file(self, part: str, name: str) -> Path:
        suffix = {"JPEGImages": "jpg", "Annotations": "xml", "SegmentationClass": "png"}[part]
        return self.folder / part / f"{name}.{suffix}"

    def _download(self, year: int, image_set: str) -> None:
        if not (self._lists() / f"{image_set}.txt").is_file():
            from torchvision.datasets import VOCDetection

            self.root.mkdir(parents=True, exist_ok=True)
            VOCDetection(str(self.root), str(year), image_set, download=True)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        name = self.names[index]
        image = self.reading.image(self._file("JPEGImages", name), self._images())
        framed, objects = self.transform(image), self._objects(name, image.size)
        boxes = boxes_by_class(objects, INDEX_OF, framed)
        clear = boxes_by_class([each for each in objects if not each.difficult], INDEX_OF, framed)
        targets = tuple(sorted(clear.keys() - self.excluded))
        mask, ignore = self._masks(name, image, framed, targets)
        flags = difficult_flags(clear, framed.size0)
        return Sample(name, framed.image, targets, framed.size0, boxes=boxes, mask=mask, ignore=ignore, difficult=flags)

    def _images(self) -> list[Path]:
        return [self._file("JPEGImages", name) for name in self.names]

    def _objects(self, name: str, size: tuple[int, int]) -> list[BoxedObject]:
        path = self._file("Annotations", name)
        objects = read_objects(path, FIRST_PIXEL, size)
        if unknown := sorted({each.name for each in objects} - set(CLASSES)):
            raise DataError(f"{path}: {', '.join(unknown)} unknown; PASCAL VOC's classes are {', '.join(CLASSES)}")
        return objects

    def _masks(
        self, name: str, image: Image.Image, framed: Framed, targets: Sequence[int]
    ) -> tuple[Tensor | dict[int, Tensor] | None, Tensor | None]:
        """Mask and ignored pixels of a sample."""
        if self.mask == "none":
            return None, None
        indices = framed.mask(read_palette(self._file("SegmentationClass", name), image.size))
        ignore = indices == IGNORED
        if self.mask == "foreground":
            return (indices > 0) & ~ignore, ignore
        return {label: indices == label + 1 for label in targets}, ignore

    def fingerprint(self) -> str:
        """Names and sizes of the images and masks, contents of the annotations."""
        parts = ["JPEGImages", *(["SegmentationClass"] if self.mask != "none" else [])]
        files = [self._file(part, name) for name in self.names for part in parts]
        return files_fingerprint(self.root, files, [self._file("Annotations", name) for name in self.names])


def read_palette(path: Path, size: tuple[int, int]) -> Tensor:
    """Palette indices [H,W] of a segmentation PNG that must have the image's size (width, height)."""
    try:
        with Image.open(path) as picture:
            if picture.mode not in ("P", "L"):
                raise DataError(f"{path} has mode {picture.mode}, not a palette: use the official PNG, not colours")
            indices = torch.from_numpy(np.array(picture))
    except DataError:
        raise
    except BROKEN as error:
        raise DataError(f"{path} cannot be read as a PNG ({error}): replace the file") from error
    if tuple(indices.shape) != (size[1], size[0]):
        raise DataError(
            f"{path} is {indices.shape[1]}x{indices.shape[0]}, its image {size[0]}x{size[1]}: replace the file"
        )
    if bool(((indices > len(CLASSES)) & (indices != IGNORED)).any()):
        raise DataError(f"{path} has palette indices that are no PASCAL VOC class: replace the file")
    return indices
