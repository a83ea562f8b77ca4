"""The loop: the missing shards of all requested cells, in one pass over the data.

For each shard: load its images, and for each micro-batch make one forward pass, attribute with every
method that lacks columns, measure every metric that lacks them; then put the columns. A shard is always
cut into the same micro-batches, so its numbers do not depend on who computes it, or when.
"""

import multiprocessing
import os
from collections.abc import Callable
from functools import partial

from ..store.files import Lock, Patience
from ..store.store import SAMPLES, Shard
from ..types import Sample
from .costs import Outcome
from .job import Job
from .measure import fail, in_order, measure_within_memory
from .shards import Unreadable, Wanted, load

Report = Callable[[int], None]

POLL_S = 0.2


def evaluate(job: Job, first: int = 0, report: Report = lambda images: None, parent: int | None = None) -> Outcome:
    """Compute every missing shard, sharing them with other processes through locks.

    Args:
        first: where in the list of missing shards to begin; gives each process of a run its own part.
        report: called with the number of images after each shard.
        parent: stop when this process is no longer our parent.

    Shards that another process holds are waited for and taken over if it dies.
    """
    outcome, patience = Outcome(batch_size=job.config.compute.batch_size), Patience()
    while wanted := _open_work(job, outcome):
        before, pivot = outcome.shards, first % len(wanted)
        turn = [*list(wanted)[pivot:], *list(wanted)[:pivot]]
        try:
            for task, samples in load(job, outcome, {shard: wanted[shard] for shard in turn}):
                if parent is not None and os.getppid() != parent:
                    return outcome
                with task:
                    _compute(job, task.shard, samples, _without(task.wanted, _dead(job, outcome)), outcome)
                report(task.shard.stop - task.shard.start)
        except Unreadable as unreadable:  # every cell needs the sample: nothing is left to do, what is computed stays
            for cell in job.cells:
                fail(cell, cell.groups, unreadable.error, outcome)
        if outcome.shards == before:  # all that is left is in other hands
            patience.wait(POLL_S, partial(_strange, job, wanted) if parent is None else lambda: None)
        else:
            patience.end()
        first = 0
    return outcome


def _strange(job: Job, wanted: dict[Shard, Wanted]) -> Lock | None:
    """A lock that holds us up, of a process that is not of this run."""
    ours = {helper.pid for helper in multiprocessing.active_children()}
    locks = (cell.store.lock(shard) for shard, names in wanted.items() for cell in job.cells if cell.name in names)
    return next((lock for lock in locks if lock.path.exists() and lock.holder().number not in ours), None)


def _open_work(job: Job, outcome: Outcome) -> dict[Shard, Wanted]:
    """Missing shards without those that failed, in this process or in another one of this run."""
    dead = _dead(job, outcome)  # asked once: there are many shards
    return {shard: wanted for shard, names in job.missing().items() if (wanted := _without(names, dead))}


def _dead(job: Job, outcome: Outcome) -> Wanted:
    """Groups that have failed, here or elsewhere, by cell."""
    return {cell.name: cell.failed() | {m for name, m in outcome.broken if name == cell.name} for cell in job.cells}


def _without(wanted: Wanted, dead: Wanted) -> Wanted:
    alive = {name: groups - dead[name] for name, groups in wanted.items()}
    return {name: groups for name, groups in alive.items() if groups}


def _compute(job: Job, shard: Shard, samples: list[Sample], wanted: Wanted, outcome: Outcome) -> None:
    """One shard, written group by group; the micro-batch is halved when memory runs out."""
    tables = measure_within_memory(job, shard, samples, wanted, outcome)
    for cell in job.cells:
        for metric, parts in sorted(tables.get(cell.name, {}).items(), key=lambda item: item[0] != SAMPLES):
            if (cell.name, metric) not in outcome.broken:
                cell.group(metric).write(shard, in_order(parts))
    outcome.shards += 1
