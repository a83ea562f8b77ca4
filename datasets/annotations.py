"""Ground truth: reading annotation files, and what follows from them."""

import math
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

OVER = 0.02  # share of an image's side, and at least a pixel, by which published boxes may reach beyond it; tools round


def box_fault(edges: Sequence[float], may_be_empty: bool = False) -> str | None:
    """What is wrong with x0, y0, x1, y1 as a box of any image, if something is."""
    x0, y0, x1, y1 = edges
    is_box = (x0 < x1 and y0 < y1) or (may_be_empty and x0 <= x1 and y0 <= y1)
    if all(map(math.isfinite, edges)) and is_box:
        return None
    return f"{[*edges]} is no box: give edges x0 < x1 and y0 < y1 in pixels, x1 and y1 not included"


def outside(edges: Sequence[float], size: tuple[int, int], over: float | None = None) -> str | None:
    """What is wrong with a box, or the extent of a polygon, in an image of `size` (width, height), if something is.

    over: pixels by which it may reach beyond; None for the share OVER.
    """
    x0, y0, x1, y1 = edges
    wide, high = (max(1.0, OVER * side) if over is None else over for side in size)
    if x0 >= -wide and y0 >= -high and x1 <= size[0] + wide and y1 <= size[1] + high:
        return None
    return f"{[*edges]} lies outside of an image of {size[0]}x{size[1]} pixels (width x height)"


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
        if root.tag != "annotation":
            raise ValueError(f"its root is <{root.tag}>, not <annotation>")
        scale = _scale(_annotated_size(root), size)
        found = [(e, _edges(e, origin, scale, size)) for e in root.iter("object") if _named(e, names)]
        return [BoxedObject(_name(e), edges, _is_difficult(e)) for e, edges in found]
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
    return names is None or _name(element) in names


def _name(element: ElementTree.Element) -> str:
    return element.findtext("name", "")


def _is_difficult(element: ElementTree.Element) -> bool:
    flag = element.findtext("difficult", "0").strip() or "0"
    if flag not in ("0", "1"):
        raise ValueError(f"the object {_name(element)!r} has difficult={flag}: give 0 or 1")
    return flag == "1"


def _edges(element: ElementTree.Element, origin: int, scale: tuple[float, float], size: tuple[int, int]) -> list[float]:
    """x0, y0, x1, y1, half-open, in pixels of the image of `size` (width, height).

    Raises:
        ValueError: there is no bndbox, or it is none of this image.
    """
    texts = [element.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
    if None in texts:
        raise ValueError(f"the object {_name(element)!r} has no bndbox with xmin, ymin, xmax and ymax")
    x0, y0, x1, y1 = (float(text or "") for text in texts)
    edges = [x0 - origin, y0 - origin, x1 - origin + 1, y1 - origin + 1]
    scaled = [edge * factor for edge, factor in zip(edges, scale * 2, strict=True)]
    if why := box_fault(scaled, may_be_empty=True) or outside(scaled, size):
        raise ValueError(f"the object {_name(element)!r}: {why}")
    return scaled
