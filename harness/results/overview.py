"""What a store holds, as text: cells with their images and the state of their metrics; cached features and fits."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from ..store.fits import fits
from ..store.store import FEATURES, SAMPLES, SCORE, CellStore, Group, cells, outdated
from .terminal import grid, wrapped

SHOWN = 8  # letters of a cell key


class Line(NamedTuple):
    """One cell."""

    place: str
    method: str
    cell: str
    images: int
    metrics: str


def overview(root: Path) -> str:
    """A table a (model, data set), and what lies beside the cells."""
    lines = sorted(_line(cell) for cell in cells(root))
    return "\n".join([*_tables(lines), *map(wrapped, _beside(root, len(lines)))])


def _tables(lines: list[Line]) -> Iterator[str]:
    for place, group in groupby(lines, key=lambda line: line.place):
        rows = [(line.cell, line.method, str(line.images), line.metrics) for line in group]
        yield f"{place}\n{grid(['cell', 'method', 'images', 'metrics'], rows)}\n"


def _beside(root: Path, count: int) -> Iterator[str]:
    yield f"{count} cells in {root.absolute()}"
    caches = [CellStore(path.parent, path.name) for path in (root / FEATURES).glob("*/")]
    kept = [images_of(cache.group(SAMPLES)) for cache in caches]
    if kept:
        yield f"features of {len(kept)} data sets, {sum(kept)} images; {len(list(fits(root)))} fits"
    if old := len(outdated(root)):
        yield f"{old} cells of another version of Assay, which this one does not read (gc --unfinished removes them)"


def _line(cell: CellStore) -> Line:
    labels = cell.cell()["labels"]
    units = cell.group(SAMPLES if labels["kind"] == "attribution" else SCORE)
    images = images_of(units)
    states = sorted(_state(cell.group(key), images) for key in cell.groups())
    place = f"{labels['model']} on {labels['dataset']}"
    return Line(place, labels["method"], cell.key[:SHOWN], images, ", ".join(["FAILED"] * units.has_failed + states))


def images_of(group: Group) -> int:
    """How many images a group has columns of, however its shards overlap."""
    count = stop = 0
    for shard in group.shards():
        count += max(shard.stop, stop) - max(shard.start, stop)
        stop = max(shard.stop, stop)
    return count


def _state(group: Group, images: int) -> str:
    """`ood done`; where the rows are about other images than those that are there: `ood done (60, 200)`."""
    name, stops = str(group.about()["name"]), [stop for stop in group.stops() if stop]  # averages are about no images
    if group.has_failed:
        return f"{name} FAILED"
    if not group.stops():
        return f"{name} incomplete"
    return f"{name} done" if stops in ([], [images]) else f"{name} done ({', '.join(map(str, stops))})"
