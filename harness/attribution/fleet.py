"""What a plan would take on many images and many workers: hours, files, bytes; every figure from something measured."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ..config import ConfigError
from ..engine.job import Cell, Job
from ..places import readable
from ..store.store import Group
from .estimate import Forecast, forecasts, work_of

PAGE = 1000  # names that an object store lists in one request
BENCHED_ON = "resnet50"  # rows of bench/results that name no network


class Fleet(NamedTuple):
    """So many images, shared by so many workers in shards."""

    images: int
    workers: int
    shard_size: int

    @property
    def shards(self) -> int:
        """In which the images are cut."""
        return -(-self.images // self.shard_size)

    def wall_s(self, seconds: float) -> float:
        """Of the worker with most shards, where all of it takes one worker `seconds`."""
        return seconds * -(-self.shards // self.workers) / self.shards


class Stored(NamedTuple):
    """Bytes an image that groups of columns take in the store, and of how many images that was measured."""

    bytes_per_image: float
    images: int


def of_earlier_runs(job: Job, runs: Path, fleet: Fleet) -> list[Forecast]:
    """Seconds as in earlier runs on this device, or else timed now on two images, for all of a fleet's images."""
    return forecasts(job, runs, work_of(job, fleet.images))


def of_a_bench(job: Job, file: Path, fleet: Fleet) -> list[Forecast]:
    """Seconds of maps alone as a table of bench/results has them; a method without a row has no entry.

    Raises:
        ConfigError: it is no such table, or has a row of none of the methods on this network.
    """
    table = pd.read_csv(readable(file))
    if absent := {"task", "contestant", "median_s", "images"} - set(table):
        raise ConfigError(f"{file} has no column {min(absent)}: give a table of bench/results with images and median_s")
    ours = table[table["contestant"] == "assay"].set_index("task")
    each = (ours["median_s"] / ours["images"]).to_dict()
    named = ((cell.name, next((each[task] for task in _tasks(job, cell) if task in each), None)) for cell in job.cells)
    made = [Forecast(name, fleet.images, seconds, file.stem) for name, seconds in named if seconds is not None]
    if not made:
        asked = ", ".join(cell.name for cell in job.cells)
        raise ConfigError(
            f"--measured {file}: no row of {asked} on {job.config.model.name}; its rows are {', '.join(sorted(each))}"
        )
    return made


def _tasks(job: Job, cell: Cell) -> list[str]:
    """What the bench calls a method on this network: `GradCAM resnet50`, or, on its own network, `gradient`."""
    model, kind = job.config.model.name, type(job.request.methods[cell.name]).__name__
    return [f"{kind} {model}", *([cell.name] if model == BENCHED_ON else [])]


def stored(job: Job) -> Stored | None:
    """What a store's columns of a plan take, an image of all methods and metrics; None where some have none yet."""
    measured = [_stored(group) for cell in job.cells for group in cell.groups_now().values()]
    if not measured or not all(each.images for each in measured):
        return None
    return Stored(sum(each.bytes_per_image for each in measured), min(each.images for each in measured))


def _stored(group: Group) -> Stored:
    images = sum(shard.stop - shard.start for shard in group.shards())
    return Stored(group.size() / images if images else 0.0, images)


def lines(job: Job, fleet: Fleet, parts: list[Forecast]) -> Iterator[str]:
    """What a fleet takes, said in lines below the table of its methods."""
    seconds = sum(part.seconds for part in parts)
    unknown = work_of(job, fleet.images).keys() - {part.method for part in parts}
    yield (
        f"{fleet.images:,} images in {fleet.shards:,} shards of {fleet.shard_size}: {_hours(seconds)} of one process; "
        f"shared by {fleet.workers}: {_hours(fleet.wall_s(seconds))}, and start-up"
        + (f"; without {', '.join(sorted(unknown))}, of which nothing was measured" if unknown else "")
    )
    groups = sum(len(cell.groups) for cell in job.cells)
    yield (
        f"{fleet.shards * groups:,} files, a shard of each method's samples and metrics; an object store lists those "
        f"of one method in {math.ceil(fleet.shards * groups / len(job.cells) / PAGE):,} requests"
    )
    held = stored(job)
    yield (
        f"{_bytes(held.bytes_per_image * fleet.images)}: {held.bytes_per_image:.0f} bytes an image, measured on "
        f"{held.images} stored ones"
        if held
        else "bytes: unknown before a run with these methods and metrics, limit=N for a part"
    )


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} h" if seconds >= 360 else f"{seconds:,.0f} s"


def _bytes(count: float) -> str:
    power = min(4, int(math.log(max(count, 1), 1000)))
    return f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"
