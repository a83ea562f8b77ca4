"""Random numbers that depend on (seed, stream, sample) alone."""

import hashlib
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from . import noise
from .transfer import sent

Per = Literal["image", "pair"]
MANY = 2**16  # numbers that are drawn by several threads
PART = 2**16  # numbers that are made at once on the CPU: they stay in its cache


class Named(Protocol):
    """What has images and pairs with names: a batch."""

    @property
    def image_ids(self) -> Sequence[str]: ...

    @property
    def sample_ids(self) -> Sequence[str]: ...


def derive_seed(*parts: str | int) -> int:
    """A 63-bit seed from any sequence of names and numbers, the same on every machine."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class SampleRng:
    """Random numbers that depend on (seed, stream, sample) alone, whatever the batch, shard, process or device."""

    def __init__(self, seed: int, stream: str, image_ids: Sequence[str], pair_ids: Sequence[str]) -> None:
        self._seed, self._stream_name, self._draws = seed, stream, 0
        self._ids: dict[Per, Sequence[str]] = {"image": image_ids, "pair": pair_ids}

    @classmethod
    def of(cls, seed: int, stream: str, batch: Named) -> "SampleRng":
        """The generator of one batch; `stream` keeps two methods' draws apart."""
        return cls(seed, stream, batch.image_ids, batch.sample_ids)

    def _seeds(self, per: Per) -> list[int]:
        seeds = [derive_seed(self._seed, self._stream_name, self._draws, per, name) for name in self._ids[per]]
        self._draws += 1  # a second draw of one method is another one
        return seeds

    def uniform(self, shape: Sequence[int], per: Per = "image") -> Tensor:
        """Uniform numbers in [0,1), [B or P, *shape], of a generator of the CPU: for orders, masks, choices."""
        generators = [np.random.default_rng(seed) for seed in self._seeds(per)]
        drawn = np.empty((len(generators), *shape), dtype=np.float32)
        _each(lambda row: generators[row].random(dtype=np.float32, out=drawn[row]), len(drawn), drawn.size)
        return torch.from_numpy(drawn)

    def noise(self, shape: Sequence[int], device: torch.device, per: Per = "image") -> "Noise":
        """Noise for each image or pair, drawn on the device that adds it."""
        return Noise([(seed, 0) for seed in self._seeds(per)], shape, device)


class Noise(NamedTuple):
    """A series of arrays [*shape] for each row, whose numbers depend on the row's key and their place in it alone.

    What is drawn of a series, in parts or alone, is a slice of the whole; see `harness/noise.py`.
    """

    keys: list[noise.Key]
    shape: Sequence[int]
    device: torch.device

    def normal(self, start: int = 0, stop: int = 1) -> Tensor:
        """Standard normal arrays `start` to `stop` of each row, [rows, stop - start, *shape]."""
        return self._drawn(noise.normal, start, stop)

    def uniform(self, start: int = 0, stop: int = 1) -> Tensor:
        """Uniform ones in [0,1), of the same words."""
        return self._drawn(noise.uniform, start, stop)

    def _drawn(self, form: noise.Form, start: int, stop: int) -> Tensor:
        size = math.prod(self.shape)
        draw = _there if self.device.type != "cpu" and noise.draws_alike(self.device) else _here
        made = draw(form, self.keys, start * size, (stop - start) * size, self.device)
        return made.view(len(self.keys), stop - start, *self.shape)


def _there(form: noise.Form, keys: Sequence[noise.Key], start: int, count: int, device: torch.device) -> Tensor:
    return form(noise.words(keys, start, count, device))


def _here(form: noise.Form, keys: Sequence[noise.Key], start: int, count: int, device: torch.device) -> Tensor:
    made, rows = torch.empty(len(keys), count), max(1, PART // max(1, count))
    tiles = [(row, place) for row in range(0, len(keys), rows) for place in range(0, count, PART)]

    def fill(number: int) -> None:
        row, place = tiles[number]
        tile = made[row : row + rows, place : place + PART]
        tile.copy_(_there(form, keys[row : row + rows], start + place, tile.shape[1], noise.CPU))

    _each(fill, len(tiles), made.numel())
    return sent(made, device)


def _each(fill: Callable[[int], object], parts: int, numbers: int) -> None:
    """A part a thread where there are several: who draws it changes no number."""
    if numbers < MANY or torch.get_num_threads() == 1:
        for part in range(parts):
            fill(part)
    else:
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            list(pool.map(fill, range(parts)))
