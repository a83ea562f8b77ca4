"""What is computed: cells, each with groups of columns, over the shards of one data set."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..config import RunConfig
from ..forward import ForwardPass
from ..network import Network
from ..store.store import CellStore, Group, Shard, shards_of
from ..types import Batch, Needs
from .request import Images, Request
from .targets import Select


@dataclass(frozen=True, eq=False)
class Cell:
    """One table of a (model, data set): a row for each unit, columns in groups; `groups` maps names to keys.

    The group `SAMPLES` says who the units are. The loop calls `samples` and `prepare` once a batch, and `columns`
    once for each other group that is missing. about: the cell's identity and labels. about_groups: identity and name
    of each group, by key.
    """

    name: str
    store: CellStore
    groups: dict[str, str]
    about: dict[str, Any] = field(default_factory=dict, kw_only=True)
    about_groups: dict[str, dict[str, Any]] = field(default_factory=dict, kw_only=True)

    def group(self, name: str) -> Group:
        """The store of one group's columns."""
        return self.store.group(self.groups[name])

    def describe(self) -> None:
        """Write who the cell and its groups are, where that is not known yet."""
        self.store.describe(self.about, self.about_groups)

    def groups_now(self) -> dict[str, Group]:
        """The groups by name, as they are now: one look for all that is asked of them."""
        seen = self.store.groups_now(self.groups.values())
        return {name: seen[key] for name, key in self.groups.items()}

    def failed(self) -> set[str]:
        """Groups that could not be computed, by a question a group: a listing names every shard as well."""
        return {name for name in self.groups if self.group(name).has_failed}

    def forget(self, stop: int | None = None, launch: str = "") -> None:
        """Forget failures but those of a launch, and what was computed of the first `stop` images."""
        for name in self.groups:
            if stop is not None:
                self.group(name).clear(stop)
            self.group(name).forgive(launch)

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


Wanted = dict[str, set[str]]  # cell -> groups
Missing = dict[Shard, Wanted]


class Look(NamedTuple):
    """What a store lacks of a job at one moment, and what of it could not be computed."""

    missing: Missing
    failed: Wanted


@dataclass(frozen=True, eq=False)
class Job:
    """Everything needed to evaluate cells on one data set: what was asked for, images, cells.

    chosen: the shards of a part of a job (`part`); None for all.
    """

    request: Request
    images: Images
    cells: list[Cell]
    targets: Select = field(repr=False)
    chosen: tuple[Shard, ...] | None = None

    @property
    def config(self) -> RunConfig:
        """The request's."""
        return self.request.config

    @property
    def network(self) -> Network:
        """The request's."""
        return self.request.network

    @property
    def device(self) -> torch.device:
        """The request's."""
        return self.request.device

    @cached_property
    def shards(self) -> list[Shard]:
        """The units of work."""
        if self.chosen is not None:
            return list(self.chosen)
        return shards_of(self.images.stop, self.config.compute.shard_size, self.images.borders)

    def part(self, shards: Collection[Shard], names: Collection[str]) -> "Job":
        """The same job on some shards, of the cells `names` alone."""
        return replace(self, chosen=tuple(shards), cells=[cell for cell in self.cells if cell.name in names])

    def look(self) -> Look:
        """What there is to do."""
        absent, failed = Missing(), Wanted()
        for cell in self.cells:
            groups = cell.groups_now()
            failed[cell.name] = {name for name, group in groups.items() if group.has_failed}
            for name, group in groups.items():
                for shard in group.missing(self.shards):
                    absent.setdefault(shard, {}).setdefault(cell.name, set()).add(name)
        return Look(dict(sorted(absent.items())), failed)

    def missing(self) -> Missing:
        """Shard -> cell -> groups whose columns are not in the store."""
        return self.look().missing

    def open(self) -> Missing:
        """What is missing and has not failed."""
        missing, failed = self.look()
        return _without(missing, failed)

    def truly(self, left: Missing) -> Missing:
        """Of what listings lack, which may be old (NFS), what is not there when asked for by name."""
        found = Missing()
        for shard, wanted in left.items():
            there = {
                cell.name: {name for name in wanted.get(cell.name, ()) if _is_settled(cell.group(name), shard)}
                for cell in self.cells
            }
            found |= _without({shard: wanted}, there)
        return found

    def describe(self) -> Iterator[str]:
        """One line a cell: key, name, shards done / total."""
        absent = self.missing()
        for cell in self.cells:
            done = sum(cell.name not in absent.get(shard, {}) for shard in self.shards)
            yield f"{cell.store.key}  {cell.name:<22} {done}/{len(self.shards)} shards of {self.images.stop} images"


def without(wanted: Wanted, settled: Wanted) -> Wanted:
    """What is left where some groups of cells are settled."""
    left = {name: groups - settled.get(name, set()) for name, groups in wanted.items()}
    return {name: groups for name, groups in left.items() if groups}


def _without(missing: Missing, settled: Wanted) -> Missing:
    """The same of every shard."""
    return {shard: left for shard, wanted in missing.items() if (left := without(wanted, settled))}


def _is_settled(group: Group, shard: Shard) -> bool:
    """Whether a shard is there, or the group has failed, by the files themselves."""
    return group.has(shard) or group.has_failed
