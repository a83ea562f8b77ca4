"""Fits of attribution methods that learn from training images; made once, before the loop, and kept."""

from dataclasses import replace
from functools import partial
from typing import cast

from torch import Tensor
from tqdm import tqdm

from ..engine.costs import Clock, Outcome
from ..engine.finite import check_state
from ..engine.fitting import Fitting, alone, batches
from ..engine.job import Job
from ..engine.measure import fail
from ..engine.memory import within_memory
from ..engine.rank import Rank
from ..training import FittedAttributor
from .cell import AttributionCell


def fit_missing(job: Job, rank: Rank) -> Outcome:
    """Fit the methods that lack columns and a fit; one that fails has failed in all its groups.

    Ranks that share locks wait for one another here: the first fits, and the others find the fit (or the failure).
    Without locks each that does not find it makes it, in equal bytes.

    Raises:
        Damaged: a fit is not as it was written.
    """
    outcome = Outcome(batch_size=job.config.compute.batch_size)
    wanted = {name for names in job.missing().values() for name in names}
    for cell in job.cells:
        if isinstance(cell, AttributionCell) and cell.fitting is not None and cell.name in wanted:
            with alone(cell.fitting.fit, rank):
                if not cell.fitting.fit.exists() and not cell.failed():
                    _fit(job, cell, cell.fitting, rank, outcome)
            if cell.fitting.fit.exists():
                _ = cell.method  # what is damaged is known before the loop, and made anew
    return outcome


def _fit(job: Job, cell: AttributionCell, fitting: Fitting, rank: Rank, outcome: Outcome) -> None:
    images = fitting.images
    shown = partial(tqdm, unit="batch", desc=f"fit {cell.name}", disable=rank.number > 0)
    with Clock(job.network, outcome, f"fit {cell.name}", images.stop):
        try:
            method = cast(FittedAttributor, cell.attributor)

            def work() -> dict[str, Tensor]:
                return method.fit(job.network, shown(batches(job.request, images, outcome.batch_size)))

            state = within_memory(outcome, work)
            check_state(cell.name, state)
            fitting.fit.write(state)
        except Exception as error:
            fail(cell, cell.groups, error, replace(outcome, batch_size=1))  # smaller batches have been tried
