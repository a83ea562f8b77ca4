"""Boxes of one's own in one file: a CSV with a line a box, or COCO's JSON with any classes."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .annotations import BoxedObject, box_fault
from .coco import Picture, read_instances
from .decoding import DataError
from .listing import read_text

COLUMNS = ("image", "class", "x0", "y0", "x1", "y1")
HINT = (
    "Write a CSV with the header image,class,x0,y0,x1,y1 and a line a box (edges of pixels from the upper left corner; "
    "column x1 and row y1 are outside), or an instances JSON as COCO's."
)


class Placed(NamedTuple):
    """A box and where it stands: file and line, or file and annotation."""

    box: BoxedObject
    where: str


class Boxed(NamedTuple):
    """One image of the file: its name, its boxes, and its (width, height) where the file says it."""

    name: str
    placed: list[Placed]
    size: tuple[int, int] | None


class BoxFile(NamedTuple):
    """Images in the order of the file, and the classes that it names: a CSV's by alphabet, a JSON's by category id."""

    images: list[Boxed]
    classes: list[str]


def read_box_file(path: Path) -> BoxFile:
    """A file whose name ends in .csv or .json.

    Raises:
        DataError: it is of neither kind, or a line or annotation cannot be read; where, and the value.
    """
    if path.suffix.lower() not in (".csv", ".json"):
        raise DataError(f"boxes={path.name}: give a file that ends in .csv or .json. {HINT}")
    if not path.is_file():
        raise DataError(f"no boxes at {path.absolute()}. {HINT}")
    return _read_json(path) if path.suffix.lower() == ".json" else _read_csv(path)


def _read_csv(path: Path) -> BoxFile:
    images: dict[str, Boxed] = {}
    for where, cells in _rows(path):
        edges = [_number(name, cells[name], where) for name in COLUMNS[2:]]
        box = BoxedObject(cells["class"], _checked(edges, where), difficult=False)
        name = Path(cells["image"]).as_posix()  # ./a.jpg is a.jpg
        images.setdefault(name, Boxed(name, [], None)).placed.append(Placed(box, where))
    if not images:
        raise DataError(f"{path} has no box. {HINT}")
    return BoxFile(list(images.values()), sorted({each.box.name for one in images.values() for each in one.placed}))


def _rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """`file:line` and its cells by column."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        header = [cell.strip().lower() for cell in next(reader, [])]
        _check_header(path, header)
        for cells in reader:
            if cells:
                where = f"{path}:{reader.line_num}"
                yield where, _named(header, [cell.strip() for cell in cells], where)
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: no CSV ({error}): is a quotation mark open?") from error


def _check_header(path: Path, header: list[str]) -> None:
    if missing := [name for name in COLUMNS if name not in header]:
        other = next((sign for sign in (";", "\t", "|") if sign in header[0]), None) if header else None
        mend = f"Its columns are parted by {other!r}: save it with commas. " if other else ""
        raise DataError(f"{path}:1: the header {','.join(header)!r} lacks {', '.join(missing)}. {mend}{HINT}")
    if repeated := [name for name in COLUMNS if header.count(name) > 1]:
        raise DataError(f"{path}:1: the header has {', '.join(repeated)} twice: leave one of them out")


def _named(header: list[str], cells: list[str], where: str) -> dict[str, str]:
    if len(cells) != len(header):
        raise DataError(f"{where}: {len(cells)} cells ({','.join(cells)}), the header has {len(header)}")
    made = dict(zip(header, cells, strict=True))
    if empty := [name for name in COLUMNS if not made[name]]:
        raise DataError(f"{where}: {', '.join(empty)} is empty: give each box an image, a class and four edges")
    return made


def _number(column: str, text: str, where: str) -> float:
    try:
        if "_" not in text:  # which Python's numbers may have, and nobody else's
            return float(text)
    except ValueError:
        pass
    raise DataError(f"{where}: {column}={text!r} is no number: give pixels, with a point for decimals")


def _checked(edges: list[float], where: str) -> list[float]:
    """The edges, if they are a box in pixels."""
    if why := box_fault(edges):
        raise DataError(f"{where}: {why}")
    if max(edges) <= 1 and any(edge % 1 for edge in edges):
        raise DataError(f"{where}: {edges} are shares of the image: multiply x by its width and y by its height")
    return edges


def _read_json(path: Path) -> BoxFile:
    names, pictures = read_instances(path, HINT)
    return BoxFile([_boxed(path, picture, names) for picture in pictures], names)


def _boxed(path: Path, picture: Picture, names: Sequence[str]) -> Boxed:
    height, width = picture.size
    placed = []
    for number, each in enumerate(picture.instances, 1):
        where = f"{path}: annotation {number} of {picture.file_name}"
        x, y, wide, high = each.box
        edges = _checked([x, y, x + wide, y + high], where)
        placed.append(Placed(BoxedObject(names[each.label], edges, difficult=each.crowd), where))
    return Boxed(picture.file_name, placed, (width, height))
