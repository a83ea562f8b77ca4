"""Noise that depends on (key, place) alone, drawn on the device that needs it: every device gives the same bits.

Words are those of Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): NumPy's on the
CPU, and the same operations on integers elsewhere. What becomes of a word takes looks into a table, and multiplications
and additions that IEEE 754 rounds in one way only, each by itself: no logarithm of a device's own library, no fused
operation.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from .transfer import sent

Key = tuple[int, int]  # below 2^64 each
Form = Callable[[Tensor], Tensor]  # words -> numbers

BLOCK = 8  # words that one value of the counter gives
ROUNDS = 10
MULTIPLIERS = np.array([0xD2E7470EE14C6C93, 0xCA5A826395121157], dtype=np.uint64)
WEYL = np.array([0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B], dtype=np.uint64)  # what a round adds to the key
LOW = 2**32 - 1
CPU = torch.device("cpu")

BITS = 5  # an octave of probability has 2^5 segments
FINE = 23 - BITS  # bits of a float32 that say where in its segment it is
LEAST = 126  # exponent, as float32 stores it, of 0.5
GRID = 2.0**-28  # of the table's coefficients: coarse, so that no C library's logarithm rounds one differently


# Words


def words(keys: Sequence[Key], start: int, count: int, device: torch.device) -> Tensor:
    """Words `start` to `start + count` of each key's stream: int32 [R,count], all 32 bits random."""
    first, end = start // BLOCK, -(-(start + count) // BLOCK)
    make = words_here if device.type == "cpu" else words_there
    return make(keys, first, end - first, device)[:, start - first * BLOCK :][:, :count]


def words_here(keys: Sequence[Key], first: int, blocks: int, device: torch.device = CPU) -> Tensor:
    """NumPy's, whose counter is one further than it was set: int32 [R,8 * blocks], the lower half of 64 bits first."""
    made = np.empty((len(keys), blocks * BLOCK // 2), dtype=np.uint64)
    for row, key in enumerate(keys):
        made[row] = np.random.Philox(key=np.array(key, dtype=np.uint64), counter=first).random_raw(made.shape[1])
    return torch.from_numpy(made.view(np.int32))


def words_there(keys: Sequence[Key], first: int, blocks: int, device: torch.device) -> Tensor:
    """The same by torch's operations on int64, which wrap as unsigned ones do: the low half of a sum or product."""
    multipliers, round_keys = (sent(values, device) for values in (_halves(), _schedule(keys)))
    counter = torch.arange(first + 1, first + 1 + blocks, device=device)
    odd = counter.new_zeros(2, 1, blocks)  # of the four numbers of a block, [2,R,blocks]
    even = torch.stack([counter, odd[0, 0]])[:, None]
    for key in round_keys:
        high, low = _product(even, *multipliers)
        even, odd = high.flip(0) ^ odd ^ key, low.flip(0)
    return torch.stack([even[0], odd[0], even[1], odd[1]], -1).view(torch.int32).flatten(1)


def _halves() -> Tensor:
    """The multipliers, their upper and their lower halves: int64 [3,2,1,1]."""
    made = np.stack([MULTIPLIERS, MULTIPLIERS >> np.uint64(32), MULTIPLIERS & np.uint64(LOW)])
    return torch.from_numpy(made.view(np.int64))[:, :, None, None]


def _schedule(keys: Sequence[Key]) -> Tensor:
    """The keys of each round: int64 [10,2,R,1]."""
    first = np.array(keys, dtype=np.uint64).reshape(-1, 2)
    made = first + np.arange(ROUNDS, dtype=np.uint64)[:, None, None] * WEYL  # [10,R,2]
    return torch.from_numpy(made.view(np.int64)).transpose(1, 2)[..., None]


def _product(values: Tensor, multiplier: Tensor, upper: Tensor, lower: Tensor) -> tuple[Tensor, Tensor]:
    """The upper and the lower 64 of a product's 128 bits; halves of 32 bits, so that no carry is lost."""
    high, low = _upper(values), values & LOW
    middle = high * lower + _upper(low * lower)
    other = low * upper + (middle & LOW)
    return high * upper + _upper(middle) + _upper(other), values * multiplier


def _upper(values: Tensor) -> Tensor:
    """The upper 32 of 64 bits, the sign being one of them."""
    return (values >> 32) & LOW


# Numbers


def uniform(drawn: Tensor) -> Tensor:
    """Uniform float32 numbers in [0,1) of words: their upper 24 bits, as NumPy's `Generator.random` takes them."""
    return ((drawn >> 8) & (2**24 - 1)).to(torch.float32).mul_(2.0**-24)


def normal(drawn: Tensor) -> Tensor:
    """Standard normal float32 numbers of words: the sign, and the quantile of the other 31 bits; within 6.4.

    Of the tail's probability p = (bits + 1/2) / 2^32 the stored exponent and the first bits behind it are the segment
    of the table, so that tails are as fine as the middle; in a segment z is quadratic in p. Off by at most 6e-7.
    """
    flat = drawn.flatten()
    stored = (flat ^ (flat >> 31)).to(torch.float32).add_(0.5).view(torch.int32)
    segment, place = (stored >> FINE) - (LEAST << BITS), (stored & ((1 << FINE) - 1)).to(torch.float32)
    constant, linear, square = quantiles(drawn.device)
    made = square.index_select(0, segment).mul_(place).add_(linear.index_select(0, segment))
    made = made.mul_(place).add_(constant.index_select(0, segment))
    return (made.view(torch.int32) ^ (flat & -(2**31))).view(torch.float32).view(drawn.shape)


@cache
def quantiles(device: torch.device = CPU) -> Tensor:
    """Coefficients of 1, t and t^2 of each segment, t counted in its 2^18 places: float32 [3,S]."""
    left, middle, right = (_quantile(_octaves(part) / 2**32) for part in (0, 0.5, 1))
    fitted = np.stack([left, 4 * middle - 3 * left - right, 2 * (left + right) - 4 * middle])
    whole = np.pad(np.round(fitted / GRID) * GRID, ((0, 0), (0, 1)))  # at 2^31, p = 1/2, z is 0
    return sent(torch.from_numpy((whole * 2.0 ** (-FINE * np.arange(3)[:, None])).astype(np.float32)), device)


def _octaves(part: float) -> np.ndarray:
    """Where each segment from 0.5 to below 2^31 begins (part 0), ends (1), or between."""
    return np.ldexp(1 + (np.arange(2**BITS) + part) / 2**BITS, np.arange(-1, 31)[:, None]).flatten()


def _quantile(tails: np.ndarray) -> np.ndarray:
    """z of the probabilities that a standard normal number is larger."""
    return np.array([-NormalDist().inv_cdf(tail) for tail in tails.tolist()])


# Devices


@cache
def draws_alike(device: torch.device) -> bool:
    """Whether a device gives the CPU's bits, on a few thousand words: looked at once a process.

    Where it does not, numbers are drawn on the CPU and moved, which is slower; it is said.
    """
    keys, start, count = [(3, 2**64 - 1), (2**63, 5)], 2**33 + 5, 4096
    here, there = (words(keys, start, count, each) for each in (CPU, device))
    pairs = [(form(here), form(there).cpu()) for form in (uniform, normal)]
    alike = all(torch.equal(one, other) for one, other in pairs)
    if not alike:
        warnings.warn(f"{device} computes other bits than the CPU: noise is drawn on the CPU and moved", stacklevel=2)
    return alike
