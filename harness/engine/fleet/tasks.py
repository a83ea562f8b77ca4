"""A job cut into tasks, and the loop that hands them to workers: a worker that ends loses nothing.

A task is a block of shards; it is computed as a part of the job, so what a dead worker has put stays. When one ends in
the middle of a task, the task is cut into one for each shard and cell: what ends its worker TRIES times is known by
name, and the rest is computed.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

from ...store.store import Shard
from ..costs import Outcome
from ..job import Job
from .orders import Answer, give_up

TRIES = 3
READ_AHEAD = 4  # blocks of so many shards a loader process, where there are any: they start anew for each task


@dataclass(frozen=True)
class Task:
    """Shards to compute in some cells; how often it has ended its worker."""

    shards: tuple[Shard, ...]
    cells: tuple[str, ...]
    ended: int = 0

    def __str__(self) -> str:
        span = Shard(self.shards[0].start, self.shards[-1].stop)
        return f"{', '.join(self.cells)} on images {span.start} to {span.stop - 1}"

    @property
    def images(self) -> int:
        """How many."""
        return sum(shard.stop - shard.start for shard in self.shards)

    def after_a_loss(self) -> list["Task"]:
        """What is to be done when its worker has ended: the same, in pieces."""
        pieces = [replace(self, shards=(shard,), cells=(name,)) for shard in self.shards for name in self.cells]
        return [replace(piece, ended=self.ended + 1) for piece in pieces]


def tasks_of(job: Job) -> deque[Task]:
    """What is to be done of a job, in blocks."""
    absent = list(job.open().items())
    size = max(1, READ_AHEAD * job.config.compute.workers)
    blocks = (absent[start : start + size] for start in range(0, len(absent), size))
    return deque(
        Task(tuple(shard for shard, _ in block), tuple(sorted({name for _, wanted in block for name in wanted})))
        for block in blocks
    )


@dataclass(frozen=True)
class Reply:
    """given: what `give` returned. answer: to that task; None, and what is known of why, where its worker has ended."""

    given: object
    answer: Answer | None
    why: str = ""


class Workers(Protocol):
    """Those who carry tasks out, each one at a time."""

    def idle(self) -> bool:
        """Whether one is ready and has nothing to do."""

    def give(self, task: Task) -> object:
        """Hand a task to a ready one; what its reply is known by."""

    def replies(self) -> Iterator[Reply]:
        """Wait for one or several, but not for ever."""


@dataclass
class Drive:
    """One job's tasks, under way."""

    job: Job
    workers: Workers
    open: deque[Task]
    busy: dict[object, Task] = field(default_factory=dict)
    lost: Outcome = field(init=False)

    def __post_init__(self) -> None:
        self.lost = Outcome(batch_size=self.job.config.compute.batch_size)

    def outcomes(self) -> Iterator[tuple[Outcome, int]]:
        """What each task did, as they end, and how many images that brings to their end; last, what was given up.

        Raises:
            Exception: what ended the work in a worker other than a method's failure.
        """
        while self.open or self.busy:
            while self.open and self.workers.idle():
                task = self.open.popleft()
                self.busy[self.workers.give(task)] = task
            for reply in self.workers.replies():
                task = self.busy.pop(reply.given)
                if isinstance(reply.answer, Exception):
                    raise reply.answer
                if reply.answer is None:
                    self._ended(task, reply.why)
                else:
                    yield reply.answer, task.images * (not task.ended)
        yield self.lost, 0

    def _ended(self, task: Task, why: str) -> None:
        for piece in task.after_a_loss():
            if piece.ended < TRIES:
                self.open.append(piece)
            else:
                said = f"{piece} ended the process that computed it {TRIES} times (memory?): {why}"
                give_up(self.job, self.job.part(piece.shards, piece.cells).open(), said, self.lost)
