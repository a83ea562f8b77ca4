"""COCO instances (2014, 2017) in the official layout: boxes and segmentation masks through pycocotools."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from assay.harness.types import Sample
from PIL import Image
from torch import Tensor

from .annotations import difficult_by_area, outside
from .decoding import DataError, Reading
from .images import Framed, Transform
from .listing import class_indices, files_fingerprint, read_text, require_files, require_unique

MASKS = ("none", "class", "foreground")
ID = (int, str)
NEEDED: dict[str, dict[str, tuple[type, ...]]] = {  # the lists of an instances file, and what is read of their objects
    "categories": {"id": ID, "name": (str,)},
    "images": {"id": ID, "file_name": (str,), "width": (int, float), "height": (int, float)},
    "annotations": {"image_id": ID, "category_id": ID, "bbox": (list,)},
}

HINT = (
    "Put the images at <root>/<split><year>/*.jpg and the instances at "
    "<root>/annotations/instances_<split><year>.json (both from cocodataset.org); then dataset.root=/path/to/root."
)


class Instance(NamedTuple):
    """One annotation: class index, box as x, y, width, height, segmentation as in the JSON, if it has one."""

    label: int
    box: tuple[float, float, float, float]
    segmentation: Any
    crowd: bool


class Picture(NamedTuple):
    """One image of the JSON."""

    file_name: str
    size: tuple[int, int]  # height, width
    instances: list[Instance]


class COCO:
    """Images with their instances; a class index is the rank of its category id (0 to 79).

    The region of a class is the union of all its boxes or segmentations, crowds included. The pointing
    game's `difficult` flags are computed from the segmentations, as its authors do for COCO.

    Args:
        root: folder that holds `annotations` and the image folders.
        year, split: 2014 or 2017, train or val: image folder and JSON are named after them.
        mask: `class` (one mask a class), `foreground` (any object, for every class), or `none`.
        crowd_only_targets: whether a class of which there are only crowds is a target. TorchRay's pointing
            game has them; COCO's own evaluation ignores crowds, and so does this class by default.
        exclude_classes: names of classes that are no targets; they still count as company for `difficult`.
        transform: settings of `datasets.images.Transform`.
        unreadable: images that cannot be read, as of `datasets.folder.Folder`.

    Raises:
        DataError: the JSON or an image is missing or malformed, or a class name is unknown.
    """

    def __init__(
        self,
        root: str,
        year: int = 2017,
        split: str = "val",
        mask: str = "class",
        crowd_only_targets: bool = False,
        exclude_classes: Sequence[str] = (),
        transform: Mapping[str, Any] | None = None,
        unreadable: str = "refuse",
    ) -> None:
        if mask not in MASKS:
            raise DataError(f"mask={mask!r}: choose one of {', '.join(MASKS)}")
        self.root, self.mask = Path(root).expanduser(), mask
        self.reading = Reading.of("stored", unreadable)
        self.folder = self.root / f"{split}{year}"
        self.annotations = self.root / "annotations" / f"instances_{split}{year}.json"
        self.crowd_only_targets = crowd_only_targets
        self.transform = Transform.of(transform)
        require_files([self.annotations], HINT)
        self.classes, pictures = read_instances(self.annotations, HINT)
        self.excluded = class_indices(exclude_classes, self.classes, "exclude_classes")
        require_files([self._file(picture) for picture in pictures], HINT)
        require_unique((Path(picture.file_name).stem for picture in pictures), self.annotations)
        kept = self.reading.sift(pictures, lambda each: self.reading.failure(self._file(each)), self.folder)
        self.pictures, self.skipped, self.split = kept.items, kept.skipped, kept.split(split)

    def _file(self, picture: Picture) -> Path:
        return self.folder / picture.file_name

    def _files(self) -> list[Path]:
        return [self._file(picture) for picture in self.pictures]

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Sample:
        picture = self.pictures[index]
        path = self._file(picture)
        image = self.reading.image(path, self._files())
        check_size(path, image, picture)
        framed = self.transform(image)
        boxes = _boxes_by_class(picture.instances, framed)
        masks = self._masks_by_class(picture, framed)
        targets = self._targets(picture, boxes)
        flags = difficult_by_area({label: int(mask.sum()) for label, mask in masks.items()}, framed.size0)
        return Sample(
            path.stem,
            framed.image,
            targets,
            framed.size0,
            boxes,
            self._mask_of(masks, targets, framed.size0),
            difficult=flags,
        )

    def _targets(self, picture: Picture, boxes: Mapping[int, Tensor]) -> tuple[int, ...]:
        """Classes with an instance that is no crowd and a box in the frame."""
        found = {each.label for each in picture.instances if self.crowd_only_targets or not each.crowd}
        return tuple(sorted((found & boxes.keys()) - self.excluded))

    def _masks_by_class(self, picture: Picture, framed: Framed) -> dict[int, Tensor]:
        """Union of the segmentations of each class in the frame: class -> bool [size0], in ascending order."""
        found: dict[int, Tensor] = {}
        for each in sorted(picture.instances, key=lambda each: each.label):
            try:
                mask = decode(each.segmentation, picture.size)
            except (ValueError, TypeError, KeyError) as error:
                raise DataError(f"{self.annotations}: segmentation in {picture.file_name}: {error}") from error
            found[each.label] = found[each.label] | mask if each.label in found else mask
        return {label: framed.mask(mask) for label, mask in found.items()}

    def _mask_of(
        self, masks: Mapping[int, Tensor], targets: Sequence[int], size: tuple[int, int]
    ) -> Tensor | dict[int, Tensor] | None:
        if self.mask == "none":
            return None
        if self.mask == "foreground":
            return torch.stack([torch.zeros(size, dtype=torch.bool), *masks.values()]).any(0)
        return {label: masks[label] for label in targets}

    def fingerprint(self) -> str:
        """Names and sizes of the images, contents of the JSON."""
        return files_fingerprint(self.root, self._files(), [self.annotations])


def read_instances(path: Path, hint: str) -> tuple[list[str], list[Picture]]:
    """Class names by index and the images of an instances JSON, sorted by image id.

    Raises:
        DataError: it is none; `hint` says what to put there.
    """
    try:
        content = json.loads(read_text(path))
        categories, images, annotations = (_entries(content, key) for key in NEEDED)
        index_of = {category["id"]: index for index, category in enumerate(categories)}
        size_of = {image["id"]: (image["height"], image["width"]) for image in images}
        if away := [name for each in images if (name := Path(each["file_name"])).is_absolute() or ".." in name.parts]:
            raise ValueError(f"{away[0]} is no name below the folder of images")
        instances = defaultdict(list)
        for each in annotations:
            instances[each["image_id"]].append(_instance(each, index_of, size_of))
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is no COCO instances file ({type(error).__name__}: {error}). {hint}") from error
    pictures = [Picture(image["file_name"], size_of[image["id"]], instances[image["id"]]) for image in images]
    return [category["name"] for category in categories], pictures


def _entries(content: Any, key: str) -> list[dict[str, Any]]:
    """The objects of one of the file's lists, those with ids of their own sorted by them.

    Raises:
        ValueError: there is no such list, an object lacks something, or an id or class name is there twice.
    """
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise ValueError(f"it is no object with a list {key!r}")
    for number, entry in enumerate(entries, 1):
        if why := _lacks(entry, NEEDED[key]):
            raise ValueError(f"entry {number} of {key} {why}")
    if key == "annotations":
        return entries
    for name in ("id", *(["name"] if key == "categories" else [])):
        if repeated := [value for value, count in Counter(e[name] for e in entries).items() if count > 1]:
            raise ValueError(f"two {key} have the {name} {repeated[0]!r}")
    return sorted(entries, key=lambda entry: entry["id"])


def _lacks(entry: Any, needed: Mapping[str, tuple[type, ...]]) -> str | None:
    if not isinstance(entry, dict):
        return f"is a {type(entry).__name__}, no object"
    for name, kinds in needed.items():
        if name not in entry:
            return f"has no {name!r}"
        if not isinstance(entry[name], kinds):
            return f"has {name}={entry[name]!r}: give a {' or '.join(kind.__name__ for kind in kinds)}"
    return None


def _instance(annotation: Mapping[str, Any], index_of: Mapping[Any, int], size_of: Mapping[Any, Any]) -> Instance:
    """One annotation, whose image and category are there and whose box lies in that image.

    Raises:
        ValueError: it is not so.
    """
    which = f"annotation {annotation.get('id')}"
    if annotation["image_id"] not in size_of:
        raise ValueError(f"{which} is of image {annotation['image_id']}, which `images` has not: leave it out")
    box, (height, width) = annotation["bbox"], size_of[annotation["image_id"]]
    if len(box) != 4 or not all(isinstance(edge, (int, float)) and math.isfinite(edge) for edge in box):
        raise ValueError(f"{which}: bbox {box} is no x, y, width, height in pixels")
    x, y, wide, high = box
    if min(wide, high) < 0:
        raise ValueError(f"{which}: bbox {box} has a negative width or height")
    if why := outside([x, y, x + wide, y + high], (width, height)):
        raise ValueError(f"{which}: {why}")
    if (crowd := annotation.get("iscrowd", 0)) not in (0, 1):
        raise ValueError(f"{which}: iscrowd={crowd!r}: give 0 or 1")
    return Instance(_label(annotation, index_of), tuple(box), annotation.get("segmentation"), bool(crowd))


def _label(annotation: Mapping[str, Any], index_of: Mapping[int, int]) -> int:
    category = annotation["category_id"]
    if category not in index_of:
        valid = ", ".join(map(str, index_of))
        raise ValueError(f"annotation {annotation.get('id')} has category_id {category}, categories are {valid}")
    return index_of[category]


def check_size(path: Path, image: Image.Image, picture: Picture) -> None:
    """Raise unless the file has the size that the JSON gives it: its boxes and segmentations are in those pixels."""
    height, width = picture.size
    if image.size != (width, height):
        raise DataError(
            f"{path} is {image.width}x{image.height} pixels (width x height), the JSON says {width}x{height}: use the "
            "image that was annotated"
        )


def _boxes_by_class(instances: Sequence[Instance], framed: Framed) -> dict[int, Tensor]:
    """Boxes of each class in the frame, half-open, without those of zero area; classes in ascending order."""
    found = defaultdict(list)
    for each in instances:
        x, y, width, height = each.box
        found[each.label].append([x, y, x + width, y + height])
    moved = {label: framed.boxes(torch.tensor(found[label])) for label in sorted(found)}
    return {label: boxes for label, boxes in moved.items() if len(boxes)}


def decode(segmentation: Any, size: tuple[int, int]) -> Tensor:
    """Polygons, uncompressed or compressed RLE -> bool [H,W]. No polygon of three points or more: nothing.

    Raises:
        ValueError: there is no segmentation, a polygon that is none of the image, or an RLE of another size.
    """
    from pycocotools import mask as coco_mask

    if segmentation is None:
        raise ValueError("there is none; for boxes alone use dataset=boxed_folder")
    if isinstance(segmentation, list):
        # pycocotools reads four numbers as a box; a polygon has at least three points.
        polygons = [polygon for polygon in segmentation if len(_checked_polygon(polygon, size)) >= 6]
        if not polygons:
            return torch.zeros(size, dtype=torch.bool)
        code = coco_mask.merge(coco_mask.frPyObjects(polygons, *size))
    else:
        raw = _is_raw(segmentation, size)
        code = coco_mask.frPyObjects(segmentation, *size) if raw else segmentation
    return torch.from_numpy(coco_mask.decode(code)).bool()


def _checked_polygon(polygon: Any, size: tuple[int, int]) -> list[float]:
    """x, y, x, y, ...: what is not finite or far outside would be drawn, point by point, until memory ends."""
    if not isinstance(polygon, list) or not all(isinstance(e, (int, float)) and math.isfinite(e) for e in polygon):
        raise ValueError(f"polygon {str(polygon)[:60]} is no list of numbers x, y, x, y, ...")
    if len(polygon) % 2:
        raise ValueError(f"a polygon of {len(polygon)} numbers: give x, y, x, y, ...")
    across, down = polygon[::2], polygon[1::2]
    if polygon and (why := outside([min(across), min(down), max(across), max(down)], (size[1], size[0]))):
        raise ValueError(f"a polygon {why}")
    return polygon


def _is_raw(code: Any, size: tuple[int, int]) -> bool:
    """Whether a run-length encoding, of the image's size, is a list of counts; else it is compressed text."""
    if not isinstance(code, dict) or not {"size", "counts"} <= code.keys():
        raise ValueError(f"{str(code)[:60]} is neither polygons nor an RLE with size and counts")
    if list(code["size"]) != list(size):
        raise ValueError(f"RLE of size {code['size']} in an image of {list(size)}")
    counts = code["counts"]
    if not isinstance(counts, list):
        return False
    if not all(isinstance(each, int) and each >= 0 for each in counts) or sum(counts) != size[0] * size[1]:
        raise ValueError(f"RLE of {len(counts)} counts that are not the image's {size[0] * size[1]} pixels together")
    return True
