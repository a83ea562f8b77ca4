"""Differences of two detectors' statistics on the same images: every resample of the images is drawn for both alike.

Scores of two detectors come as a pair of arrays, image by image; a high score means a likely failure.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ... import curves
from ...counts import Statistics
from ...failures import Mixture
from ...inside import Inside
from ...stats import Array

OOD_STATISTICS = ("auroc", "fpr_id_pos", "fpr_ood_pos")  # as `harness.curves` calls them
ERROR_STATISTICS = ("auroc", "aurc", "augrc")

Pair = tuple[Array, Array]


class Measured(NamedTuple):
    """Statistics of one detector: values, their resamples, and how far unseen images reach."""

    values: dict[str, float]
    resampled: Statistics
    ends: curves.Ends


class Difference(NamedTuple):
    """Of one statistic of two detectors, on n images; nan where it is undefined."""

    value: float
    resampled: Array
    ends: tuple[float, float]
    n: int

    def numbers(self) -> dict[str, Any]:
        """With its interval; where no resample differs, as far as images that were not seen reach for each detector."""
        made = curves.estimate(self.value, self.resampled, "paired_bootstrap", self.n, self.ends)
        ends = {"ci_low": made.ci_low, "ci_high": made.ci_high, "ci_method": made.ci_method}
        return {"difference": made.value, **ends, "n": made.n}


Differences = dict[str, Difference]  # by statistic


def ood_differences(
    inside: tuple[Inside, Inside], outside: Pair, stream: int, tpr: float, resamples: int
) -> Differences:
    """OOD_STATISTICS of scores of in-distribution images, of either detector, and of M ood images; n is M.

    stream: of the draws of the ood images. Those of the in-distribution images are the same for every set.
    """
    one, two = (ood_measured(*scores, stream, tpr, resamples) for scores in zip(inside, outside, strict=True))
    return {name: _minus(one, two, name, len(outside[0])) for name in OOD_STATISTICS}


def ood_measured(inside: Inside, outside: Array, stream: int, tpr: float, resamples: int) -> Measured:
    """OOD_STATISTICS of one detector's scores of in-distribution and ood images [M]."""
    resampled = inside.bootstrap(outside, stream, tpr, resamples)
    ends = curves.roc_ends(inside.once(), outside, tpr)
    return Measured(curves.roc_statistics(inside.scores, outside, tpr), resampled, ends)


def error_differences(scores: Pair, wrong: NDArray[np.bool_], resamples: int) -> Differences:
    """ERROR_STATISTICS of scores of n images, some of them predicted wrong; AUROC is nan if all or none are."""
    one, two = (error_measured(each, wrong, resamples) for each in scores)
    return {name: _minus(one, two, name, len(wrong)) for name in ERROR_STATISTICS}


def error_measured(scores: Array, wrong: NDArray[np.bool_], resamples: int) -> Measured:
    """ERROR_STATISTICS of one detector's scores of n images."""
    values, resampled = curves.risk_bootstrap(scores, wrong, 0, resamples)
    return Measured(values, resampled, _ends(values, scores, wrong))


def _ends(values: dict[str, float], scores: Array, wrong: NDArray[np.bool_]) -> curves.Ends:
    one_sided = wrong.all() or not wrong.any()
    ranked = {"auroc": (np.nan, np.nan)} if one_sided else curves.roc_ends(scores[~wrong], scores[wrong])
    return ranked | curves.risk_ends(values, len(scores))


def failure_differences(mixtures: tuple[Mixture, Mixture], resamples: int) -> Differences:
    """ERROR_STATISTICS of two detectors' scores of the same sources, failures being wrong predictions and unknown ones.

    n counts the images of the mixture.
    """
    one, two = (_failures(each, resamples) for each in mixtures)
    return {name: _minus(one, two, name, len(mixtures[0].scores)) for name in ERROR_STATISTICS}


def _failures(mixture: Mixture, resamples: int) -> Measured:
    values, resampled = mixture.bootstrap(resamples)
    return Measured(values, resampled, _ends(values, *mixture.once()))


def _minus(one: Measured, two: Measured, name: str, n: int) -> Difference:
    (low, high), (least, most) = one.ends[name], two.ends[name]
    resampled = one.resampled[name] - two.resampled[name]
    return Difference(one.values[name] - two.values[name], resampled, (low - most, high - least), n)


def mean_difference(sets: Sequence[Differences]) -> Differences:
    """The unweighted mean over sets, resample by resample; n is that of all of them."""
    return {name: _mean([each[name] for each in sets]) for name in sets[0]}


def _mean(parts: Sequence[Difference]) -> Difference:
    low, high = np.mean([each.ends for each in parts], axis=0)
    resampled = np.mean([each.resampled for each in parts], axis=0)
    value = float(np.mean([each.value for each in parts]))
    return Difference(value, resampled, (float(low), float(high)), sum(each.n for each in parts))
