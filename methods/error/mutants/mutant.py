"""A mutant: which weights of a network are others, and what they are; never a network of its own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from assay.harness.choices import check_choice
from assay.harness.detection import State
from torch import Tensor, nn

from .operators import OPERATORS, Chosen, Name, check_count
from .sites import DEPTH, Site, Unit, check_unit


class Change(NamedTuple):
    """New weights in one layer: its module path, numbers of units int64 [n], their weights [n,size]."""

    layer: str
    units: Tensor
    values: Tensor


@dataclass(frozen=True, eq=False)
class Mutant:
    """Changes of a network's convolutions, counted in units."""

    unit: Unit
    changes: tuple[Change, ...]

    @property
    def layers(self) -> frozenset[str]:
        """Module paths of the layers that are changed."""
        return frozenset(change.layer for change in self.changes)


@contextmanager
def mutated(module: nn.Module, mutant: Mutant) -> Iterator[None]:
    """The module itself as the mutant; afterwards it has its own weights again, to the bit."""
    kept: list[tuple[Tensor, tuple[Tensor, ...], Tensor]] = []
    try:
        for change in mutant.changes:
            # .data: what autograd keeps of an earlier pass stays valid, for the weights come back
            weight, depth = module.get_submodule(change.layer).get_parameter("weight").data, DEPTH[mutant.unit]
            places = torch.unravel_index(change.units.to(weight.device), weight.shape[:depth])
            kept.append((weight, places, weight[places]))
            weight[places] = change.values.reshape(-1, *weight.shape[depth:]).to(weight)
        yield
    finally:
        for weight, places, before in reversed(kept):
            weight[places] = before


@dataclass(frozen=True)
class Mutation:
    """How mutants are drawn.

    operator: GF (weights drawn anew), NAI (times -1), WS (shuffled inside a unit), NS (units of a layer change
    places). unit: `filter` (one output map's weights), `slice2d` (one kernel [h,w]) or `scalar`. rate: of all N units
    int(N rate) are changed; NS: of each layer's, see `operators.count_within`.
    """

    operator: Name
    unit: Unit
    rate: float

    def __post_init__(self) -> None:
        check_unit(self.unit)
        check_choice("operator", self.operator, OPERATORS)
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate={self.rate:g}: give a share of the units, above 0 and at most 1")

    def check(self, sites: Sequence[Site]) -> None:
        """Raise ValueError where it would change nothing in these layers."""
        check_count(self.operator, sites, self.unit, self.rate)

    def candidate(self, sites: Sequence[Site], seed: int, number: int) -> Mutant:
        """Candidate `number` of this seed: the same whichever others are drawn, and by whom."""
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number,)))
        operator = OPERATORS[self.operator]
        chosen = operator.choose([site.units(self.unit) for site in sites], self.rate, rng)
        changes = []
        for site, index in zip(sites, map(torch.from_numpy, chosen), strict=True):
            if len(index):
                weight = site.weight.cpu()
                values = operator.values(Chosen(weight, self.unit, index, rng)).to(weight)
                changes.append(Change(site.layer, index, values))
        return Mutant(self.unit, tuple(changes))


def packed(mutants: Sequence[Mutant], sites: Sequence[Site]) -> State:
    """Mutants as tensors: a row an entry (mutant, site, unit), int64, and the new weights one behind the other."""
    numbers = {site.layer: number for number, site in enumerate(sites)}
    rows = [
        torch.stack([torch.full_like(c.units, number), torch.full_like(c.units, numbers[c.layer]), c.units], 1)
        for number, mutant in enumerate(mutants)
        for c in mutant.changes
    ]
    values = [change.values.flatten() for mutant in mutants for change in mutant.changes]
    return {"entries": torch.cat(rows), "values": torch.cat(values)}


def unpacked(state: State, sites: Sequence[Site], unit: Unit) -> list[Mutant]:
    """What `packed` made tensors of."""
    changes: dict[int, list[Change]] = {}
    start = 0
    groups, lengths = torch.unique_consecutive(state["entries"][:, :2], dim=0, return_counts=True)
    for (number, place), rows in zip(groups.tolist(), state["entries"][:, 2].split(lengths.tolist()), strict=True):
        site = sites[place]
        size = prod(site.weight.shape[DEPTH[unit] :])
        values = state["values"][start : start + len(rows) * size].view(len(rows), size)
        changes.setdefault(number, []).append(Change(site.layer, rows, values))
        start += values.numel()
    return [Mutant(unit, tuple(each)) for each in changes.values()]
