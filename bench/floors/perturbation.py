"""Perturbation curves: the bare forwards of all steps."""

from collections.abc import Callable

import torch
from assay.harness.forward import ForwardPass
from assay.harness.network import Network
from assay.harness.types import Attribution, Batch, FramedMaps, Metric
from torch import Tensor, nn


def measured(
    metric: Metric, network: Network, batch: Batch, maps: Tensor, rows: int
) -> Callable[[], dict[str, Tensor]]:
    """A metric's columns, with the shared forward pass; rows: images through the network at once."""
    framed = FramedMaps.of(Attribution(maps), batch)
    return lambda: metric.measure(batch, framed, ForwardPass(network, batch.images, max_rows=rows))


def bare(network: Network, batch: Batch, steps: int, rows: int) -> Callable[[], None]:
    """As many inputs as there are steps, in full batches, and nothing else."""
    inputs = network.normalise(batch.images).repeat(steps, 1, 1, 1)
    module: nn.Module = network.module

    def run() -> None:
        with torch.no_grad():
            for part in inputs.split(rows):
                module(part)

    return run
