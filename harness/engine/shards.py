"""Shards taken in hand, and their images, loaded ahead."""

import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from torch.utils.data import DataLoader, get_worker_info

from ..types import Dataset, Sample
from .costs import SHARED, Clock, Outcome
from .job import Job, Missing
from .turns import Task, Turns

PARTED = (EOFError, ConnectionError)  # the other end of a connection is gone


def load(job: Job, outcome: Outcome, turns: Turns, order: Missing) -> Iterator[tuple[Task, list[Sample]]]:
    """Load shards that can be had now, in this order; loader processes read ahead.

    Raises:
        Unreadable: the data set raised.
    """
    taken: list[Task] = []

    def take() -> Iterator[list[int]]:
        for shard, wanted in order.items():
            task = turns.take(job, shard, wanted)
            if task.wanted:
                taken.append(task)
                yield [int(index) for index in job.images.order[shard.start : shard.stop]]

    loader: DataLoader[Sample | Exception] = DataLoader(
        cast(Any, _Told(job.images.dataset)),  # any object with __len__ and __getitem__
        batch_sampler=cast(Any, take()),  # lazily: a shard is taken when it is about to be read
        num_workers=job.config.compute.workers,
        collate_fn=list,
        worker_init_fn=_say_nothing_of_partings,
    )
    try:
        for samples in _timed(job, outcome, loader):
            yield taken.pop(0), samples
    finally:
        for task in taken:
            task.release()


def _say_nothing_of_partings(_worker: int) -> None:
    """In a loader's process: whom it hands images to may be interrupted in the middle, and is the one to say so.

    The thread that hands over tensors' file descriptors (`multiprocessing.resource_sharer`) would print a traceback.
    """
    usual = sys.excepthook
    sys.excepthook = lambda kind, error, trace: None if issubclass(kind, PARTED) else usual(kind, error, trace)


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
