"""Which samples are worth a look: a method's best and worst ones, and those on which it departs from the others."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

from .leaderboard import direction
from .paired import Paired

EACH = 2  # samples of a kind that are shown of a method


class Picks(NamedTuple):
    """Sample ids by why they were picked, the most telling first."""

    best: list[str]
    worst: list[str]
    disagreed: list[str]

    def all(self) -> list[str]:
        """Each once."""
        return list(dict.fromkeys([*self.best, *self.worst, *self.disagreed]))


def standing(quantities: Iterable[tuple[str, pd.DataFrame, Paired]]) -> pd.DataFrame:
    """How well each sample (rows) went under each method (columns), in [0,1].

    The mean over quantities of the share of values, of all samples and methods, that are no better than its own (a rank
    in percent; equal values share the mean of their ranks). A quantity that a sample has no value of does not count.
    """
    parts = []
    for _, rows, made in quantities:
        values = made.values if direction(rows.iloc[0]) else -made.values
        percent = pd.Series(values.ravel()).rank(pct=True).to_numpy().reshape(values.shape)
        parts.append(pd.DataFrame(percent, index=made.samples, columns=made.methods))
    return pd.concat(parts).groupby(level=0, sort=True).mean() if parts else pd.DataFrame()


def picks(scores: pd.DataFrame, method: str) -> Picks:
    """Of one method; equal ones in the order of their ids. `disagreed`: farthest from the median of all methods."""
    own = scores[method].dropna()
    away = (own - scores.median(axis=1)).abs().dropna()
    return Picks(_first(-own), _first(own), _first(-away))


def _first(values: pd.Series) -> list[str]:
    return [str(name) for name in values.index[np.argsort(values.to_numpy(), kind="stable")[:EACH]]]


def picked(scores: pd.DataFrame) -> list[str]:
    """The picks of all methods, each once, sorted."""
    return sorted({name for method in scores for name in picks(scores, str(method)).all()})
