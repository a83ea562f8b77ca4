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
    """NS: the chosen units of a layer change places in a circle."""
    return chosen.of(chosen.weight).roll(1, 0)


def anywhere(units: Sequence[int], rate: float, rng: np.random.Generator) -> Choice:
    """int(N rate) of all N units of the network, without repetition."""
    ends = np.cumsum([0, *units])
    drawn = np.sort(rng.choice(ends[-1], count_of(int(ends[-1]), rate), replace=False))
    return [drawn[(drawn >= start) & (drawn < stop)] - start for start, stop in pairwise(ends)]


def within(units: Sequence[int], rate: float, rng: np.random.Generator) -> Choice:
    """int(n rate) of the n units of each layer; of a layer in which these are fewer than two, none."""
    counts = [count_of(n, rate) for n in units]
    return [rng.choice(n, count if count > 1 else 0, replace=False) for n, count in zip(units, counts, strict=True)]


def count_of(units: int, rate: float) -> int:
    """int(units * rate); what a product of floats lacks for a whole number does not count."""
    return floor(units * rate + 1e-9)


class Operator(NamedTuple):
    """values: new weights [n,size] of chosen units. choose: the units. several: how many of a group it needs at least;
    the group is the network, or each layer (`within`)."""

    values: Callable[[Chosen], Tensor]
    choose: Callable[[Sequence[int], float, np.random.Generator], Choice]
    several: int = 1

    def largest_group(self, units: Sequence[int]) -> int:
        """Of which `several` must be chosen."""
        return sum(units) if self.choose is anywhere else max(units)


OPERATORS: dict[str, Operator] = {
    "GF": Operator(fuzz, anywhere),
    "NAI": Operator(invert, anywhere),
    "WS": Operator(shuffle, anywhere),
    "NS": Operator(switch, within, several=2),
}


def check_count(name: str, sites: Sequence[Site], unit: Unit, rate: float) -> None:
    """Raise ValueError where the operator would change nothing: no unit, or units of one weight to be shuffled."""
    operator = OPERATORS[name]
    group = operator.largest_group([site.units(unit) for site in sites])
    if count_of(group, rate) < operator.several:
        where = "the network's" if operator.choose is anywhere else "the largest layer's"
        raise ValueError(
            f"rate={rate:g} of {where} {group} units ({unit}) is {count_of(group, rate)}, and {name} changes at least "
            f"{operator.several}: the smallest rate that works here is {smallest_rate(operator.several, group)}"
        )
    if operator.values is shuffle and (single := [s.layer for s in sites if s.weight.numel() == s.units(unit)]):
        raise ValueError(
            f"WS shuffles the weights of a unit, and unit={unit} of {single[0]} is one weight: unit=filter"
        )


def smallest_rate(several: int, group: int) -> str:
    """several/group in three digits, rounded up so that it works."""
    digits = 2 - floor(log10(several / group))
    return f"{ceil(several / group * 10**digits) / 10**digits:.{digits}f}"
