"""The loop: the missing shards of all requested cells, in one pass over the data.

For each shard: load its images, and for each micro-batch make one forward pass, attribute with every
method that lacks columns, measure every metric that lacks them; then put the columns. A shard is always
cut into the same micro-batches, so its numbers do not depend on who computes it, or when.
"""

import os
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch.utils.data import DataLoader

from ..forward import ForwardPass
from ..store.store import SAMPLES, Lock, Shard, write_json
from ..types import Batch, Sample, columns_to_numpy
from .costs import SHARED, Clock, Outcome
from .job import Cell, Job

Columns = dict[str, np.ndarray]
Wanted = dict[str, set[str]]  # method -> metrics
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
    outcome = Outcome(batch_size=job.config.compute.batch_size)
    while wanted := _open_work(job, outcome):
        before, pivot = outcome.shards, first % len(wanted)
        turn = [*list(wanted)[pivot:], *list(wanted)[:pivot]]
        for task, samples in _load(job, outcome, {shard: wanted[shard] for shard in turn}):
            if parent is not None and os.getppid() != parent:
                return outcome
            try:
                _compute(job, task.shard, samples, _alive(job, task.wanted, outcome), outcome)
            finally:
                task.release()
            report(task.shard.stop - task.shard.start)
        if outcome.shards == before:
            time.sleep(POLL_S)  # all that is left is in other hands
        first = 0
    return outcome


def _open_work(job: Job, outcome: Outcome) -> dict[Shard, Wanted]:
    """Missing shards without those that failed, in this process or in another one of this run."""
    return {shard: wanted for shard, names in job.missing().items() if (wanted := _alive(job, names, outcome))}


def _alive(job: Job, wanted: Wanted, outcome: Outcome) -> Wanted:
    cells = {cell.name: cell for cell in job.cells}
    alive = {
        name: {m for m in metrics if (name, m) not in outcome.broken and not cells[name].group(m).failed.exists()}
        for name, metrics in wanted.items()
    }
    return {name: metrics for name, metrics in alive.items() if metrics}


def _still_missing(job: Job, shard: Shard, wanted: Wanted, locks: dict[str, Lock]) -> Wanted:
    """What is missing now that the locks are ours: another process may have finished since we looked."""
    held = {cell.name: cell for cell in job.cells if cell.name in locks}
    absent = {
        name: {m for m in metrics if not held[name].group(m).has(shard)}
        for name, metrics in wanted.items()
        if name in held
    }
    return {name: metrics for name, metrics in absent.items() if metrics}


class _Task(NamedTuple):
    """A shard whose locks are held, and what is to be computed in it."""

    shard: Shard
    wanted: Wanted
    locks: dict[str, Lock]

    def release(self) -> None:
        for lock in self.locks.values():
            lock.release()


def _load(job: Job, outcome: Outcome, turn: dict[Shard, Wanted]) -> Iterator[tuple[_Task, list[Sample]]]:
    """Load shards whose locks can be had now; loader processes read ahead.

    A sample that cannot be read fails every cell (they all need it): nothing is left to do, what is computed stays.
    """
    taken: list[_Task] = []

    def take() -> Iterator[list[int]]:
        for shard, wanted in turn.items():
            held = _all_locks({cell.name: cell.store.lock(shard) for cell in job.cells if cell.name in wanted})
            task = _Task(shard, _still_missing(job, shard, wanted, held), held)
            if task.wanted:
                taken.append(task)
                yield [int(index) for index in job.order[shard.start : shard.stop]]
            else:
                task.release()

    loader: DataLoader[Sample] = DataLoader(
        cast(Any, job.dataset),  # any object with __len__ and __getitem__
        batch_sampler=cast(Any, take()),  # lazily: a lock is taken when its shard is about to be read
        num_workers=job.config.compute.workers,
        collate_fn=list,
    )
    try:
        for samples in _timed(job, outcome, loader):
            yield taken.pop(0), samples
    except _Unreadable as error:
        for cell in job.cells:
            _fail(job, cell, sorted(cell.groups), error, outcome)
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


class _Unreadable(Exception):
    """The data set raised."""


def _timed(job: Job, outcome: Outcome, loader: "DataLoader[Sample]") -> Iterator[list[Sample]]:
    """The loader's batches; waiting for them counts as shared time."""
    batches = iter(loader)
    while True:
        with Clock(job.network, outcome, SHARED):
            try:
                samples = next(batches, None)
            except Exception as error:
                raise _Unreadable(f"{type(error).__name__}: {error}") from error
        if samples is None:
            return
        yield samples


def _compute(job: Job, shard: Shard, samples: list[Sample], wanted: Wanted, outcome: Outcome) -> None:
    """One shard, written group by group; the micro-batch is halved when memory runs out."""
    tables = _measure_within_memory(job, shard, samples, wanted, outcome)
    for cell in job.cells:
        for metric, parts in sorted(tables.get(cell.name, {}).items(), key=lambda item: item[0] != SAMPLES):
            if (cell.name, metric) not in outcome.broken:
                cell.group(metric).write(shard, _joined(parts))
    outcome.shards += 1


def _measure_within_memory(job: Job, shard: Shard, samples: list[Sample], wanted: Wanted, outcome: Outcome) -> "Tables":
    while True:
        try:
            return _measure_shard(job, shard, samples, wanted, outcome)
        except RuntimeError as error:
            if not _is_out_of_memory(error) or outcome.batch_size == 1:
                raise
        outcome.batch_size //= 2
        torch.cuda.empty_cache()
        print(f"out of memory: going on with compute.batch_size={outcome.batch_size}", flush=True)


def _may_retry(error: Exception, outcome: Outcome) -> bool:
    return isinstance(error, RuntimeError) and _is_out_of_memory(error) and outcome.batch_size > 1


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


Tables = dict[str, dict[str, list[Columns]]]  # method -> metric -> columns of each micro-batch


def _measure_shard(job: Job, shard: Shard, samples: list[Sample], wanted: Wanted, outcome: Outcome) -> Tables:
    tables: Tables = {name: {metric: [] for metric in metrics} for name, metrics in wanted.items()}
    cells = [cell for cell in job.cells if cell.name in wanted]
    for rows in _micro_batches(samples, outcome.batch_size):
        for batch, forward, sharing in _passes(job, [samples[row] for row in rows], cells, outcome):
            for cell in sharing:
                units, ids = cell.units(batch)
                if units and cell.name not in outcome.failures:
                    positions = np.array([shard.start + rows[unit] for unit in units], dtype=np.int64)
                    names = {"position": positions, "sample_id": np.array(ids, dtype=object)}
                    for group, columns in _measure_cell(job, cell, batch, forward, names, wanted[cell.name], outcome):
                        tables[cell.name][group].append(columns)
    return tables


def _passes(
    job: Job, samples: list[Sample], cells: list[Cell], outcome: Outcome
) -> list[tuple[Batch, ForwardPass, list[Cell]]]:
    """One forward pass for all cells; when it fails, one for each, so that one cell's layers do not fail another."""
    cells = [cell for cell in cells if cell.name not in outcome.failures]
    if not cells:
        return []
    try:
        with Clock(job.network, outcome, SHARED, len(samples)):
            return [(*share(job, samples, cells, outcome.batch_size), cells)]
    except Exception as error:
        if len(cells) == 1:
            _fail(job, cells[0], sorted(cells[0].groups), error, outcome)
            return []
        if _may_retry(error, outcome):
            raise
    return [made for cell in cells for made in _passes(job, samples, [cell], outcome)]


def share(job: Job, samples: list[Sample], cells: list[Cell], max_rows: int) -> tuple[Batch, ForwardPass]:
    """The batch on the device, its targets under the protocol, and the forward pass that the cells share."""
    needs = [cell.needs() for cell in cells]
    layers = tuple(sorted({layer for need in needs for layer in need.layers}))
    batch = Batch.of(samples, job.device)
    graph, penultimate = any(need.input_graph for need in needs), any(need.penultimate for need in needs)
    forward = ForwardPass(job.network, batch.images, layers, graph, max_rows, penultimate)
    forward.logits  # noqa: B018  # the pass itself, on the clock of the caller
    return job.targets(batch, forward), forward


def _micro_batches(samples: list[Sample], size: int) -> Iterator[list[int]]:
    """Row numbers of images of equal shape, at most `size` together, those with as many classes side by side.

    A batch goes backwards as often as its image of most classes: one street scene of seven would cost every
    portrait beside it seven passes.
    """
    buckets: dict[torch.Size, list[int]] = {}
    for row in sorted(range(len(samples)), key=lambda row: len(samples[row].targets)):
        buckets.setdefault(samples[row].image.shape, []).append(row)
    for rows in buckets.values():
        for start in range(0, len(rows), size):
            yield rows[start : start + size]


def _measure_cell(
    job: Job, cell: Cell, batch: Batch, forward: ForwardPass, names: Columns, wanted: set[str], outcome: Outcome
) -> Iterator[tuple[str, Columns]]:
    """Columns of each wanted group for one micro-batch; a failure ends the cell or the group, not the run."""
    if SAMPLES in wanted:
        yield SAMPLES, {**names, **cell.samples(batch, forward)}
    groups = sorted(wanted - {SAMPLES})
    if not groups:
        return
    try:
        with Clock(job.network, outcome, cell.name, len(batch.samples), len(names["position"])):
            prepared = cell.prepare(batch, forward)
    except Exception as error:
        _fail(job, cell, sorted(cell.groups), error, outcome)
        return
    for group in groups:
        if (cell.name, group) in outcome.broken:
            continue
        try:
            same = cell.cost_of(group) == cell.name  # its images are counted above
            counts = (0, 0) if same else (len(batch.samples), len(names["position"]))
            with Clock(job.network, outcome, cell.cost_of(group), *counts):
                columns = columns_to_numpy(cell.columns(group, prepared, batch, forward).items())
            yield group, {**names, **columns}
        except Exception as error:
            _fail(job, cell, [group], error, outcome)


def _fail(job: Job, cell: Cell, metrics: list[str], error: Exception, outcome: Outcome) -> None:
    """Mark groups as failed, keep the reason and the traceback; memory shortage goes up to be retried."""
    if _may_retry(error, outcome):
        raise error
    why = f"{type(error).__name__}: {error}"
    outcome.broken |= {(cell.name, metric) for metric in metrics}
    for metric in metrics:
        write_json(cell.group(metric).failed, {"why": why, "traceback": traceback.format_exc()})
    if SAMPLES in metrics:
        outcome.failures[cell.name] = why
    else:
        outcome.failures.update({f"{cell.name} x {metric}": why for metric in metrics})


def _joined(parts: list[Columns]) -> Columns:
    """Micro-batches as one table in the order of positions; images without targets leave an empty one."""
    parts = parts or [{"position": np.zeros(0, np.int64), "sample_id": np.zeros(0, object)}]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.argsort(joined["position"], kind="stable")
    return {name: column[order] for name, column in joined.items()}
