"""The counted pixels of maps in the order of their values: quantiles, counts above a level, average precision.

A map is sorted once, and with it where its object lies; what the metrics of segmentations need is read off that order.
On the CPU by NumPy, map by map, whose vectorised sort takes a twentieth of PyTorch's time; elsewhere by PyTorch.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from assay.harness.pixels import as_rows, count, on_cpu, only
from numpy.typing import NDArray
from torch import Tensor

from .inside_outside import mean_over

Values = NDArray[np.float32]
Places = NDArray[np.int64]
Pixels = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Ranking(ABC):
    """The counted pixels of P maps in order.

    pixels: int64 [P], counted. mean: float64 [P], in float64 so that a flat map equals its own; nan where no pixel is
    counted.
    """

    pixels: Tensor
    mean: Tensor

    @property
    @abstractmethod
    def signed(self) -> Tensor:
        """Whether a counted value is negative: bool [P]."""

    @property
    @abstractmethod
    def objects(self) -> Tensor:
        """Pixels of the object: int64 [P]."""

    def above(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        """How many pixels lie strictly above levels [P,K], and how many of them on the object: int64 [P,K]."""
        low = levels.float()
        return self._above(torch.where(low.double() > levels, low.nextafter(low.new_tensor(-torch.inf)), low))

    @abstractmethod
    def _above(self, low: Tensor) -> tuple[Tensor, Tensor]:
        """The same above float32 numbers, of which none lies between them and the levels."""

    @abstractmethod
    def quantiles(self, shares: Sequence[float]) -> Tensor:
        """Quantiles of each map: float64 [Q,P], linear interpolation; nan where no pixel is counted."""

    def average_precision(self) -> Tensor:
        """Sum over thresholds n of (R_n - R_n-1) P_n: float64 [P], nan without an object.

        Thresholds are the distinct values, so that tied pixels enter together, as in scikit-learn's
        `average_precision_score`.
        """
        return self._gained() / self.objects  # 0 / 0 without an object

    @abstractmethod
    def _gained(self) -> Tensor:
        """Sum over thresholds of the object's new pixels, not divided by their number, times precision: float64 [P]."""


def ranked(scores: Tensor, objects: Tensor, counted: Tensor) -> Ranking:
    """Maps float32 [P,H,W], objects and counted pixels bool [P,H,W]; the object has counted pixels alone."""
    pixels, mean = count(counted), mean_over(scores, counted)
    if on_cpu(scores):
        return _OnHost(pixels, mean, _in_order(scores, objects, counted))
    return _OnDevice(pixels, mean, _keys(scores, objects, counted))


# On the CPU


class InOrder(NamedTuple):
    """One map's counted values [N], ascending, and where the object's pixels stand among them [M], ascending."""

    values: Values
    places: Places


def _in_order(scores: Tensor, objects: Tensor, counted: Tensor) -> list[InOrder]:
    every = zip(as_rows(scores), as_rows(objects), as_rows(counted), strict=True)
    return [_sorted(*row) for row in every]


def _sorted(scores: Values, objects: Pixels, counted: Pixels) -> InOrder:
    """The object's bit goes along in the last place of a key, which the value leaves free."""
    if not counted.all():
        scores, objects = scores[counted], objects[counted]
    return (_of_any_sign if scores.min(initial=0) < 0 else _not_negative)(scores, objects)


def _not_negative(scores: Values, objects: Pixels) -> InOrder:
    """As whole numbers, whose order is that of floats without a sign: as fast as these alone."""
    keys = np.abs(scores).view(np.uint32)
    keys <<= 1
    keys |= objects
    keys.sort()
    places = _odd(keys)
    keys >>= 1
    return InOrder(keys.view(np.float32), places)


def _of_any_sign(scores: Values, objects: Pixels) -> InOrder:
    """As double precision, whose last bit no float32 uses."""
    keys = np.add(scores, 0.0, dtype=np.float64)  # one zero
    bits = keys.view(np.int64)
    bits |= objects
    keys.sort()
    return InOrder(keys.astype(np.float32), _odd(bits))


def _odd(keys: NDArray[np.integer]) -> Places:
    last = keys.astype(np.uint8)
    last &= 1
    return np.flatnonzero(last.view(bool))


@dataclass(frozen=True, eq=False)
class _OnHost(Ranking):
    maps: list[InOrder]

    @property
    def signed(self) -> Tensor:
        return torch.tensor([bool((each.values[:1] < 0).any()) for each in self.maps])

    @property
    def objects(self) -> Tensor:
        return torch.tensor([len(each.places) for each in self.maps], dtype=torch.int64)

    def _above(self, low: Tensor) -> tuple[Tensor, Tensor]:
        below = [each.values.searchsorted(levels, "right") for each, levels in zip(self.maps, low.numpy(), strict=True)]
        among = [each.places.searchsorted(first) for each, first in zip(self.maps, below, strict=True)]
        marked, both = (torch.from_numpy(np.stack(each)) for each in (below, among))
        return self.pixels[:, None] - marked, self.objects[:, None] - both

    def quantiles(self, shares: Sequence[float]) -> Tensor:
        found = [_quantiles(each.values, np.array(shares)) for each in self.maps]
        return torch.from_numpy(np.stack(found, 1))

    def _gained(self) -> Tensor:
        return torch.tensor([_gained(*each) for each in self.maps], dtype=torch.float64)


def _quantiles(values: Values, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    if not len(values):
        return np.full(len(shares), np.nan)
    position = shares * (len(values) - 1)
    low = position.astype(np.int64)
    below, above = (values[rank].astype(np.float64) for rank in (low, np.minimum(low + 1, len(values) - 1)))
    return below + (above - below) * (position - low)


def _gained(values: Values, places: Places) -> float:
    """`Ranking._gained` of one map: at the object's values alone, where the first pixel of each stands."""
    own = values[places]
    first = np.append(0, np.flatnonzero(own[1:] != own[:-1]) + 1)[: len(own)]
    found = (len(own) - first)[::-1]  # of the object, from the highest value down
    ranks = (len(values) - _tie_starts(values, places[first]))[::-1]
    return float((np.diff(found, prepend=0) * found / ranks).sum())


def _tie_starts(values: Values, places: Places) -> Places:
    """Where the ties begin that the pixels at `places` belong to: mostly there, as few values are shared."""
    earlier = np.flatnonzero(values[np.maximum(places - 1, 0)] == values[places])
    starts = places.copy()
    starts[earlier] = values.searchsorted(values[places[earlier]])
    return starts


# Elsewhere


def _keys(scores: Tensor, objects: Tensor, counted: Tensor) -> Tensor:
    """The negated values, ascending: float64 [P,N], inf beyond the counted pixels. The mantissa's last bit, which no
    float32 uses, is set on the object.
    """
    keys = (0.0 - scores).double()  # 0.0 - : one zero
    keys.view(torch.int64).bitwise_or_(objects)
    return only(keys, counted, torch.inf).flatten(1).sort(1).values


@dataclass(frozen=True, eq=False)
class _OnDevice(Ranking):
    keys: Tensor

    @cached_property
    def found(self) -> Tensor:
        """Pixels of the object so far: int64 [P,N]."""
        return (self.keys.view(torch.int64) & 1).cumsum(1)

    @property
    def signed(self) -> Tensor:
        lowest = self.keys.gather(1, (self.pixels - 1).clamp(min=0)[:, None])[:, 0]
        return (lowest > 1e-300) & lowest.isfinite()  # a zero on the object has the last bit set

    @property
    def objects(self) -> Tensor:
        return self.found[:, -1]

    def _above(self, low: Tensor) -> tuple[Tensor, Tensor]:
        between = (low.double() + low.nextafter(low.new_tensor(torch.inf)).double()) / 2  # no float32 lies there
        marked = torch.searchsorted(self.keys, -between).minimum(self.pixels[:, None])  # of no pixel the level is nan
        both = self.found.gather(1, (marked - 1).clamp(min=0))
        return marked, torch.where(marked > 0, both, 0)

    def quantiles(self, shares: Sequence[float]) -> Tensor:
        last = self.pixels - 1
        position = torch.tensor(shares, dtype=torch.float64, device=last.device)[:, None] * last.clamp(min=0)  # [Q,P]
        low = position.floor().long()
        high = (low + 1).minimum(last.clamp(min=0))
        bits = [self.keys.gather(1, (last - rank).clamp(min=0).T).view(torch.int64) & ~1 for rank in (low, high)]
        below, above = (-each.view(torch.float64).T for each in bits)
        return torch.where(last >= 0, below + (above - below) * (position - low), torch.nan)

    def _gained(self) -> Tensor:
        bits = self.keys.view(torch.int64) >> 1
        last = torch.ones_like(bits, dtype=torch.bool)  # of its tie
        torch.ne(bits[:, 1:], bits[:, :-1], out=last[:, :-1])
        at_last = self.found * last
        before = torch.zeros_like(at_last)
        before[:, 1:] = at_last.cummax(1).values[:, :-1]
        rank = torch.arange(1, at_last.shape[1] + 1, dtype=torch.float64, device=at_last.device)
        gained = (at_last - before).double().mul_(at_last).div_(rank)  # zero within a tie
        return gained.sum(1)
