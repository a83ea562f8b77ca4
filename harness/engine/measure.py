"""One shard measured: micro-batches, a shared forward pass each, columns of every wanted group."""

import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch

from ..forward import ForwardPass
from ..store.outcomes import Failure
from ..store.store import SAMPLES, Shard
from ..transfer import columns_to_numpy
from ..types import Batch, Sample
from .costs import SHARED, Clock, Outcome
from .job import Cell, Job, Wanted
from .memory import can_halve, is_out_of_memory, within_memory
from .probe import check_finite

Columns = dict[str, np.ndarray]
Tables = dict[str, dict[str, list[Columns]]]  # cell -> group -> columns of each micro-batch


def measure_within_memory(job: Job, shard: Shard, samples: list[Sample], wanted: Wanted, outcome: Outcome) -> Tables:
    """Columns of every wanted group, a part a micro-batch, which is halved when memory runs out."""
    return within_memory(outcome, partial(_measure_shard, job, shard, samples, wanted, outcome))


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
            fail(cells[0], cells[0].groups, error, outcome)
            return []
        if can_halve(error, outcome):
            raise
    return [made for cell in cells for made in _passes(job, samples, [cell], outcome)]


def share(job: Job, samples: list[Sample], cells: list[Cell], max_rows: int) -> tuple[Batch, ForwardPass]:
    """The batch on the device, its targets under the protocol, and the forward pass that the cells share."""
    needs = [cell.needs() for cell in cells]
    layers = tuple(sorted({layer for need in needs for layer in need.layers}))
    batch = Batch.of(samples, job.device)
    graph, penultimate = any(need.input_graph for need in needs), any(need.penultimate for need in needs)
    forward = ForwardPass(job.network, batch.images, layers, graph, max_rows, penultimate)
    with _naming(batch):
        check_finite(job.config.model.name, forward.logits, batch.image_ids)  # the pass itself, on the caller's clock
    return job.targets(batch, forward), forward


@contextmanager
def _naming(batch: Batch) -> Iterator[None]:
    """What the network cannot do with images, as below its smallest size, with who they are."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        height, width = batch.images.shape[2:]
        few = f"{', '.join(batch.image_ids[:3])}{', ...' if len(batch.samples) > 3 else ''}"
        raise RuntimeError(f"{error} (images of {width}x{height} pixels, width x height: {few})") from error


def _micro_batches(samples: list[Sample], size: int) -> Iterator[list[int]]:
    """Row numbers of images of equal shape with as many classes, at most `size` together.

    A batch goes backwards as often as its image of most classes, all of its images each time: one street scene of seven
    classes would cost every portrait beside it seven passes.
    """
    buckets: dict[tuple[torch.Size, int], list[int]] = {}
    for row, sample in enumerate(samples):
        buckets.setdefault((sample.image.shape, len(sample.targets)), []).append(row)
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
        fail(cell, cell.groups, error, outcome)
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
            fail(cell, [group], error, outcome)


def fail(cell: Cell, groups: Iterable[str], error: Exception, outcome: Outcome) -> None:
    """Mark groups as failed, keep the reason and the traceback; memory shortage goes up to be retried."""
    if can_halve(error, outcome):
        raise error
    why = f"{type(error).__name__}: {error}"
    outcome.broken |= {(cell.name, group) for group in groups}
    for group in sorted(groups):
        cell.group(group).fail(Failure(why, traceback.format_exc()))
    if SAMPLES in groups:
        outcome.failures[cell.name] = why
    else:
        outcome.failures.update({f"{cell.name} x {group}": why for group in groups})


def in_order(parts: list[Columns]) -> Columns:
    """Micro-batches as one table in the order of positions; images without targets leave an empty one."""
    parts = parts or [{"position": np.zeros(0, np.int64), "sample_id": np.zeros(0, object)}]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.argsort(joined["position"], kind="stable")
    return {name: column[order] for name, column in joined.items()}
