"""How far our numbers put a table's rows in the paper's order: Kendall's tau, over all its columns at once.

Rows are few, so the interval is wide and rough; it is of the choice of rows (a bootstrap over them), not of images.
"""

import math
from collections.abc import Sequence
from itertools import permutations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .entries import Entry, Table

DRAWS = 1000  # of rows with replacement, and of shufflings
LEAST = 3  # rows: two are in order or not
DIGITS = 6  # of a number: what lies behind is rounding of float32, and no order
FEW = 10  # rows: a bootstrap over fewer is rough

Array = NDArray[np.float64]
Group = list[Entry]


class Agreement(NamedTuple):
    """Kendall's tau-b (1945, Biometrika 33:239) between ours and the printed figures, a mean over columns.

    low, high: of its 95 % interval, by drawing rows with replacement, the same ones in every column. chance: the share
    of shufflings of the rows, the same in every column, whose tau is as high (one-sided, the one at hand among them).
    rows: how many different ones there are.
    """

    tau: float
    low: float
    high: float
    chance: float
    rows: int
    columns: int

    def __str__(self) -> str:
        few = "; few rows: rough" if self.rows < FEW else ""
        return (
            f"Kendall's τ, mean of {self.columns} columns: {self.tau:.2f}, "
            f"95 % interval {self.low:.2f} to {self.high:.2f} (bootstrap over the {self.rows} rows{few}); "
            f"as high by chance: p = {self.chance:.3f} (rows shuffled)"
        )


def compared(table: Table) -> dict[tuple[str, str], Group]:
    """The entries with both numbers that stand in one order: of a column of a panel, or of panels of one `order:`."""
    groups: dict[tuple[str, str], Group] = {}
    for entry in table.entries:
        if entry.ours is not None and not np.isnan([entry.ours.value, entry.reported]).any():
            groups.setdefault(entry.ranked_in, []).append(entry)
    return groups


def rounded(value: float) -> float:
    """To DIGITS significant ones, as the `.csv` has it: equal numbers are level."""
    return float(f"{value:.{DIGITS}g}")


def agreement(groups: Sequence[Group]) -> Agreement | None:
    """Over all columns that have an order, ours and the paper's; None where there is no such column."""
    names = {name: place for place, name in enumerate(dict.fromkeys(e.rank_name for each in groups for e in each))}
    columns = [column for group in groups if (column := _column(group, names)) is not None]
    if not columns:
        return None
    tau = float(_mean([column.tau() for column in columns])[0])
    low, high = _interval(columns, len(names))
    rows = len({int(place) for column in columns for place in column.places})
    return Agreement(tau, low, high, _chance(columns, len(names), tau), rows, len(columns))


def tau_of(group: Group) -> float:
    """Of one column; nan where it has too few rows, or no order."""
    column = _column(group, {entry.rank_name: place for place, entry in enumerate(group)})
    return math.nan if column is None else float(column.tau()[0])


class _Column(NamedTuple):
    """Numbers of one column: places of its rows among all rows, [K]; ours and the printed ones, [K]."""

    places: NDArray[np.intp]
    ours: Array
    printed: Array

    def tau(self, counts: Array | None = None, order: NDArray[np.intp] | None = None) -> Array:
        """tau-b of rows that count so often, [D,K], or of ours in other orders, [D,K]: [D].

        Copies of one row make no pair; nan where a side has no order left.
        """
        first, second = np.triu_indices(len(self.ours), 1)
        ours = self.ours[np.arange(len(self.ours))[None] if order is None else order]
        a, b = np.sign(ours[:, first] - ours[:, second]), np.sign(self.printed[first] - self.printed[second])
        pairs = np.ones((1, len(first))) if counts is None else counts[:, first] * counts[:, second]
        scale = np.sqrt((pairs * a**2).sum(1) * (pairs * b**2).sum(1))
        return np.divide((pairs * a * b).sum(1), scale, out=np.full(len(scale), np.nan), where=scale > 0)


def _column(group: Group, names: dict[str, int]) -> _Column | None:
    """None where there are too few rows, or all numbers of a side are equal."""
    ours = np.array([rounded(entry.ours.value) for entry in group if entry.ours])
    printed = np.array([rounded(entry.reported) for entry in group])
    if len(group) < LEAST or np.ptp(ours) == 0 or np.ptp(printed) == 0:
        return None
    return _Column(np.array([names[entry.rank_name] for entry in group]), ours, printed)


def _mean(taus: Sequence[Array]) -> Array:
    """Over columns, [D]; nan where none has an order."""
    every = np.stack(taus)
    counted = (~np.isnan(every)).sum(0)
    return np.divide(np.nansum(every, axis=0), counted, out=np.full(every.shape[1], np.nan), where=counted > 0)


def _interval(columns: Sequence[_Column], rows: int) -> tuple[float, float]:
    drawn = np.random.default_rng(0).multinomial(rows, [1 / rows] * rows, size=DRAWS).astype(np.float64)
    taus = _mean([column.tau(counts=drawn[:, column.places]) for column in columns])
    low, high = np.quantile(taus[~np.isnan(taus)], [0.025, 0.975])
    return float(low), float(high)


def _chance(columns: Sequence[_Column], rows: int, tau: float) -> float:
    keys = _shufflings(rows)  # columns of the same rows are shuffled alike
    taus = _mean([column.tau(order=np.argsort(keys[:, column.places], axis=1)) for column in columns])
    return float(np.mean(taus >= tau - 1e-12))


def _shufflings(rows: int) -> Array:
    """Places of the rows, [D,N]: all of them where these are not more than DRAWS, else as many with the one at hand."""
    if math.factorial(rows) <= DRAWS:
        return np.array(list(permutations(range(rows))), dtype=np.float64)
    return np.vstack([np.arange(rows), np.random.default_rng(1).random((DRAWS, rows))])
