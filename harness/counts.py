"""Statistics of tables of counts: how many negatives and positives have each distinct score.

Tables are [r,K], a row a resample and a column a distinct score in ascending order. Definitions: `harness.curves`.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .stats import Array

COVERAGES = tuple(step / 10 for step in range(1, 11))
RISKS = (0.01, 0.02, 0.05, 0.1, 0.2)
ALARMS = (0.01, 0.02, 0.05, *(step / 10 for step in range(1, 10)))  # shares of negatives flagged

ROUNDING = 1e-7  # of counts, which are whole numbers

Counts = NDArray[np.int64]
Statistics = dict[str, Array]  # name -> [r]


def curve_statistics(negatives: Array, positives: Array, tpr: float = 0.95) -> Statistics:
    """ROC and precision-recall statistics [r] of counts [r,K] by ascending score; nan in rows with an empty side."""
    below, found = negatives.cumsum(1), positives.cumsum(1)
    tables = Tables(negatives, positives, below, found, below[:, -1:], found[:, -1:], tpr)
    n, m = tables.n[:, 0], tables.m[:, 0]
    accepted = _share(below, below + found)  # precision of what scores at most as much as each distinct score
    above = m[:, None] - found + positives
    flagged = _share(above, above + n[:, None] - below + negatives)  # precision of what scores at least as much
    steps_in, steps_out = _weighted(negatives, accepted), _weighted(positives, flagged)
    made = {
        "fpr_id_pos": _fpr_id_pos(tables),
        "fpr_ood_pos": _fpr_ood_pos(tables),
        "auroc": _share(_weighted(positives, below) - _weighted(positives, negatives) / 2, n * m),
        "aupr_in": _share(steps_in + _weighted(negatives[:, 1:], accepted[:, :-1]), 2 * n),
        "aupr_out": _share(steps_out + _weighted(positives[:, :-1], flagged[:, 1:]), 2 * m),
        "ap_in": _share(steps_in, n),
        "ap_out": _share(steps_out, m),
        "detection_error": _share(n + np.minimum((found - below).min(1), 0), n + m),  # above a score, or below all
    }
    return {name: np.where(n * m > 0, values, np.nan) for name, values in made.items()}


class Tables(NamedTuple):
    """Counts [r,K], how many have at most each score [r,K], totals [r,1], and the share to be found."""

    negatives: Array
    positives: Array
    below: Array
    found: Array
    n: Array
    m: Array
    tpr: float


def _fpr_id_pos(t: Tables) -> Array:
    accepted = t.n - np.rint(round(1 - t.tpr, 9) * t.n)  # rank of the threshold, from the lowest score
    threshold = (t.below < accepted).sum(1, keepdims=True)
    return _share(_at(t.found, threshold) - _at(t.positives, threshold), t.m)[:, 0]


def _fpr_ood_pos(t: Tables) -> Array:
    missed = t.m - np.ceil(np.round(t.tpr * t.m, 6))  # at most so many may score less than the threshold
    threshold = (t.found <= missed).sum(1, keepdims=True)
    return _share(t.n - _at(t.below, threshold) + _at(t.negatives, threshold), t.n)[:, 0]


def risk_statistics(right: Array, wrong: Array) -> Statistics:
    """The areas under risk and coverage, `risk@<coverage>` for COVERAGES and `coverage@<risk>` for RISKS.

    [r] each, of counts [r,K] by ascending score.
    """
    curve = RiskCurve(right + wrong, wrong, (right + wrong).cumsum(1), wrong.cumsum(1))
    return {**_areas(curve), **_risks(curve), **coverages_at_risks(right, wrong)}


class RiskCurve(NamedTuple):
    """Images and wrong ones of each score [r,K], and how many have at most each score [r,K]."""

    ties: Array
    wrong: Array
    covered: Array
    errors: Array

    @property
    def n(self) -> Array:
        """Images of each row, [r]."""
        return self.covered[:, -1]

    @property
    def m(self) -> Array:
        """Wrong ones, [r]."""
        return self.errors[:, -1]

    @property
    def rate(self) -> Array:
        """Share of wrong ones among those of equal score, [r,K]."""
        return _share(self.wrong, self.ties)


def _areas(curve: RiskCurve) -> Statistics:
    mean, trapezoid = _mean_risk(curve), _risk_by_trapezoids(curve)
    analytic = _best_analytic(curve.m / curve.n)
    return {
        "aurc": mean,
        "aurc_trapezoid": trapezoid,
        "e_aurc": mean - _best_mean_risk(curve),
        "e_aurc_analytic": mean - analytic,
        "e_aurc_trapezoid": trapezoid - analytic,
        "augrc": _weighted(curve.ties, curve.errors - curve.wrong / 2) / curve.n**2,
    }


def _mean_risk(curve: RiskCurve) -> Array:
    """The risk after i of a score's ties is (errors before + rate i) / (before + i); its sum over i in closed form."""
    harmonic, before = _harmonic(curve), curve.covered - curve.ties
    spread = harmonic[curve.covered.astype(np.int64)] - harmonic[before.astype(np.int64)]
    return (curve.wrong + (curve.errors - curve.wrong - curve.rate * before) * spread).sum(1) / curve.n


def _best_mean_risk(curve: RiskCurve) -> Array:
    """Of the order that has all errors last."""
    harmonic, right = _harmonic(curve), (curve.n - curve.m).astype(np.int64)
    return (curve.m - right * (harmonic[curve.n.astype(np.int64)] - harmonic[right])) / curve.n


def _harmonic(curve: RiskCurve) -> Array:
    """1 + 1/2 + ... + 1/k for k from 0 to the largest number of images."""
    return np.concatenate([[0.0], np.cumsum(1 / np.arange(1, int(curve.n.max()) + 1))])


def _risk_by_trapezoids(curve: RiskCurve) -> Array:
    """Straight from score to score, and level from coverage 0 to the lowest score's."""
    before = curve.covered - curve.ties
    risk = _share(curve.errors, curve.covered)
    earlier = np.where(before > 0, _share(curve.errors - curve.wrong, before), risk)
    return _weighted(curve.ties, (earlier + risk) / 2) / curve.n


def _best_analytic(rate: Array) -> Array:
    """r + (1 - r) ln(1 - r): a perfect order's area, as the number of images grows."""
    right = 1 - rate
    return rate + right * np.log(np.where(right > 0, right, 1))


def _risks(curve: RiskCurve) -> Statistics:
    images = np.ceil(np.round(np.outer(curve.n, COVERAGES), 6))
    last = _columns(curve.covered, images, "left")
    missed = _at(curve.errors, last) - _at(curve.rate, last) * (_at(curve.covered, last) - images)
    return _named("risk@", COVERAGES, _share(missed, images))


def coverages_at_risks(right: Array, wrong: Array) -> Statistics:
    """`coverage@<risk>`: the largest share that a threshold accepts with at most that risk, [r] of counts [r,K]."""
    covered = (right + wrong).cumsum(1)
    risk = _share(wrong.cumsum(1), covered)
    least = np.minimum.accumulate(risk[:, ::-1], 1)[:, ::-1]  # of all thresholds that accept as many, or more
    accepted = _columns(least, np.broadcast_to(RISKS, (len(risk), len(RISKS))), "right")
    shares = np.where(accepted > 0, _at(covered, accepted - 1), 0) / covered[:, -1:]
    return _named("coverage@", RISKS, shares)


def roc_points(negatives: Array, positives: Array) -> Statistics:
    """`found@<share>`: of the positives, where that share of the negatives is flagged (ALARMS); [r] of counts [r,K].

    Straight between two scores, as ties are taken in every order; nan in rows with an empty side.
    """
    negatives, positives = negatives[:, ::-1], positives[:, ::-1]
    alarms, found = negatives.cumsum(1), positives.cumsum(1)
    n, m = alarms[:, -1:], found[:, -1:]
    flagged = n * ALARMS
    step = _columns(alarms, flagged, "right")  # the first score that flags more
    beyond = _share(flagged - _at(alarms, step) + _at(negatives, step), _at(negatives, step))
    reached = _at(found, step) + (beyond - 1) * _at(positives, step)
    return _named("found@", ALARMS, np.where(n * m > 0, _share(reached, m), np.nan))


def _named(prefix: str, points: Sequence[float], values: Array) -> Statistics:
    """Columns of values [r,T] by the points that they stand at."""
    return {f"{prefix}{point:g}": column for point, column in zip(points, values.T, strict=True)}


def _columns(rising: Array, values: Array, side: Literal["left", "right"]) -> Counts:
    """Where values [r,T] stand in the rows of a table [r,K], as `np.searchsorted` says of one row: [r,T].

    All rows at once: behind one another they rise as well. Values are at most the table's largest.
    """
    count, row = rising.shape[1], np.arange(len(rising))[:, None]
    apart = row * (float(rising.max()) + 1)
    slack = ROUNDING if side == "right" else -ROUNDING
    return np.searchsorted((rising + apart).ravel(), values + apart + slack, side) - row * count


def _at(table: Array, column: Counts) -> Array:
    """The entries [r,T] of each row at its columns [r,T]; the last one beyond the end."""
    return np.take_along_axis(table, np.minimum(column, table.shape[1] - 1), 1)


def _weighted(counts: Array, values: Array) -> Array:
    """Sum over scores of counts x values, [r]."""
    return np.einsum("rk,rk->r", counts, values)


def _share(above: Array, below: Array) -> Array:
    """above / below, 0 where below is 0."""
    return above / np.where(below > 0, below, 1)
