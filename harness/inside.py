"""In-distribution images: those of the test set, or of it and of shifted sets of its classes as one (full spectrum)."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from .counts import Statistics
from .curves import RESAMPLES, Stream, joined_bootstrap
from .seeds import derive_seed
from .stats import Array


class Inside(NamedTuple):
    """Scores [n] of each set with the stream of their draws, the test set's first: 0.

    Versions of the test set's images have its stream: an image and its versions are drawn together, or not at all.
    """

    groups: tuple[Stream, ...]

    @classmethod
    def of(
        cls, test: pd.DataFrame, shifted: Mapping[str, pd.DataFrame] | None = None, score: str = "score"
    ) -> "Inside":
        """Of score tables (score: their column). A set of the test set's images, in any order, is versions of them; one
        that lacks some of them, or has others, is drawn apart."""
        ids = test["image_id"]
        others = [_versions(table, ids) or (table, derive_seed(name)) for name, table in (shifted or {}).items()]
        return cls(tuple((table[score].to_numpy(np.float64), stream) for table, stream in [(test, 0), *others]))

    @property
    def scores(self) -> Array:
        """[n] of all sets."""
        return np.concatenate([np.asarray(scores, dtype=np.float64) for scores, _ in self.groups])

    def bootstrap(self, positives: Array, stream: int, tpr: float = 0.95, resamples: int = RESAMPLES) -> Statistics:
        """As `curves.roc_bootstrap`, against scores [M] of unknown images, which are drawn by `stream`."""
        return joined_bootstrap(self.groups, (positives, stream), tpr, resamples)

    def once(self) -> Array:
        """Scores of as many images as were looked at: of v versions of each every v-th by score, as copies of one image
        show no more than it does; all of sets that are drawn apart."""
        groups = [(np.asarray(scores, dtype=np.float64), stream) for scores, stream in self.groups]
        versions, apart = ([scores for scores, stream in groups if (stream == 0) is same] for same in (True, False))
        return np.concatenate([np.sort(np.concatenate(versions))[:: len(versions)], *apart])


def _versions(table: pd.DataFrame, ids: pd.Series) -> tuple[pd.DataFrame, int] | None:
    """The rows in the order of the test set's images, with its stream; None if they are not all of these alone."""
    if [*table["image_id"]] == [*ids]:
        return table, 0
    if len(table) != len(ids) or set(table["image_id"]) != set(ids) or not ids.is_unique:
        return None
    return table.set_index("image_id").loc[ids], 0
