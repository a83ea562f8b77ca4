"""Failures of several sources as one task: what is a failure where, which images are ranked together, drawn together.

Sources are the test set, shifted versions of it and other sets of its classes (known: a failure is a wrong prediction),
and sets of images of no known class (every one is a failure, whatever is predicted).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .counts import Statistics
from .curves import Drawn, mixed_bootstrap
from .seeds import derive_seed
from .stats import Array

Flags = NDArray[np.bool_]


class Source(NamedTuple):
    """One set's images: who they are, their scores [n], and which of them are failures [n]."""

    name: str
    ids: Sequence[str]
    scores: Array
    failures: Flags
    known: bool

    @classmethod
    def of(cls, name: str, table: pd.DataFrame, known: bool, score: str = "score") -> "Source":
        """From a score table (score: its column); a known set's images without a label are neither right nor wrong."""
        table = table[table["label"] >= 0] if known else table
        wrong = (table["label"] != table["predicted"]).to_numpy(bool)
        failures = wrong if known else np.ones(len(table), bool)
        return cls(name, list(table["image_id"]), table[score].to_numpy(float), failures, known)

    def drawn(self, test: "Source") -> Drawn:
        """Versions of the test set's images are drawn with them, other images by themselves."""
        alike = self.known and self.ids == test.ids
        return Drawn(self.scores, self.failures, 0 if alike else derive_seed(self.name))


class Mixture(NamedTuple):
    """Sources whose images are ranked as one set. test: the test set, whether it is among them or not."""

    test: Source
    sources: Sequence[Source]

    @classmethod
    def about(cls, test: Source, other: Source) -> "Mixture":
        """What a set's rows are of: a known one alone; an unknown one, which has nothing right, among the test set."""
        return cls(test, [other] if other.known else [test, other])

    @property
    def scores(self) -> Array:
        """[n]."""
        return np.concatenate([each.scores for each in self.sources])

    @property
    def failures(self) -> Flags:
        """[n]."""
        return np.concatenate([each.failures for each in self.sources])

    def bootstrap(self, resamples: int) -> tuple[dict[str, float], Statistics]:
        """Statistics as `curves.risk_bootstrap` has them; an image and its versions are drawn together."""
        return mixed_bootstrap([each.drawn(self.test) for each in self.sources], resamples)

    def once(self) -> tuple[Array, Flags]:
        """Scores and failures of as many images as were looked at: of v versions of each, every v-th of right and of
        wrong ones by score, as copies of one image show no more than it does."""
        versions = max(1, sum(each.drawn(self.test).stream == 0 for each in self.sources))
        kept = [np.sort(self.scores[kind])[::versions] for kind in (~self.failures, self.failures)]
        return np.concatenate(kept), np.repeat([False, True], [len(each) for each in kept])
