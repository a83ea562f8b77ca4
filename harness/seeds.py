"""Random numbers that depend on (seed, stream, sample) alone."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

Per = Literal["image", "pair"]
Draw = Literal["standard_normal", "random"]
MANY = 2**16  # numbers that are drawn by several threads


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
    """Random numbers that depend on (seed, stream, sample) alone, whatever the batch, shard or process.

    Drawn on the CPU, so that CPU and GPU runs see the same noise.
    """

    def __init__(self, seed: int, stream: str, image_ids: Sequence[str], pair_ids: Sequence[str]) -> None:
        self._seed, self._stream_name, self._draws = seed, stream, 0
        self._ids: dict[Per, Sequence[str]] = {"image": image_ids, "pair": pair_ids}

    @classmethod
    def of(cls, seed: int, stream: str, batch: Named) -> "SampleRng":
        """The generator of one batch; `stream` keeps two methods' draws apart."""
        return cls(seed, stream, batch.image_ids, batch.sample_ids)

    def _stream(self, per: Per, draw: Draw) -> "_Stream":
        seeds = [derive_seed(self._seed, self._stream_name, self._draws, per, name) for name in self._ids[per]]
        self._draws += 1  # a second draw of one method is another one
        return _Stream([np.random.default_rng(seed) for seed in seeds], draw)

    def normal(self, shape: Sequence[int], per: Per = "image") -> Tensor:
        """Standard normal numbers [B or P, *shape]."""
        return self._stream(per, "standard_normal").next(shape)

    def uniform(self, shape: Sequence[int], per: Per = "image") -> Tensor:
        """Uniform numbers in [0,1), [B or P, *shape]."""
        return self._stream(per, "random").next(shape)

    def normals(self, shape: Sequence[int]) -> Callable[[int], Tensor]:
        """A series of standard normal numbers of each image: (n) -> the next n of it, [B,n,*shape].

        N of them in parts are `normal((N, *shape))`.
        """
        stream = self._stream("image", "standard_normal")
        return lambda count: stream.next((count, *shape))


class _Stream(NamedTuple):
    """A generator for each row."""

    generators: list[np.random.Generator]
    draw: Draw

    def next(self, shape: Sequence[int]) -> Tensor:
        """The next numbers of each row."""
        drawn = np.empty((len(self.generators), *shape), dtype=np.float32)

        def fill(row: int) -> None:
            getattr(self.generators[row], self.draw)(dtype=np.float32, out=drawn[row])

        if drawn.size < MANY or torch.get_num_threads() == 1:
            for row in range(len(drawn)):
                fill(row)
        else:  # a row a thread: who draws it changes no number, and NumPy draws without Python's lock
            with ThreadPoolExecutor(torch.get_num_threads()) as pool:
                list(pool.map(fill, range(len(drawn))))
        return torch.from_numpy(drawn)
