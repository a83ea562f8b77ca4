"""How long a plan will take: from earlier runs where there are any, otherwise from a few images."""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import pandas as pd

from ..engine.costs import SHARED, Clock, Outcome
from ..engine.job import Cell, Job
from ..engine.measure import share
from ..forward import ForwardPass
from ..network import Network
from ..results.environment import environment
from ..results.tidy import runs_table
from ..store.store import SAMPLES
from ..types import Batch
from .cell import AttributionCell

T = TypeVar("T")

PROBE_IMAGES = 2
LONG_S = 10.0  # what takes as long is not done twice to be timed


class Forecast(NamedTuple):
    """Missing images of a method, seconds an image, and where that figure comes from."""

    method: str
    images: int
    seconds_per_image: float
    source: str

    @property
    def seconds(self) -> float:
        """Of one process."""
        return self.images * self.seconds_per_image


def estimate(job: Job, runs: Path) -> list[Forecast]:
    """One entry for what all share, one a method that lacks columns, one a metric that is to be measured."""
    todo: Counter[str] = Counter()
    for shard, wanted in job.missing().items():
        images = shard.stop - shard.start
        todo[SHARED] += images
        for cell in job.cells:
            if cell.name in wanted:
                todo.update(dict.fromkeys(_costs(cell, wanted[cell.name]), images))
    return forecasts(job, runs, todo)


def work_of(job: Job, images: int) -> Counter[str]:
    """Images of each cost of a job, were all of it to be done on so many; a metric has each once a method."""
    todo: Counter[str] = Counter({SHARED: images})
    for cell in job.cells:
        todo.update(dict.fromkeys(_costs(cell, set(cell.groups)), images))
    return todo


def _costs(cell: Cell, groups: set[str]) -> list[str]:
    """Under which names a run records what these groups of a cell take."""
    return [cell.name, *(cell.cost_of(group) for group in sorted(groups - {SAMPLES}))]


def forecasts(job: Job, runs: Path, todo: Mapping[str, int]) -> list[Forecast]:
    """One entry a cost of which there are images to do, by its name; costs that cannot be timed have none."""
    history = _history(job, runs_table(runs))
    order = [name for name in (SHARED, *_names(job), *sorted(todo)) if todo.get(name)]
    unknown = [name for name in dict.fromkeys(order) if name not in history]
    now = _probe(job, unknown) if unknown else {}
    known = {**_sourced(now, "measured now"), **_sourced(history, "earlier runs")}
    return [Forecast(name, todo[name], *known[name]) for name in dict.fromkeys(order) if name in known]


def _sourced(seconds: Mapping[str, float], source: str) -> dict[str, tuple[float, str]]:
    return {name: (each, source) for name, each in seconds.items()}


def _is_fitted(cell: Cell) -> bool:
    """Whether a method needs no fit, or has it; otherwise it cannot be timed."""
    return not isinstance(cell, AttributionCell) or cell.fitting is None or cell.fitting.fit.exists()


def _names(job: Job) -> list[str]:
    return [cell.name for cell in job.cells]


def _history(job: Job, runs: pd.DataFrame) -> dict[str, float]:
    """Method -> median seconds an image on this model, data set and device."""
    if runs.empty:
        return {}
    same = runs[
        (runs["model"] == job.config.model.name)
        & (runs["dataset"] == job.config.dataset.name)
        & (runs["device"] == environment(job.device)["device"])
        & (runs["images"] > 0)
    ]
    each = same["method_wall_s"] / same["images"]
    return {str(name): float(value) for name, value in each.groupby(same["method"]).median().items()}


def _probe(job: Job, unknown: list[str]) -> dict[str, float]:
    """Seconds an image of costs that no run has recorded, timed on a few images; metrics on the first such method."""
    fitted = [cell for cell in job.cells if _is_fitted(cell)]
    cells = [cell for cell in fitted if cell.name in unknown] or fitted[:1]
    if not cells:
        return {}
    indices = [int(index) for index in job.images.order[:PROBE_IMAGES]]
    shape = job.images.dataset[indices[0]].image.shape

    def read() -> tuple[Batch, ForwardPass]:
        samples = [job.images.dataset[index] for index in indices]
        alike = [sample for sample in samples if sample.image.shape == shape]
        return share(job, alike, cells, job.config.compute.batch_size)

    shared, (batch, forward) = _timed(job.network, read)
    seconds = {SHARED: shared}
    for cell in cells if batch.pairs else []:
        seconds[cell.name], prepared = _timed(job.network, partial(cell.prepare, batch, forward))
        for group in sorted(cell.groups.keys() - {SAMPLES}):
            if (cost := cell.cost_of(group)) in unknown and cost not in seconds:
                seconds[cost] = _timed(job.network, partial(cell.columns, group, prepared, batch, forward))[0]
    return {name: each / len(batch.samples) for name, each in seconds.items() if name in unknown}


def _timed(network: Network, work: Callable[[], T]) -> tuple[float, T]:
    """Seconds of some work once it is warm (a first pass may take hundreds of times as long), and its result."""
    seconds = 0.0
    while True:
        is_warm, outcome = bool(seconds), Outcome()
        with Clock(network, outcome, SHARED):
            made = work()
        seconds = outcome.costs[SHARED].wall_s
        if is_warm or seconds > LONG_S:
            return seconds, made
