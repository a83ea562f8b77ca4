"""Which methods no test tells apart: paired p-values of all pairs, Holm's correction, and maximal groups."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...seeds import derive_seed
from ...stats import Array

LEVEL = 0.05
FLIPS = 9999  # at least; a p-value is never below 1 / (FLIPS + 1)
PART = 4_000_000  # signs held at once
ROUNDING = 1e-9  # of sums, relative to the largest


class Cliques(NamedTuple):
    """Methods in the order of a quantity, the best first, and the maximal groups of which no pair is told apart.

    test: in words. A method may be in several groups.
    """

    methods: list[str]
    groups: list[list[str]]
    test: str

    @property
    def best(self) -> list[str]:
        """Those that are not told from the best one."""
        return [name for name in self.methods if any({name, self.methods[0]} <= set(group) for group in self.groups)]


def cliques(methods: Sequence[str], p_values: Array, test: str) -> Cliques:
    """Groups of methods (the best first) from p-values [M,M] of their pairs; a pair is told apart below LEVEL."""
    import networkx

    graph = networkx.Graph()
    graph.add_nodes_from(range(len(methods)))
    first, second = np.triu_indices(len(methods), 1)
    alike = holm(p_values[first, second]) >= LEVEL
    graph.add_edges_from(zip(first[alike].tolist(), second[alike].tolist(), strict=True))
    found = sorted(sorted(group) for group in networkx.find_cliques(graph))
    return Cliques([*methods], [[methods[number] for number in group] for group in found], test)


def holm(p_values: ArrayLike) -> Array:
    """p-values [m] adjusted for m tests by Holm's step-down procedure (1979, Scand. J. Statist. 6:65); at most 1."""
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def sign_flips(values: Array, images: ArrayLike) -> Array:
    """Two-sided p-values [M,M] of the differences of M methods' means over the same n pairs.

    Under the null hypothesis an image's difference has either sign alike; all pairs of an image flip together. Where
    the signs are few enough to list, all are tried and the p-value is exact; else FLIPS or more are drawn (seeded).

    Args:
        values: [n,M], no nan. images: [n] labels of what is independent.
    """
    _, rows = np.unique(np.asarray(images), return_inverse=True)
    sums = np.zeros((rows.max() + 1, values.shape[1]))
    np.add.at(sums, rows, values - values.mean(axis=0).mean())
    observed = np.abs(sums.sum(0)[:, None] - sums.sum(0)[None]) - ROUNDING * np.abs(sums).sum(0).max()
    reached = np.zeros(observed.shape)
    tried = 0
    for signs in _signs(len(sums), _flips(values.shape[1])):
        flipped = signs @ sums  # [F,M]
        for number in range(flipped.shape[1]):
            reached[number] += (np.abs(flipped - flipped[:, [number]]) >= observed[number]).sum(0)
        tried += len(signs)
    return reached / tried


def _flips(methods: int) -> int:
    """Enough for Holm's smallest threshold, LEVEL over the number of pairs, to be reached several times over."""
    return max(FLIPS, int(4 / LEVEL) * methods * (methods - 1) // 2)


def _signs(images: int, flips: int) -> Iterator[Array]:
    """Rows of signs [F,images]: every one that there is, or the observed one and `flips` that are drawn."""
    if images <= 62 and 2**images <= flips:
        bits = (np.arange(2**images)[:, None] >> np.arange(images)) & 1
        yield _signed(bits)
        return
    yield np.ones((1, images))
    rng = np.random.default_rng(derive_seed("sign flips"))
    step = max(1, PART // images)
    for start in range(0, flips, step):
        yield _signed(rng.integers(0, 2, (min(step, flips - start), images), np.int8))


def _signed(bits: NDArray[Any]) -> Array:
    """1 for 0, -1 for 1."""
    return np.where(bits, -1.0, 1.0).astype(np.float64)
