"""Pairs in parts: maps are as large as the original images, and a batch of photographs need not fit in memory."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..forward import ForwardPass
from ..types import Again, Attribution, Batch, FramedMaps, Metric

PIXELS = 1 << 25  # of maps in memory together: 128 MiB in float32, of which a metric makes several


class Span(NamedTuple):
    """Pairs `start` to `stop` of a batch."""

    start: int
    stop: int


def spans(frames: Tensor) -> Iterator[Span]:
    """Parts of the pairs with frames [P,2] whose maps, padded to one size, have at most PIXELS pixels, or one pair."""
    start, height, width = 0, 0, 0
    for row, (high, wide) in enumerate(frames.tolist()):
        height, width = max(height, high), max(width, wide)
        if row > start and (row + 1 - start) * height * width > PIXELS:
            yield Span(start, row)
            start, height, width = row, high, wide
    yield Span(start, len(frames))


Asked = Callable[[Batch, int], Again]  # (pairs, rows at once) -> the method on them


def measured_in_parts(
    metric: Metric, made: Attribution, batch: Batch, forward: ForwardPass, again: Asked
) -> dict[str, Tensor]:
    """The metric's columns [P] or [P,K] of a batch, one part of its pairs after the other."""
    found = [_measured(metric, made, batch, forward, span, again) for span in spans(batch.frames)]
    return {name: torch.cat([columns[name] for columns in found]) for name in found[0]}


def _measured(
    metric: Metric, made: Attribution, batch: Batch, forward: ForwardPass, span: Span, again: Asked
) -> dict[str, Tensor]:
    part, rows = batch.part(*span), slice(*span)
    coefficients = None if made.coefficients is None else made.coefficients[rows]
    own = replace(made, values=made.values[rows], coefficients=coefficients)
    return metric.measure(part, FramedMaps.of(own, part, again(part, forward.max_rows)), forward)
