"""The loop: the missing shards of all requested cells, in one pass over the data.

For each shard: load its images, and for each micro-batch make one forward pass, attribute with every
method that lacks columns, measure every metric that lacks them; then put the columns. A shard is always
cut into the same micro-batches, so its numbers do not depend on who computes it, or when.
"""

import os
from collections.abc import Callable
from functools import partial

from ..store.files import Patience
from ..store.store import Shard
from ..types import Sample
from .costs import Outcome
from .job import Job, Missing, Wanted
from .measure import fail, in_order, measure_within_memory
from .shards import Unreadable, load
from .turns import Locked, Turns, alive, in_order_of_writing

Report = Callable[[int], None]

POLL_S = 0.2
ALONE = Locked()


def evaluate(
    job: Job, turns: Turns = ALONE, report: Report = lambda images: None, parent: int | None = None
) -> Outcome:
    """Compute every missing shard, together with other processes.

    Args:
        turns: how they share the shards.
        report: called with the number of images after each shard.
        parent: stop when this process is no longer our parent.

    Shards that another process holds are waited for and taken over if it dies.
    """
    outcome, patience, looks = Outcome(batch_size=job.config.compute.batch_size), Patience(), 0
    while missing := _open_work(job, outcome):
        before = outcome.shards
        try:
            for task, samples in load(job, outcome, turns, turns.order(job, missing, looks)):
                if parent is not None and os.getppid() != parent:
                    return outcome
                with task:
                    if wanted := turns.begin(job, task, outcome):
                        _compute(job, task.shard, samples, wanted, outcome)
                report(task.shard.stop - task.shard.start)
        except Unreadable as unreadable:  # every cell needs the sample: nothing is left to do, what is computed stays
            for cell in job.cells:
                fail(cell, cell.groups, unreadable.error, outcome)
        if outcome.shards == before:  # all that is left is in other hands
            patience.wait(POLL_S, partial(turns.obstacle, job, missing) if parent is None else lambda: None)
        else:
            patience.end()
        looks += 1
    return outcome


def _open_work(job: Job, outcome: Outcome) -> Missing:
    """Missing shards without those that failed, in this process or in another one of this run."""
    missing, failed = job.look()
    return {shard: wanted for shard, names in missing.items() if (wanted := alive(names, failed, outcome))}


def _compute(job: Job, shard: Shard, samples: list[Sample], wanted: Wanted, outcome: Outcome) -> None:
    """One shard, written group by group; the micro-batch is halved when memory runs out."""
    tables = measure_within_memory(job, shard, samples, wanted, outcome)
    for cell in job.cells:
        parts = tables.get(cell.name, {})
        for group in in_order_of_writing(cell, set(parts)):
            if (cell.name, group) not in outcome.broken:
                cell.group(group).write(shard, in_order(parts[group]))
    outcome.shards += 1
