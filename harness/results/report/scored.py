"""Score tables behind a leaderboard of detectors: found by their rows, read once."""

from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...inside import Inside
from ...places import exists
from ...stats import Array
from ...store.damage import unless_damaged
from ..compare.candidates import Candidate, Known, known_cells
from ..compare.judged import ERROR, OOD, Judged, Scored, judged


class Scores(NamedTuple):
    """What a metric judged a detector by: scores of in-distribution images, of each ood set's; `wrong` of errors."""

    inside: Inside
    outside: dict[str, Array]
    wrong: NDArray[np.bool_] | None


class Detectors:
    """The detectors of a store with their score tables."""

    def __init__(self, root: Path) -> None:
        self._known: Known = known_cells(root) if exists(root) else {}
        self._table = cache(lambda key, stop: Scored(self._known[key], stop).table())
        self._judged = cache(lambda key: list(judged(self._known[key], self._known)))

    def judgement(self, row: Any) -> Judged | None:
        """What a result row of a detector was made from; None where the tables are not there."""
        if row.kind not in (OOD, ERROR) or row.cell_key not in self._known or row.subset != "all":
            return None
        about = unless_damaged(self._known[row.cell_key].store.group(row.metric_key).about)
        found = unless_damaged(partial(self._judged, row.cell_key)) or []
        fits = [each for each in found if each.about == about and row.split in (each.split, "average")]
        return fits[0] if fits else None

    def scores(self, each: Judged) -> Scores | None:
        """Of all images that have a score (of errors: and a label); damage is named, and leaves none."""
        test = unless_damaged(partial(self._read, each.test))
        sets = {name: unless_damaged(partial(self._read, scored)) for name, scored in sorted(each.sets.items())}
        shifted = {name: unless_damaged(partial(self._read, scored)) for name, scored in each.shifted.items()}
        if test is None or any(table is None for table in (*sets.values(), *shifted.values())):
            return None
        outside = {name: _numbers(table) for name, table in sets.items() if table is not None}
        if each.about["kind"] == OOD:
            known = {name: _scored(table) for name, table in shifted.items() if table is not None}
            return Scores(Inside.of(_scored(test), known), outside, None)
        test = _scored(test[test["label"] >= 0])
        return Scores(Inside.of(test), outside, (test["label"] != test["predicted"]).to_numpy(bool))

    def _read(self, scored: Scored) -> pd.DataFrame:
        table: pd.DataFrame = self._table(scored.cell.store.key, scored.stop)
        return table

    def candidate(self, key: str) -> Candidate:
        """A cell by its key."""
        return self._known[key]


def _scored(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["score"].notna()]


def _numbers(table: pd.DataFrame) -> Array:
    return _scored(table)["score"].to_numpy(np.float64)
