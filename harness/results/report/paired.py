"""Per-sample values behind a leaderboard's quantities, and the groups of methods that paired tests leave together.

A quantity of attributions is tested where its value is, for every method, the mean of a column that its metric calls
paired: the number itself says which column. Means over classes and other aggregates are left untested, and said to be.
"""

from collections.abc import Iterable, Iterator
from functools import cache, partial
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ...stats import Array
from ...store.damage import unless_damaged
from ...store.store import SAMPLES, CellStore
from ..pairs import joined
from .cliques import Cliques, cliques, sign_flips
from .ranks import directed, ordered

SAME = 1e-7  # of a stored value and the mean of its column, relative


class Paired(NamedTuple):
    """One quantity's values of the same pairs (image, class) under several methods.

    values: [n,M] in the order of methods. images, samples: [n] ids of the image and of the pair.
    """

    methods: list[str]
    values: Array
    images: Array
    samples: Array


class Tables:
    """Per-sample tables of a store, each read once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.table = cache(self._table)
        self.samples = cache(lambda cell, stop: CellStore(root, cell).group(SAMPLES).read(stop))

    def _table(self, cell: str, metric: str, split: str) -> tuple[pd.DataFrame, tuple[str, ...]] | None:
        """A metric's columns beside who each pair is, and which of them are paired; None where they are not there."""
        group = CellStore(self.root, cell).group(metric)
        for stop in reversed(group.stops()):
            finished = group.finished(stop)
            if finished is not None and finished.split == split:
                return joined(self.samples(cell, stop), group.read(stop)), tuple(group.about()["paired"])
        return None

    def of(self, row: Any) -> tuple[pd.DataFrame, tuple[str, ...]] | None:
        """The table behind a result row; damage is named, and leaves none."""
        return unless_damaged(partial(self.table, row.cell_key, row.metric_key, row.split))


def paired(rows: pd.DataFrame, tables: Tables) -> Paired | None:
    """The values behind one quantity's rows, a method each; None where no column is behind all of them."""
    found = [(row, tables.of(row)) for row in rows.itertuples()]
    if any(table is None for _, table in found) or not found:
        return None
    read = [(row, *table) for row, table in found if table is not None]
    for column in read[0][2]:
        parts = [*takewhile(lambda part: part is not None, (_part(row, table, column) for row, table, _ in read))]
        if len(parts) == len(read):
            return _joined([row.method for row, *_ in read], [part for part in parts if part is not None])
    return None


def _part(row: Any, table: pd.DataFrame, column: str) -> pd.DataFrame | None:
    """sample_id, image_id, value of the pairs that a row is about, if the row's value is the mean of the column."""
    if column not in table or (row.subset != "all" and row.subset not in table):
        return None
    kept = table if row.subset == "all" else table[table[row.subset].astype(bool)]
    kept = kept[["sample_id", "image_id"]].assign(value=kept[column].astype(float)).dropna()
    if not len(kept) or not np.isfinite(kept["value"]).all():
        return None
    is_its_mean = np.isclose(kept["value"].mean(), float(row.value), rtol=SAME, atol=SAME)
    return kept if is_its_mean else None


def _joined(methods: list[str], parts: list[pd.DataFrame]) -> Paired | None:
    """On the pairs that every method has."""
    columns = [part.set_index("sample_id")["value"].rename(number) for number, part in enumerate(parts)]
    made = pd.concat(columns, axis=1, join="inner")
    images = parts[0].set_index("sample_id")["image_id"].loc[made.index]
    return Paired(methods, made.to_numpy(float), images.to_numpy(), made.index.to_numpy()) if len(made) else None


def quantities(shown: pd.DataFrame, tables: Tables) -> Iterator[tuple[str, pd.DataFrame, Paired]]:
    """Name, rows (the best first) and values of each quantity of attributions that has a direction and a column."""
    for column, rows in directed(shown[shown["kind"] == "attribution"]).groupby("column", sort=False):
        rows = rows.set_index("method").loc[ordered(rows)].reset_index()
        if (made := paired(rows, tables)) is not None:
            yield str(column), rows, made


def tested(known: Iterable[tuple[str, pd.DataFrame, Paired]]) -> dict[str, Cliques]:
    """The groups of each quantity (of `quantities`) of two or more methods."""
    made = {}
    for column, _, values in known:
        if len(values.methods) > 1:
            made[column] = cliques(
                values.methods, sign_flips(values.values, values.images), "paired sign flips over the images"
            )
    return made
