"""The four mutation operators of Wang et al. 2018/2019 (feature maps as "neurons"), and which units they change."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import ceil, floor, log10
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .sites import DEPTH, Site, Unit

Name = Literal["GF", "NAI", "WS", "NS"]
Choice = list[np.ndarray]  # for each site the numbers of its chosen units
FEW_UNITS = 10  # of a layer with fewer NS changes none


class Chosen(NamedTuple):
    """Units of one weight [O,I,h,w] about to be changed: their numbers, int64 [n], and what is drawn."""

    weight: Tensor
    unit: Unit
    units: Tensor
    rng: np.random.Generator

    def of(self, values: Tensor) -> Tensor:
        """The chosen units of anything that has the weight's shape: [n,size]."""
        depth = DEPTH[self.unit]
        return values[torch.unravel_index(self.units, values.shape[:depth])].reshape(len(self.units), -1)


def fuzz(chosen: Chosen) -> Tensor:
    """GF: each weight anew from a normal distribution, with the mean and spread of its place in all filters.

    That of the conductance paper's code; Wang et al. take the mean and spread of the whole tensor.
    """
    weight = chosen.weight.double()
    mean, spread = (chosen.of(each.expand_as(weight)) for each in (weight.mean(0), weight.std(0, correction=0)))
    return mean + spread * torch.from_numpy(chosen.rng.standard_normal(tuple(mean.shape)))


def invert(chosen: Chosen) -> Tensor:
    """NAI: weights times -1; the bias and the batch-norm behind stay as they are."""
    return -chosen.of(chosen.weight)


def shuffle(chosen: Chosen) -> Tensor:
    """WS: the weights inside a unit in another order."""
    units = chosen.of(chosen.weight)
    order = chosen.rng.permuted(np.tile(np.arange(units.shape[1]), (len(units), 1)), axis=1)
    return units.gather(1, torch.from_numpy(order))


def switch(chosen: Chosen) -> Tensor:
    """NS: the chosen units of a layer in another order, any but their own; at least two.

    Wang et al. may draw their own order, too: the mutant is then the network itself.
    """
    units, own = chosen.of(chosen.weight), np.arange(len(chosen.units))
    order = own
    while (order == own).all():
        order = chosen.rng.permutation(len(own))
    return units[torch.from_numpy(order)]


def anywhere(units: Sequence[int], rate: float, rng: np.random.Generator) -> Choice:
    """int(N rate) of all N units of the network, without repetition."""
    ends = np.cumsum([0, *units])
    drawn = np.sort(rng.choice(ends[-1], count_of(int(ends[-1]), rate), replace=False))
    return [drawn[(drawn >= start) & (drawn < stop)] - start for start, stop in pairwise(ends)]


def within(units: Sequence[int], rate: float, rng: np.random.Generator) -> Choice:
    """Of each layer's units (see `count_within`); of a layer in which these are fewer than two, none."""
    counts = [count_within(n, rate) for n in units]
    return [rng.choice(n, count if count > 1 else 0, replace=False) for n, count in zip(units, counts, strict=True)]


def count_of(units: int, rate: float) -> int:
    """int(units * rate); what a product of floats lacks for a whole number does not count."""
    return floor(units * rate + 1e-9)


def count_within(units: int, rate: float) -> int:
    """Wang et al.'s for NS: n rate of a layer's n units, up to 2 rounded up, beyond down; none of fewer than 10."""
    if units < FEW_UNITS:
        return 0
    return max(min(ceil(units * rate - 1e-9), 2), count_of(units, rate))


class Operator(NamedTuple):
    """values: new weights [n,size] of chosen units. choose: the units. amount: how many of a group. several: how many
    it needs at least; the group is the network, or each layer (`within`)."""

    values: Callable[[Chosen], Tensor]
    choose: Callable[[Sequence[int], float, np.random.Generator], Choice]
    amount: Callable[[int, float], int] = count_of
    several: int = 1

    def largest_group(self, units: Sequence[int]) -> int:
        """Of which `several` must be chosen."""
        return sum(units) if self.choose is anywhere else max(units)


OPERATORS: dict[str, Operator] = {
    "GF": Operator(fuzz, anywhere),
    "NAI": Operator(invert, anywhere),
    "WS": Operator(shuffle, anywhere),
    "NS": Operator(switch, within, count_within, several=2),
}


def check_count(name: str, sites: Sequence[Site], unit: Unit, rate: float) -> None:
    """Raise ValueError where the operator would change nothing: no unit, or units of one weight to be shuffled."""
    operator = OPERATORS[name]
    group = operator.largest_group([site.units(unit) for site in sites])
    if operator.amount(group, 1) < operator.several:
        raise ValueError(
            f"{name} changes layers of at least {FEW_UNITS} units, and the largest has {group} ({unit}): choose a "
            "smaller unit (slice2d, scalar), or another operator (GF, NAI, WS)"
        )
    if operator.amount(group, rate) < operator.several:
        where = "the network's" if operator.choose is anywhere else "the largest layer's"
        raise ValueError(
            f"rate={rate:g} of {where} {group} units ({unit}) is {operator.amount(group, rate)}, and {name} changes at "
            f"least {operator.several}: the smallest rate that works here is {smallest_rate(operator, group)}"
        )
    if operator.values is shuffle and (single := [s.layer for s in sites if s.weight.numel() == s.units(unit)]):
        raise ValueError(
            f"WS shuffles the weights of a unit, and unit={unit} of {single[0]} is one weight: unit=filter"
        )


def smallest_rate(operator: Operator, group: int) -> str:
    """1/group in three digits, rounded up until it works: NS wants more than one unit."""
    digits = 2 - floor(log10(1 / group))
    least = ceil(10**digits / group)
    rates = (number / 10**digits for number in (least, least + 1))
    return next(f"{rate:.{digits}f}" for rate in rates if operator.amount(group, rate) >= operator.several)
