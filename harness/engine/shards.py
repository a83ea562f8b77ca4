"""Shards taken in hand: their locks, and their images, loaded ahead."""

import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from torch.utils.data import DataLoader, get_worker_info

from ..store.files import Lock
from ..store.store import Shard
from ..types import Dataset, Sample
from .costs import SHARED, Clock, Outcome
from .job import Job

Wanted = dict[str, set[str]]  # cell -> groups


def _still_missing(job: Job, shard: Shard, wanted: Wanted, locks: dict[str, Lock]) -> Wanted:
    """What is missing now that the locks are ours: another process may have finished since we looked."""
    held = {cell.name: cell for cell in job.cells if cell.name in locks}
    absent = {
        name: {m for m in metrics if not held[name].group(m).has(shard)}
        for name, metrics in wanted.items()
        if name in held
    }
    return {name: metrics for name, metrics in absent.items() if metrics}


class Task(NamedTuple):
    """A shard whose locks are held, and what is to be computed in it."""

    shard: Shard
    wanted: Wanted
    locks: dict[str, Lock]

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Give the locks back."""
        for lock in self.locks.values():
            lock.release()


def load(job: Job, outcome: Outcome, turn: dict[Shard, Wanted]) -> Iterator[tuple[Task, list[Sample]]]:
    """Load shards whose locks can be had now; loader processes read ahead.

    Raises:
        Unreadable: the data set raised.
    """
    taken: list[Task] = []

    def take() -> Iterator[list[int]]:
        for shard, wanted in turn.items():
            held = _all_locks({cell.name: cell.store.lock(shard) for cell in job.cells if cell.name in wanted})
            task = Task(shard, _still_missing(job, shard, wanted, held), held)
            if task.wanted:
                taken.append(task)
                yield [int(index) for index in job.images.order[shard.start : shard.stop]]
            else:
                task.release()

    loader: DataLoader[Sample | Exception] = DataLoader(
        cast(Any, _Told(job.images.dataset)),  # any object with __len__ and __getitem__
        batch_sampler=cast(Any, take()),  # lazily: a lock is taken when its shard is about to be read
        num_workers=job.config.compute.workers,
        collate_fn=list,
    )
    try:
        for samples in _timed(job, outcome, loader):
            yield taken.pop(0), samples
    finally:
        for task in taken:
            task.release()


def _all_locks(locks: dict[str, Lock]) -> dict[str, Lock]:
    """All locks of a shard or, when another process holds one, none: two would both load and forward its images.

    Tried in one order everywhere, so of processes that want the same cells one gets them all.
    """
    held: list[Lock] = []
    for lock in sorted(locks.values(), key=lambda lock: str(lock.path)):
        if not lock.acquire():
            for other in held:
                other.release()
            return {}
        held.append(lock)
    return locks


class Unreadable(Exception):
    """The data set raised `error`."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True)
class _Told:
    """A data set that gives its errors instead of raising them: torch would put a loader's traceback before them."""

    dataset: Dataset

    def __getitem__(self, index: int) -> Sample | Exception:
        try:
            return self.dataset[index]
        except Exception as error:
            if get_worker_info() is not None:
                error.add_note(traceback.format_exc())  # which would stay behind in the loader's process
            return error


def _timed(job: Job, outcome: Outcome, loader: "DataLoader[Sample | Exception]") -> Iterator[list[Sample]]:
    """The loader's batches; waiting for them counts as shared time."""
    batches = iter(loader)
    while True:
        with Clock(job.network, outcome, SHARED):
            try:
                found = next(batches, None)
            except Exception as error:
                raise Unreadable(error) from error
        if found is None:
            return
        for each in found:
            if isinstance(each, Exception):
                raise Unreadable(each) from each
        yield cast(list[Sample], found)
