"""What a process did and what it took: costs a method, failures, shards."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch

from ..heads import Passes
from ..network import Network
from ..store.store import Group
from .machine import Where, where

SHARED = "(shared)"  # timing of what all methods of a call share: loading, forward pass, targets


@dataclass
class Cost:
    """What one method took in this process."""

    wall_s: float = 0.0
    images: int = 0
    pairs: int = 0
    passes: Passes = field(default_factory=Passes)


@dataclass
class Outcome:
    """What one process, or several together, did: costs a method, failures a method, shards written.

    helpers_mb: peak memory of helper processes, by name. unstable: operations without a deterministic kernel in torch.
    places: where the time of the costs was spent. gpu_mb: peak memory of a process there on its GPU.
    """

    costs: dict[str, Cost] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    broken: set[tuple[str, str]] = field(default_factory=set)  # (method, metric) not to be measured again
    shards: int = 0
    batch_size: int = 0
    helpers_mb: dict[str, float] = field(default_factory=dict)
    unstable: set[str] = field(default_factory=set)
    places: set[Where] = field(default_factory=set)
    gpu_mb: float = 0.0


class Summary(NamedTuple):
    """What a run leaves: where its rows are, the parts of the data that they are about, and what failed, why.

    draw: puts pictures into a folder. cautions: what the numbers themselves make doubtful.
    """

    groups: list[Group]
    splits: set[str]
    failures: dict[str, str]
    draw: Callable[[Path], None] | None = None
    cautions: tuple[str, ...] = ()


class Asked(NamedTuple):
    """One metric of one method on one set, in words; the keys of its rows, and the part of the data they are about."""

    name: str
    cell: str
    metric: str
    split: str


class Clock:
    """Adds wall time and passes of a block to a method's cost; waits for the GPU at both ends."""

    def __init__(self, network: Network, outcome: Outcome, name: str, images: int = 0, pairs: int = 0) -> None:
        self.network, self.outcome, self.cost = network, outcome, outcome.costs.setdefault(name, Cost())
        outcome.places.add(where(network.mean.device))
        self.cost.images += images
        self.cost.pairs += pairs

    def _now(self) -> float:
        if self.network.mean.is_cuda:
            torch.cuda.synchronize(self.network.mean.device)
        return time.perf_counter()

    def __enter__(self) -> None:
        self.passes, self.start = replace(self.network.passes), self._now()

    def __exit__(self, *_: object) -> None:
        self.cost.wall_s += self._now() - self.start
        self.cost.passes += self.network.passes - self.passes
        self.outcome.gpu_mb = max(self.outcome.gpu_mb, peak_gpu_mb(self.network.mean.device))


def peak_gpu_mb(device: torch.device) -> float:
    """Of this process, so far; 0 on the CPU."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else 0.0


def merge(outcomes: list[Outcome]) -> Outcome:
    """What several processes, or several jobs, did together."""
    merged = Outcome(batch_size=min(outcome.batch_size for outcome in outcomes))
    for outcome in outcomes:
        merged.shards += outcome.shards
        for process, peak in outcome.helpers_mb.items():
            merged.helpers_mb[process] = max(peak, merged.helpers_mb.get(process, 0.0))
        merged.unstable |= outcome.unstable
        merged.places |= outcome.places
        merged.gpu_mb = max(merged.gpu_mb, outcome.gpu_mb)
        merged.failures.update(outcome.failures)
        for name, cost in outcome.costs.items():
            total = merged.costs.setdefault(name, Cost())
            total.wall_s += cost.wall_s
            total.images += cost.images
            total.pairs += cost.pairs
            total.passes += cost.passes
    return merged
