"""Numbers of pixels, sums and extremes over them, of P maps at once.

On the CPU by NumPy, map by map, so that a map stays in the processor's cache: a third to a twentieth of PyTorch's time;
elsewhere by PyTorch. Both give the same numbers but for the order of sums.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor


def on_cpu(values: Tensor) -> bool:
    """Whether NumPy can read them where they lie."""
    return values.device.type == "cpu"


def count(pixels: Tensor) -> Tensor:
    """How many of bool [P,H,W] are set: int64 [P]."""
    if on_cpu(pixels):
        return torch.tensor([np.count_nonzero(row) for row in as_rows(pixels)], dtype=torch.int64)
    return pixels.flatten(1).sum(1)


def count_positive(values: Tensor) -> Tensor:
    """How many of each map [P,H,W] are above zero: int64 [P]."""
    if on_cpu(values):
        return torch.tensor([np.count_nonzero(row > 0) for row in as_rows(values)], dtype=torch.int64)
    return count(values > 0)


def total(values: Tensor, pixels: Tensor | None = None) -> Tensor:
    """Sum of each map [P,H,W], over a set of pixels, bool [P,H,W], if one is given: float64 [P]."""
    if on_cpu(values):
        rows = as_rows(values) if pixels is None else _masked(values, pixels)
        return torch.tensor([_sum(row) for row in rows], dtype=torch.float64)
    return (values if pixels is None else values * pixels).flatten(1).sum(1, dtype=torch.float64)


def signed_totals(values: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of max(v, 0) and of max(-v, 0) of each map [P,H,W] over a set of pixels, bool [P,H,W]: float64 [P] each."""
    if on_cpu(values):
        sums = [_signed_sums(row) for row in _masked(values, pixels)]
        positive, negative = torch.tensor(sums, dtype=torch.float64).view(-1, 2).unbind(1)
        return positive, negative
    return total(values.clamp(min=0), pixels), total((-values).clamp(min=0), pixels)


def _masked(values: Tensor, pixels: Tensor) -> Iterator[np.ndarray]:
    """Map by map, 0 where a pixel is not of the set, in one place."""
    rows = as_rows(values)
    kept = np.empty(rows.shape[1:], rows.dtype)
    for row, mask in zip(rows, as_rows(pixels), strict=True):
        yield row if mask.all() else np.multiply(row, mask, out=kept)


def _sum(row: np.ndarray) -> float:
    return float(np.add.reduce(row, dtype=np.float64))


def _signed_sums(row: np.ndarray) -> tuple[float, float]:
    if row.min(initial=0) >= 0:  # as of most class-activation maps
        return _sum(row), 0.0
    return _sum(np.maximum(row, 0)), _sum(np.maximum(-row, 0))


def lowest(values: Tensor, pixels: Tensor) -> Tensor:
    """Lowest value of each map [P,H,W] over a set of pixels, bool [P,H,W]: [P], inf over none."""
    if on_cpu(values):
        each = zip(as_rows(values), as_rows(pixels), strict=True)
        found = [row.min() if mask.all() else np.min(row, where=mask, initial=np.inf) for row, mask in each]
        return torch.tensor(found, dtype=values.dtype)
    return only(values, pixels, math.inf).flatten(1).amin(1)


def only(values: Tensor, pixels: Tensor, rest: float) -> Tensor:
    """The values [P,H,W] at a set of pixels, bool [P,H,W], and `rest` at all others."""
    return torch.where(pixels, values, rest)


def first_highest(values: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Where among a set of pixels, bool [P,H,W], each map [P,H,W] is highest: int64 [P], of its pixels in reading order
    the first; and how many pixels share that value, int64 [P].
    """
    if on_cpu(values):
        each = zip(as_rows(values), as_rows(pixels), strict=True)
        found = torch.tensor([_first_highest(*row) for row in each], dtype=torch.int64).view(-1, 2)
        return found[:, 0], found[:, 1]
    flat = only(values, pixels, -math.inf).flatten(1)
    at_highest = flat == flat.amax(1, keepdim=True)
    return at_highest.int().argmax(1), at_highest.sum(1)


def _first_highest(row: np.ndarray, mask: np.ndarray) -> tuple[int, int]:
    shown = row if mask.all() else np.where(mask, row, row.dtype.type(-np.inf))
    index = shown.argmax()
    return int(index), int(np.count_nonzero(shown == shown[index]))


def as_rows(values: Tensor) -> np.ndarray:
    """What lies on the CPU as NumPy's, a row a map: [P,N]."""
    return values.detach().flatten(1).numpy()


def crossed(rows: Tensor, columns: Tensor) -> Tensor:
    """Pixels whose row and column are set: bool [P,H] and [P,W] -> [P,H,W]."""
    if on_cpu(rows):
        return torch.from_numpy(rows.numpy()[:, :, None] & columns.numpy()[:, None])
    return rows[:, :, None] & columns[:, None]


def united(rows: Tensor, columns: Tensor) -> Tensor:
    """Pixels whose row and column are set by one of N boxes: bool [P,N,H] and [P,N,W] -> [P,H,W]."""
    if on_cpu(rows):
        made = np.zeros((len(rows), rows.shape[2], columns.shape[2]), bool)
        for each, down, across in zip(made, rows.numpy(), columns.numpy(), strict=True):
            for box_down, box_across in zip(down, across, strict=True):
                each[box_down] |= box_across
        return torch.from_numpy(made)
    return torch.bmm(rows.float().transpose(1, 2), columns.float()) > 0  # how many boxes


def lerped(values: Tensor, steps: Tensor, low: Tensor, weight: Tensor, axis: int) -> Tensor:
    """Cell `low` plus `weight` times its step, along an axis of maps.

    values, steps: [P,h,w]. low: int64 [P,n], rising; weight: [P,n]. axis: 1 (then [P,n,w] is made) or 2.
    """
    if on_cpu(values):
        each = zip(*(part.detach().numpy() for part in (values, steps, low, weight)), strict=True)
        return torch.from_numpy(np.stack([_lerped(v, s, at, w, axis - 1) for v, s, at, w in each]))
    shape = [-1, low.shape[1], 1] if axis == 1 else [-1, 1, low.shape[1]]
    expand = [-1, -1, values.shape[2]] if axis == 1 else [-1, values.shape[1], -1]
    index = low.view(shape).expand(expand)
    return values.gather(axis, index) + steps.gather(axis, index) * weight.view(shape)


def _lerped(values: np.ndarray, steps: np.ndarray, low: np.ndarray, weight: np.ndarray, axis: int) -> np.ndarray:
    """Of one map. To repeat each cell takes half of the time of looking it up."""
    times = np.bincount(low, minlength=values.shape[axis])
    made = np.repeat(steps, times, axis)
    made *= weight[:, None] if axis == 0 else weight
    made += np.repeat(values, times, axis)
    return made
