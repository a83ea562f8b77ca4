"""Numbers of pixels, sums and extremes over them, of P maps at once.

On the CPU by NumPy, whose one thread takes a third to a twentieth of PyTorch's time for these; elsewhere by PyTorch.
Both give the same numbers but for the order of sums.
"""

import math

import numpy as np
import torch
from torch import Tensor


def on_cpu(values: Tensor) -> bool:
    """Whether NumPy can read them where they lie."""
    return values.device.type == "cpu"


def count(pixels: Tensor) -> Tensor:
    """How many of bool [P,H,W] are set: int64 [P]."""
    if on_cpu(pixels):
        return torch.from_numpy(np.add.reduce(as_rows(pixels).view(np.uint8), axis=1, dtype=np.int64))
    return pixels.flatten(1).sum(1)


def total(values: Tensor, pixels: Tensor | None = None) -> Tensor:
    """Sum of each map [P,H,W], over a set of pixels, bool [P,H,W], if one is given: float64 [P]."""
    if on_cpu(values):
        read = as_rows(values) if pixels is None else as_rows(values) * as_rows(pixels)
        return torch.from_numpy(np.add.reduce(read, axis=1, dtype=np.float64))
    return (values if pixels is None else values * pixels).flatten(1).sum(1, dtype=torch.float64)


def lowest(values: Tensor, pixels: Tensor) -> Tensor:
    """Lowest value of each map [P,H,W] over a set of pixels, bool [P,H,W]: [P], inf over none."""
    return only(values, pixels, math.inf).flatten(1).amin(1)


def only(values: Tensor, pixels: Tensor, rest: float) -> Tensor:
    """The values [P,H,W] at a set of pixels, bool [P,H,W], and `rest` at all others."""
    if on_cpu(values):
        read = values.detach().numpy()
        return torch.from_numpy(np.where(pixels.numpy(), read, read.dtype.type(rest)))
    return torch.where(pixels, values, rest)


def first_highest(values: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Where among a set of pixels, bool [P,H,W], each map [P,H,W] is highest: int64 [P], of its pixels in reading order
    the first; and how many pixels share that value, int64 [P].
    """
    flat = only(values, pixels, -math.inf).flatten(1)
    if on_cpu(flat):
        index = torch.from_numpy(np.argmax(flat.numpy(), axis=1))
        return index, count(flat == flat.gather(1, index[:, None]))
    at_highest = flat == flat.amax(1, keepdim=True)
    return at_highest.int().argmax(1), at_highest.sum(1)


def as_rows(values: Tensor) -> np.ndarray:
    """What lies on the CPU as NumPy's, a row a map: [P,N]."""
    return values.detach().flatten(1).numpy()
