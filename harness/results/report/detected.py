"""Groups of detectors that paired tests leave together: differences over the bootstrap's standard error.

Detectors of the same images see the same resamples (`compare.differences`), so that the spread of a difference is that
of paired images. Its ratio to the difference is read as Student's t with one degree of freedom less than the smallest
side has images (Efron and Tibshirani 1993, 12.3); with fewer than LEAST images there is no test.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import t

from ...curves import ROUNDING
from ...seeds import derive_seed
from ...stats import Array
from ..compare.detectors import TPR, column_of
from ..compare.differences import Measured, error_measured, ood_measured
from ..compare.judged import ERROR, Judged
from .cliques import Cliques, cliques
from .ranks import directed, ordered
from .scored import Detectors, Scores

DRAWS = 400  # a standard error is known to 4 % with them
LEAST = 20  # with 10 unknown images, detectors of equal FPR95 are told apart 13 times in 100


class Drawn(NamedTuple):
    """One statistic of a detector: as it is, and [DRAWS] of images drawn anew; the smallest side has n images."""

    value: float
    resampled: Array
    n: int


def tested(shown: pd.DataFrame, detectors: Detectors) -> dict[str, Cliques]:
    """The groups of each directed quantity of two or more detectors that judged the same images."""
    made = {}
    measured: dict[int, dict[str, Drawn]] = {}
    for column, rows in directed(shown[shown["kind"] != "attribution"]).groupby("column", sort=False):
        rows = rows.set_index("method").loc[ordered(rows)].reset_index()
        judged = _judged(rows, detectors)
        each = [_drawn(one, detectors, measured).get(rows["stat"].iloc[0]) for one in judged]
        drawn = [one for one in each if one is not None]
        if len(drawn) == len(rows) > 1 and min(one.n for one in drawn) >= LEAST:
            made[str(column)] = cliques([*rows["method"]], p_values(drawn), "paired bootstrap over the images")
    return made


def _judged(rows: pd.DataFrame, detectors: Detectors) -> list[Judged]:
    """What the rows were made from; nothing unless all of it is there, by the same metric, on the same images."""
    found = [detectors.judgement(row) for row in rows.itertuples()]
    known = [each for each in found if each is not None]
    return known if len(known) == len(found) and all(each.pairs_with(known[0]) for each in known) else []


def p_values(drawn: list[Drawn]) -> Array:
    """Two-sided p-values [M,M] of the differences of M detectors.

    Where no resample moves a difference d, unseen images would have to undo it: twice the chance (1 - d)^n that n
    images all miss a share d of what there is (as `stats.unseen`).
    """
    values, n = np.array([each.value for each in drawn]), min(each.n for each in drawn)
    resampled = np.stack([each.resampled for each in drawn])
    difference = np.abs(values[:, None] - values[None])
    spread = np.stack([np.nanstd(each - resampled, axis=1, ddof=1) for each in resampled])
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * t.sf(difference / spread, n - 1)
    missed = 2 * np.clip(1 - difference, 0, 1) ** n
    return np.minimum(1.0, np.where(spread > ROUNDING, p, missed))


def _drawn(each: Judged, detectors: Detectors, known: dict[int, dict[str, Drawn]]) -> dict[str, Drawn]:
    """Statistics of one detector by their names in result rows, measured once."""
    if id(each) not in known:
        scores = detectors.scores(each)
        known[id(each)] = {} if scores is None else dict(_statistics(each, scores))
    return known[id(each)]


def _statistics(each: Judged, scores: Scores) -> Iterator[tuple[str, Drawn]]:
    tpr = float(each.setting("tpr", TPR))
    parts = [*_measured(each, scores, tpr)]
    for name in parts[0].values:
        if all(name in part.resampled for part in parts):
            value = float(np.mean([part.values[name] for part in parts]))
            resampled = np.mean([part.resampled[name] for part in parts], axis=0)
            yield column_of(name, tpr), Drawn(value, resampled, _images(scores))


def _images(scores: Scores) -> int:
    """Of the smallest side: unknown ones, or wrong predictions."""
    sides = [len(scores.inside.once()), *map(len, scores.outside.values())]
    return min(sides if scores.wrong is None else [int(scores.wrong.sum()), int((~scores.wrong).sum())])


def _measured(each: Judged, scores: Scores, tpr: float) -> Iterator[Measured]:
    """Of errors, or of each ood set: an average is one of them, resample by resample."""
    if each.about["kind"] == ERROR and scores.wrong is not None:
        yield error_measured(scores.inside.scores, scores.wrong, DRAWS)
    for name, outside in scores.outside.items():
        yield ood_measured(scores.inside, outside, derive_seed(name), tpr, DRAWS)
