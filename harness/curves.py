"""ROC, precision-recall and risk-coverage statistics of detection scores, and their bootstrap.

A score is high where a failure is likely. Negatives are the images that a detector should pass (in distribution,
or predicted right), positives those it should find. Every statistic is a function of how many negatives and
positives have each distinct score, so tables of counts [r,K], a row a resample and a column a distinct score in
ascending order, give all of them for all resamples at once; the estimate itself is the row without resampling.

Definitions, with s a score, N negatives and M positives:

- `fpr_id_pos`: the papers' FPR95, the negatives being what is accepted. t is the sorted score (-s, ascending) of the
  negatives at index round(.05 N), half to even, no interpolation; the share of positives with -s > t.
- `fpr_ood_pos`: OpenOOD's FPR95. The highest threshold with a share of at least .95 of the positives at or above it;
  the share of negatives at or above it.
- The recalls that these two thresholds reach (`recalls`): the shares of negatives with -s > t, of positives at or above
  t. Equal scores at a threshold move them away from .95; where too far, the rate beside them is none (`no_rate`).
- `auroc`: P(positive above negative) + P(equal) / 2.
- `aupr_in`, `aupr_out`: area under precision over recall of the negatives (found by -s > t) and of the positives
  (s >= t) by trapezoids, from precision 0 at recall 0; `ap_in`, `ap_out` in steps (scikit-learn's average precision).
- `detection_error`: the smallest share of all images that a threshold puts on the wrong side.
- `found@a`: the share of positives found where a share `a` of the negatives is flagged, a point of the ROC curve.
- `risk`: the share of wrong predictions among the images that a detector is surest of (lowest score), at a coverage;
  `aurc` its mean over coverages 1/n, 2/n, ... 1. Images of equal score are taken in every order, on average.
  `aurc_trapezoid`: by trapezoids from score to score (fd-shifts).
- `e_aurc`: `aurc` minus that of a perfect order of the n images; `e_aurc_analytic`, `e_aurc_trapezoid`: each area minus
  r + (1-r) ln(1-r), r being the share of errors (Geifman et al. 2019; fd-shifts). The last may be below 0: trapezoids
  between few scores lie under the perfect order's curve, which that integral follows.
- `augrc`: the area under (wrong predictions among the accepted) / n over coverage, by trapezoids from score to score
  (Traub et al. 2024); with accuracy a it is (1 - AUROC) a (1-a) + (1-a)^2 / 2.
- `coverage@r`: the largest share of images that a threshold accepts with a risk of at most r; 0 where none does.

Where no resample differs from another (scores that tell all images apart), the interval ends where the statistic would
stand with images that were not seen: `roc_ends`, `risk_ends`, `coverage_ends`.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .counts import COVERAGES, Counts, Statistics, coverages_at_risks, curve_statistics, risk_statistics, roc_points
from .stats import LEVEL, Array, Estimate, unseen

RESAMPLES = 1000
PART = 60_000  # counts held at once: a part of the resamples that stays in the processor's cache
ROUNDING = 1e-12  # all statistics lie in [0,1]
AREAS = ("aurc", "aurc_trapezoid", "e_aurc", "e_aurc_analytic", "e_aurc_trapezoid")
ROOM = 100  # distinct scores of unseen images, on either side

Ends = dict[str, tuple[float, float]]  # name -> least and largest value
Stream = tuple[ArrayLike, int]  # scores [n], and the stream of their draws


def roc_statistics(negatives: ArrayLike, positives: ArrayLike, tpr: float = 0.95) -> dict[str, float]:
    """Every statistic of `curve_statistics` by name, of scores [N] and [M]."""
    first, second, count = _levels(negatives, positives)
    counts = [np.bincount(levels, minlength=count).reshape(1, -1).astype(np.float64) for levels in (first, second)]
    return {name: float(value[0]) for name, value in curve_statistics(counts[0], counts[1], tpr).items()}


def acceptance_limit(scores: ArrayLike, tpr: float = 0.95) -> float:
    """The threshold of `fpr_id_pos`: what scores less is accepted, as a share of `tpr` of these scores [N] is.

    Raises:
        ValueError: no scores, one is not a number, or a share far from `tpr` is accepted (`no_rate`).
    """
    values = _numbers(scores)
    limit = _limit(values, tpr)
    if why := no_rate(float((values < limit).mean()), len(values), tpr):
        raise ValueError(f"no threshold accepts {100 * tpr:g} % of {len(values)} scores: {why}")
    return limit


def _limit(values: Array, tpr: float) -> float:
    falling = np.sort(values)[::-1]
    return float(falling[min(int(np.rint(round(1 - tpr, 9) * len(falling))), len(falling) - 1)])


def recalls(negatives: ArrayLike, positives: ArrayLike, tpr: float = 0.95) -> dict[str, float]:
    """What the thresholds of `fpr_id_pos` and `fpr_ood_pos` reach, where `tpr` is asked: of N and of M scores."""
    first, second = _numbers(negatives), _numbers(positives)
    rising = np.sort(second)
    found = rising[len(rising) - int(np.ceil(round(tpr * len(rising), 6)))]
    return {"fpr_id_pos": float((first < _limit(first, tpr)).mean()), "fpr_ood_pos": float((second >= found).mean())}


def no_rate(recall: float, images: int, tpr: float = 0.95) -> str:
    """Why a false positive rate says nothing when its threshold reaches this recall of so many images; "" if it does.

    The recall may differ from `tpr` by as much as `tpr` gives away (90 to 100 % for 95 %), and by one image. Nothing
    but equal scores brings it further; and a threshold that accepts no image has a rate of 0, whatever the scores.
    """
    if recall > 0 and abs(recall - tpr) <= 1 - tpr + 1 / images + ROUNDING:
        return ""
    cause = "the scores are equal there" if images > 1 else "it is the only image"
    return f"the threshold reaches {100 * recall:.1f} % of {images} images, not {100 * tpr:g} %: {cause}"


def roc_bootstrap(
    negatives: ArrayLike,
    positives: ArrayLike,
    streams: tuple[int, int] = (0, 1),
    tpr: float = 0.95,
    resamples: int = RESAMPLES,
) -> Statistics:
    """Statistics [resamples] of both samples drawn anew with repetition, each to its own size.

    The draws of a side depend on its size and its stream alone: two detectors on the same images see the same
    resamples, so that their differences pair, and several sets of positives share those of the negatives.
    """
    return joined_bootstrap([(negatives, streams[0])], (positives, streams[1]), tpr, resamples)


def joined_bootstrap(
    negatives: Sequence[Stream], positives: Stream, tpr: float = 0.95, resamples: int = RESAMPLES
) -> Statistics:
    """The same of several groups of negatives as one; groups of one size and one stream are drawn alike."""
    sizes = [len(np.asarray(scores)) for scores, _ in negatives]
    first, second, count = _levels(np.concatenate([np.asarray(scores) for scores, _ in negatives]), positives[0])
    groups = zip(np.split(first, np.cumsum(sizes)[:-1]), (stream for _, stream in negatives), strict=True)
    parts = [_resampled(levels, count, stream, resamples) for levels, stream in groups]
    drawn = zip(*parts, _resampled(second, count, positives[1], resamples), strict=True)
    return _joined([curve_statistics(sum(known[1:], start=known[0]), found, tpr) for *known, found in drawn])


def _levels(negatives: ArrayLike, positives: ArrayLike) -> tuple[Counts, Counts, int]:
    """The rank of each score among the distinct ones of both samples, and how many of these there are."""
    two = _numbers(negatives), _numbers(positives)
    distinct = np.unique(np.concatenate(two))
    return np.searchsorted(distinct, two[0]), np.searchsorted(distinct, two[1]), len(distinct)


def _numbers(scores: ArrayLike) -> Array:
    """As an array; ValueError if there are none, or one is not a number."""
    values = np.asarray(scores, dtype=np.float64)
    if not len(values):
        raise ValueError("no scores")
    if unknown := int(np.isnan(values).sum()):
        raise ValueError(f"{unknown} of {len(values)} scores are not a number")
    return values


def risk_bootstrap(
    scores: ArrayLike, wrong: ArrayLike, stream: int = 0, resamples: int = RESAMPLES
) -> tuple[dict[str, float], Statistics]:
    """Statistics of one set of images, right or wrong: as they are, and [resamples] of the images drawn anew.

    Those of `curve_statistics` and `roc_points`, the wrong ones being positive (nan where one side is empty), and of
    `risk_statistics`.

    Args:
        scores: [n]. wrong: bool [n]. stream: of the draws, which depend on it and n alone.
    """
    return mixed_bootstrap([Drawn(scores, wrong, stream)], resamples)


class Drawn(NamedTuple):
    """Images that are drawn together: scores [n], which of them are wrong [n], and the stream of their draws."""

    scores: ArrayLike
    wrong: ArrayLike
    stream: int


def mixed_bootstrap(groups: Sequence[Drawn], resamples: int = RESAMPLES) -> tuple[dict[str, float], Statistics]:
    """The same of several groups of images as one set, each group drawn anew to its own size.

    Groups of one size and one stream are drawn alike, row by row: of an image and its corrupted versions all are drawn,
    or none.
    """
    scores, wrong = (np.concatenate([np.asarray(each[part]) for each in groups]) for part in (0, 1))
    both, count = _both_levels(scores, wrong)
    pieces = np.split(both, np.cumsum([len(np.asarray(each.scores)) for each in groups])[:-1])
    drawn = [_resampled(piece, count, each.stream, resamples) for piece, each in zip(pieces, groups, strict=True)]
    parts = [_both_statistics(sum(counts[1:], start=counts[0])) for counts in zip(*drawn, strict=True)]
    return risk_values(scores, wrong), _joined(parts)


def risk_values(scores: ArrayLike, wrong: ArrayLike) -> dict[str, float]:
    """The same statistics of the images as they are."""
    both, count = _both_levels(scores, wrong)
    once = _both_statistics(np.bincount(both, minlength=count).reshape(1, -1).astype(np.float64))
    return {name: float(value[0]) for name, value in once.items()}


def _both_levels(scores: ArrayLike, wrong: ArrayLike) -> tuple[Counts, int]:
    """The rank of each score, those of wrong images behind all others: one draw for right and wrong alike."""
    distinct, levels = np.unique(_numbers(scores), return_inverse=True)
    return levels + len(distinct) * np.asarray(wrong, dtype=bool), 2 * len(distinct)


def _both_statistics(counts: Array) -> Statistics:
    right, wrong = np.split(counts, 2, axis=1)
    return curve_statistics(right, wrong) | roc_points(right, wrong) | risk_statistics(right, wrong)


def _joined(parts: list[Statistics]) -> Statistics:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def estimate(
    value: float,
    resampled: Array,
    method: str,
    n: int,
    ends: tuple[float, float] | None = None,
    order: Array | None = None,
) -> Estimate:
    """A value with the standard error and the percentile interval of its resamples; nan among them left out.

    ends: how far the interval reaches where it has no width, or where the resamples `order`, of the AUROC, all agree:
    an area under a precision then varies with how often images are drawn, and not with what they show.
    """
    kept = resampled[~np.isnan(resampled)]
    if len(kept) < 2 or n < 2:
        return Estimate(value, np.nan, np.nan, np.nan, method, n)
    low, high = np.quantile(kept, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    made = Estimate(value, float(kept.std(ddof=1)), float(low), float(high), method, n)
    settled = high - low <= ROUNDING or (order is not None and np.nanmax(order) - np.nanmin(order) <= ROUNDING)
    return made.widened(*ends) if ends and settled else made


def roc_ends(negatives: ArrayLike, positives: ArrayLike, tpr: float = 0.95) -> Ends:
    """How far each statistic of `curve_statistics` and `roc_points` could lie from its value, for all that N and M
    images can say.

    Shares u of all negatives and v of all positives that no image shows may have any scores; images miss them with
    probability (1 - u)^N (1 - v)^M, which `stats.unseen` bounds. Tried are what it allows of negatives alone, of
    positives alone, and of both alike, with the best scores and with the worst. Of samples that are told apart that
    gives 1 - unseen(min(N, M)) for the AUROC, as it is at least (1 - u)(1 - v), and unseen(N + M) for the detection
    error, the share of all images. A false positive rate takes its threshold as given, and so counts the images of
    one side: unseen(M) (`fpr_id_pos`) or unseen(N) (`fpr_ood_pos`).
    """
    first, second, count = _levels(negatives, positives)
    n, m = len(first), len(second)
    u, v = np.array([[unseen(n), 0, unseen(n + m)], [0, unseen(m), unseen(n + m)]])
    low_first, high_first = _with_unseen(first, count, u)
    low_second, high_second = _with_unseen(second, count, v)
    pairs = (high_first, low_second), (low_first, high_second)
    worse, better = (curve_statistics(*pair, tpr) | roc_points(*pair) for pair in pairs)
    sides = {"fpr_id_pos": [1], "fpr_ood_pos": [0]}
    tried = {name: np.stack([worse[name], better[name]])[:, sides.get(name, [0, 1, 2])] for name in worse}
    return {name: (max(0.0, float(each.min())), min(1.0, float(each.max()))) for name, each in tried.items()}


def _with_unseen(levels: Counts, count: int, shares: Array) -> tuple[Array, Array]:
    """Counts [s,K+2 ROOM] of images of which a share is replaced, below all scores and, the second, above all."""
    seen = np.bincount(levels + ROOM, minlength=count + 2 * ROOM) * (1 - shares)[:, None]
    below, above = seen.copy(), seen.copy()
    below[:, :ROOM] += shares[:, None] * len(levels) / ROOM
    above[:, -ROOM:] += shares[:, None] * len(levels) / ROOM
    return below, above


def risk_ends(values: dict[str, float], n: int) -> Ends:
    """The same for the risks and areas of `risk_statistics` of n images.

    The risk at a coverage is a share of the images covered: `stats.unseen` of their number. A share u of all images
    changes the risk at a coverage c by at most min(1, u / c), and the mean over coverages by u (1 - ln u); of all n
    images the wrong among the accepted are min(u, c) more, and their mean u - u^2 / 2 (`augrc`). No area is below 0,
    nor its excess over a perfect order's, but for trapezoids: they lie under a curve that rises ever less, so that
    theirs reaches down to minus r + (1-r) ln(1-r), that of an area of 0.
    """
    share = unseen(n)
    reach = dict.fromkeys(AREAS, share * (1 - math.log(share))) | {"augrc": share - share**2 / 2}
    reach |= {f"risk@{c:g}": unseen(math.ceil(round(c * n, 6))) for c in COVERAGES}
    least = {"e_aurc_trapezoid": values["e_aurc_trapezoid"] - values["aurc_trapezoid"]}
    return {
        name: (max(least.get(name, 0.0), values[name] - far), min(1.0, values[name] + far))
        for name, far in reach.items()
    }


def coverage_ends(scores: ArrayLike, wrong: ArrayLike) -> Ends:
    """The same for `coverage@r`: with a share of unseen images that are surest, all wrong or all right."""
    distinct, levels = np.unique(_numbers(scores), return_inverse=True)
    flags, share = np.asarray(wrong, dtype=bool), unseen(len(levels))
    seen = [np.bincount(levels[kind], minlength=len(distinct)) * (1 - share) for kind in (~flags, flags)]
    added = np.array([[share * len(levels)], [0.0]])  # right ones, then none
    right, errors = (
        np.concatenate([more, np.stack([each] * 2)], 1) for more, each in zip((added, added[::-1]), seen, strict=True)
    )
    tried = coverages_at_risks(right, errors)
    return {name: (float(each.min()), float(each.max())) for name, each in tried.items()}


def _resampled(levels: Counts, count: int, stream: int, resamples: int) -> Iterator[Array]:
    """How many images of each resample have each of `count` levels: [r,count], in parts of bounded size."""
    generator = np.random.default_rng([stream, len(levels)])
    ranks, rows = levels.astype(np.int32), max(1, PART // count)
    for start in range(0, resamples, rows):
        made = min(rows, resamples - start)
        drawn = ranks[generator.integers(0, len(ranks), (made, len(ranks)), dtype=np.int32)]
        drawn += count * np.arange(made, dtype=np.int32)[:, None]
        yield np.bincount(drawn.ravel(), minlength=made * count).reshape(made, count).astype(np.float64)
