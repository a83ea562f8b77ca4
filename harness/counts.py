"""Statistics of tables of counts: how many negatives and positives have each distinct score.

Tables are [r,K], a row a resample and a column a distinct score in ascending order. Definitions: `harness.curves`.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .stats import Array

COVERAGES = tuple(step / 10 for step in range(1, 11))

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
    """`aurc`, `e_aurc` and `risk@<coverage>` for COVERAGES, [r], of counts [r,K] by ascending score."""
    errors, covered = wrong.cumsum(1), (right + wrong).cumsum(1)
    n, m = covered[:, -1:], errors[:, -1:]
    ties = right + wrong
    rate, before = _share(wrong, ties), covered - ties
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, int(n.max()) + 1))])
    # The risk after i of a score's ties is (errors before + rate i) / (before + i); its sum over i in closed form.
    spread = harmonic[covered.astype(np.int64)] - harmonic[before.astype(np.int64)]
    aurc = (wrong + (errors - wrong - rate * before) * spread).sum(1) / n[:, 0]
    best = m - (n - m) * (harmonic[n.astype(np.int64)] - harmonic[(n - m).astype(np.int64)])  # all errors last
    made = {"aurc": aurc, "e_aurc": aurc - (best / n)[:, 0]}
    for coverage in COVERAGES:
        images = np.ceil(np.round(coverage * n, 6))
        last = (covered < images).sum(1, keepdims=True)
        missed = _at(errors, last) - _at(rate, last) * (_at(covered, last) - images)
        made[f"risk@{coverage:g}"] = _share(missed, images)[:, 0]
    return made


def _at(table: Array, column: Counts) -> Array:
    """The entry [r,1] of each row at its column [r,1]; the last one beyond the end."""
    return np.take_along_axis(table, np.minimum(column, table.shape[1] - 1), 1)


def _weighted(counts: Array, values: Array) -> Array:
    """Sum over scores of counts x values, [r]."""
    return np.einsum("rk,rk->r", counts, values)


def _share(above: Array, below: Array) -> Array:
    """above / below, 0 where below is 0."""
    return above / np.where(below > 0, below, 1)
