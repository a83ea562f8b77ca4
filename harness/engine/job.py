"""What is computed: cells, each with groups of columns, over the shards of one data set."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from ..forward import ForwardPass
from ..network import Network
from ..store import identity
from ..store.store import CellStore, Group, Shard
from ..types import Batch, Dataset, Metric, Needs
from .targets import Select


def split_name(dataset: Dataset, stop: int, order: int | None) -> str:
    """The first `stop` images in the order of a seed, in slice notation: `test`, `test[:200]`, `test[:200]@seed3`."""
    part = "" if stop == len(dataset) else f"[:{stop}]"
    return f"{dataset.split}{part}" + ("" if order is None else f"@seed{order}")


@dataclass(frozen=True, eq=False)
class Cell:
    """One table of a (model, data set): a row for each unit, columns in groups; `groups` maps names to keys.

    The group `SAMPLES` says who the units are. The loop calls `samples` and `prepare` once a batch, and `columns`
    once for each other group that is missing.
    """

    name: str
    store: CellStore
    groups: dict[str, str]

    def group(self, name: str) -> Group:
        """The store of one group's columns."""
        return self.store.group(self.groups[name])

    def needs(self) -> Needs:
        """What the shared forward pass must keep."""
        raise NotImplementedError

    def units(self, batch: Batch) -> tuple[list[int], list[str]]:
        """Row in the batch and name of each unit."""
        raise NotImplementedError

    def samples(self, batch: Batch, forward: ForwardPass) -> dict[str, np.ndarray]:
        """Columns of the group `SAMPLES`."""
        raise NotImplementedError

    def prepare(self, batch: Batch, forward: ForwardPass) -> Any:
        """What the groups' columns have in common; timed as the cell's own cost."""

    def cost_of(self, group: str) -> str:
        """Under which name the time of a group's columns is recorded."""
        return self.name

    def columns(self, group: str, prepared: Any, batch: Batch, forward: ForwardPass) -> dict[str, Tensor]:
        """Columns [units] or [units,K] of one group."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Job:
    """Everything needed to evaluate cells on one data set: built objects, cells, shards."""

    config: DictConfig
    network: Network
    dataset: Dataset
    order: np.ndarray  # dataset index of each position
    cells: list[Cell]
    shards: list[Shard]
    device: torch.device
    targets: Select
    metrics: dict[str, Metric] = field(default_factory=dict)

    @property
    def stop(self) -> int:
        """How many images are evaluated."""
        return self.shards[-1].stop if self.shards else 0

    @cached_property
    def run_id(self) -> str:
        """Digest of what was asked for, the same for every invocation of the same request."""
        asked = sorted((cell.store.key, *sorted(cell.groups.values())) for cell in self.cells)
        return identity.digest([asked, self.stop])[:12]

    @property
    def split(self) -> str:
        """Which images, in slice notation."""
        return split_name(self.dataset, self.stop, self.config.subset_seed)

    def missing(self) -> dict[Shard, dict[str, set[str]]]:
        """Shard -> cell -> groups whose columns are not in the store."""
        absent: dict[Shard, dict[str, set[str]]] = {}
        for cell in self.cells:
            for name in cell.groups:
                for shard in cell.group(name).missing(self.shards):
                    absent.setdefault(shard, {}).setdefault(cell.name, set()).add(name)
        return dict(sorted(absent.items()))

    def describe(self) -> Iterator[str]:
        """One line a cell: key, name, shards done / total."""
        absent = self.missing()
        for cell in self.cells:
            done = sum(cell.name not in absent.get(shard, {}) for shard in self.shards)
            yield f"{cell.store.key}  {cell.name:<22} {done}/{len(self.shards)} shards of {self.stop} images"
