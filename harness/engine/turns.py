"""Who takes which shard: whoever gets its locks, or, without locks, the worker whose number it is.

Without locks nobody waits for anybody. A worker computes the shards of its own number first and then what others are
late with; what two compute is put twice, in equal bytes.
"""

import multiprocessing
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ..store.files import Lock
from ..store.signs import sign
from ..store.store import SAMPLES, Shard
from .costs import Outcome
from .job import Cell, Job, Missing, Wanted, without

LEAST = 64  # own shards between two looks at what others have done


class Task(NamedTuple):
    """A shard that is taken in hand, what is to be computed in it, and the locks that are held meanwhile."""

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


class Turns(Protocol):
    """How the processes that compute one job share its shards."""

    def order(self, job: Job, missing: Missing, looks: int) -> Missing:
        """What to try now, in order; some of it, if there is any. looks: how often was looked before."""

    def take(self, job: Job, shard: Shard, wanted: Wanted) -> Task:
        """A shard taken in hand; nothing is wanted of it where others have it, or have done it."""

    def begin(self, job: Job, task: Task, outcome: Outcome) -> Wanted:
        """What is still to be computed of a task whose images are read."""

    def obstacle(self, job: Job, missing: Missing) -> Lock | None:
        """A lock that holds us up, of a process that is not of this run."""


@dataclass(frozen=True)
class Locked:
    """A shard is its whose locks are free; number `number` of `count` processes begins at its own part of the list."""

    number: int = 0
    count: int = 1

    def order(self, job: Job, missing: Missing, looks: int) -> Missing:
        """All, from the process' own place on."""
        pivot = 0 if looks else len(missing) * self.number // self.count
        turn = [*list(missing)[pivot:], *list(missing)[:pivot]]
        return {shard: missing[shard] for shard in turn}

    def take(self, job: Job, shard: Shard, wanted: Wanted) -> Task:
        """The shard with the locks of all its cells, or of none."""
        held = _all_locks({cell.name: cell.store.lock(shard) for cell in job.cells if cell.name in wanted})
        task = Task(shard, still_missing(job, shard, {name: wanted[name] for name in held}), held)
        if not task.wanted:
            task.release()
        return task

    def begin(self, job: Job, task: Task, outcome: Outcome) -> Wanted:
        """Without what has failed meanwhile, here or elsewhere."""
        return alive(task.wanted, {cell.name: cell.failed() for cell in job.cells}, outcome)

    def obstacle(self, job: Job, missing: Missing) -> Lock | None:
        """The first that is held by none of our helpers."""
        ours = {helper.pid for helper in multiprocessing.active_children()}
        locks = (cell.store.lock(shard) for shard, names in missing.items() for cell in job.cells if cell.name in names)
        return next((lock for lock in locks if lock.path.exists() and lock.holder().number not in ours), None)


@dataclass(frozen=True)
class Numbered:
    """Shard i belongs to worker i mod `count`; who has none left takes what others are late with."""

    number: int
    count: int

    def order(self, job: Job, missing: Missing, looks: int) -> Missing:
        """An eighth of its own, in order; when there are none, some of the others'."""
        owners = {shard: place % self.count for place, shard in enumerate(job.shards) if shard in missing}
        own = [shard for shard, owner in owners.items() if owner == self.number]
        turn = own[: max(LEAST, len(own) // 8)] or self._late(list(missing), set(owners.values()))
        return {shard: missing[shard] for shard in turn}

    def _late(self, missing: list[Shard], late: set[int]) -> list[Shard]:
        """From the far end, which owners come to last, a piece for each worker that has nothing left of its own."""
        free = [number for number in range(self.count) if number not in late]
        piece = max(1, len(missing) // self.count)
        start = free.index(self.number) * piece % len(missing)
        return missing[::-1][start : start + piece]

    def take(self, job: Job, shard: Shard, wanted: Wanted) -> Task:
        """The shard, unless it is there by now; signed, so that `gc` sees who holds no lock."""
        task = Task(shard, _unless_done(job, shard, wanted), {})
        for cell in job.cells:
            if cell.name in task.wanted:
                sign(cell.store.path)
        return task

    def begin(self, job: Job, task: Task, outcome: Outcome) -> Wanted:
        """Without what has failed here and, where images are read ahead, unless it is there by now."""
        wanted = alive(task.wanted, {}, outcome)
        return _unless_done(job, task.shard, wanted) if wanted and job.config.compute.workers else wanted

    def obstacle(self, job: Job, missing: Missing) -> Lock | None:
        """Nobody holds anything."""
        return None


def alive(wanted: Wanted, failed: Wanted, outcome: Outcome) -> Wanted:
    """What is wanted and has not failed, in the store or in this process."""
    broken: Wanted = {}
    for cell, group in outcome.broken:
        broken.setdefault(cell, set()).add(group)
    return without(without(wanted, failed), broken)


def still_missing(job: Job, shard: Shard, wanted: Wanted) -> Wanted:
    """What is missing now: another process may have finished since we looked."""
    cells = {cell.name: cell for cell in job.cells}
    there = {
        name: {group for group in groups if cells[name].group(group).has(shard)} for name, groups in wanted.items()
    }
    return without(wanted, there)


def in_order_of_writing(cell: Cell, groups: set[str]) -> list[str]:
    """Who the samples are comes first."""
    return sorted(groups, key=lambda name: (name != SAMPLES, name))


def _unless_done(job: Job, shard: Shard, wanted: Wanted) -> Wanted:
    """As `still_missing`, by one question where nothing is there: about the file that is written last."""
    last = [cell for cell in job.cells if cell.name in wanted][-1]
    name = in_order_of_writing(last, wanted[last.name])[-1]
    return still_missing(job, shard, wanted) if last.group(name).has(shard) else wanted


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
