"""What runs have left, as text: cells with their images and the state of their metrics, caches, failed jobs."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from ..store.fits import fits
from ..store.store import SAMPLES, SCORE, CellStore, Group
from ..store.survey import Survey, caches, survey
from .jobs import FailedJob
from .settings import SHOWN, Settings, cell_settings, metric_settings, named_apart
from .terminal import grid, wrapped

REMOVED = "gc --unfinished removes them"


class Line(NamedTuple):
    """One cell."""

    place: str
    method: str
    cell: str
    images: int
    metrics: str
    settings: Settings


def overview(root: Path) -> str:
    """A table a (model, data set), and what lies beside the cells."""
    seen = survey(root)
    lines = sorted(map(_line, seen.cells), key=lambda line: line[:3])
    return "\n".join([*_tables(lines), *map(wrapped, _beside(root, seen))])


def listed(failed: list[FailedJob]) -> Iterator[str]:
    """What failed, and of each job the command for it, in a line to copy, and the file to read."""
    if failed:
        yield f"{len(failed)} failed job{'s' * (len(failed) > 1)}"
    for job in failed:
        yield from (wrapped(f"FAILED {each}") for each in job.failed)
        yield f"  again: {job.again}"
        yield f"  traceback: {job.log}"


def _tables(lines: list[Line]) -> Iterator[str]:
    for place, group in groupby(lines, key=lambda line: line.place):
        held = list(group)
        methods = named_apart([line.method for line in held], [line.settings for line in held])
        rows = [(line.cell, method, str(line.images), line.metrics) for line, method in zip(held, methods, strict=True)]
        yield f"{place}\n{grid(['cell', 'method', 'images', 'metrics'], rows)}\n"


def _beside(root: Path, seen: Survey) -> Iterator[str]:
    yield f"{len(seen.cells)} cells in {root.absolute()}"
    kept = [images_of(cache.group(SAMPLES)) for cache in caches(root)]
    if kept:
        yield f"features of {len(kept)} data sets, {sum(kept)} images; {len(list(fits(root)))} fits"
    if seen.outdated:
        yield f"{len(seen.outdated)} cells of another version of Assay, which this one does not read ({REMOVED})"
    if seen.damaged:
        yield f"{len(seen.damaged)} cells whose description is damaged"
    if seen.nameless:
        yield f"{len(seen.nameless)} unfinished cells without a description ({REMOVED})"


def _line(cell: CellStore) -> Line:
    labels, identity = (cell.cell()[name] for name in ("labels", "identity"))
    units = cell.group(SAMPLES if labels["kind"] == "attribution" else SCORE)
    images = images_of(units)
    place = f"{labels['model']} on {labels['dataset']}"
    metrics = ", ".join(["FAILED"] * units.has_failed + _states([cell.group(key) for key in cell.groups()], images))
    return Line(place, labels["method"], cell.key[:SHOWN], images, metrics, cell_settings(labels, identity))


def images_of(group: Group) -> int:
    """How many images a group has columns of, however its shards overlap."""
    count = stop = 0
    for shard in group.shards():
        count += max(shard.stop, stop) - max(shard.start, stop)
        stop = max(shard.stop, stop)
    return count


def _states(groups: list[Group], images: int) -> list[str]:
    """Of each metric, sorted: its name and how far it is."""
    described = [group.about() for group in groups]
    names = named_apart([str(about["name"]) for about in described], list(map(metric_settings, described)))
    return sorted(f"{name} {_state(group, images)}" for name, group in zip(names, groups, strict=True))


def _state(group: Group, images: int) -> str:
    """`done`; where the rows are about other images than those that are there: `done (60, 200)`."""
    if group.has_failed:
        return "FAILED"
    if not group.stops():
        return "incomplete"
    stops = [stop for stop in group.stops() if stop]  # averages are about no images
    return "done" if stops in ([], [images]) else f"done ({', '.join(map(str, stops))})"
