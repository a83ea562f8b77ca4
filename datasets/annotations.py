"""Ground truth: reading annotation files, and what follows from them."""

import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from assay.harness.frames import rasterise_boxes
from torch import Tensor

from .decoding import DataError
from .images import Framed


def union_area(boxes: Tensor, size: tuple[int, int]) -> int:
    """Pixels of the frame `size` (height, width) covered by at least one of the boxes [N,4]."""
    return int(rasterise_boxes(boxes[None].float(), torch.tensor([size])).sum())


def difficult_flags(boxes: Mapping[int, Tensor], size: tuple[int, int]) -> dict[int, bool]:
    """Which classes are difficult to point at: small, and not alone in the image.

    The pointing game's definition (Zhang et al., "Top-down neural attention by excitation backprop", 2016):
    the class's boxes cover less than a quarter of the image, and there is at least one other category.
    boxes: class -> [N,4] as x0, y0, x1, y1, half-open pixel edges; size: height and width of the image.
    """
    if len(boxes) < 2:
        return dict.fromkeys(boxes, False)
    return difficult_by_area({label: union_area(each, size) for label, each in boxes.items()}, size)


def difficult_by_area(areas: Mapping[int, int], size: tuple[int, int]) -> dict[int, bool]:
    """The same flags from the pixels that each class covers, for data sets with segmentations (COCO)."""
    return {label: len(areas) > 1 and 4 * area < size[0] * size[1] for label, area in areas.items()}


class BoxedObject(NamedTuple):
    """One annotated object; edges are x0, y0, x1, y1, half-open; difficult is PASCAL's flag, or that it is a crowd."""

    name: str
    edges: list[float]
    difficult: bool


def boxes_by_class(objects: Sequence[BoxedObject], index_of: Mapping[str, int], framed: Framed) -> dict[int, Tensor]:
    """Boxes of each class in the frame, without those of zero area; classes in ascending order."""
    found = defaultdict(list)
    for each in objects:
        found[index_of[each.name]].append(each.edges)
    moved = {label: framed.boxes(torch.tensor(found[label])) for label in sorted(found)}
    return {label: boxes for label, boxes in moved.items() if len(boxes)}


def read_objects(
    path: Path, origin: int, size: tuple[int, int], names: Container[str] | None = None
) -> list[BoxedObject]:
    """Objects of a PASCAL/ILSVRC XML file, in its order, in pixels of the image.

    origin: index of the first pixel in the file (1 in PASCAL); its boxes include both ends.
    size: (width, height) of the image. Where the file speaks of the same image at another size, its boxes are scaled.
    names: leave out objects of other classes; None keeps all.

    Raises:
        DataError: no such XML, or it speaks of an image of another shape.
    """
    try:
        root = ElementTree.parse(path).getroot()
        scale = _scale(_annotated_size(root), size)
        return [
            BoxedObject(e.findtext("name", ""), _edges(e, origin, scale), e.findtext("difficult", "0").strip() == "1")
            for e in root.iter("object")
            if _named(e, names)
        ]
    except _OtherImage as error:
        raise DataError(f"{path}: {error}") from error
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{path} is no annotation in PASCAL/ILSVRC XML ({error})") from error


def read_voc_xml(path: Path, index_of: Mapping[str, int], origin: int, size: tuple[int, int]) -> dict[int, Tensor]:
    """Boxes of a PASCAL/ILSVRC XML file: class -> [N,4] half-open pixel edges; unknown names are left out.

    origin: index of the first pixel in the file; its boxes include both ends. size: (width, height) of the image.
    """
    found = defaultdict(list)
    for each in read_objects(path, origin, size, index_of):
        found[index_of[each.name]].append(each.edges)
    return {label: torch.tensor(boxes) for label, boxes in found.items()}


class _OtherImage(Exception):
    """The annotation is of another image than the file."""


def _annotated_size(root: ElementTree.Element) -> tuple[int, int] | None:
    """(width, height) that an XML file gives its image; None where it says nothing, or 0."""
    width, height = (int(float(root.findtext(f"size/{key}") or 0)) for key in ("width", "height"))
    return (width, height) if width > 0 and height > 0 else None


def _scale(annotated: tuple[int, int] | None, size: tuple[int, int]) -> tuple[float, float]:
    """Pixels of the image per pixel of its annotation, (x, y); equal up to the rounding of sides to whole pixels."""
    if annotated is None or annotated == size:
        return 1.0, 1.0
    x, y = (own / other for own, other in zip(size, annotated, strict=True))
    if abs(annotated[0] * y - size[0]) > 1 and abs(annotated[1] * x - size[1]) > 1:
        raise _OtherImage(
            f"annotates an image of {annotated[0]}x{annotated[1]} pixels, and the file has {size[0]}x{size[1]} "
            "(width x height), no scaled copy of it: use the image that was annotated, or mend <size> if the boxes fit"
        )
    return x, y


def _named(element: ElementTree.Element, names: Container[str] | None) -> bool:
    return names is None or element.findtext("name", "") in names


def _edges(element: ElementTree.Element, origin: int, scale: tuple[float, float]) -> list[float]:
    """x0, y0, x1, y1, half-open, in pixels of the image."""
    x0, y0, x1, y1 = (float(element.findtext(f"bndbox/{key}", "nan")) for key in ("xmin", "ymin", "xmax", "ymax"))
    edges = [x0 - origin, y0 - origin, x1 - origin + 1, y1 - origin + 1]
    if any(edge != edge for edge in edges):
        raise ValueError("an object has no bndbox")
    return [edge * factor for edge, factor in zip(edges, scale * 2, strict=True)]
