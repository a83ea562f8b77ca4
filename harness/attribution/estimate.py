"""How long a plan will take: from earlier runs where there are any, otherwise from a few images."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ..engine.costs import SHARED
from ..engine.job import Cell, Job
from ..engine.measure import share
from ..results.environment import environment
from ..results.tidy import runs_table
from ..store.store import SAMPLES
from .cell import AttributionCell

PROBE_IMAGES = 2


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
    """One entry a method that lacks columns, and one for what they share."""
    missing = job.missing()
    todo = {name: sum(s.stop - s.start for s, wanted in missing.items() if name in wanted) for name in _names(job)}
    todo[SHARED] = sum(s.stop - s.start for s in missing)
    return forecasts(job, runs, todo)


def forecasts(job: Job, runs: Path, todo: Mapping[str, int]) -> list[Forecast]:
    """One entry a method of which there are images to do, and one for what they share. todo: images of each."""
    history = _history(job, runs_table(runs))
    made = [
        Forecast(name, todo[name], history[name], "earlier runs")
        for name in (SHARED, *_names(job))
        if todo[name] and name in history
    ]
    unknown = [cell for cell in job.cells if todo[cell.name] and cell.name not in history and not _unfitted(cell)]
    if unknown:
        made += [Forecast(name, todo[name], each, "measured now") for name, each in _probe(job, unknown).items()]
    return made


def _unfitted(cell: Cell) -> bool:
    """Whether a method's fit is still to be made, so that it cannot be timed."""
    return isinstance(cell, AttributionCell) and cell.fitting is not None and not cell.fitting.fit.exists()


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


def _probe(job: Job, cells: list[Cell]) -> dict[str, float]:
    """Seconds an image of each cell, maps and metrics, timed on the first images."""
    samples = [job.images.dataset[int(index)] for index in job.images.order[:PROBE_IMAGES]]
    alike = [sample for sample in samples if sample.image.shape == samples[0].image.shape]
    seconds = {}
    for cell in cells:
        start = time.perf_counter()
        batch, forward = share(job, alike, [cell], job.config.compute.batch_size)
        if batch.pairs:
            prepared = cell.prepare(batch, forward)
            for group in cell.groups.keys() - {SAMPLES}:
                cell.columns(group, prepared, batch, forward)
        seconds[cell.name] = (time.perf_counter() - start) / len(alike)
    return seconds
