"""Intervals for every reported number: CLT, Wilson, and a bootstrap that resamples images.

Pairs (image, class) of one image are not independent, so intervals of pair-level means resample whole
images (cluster bootstrap). A statistic is a ratio of sums per column (class), then a mean over columns:
that covers plain means, class means and differences, in one matrix product for all resamples.

Where all images agree (44 hits of 44), no resample differs from another, and an interval of what was drawn would have
no width. What other images may do is then bounded by how many were seen (`unseen`; `ci_method` is `clopper_pearson`),
if the caller says what a value can be: outcomes are 0 or 1 (`proportion`), other quantities have a `span`. Values
without one may be equal because the map leaves no choice (the positive ratio of a map that is positive everywhere):
`ci_method` is then `constant`, the interval is the value, and it says nothing of other images. An interval that has a
width is left as it is.
"""

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats as scipy_stats

RESAMPLES = 2000
LEVEL = 0.95
PART = 4_000_000  # draws held at once

Array = NDArray[np.float64]
Span = tuple[float, float]  # the least and the largest value that a quantity can have
SHARE: Span = (0.0, 1.0)


class Estimate(NamedTuple):
    """A value with its standard error and its 95 % interval; nan where undefined."""

    value: float
    stderr: float
    ci_low: float
    ci_high: float
    ci_method: str
    n: int

    def fields(self) -> dict[str, Any]:
        """As keyword arguments of `ResultRow`: undefined numbers become None."""
        numbers = {
            k: None if np.isnan(v) else float(v) for k, v in self._asdict().items() if k not in ("ci_method", "n")
        }
        return {**numbers, "ci_method": self.ci_method, "n": self.n}

    @property
    def collapsed(self) -> bool:
        """Whether the interval has no width, but for rounding."""
        return math.isclose(self.ci_low, self.ci_high, rel_tol=1e-12)

    def constant(self) -> "Estimate":
        """The value as its own interval."""
        return self._replace(ci_low=self.value, ci_high=self.value, ci_method="constant")

    def widened(self, low: float, high: float) -> "Estimate":
        """With an interval that reaches as far as images that were not seen could move the value."""
        return self._replace(ci_low=min(self.ci_low, low), ci_high=max(self.ci_high, high), ci_method="clopper_pearson")


def unseen(images: ArrayLike) -> float:
    """The largest share of a population that so many images can all have missed, at LEVEL.

    n images miss a share u with probability (1 - u)^n; that is .025 for 1 - .025^(1/n), about 3.7 / n: the upper end
    of Clopper and Pearson's interval (1934, Biometrika 26:404) of 0 in n. One-sided, at .05, it is the rule of three,
    3 / n (Hanley and Lippman-Hand 1983, JAMA 249:1743).

    Args:
        images: n; or [K], of each of K classes, for the mean over classes of the share: with p_k = 1 - u_k, the least
            mean of p where the product of p_k^(n_k) is .025, which has p_k proportional to n_k, and none above 1
            (Lagrange).
    """
    n = np.sort(np.asarray(images, dtype=np.float64).ravel())
    total = n.cumsum()
    scale = np.exp((math.log(0.5 - LEVEL / 2) - (n * np.log(n)).cumsum()) / total)  # p = scale n for the j first
    means = (scale * total + np.arange(len(n))[::-1]) / len(n)
    return float(1 - means[scale * n <= 1].min())


def mean_clt(values: ArrayLike, span: Span | None = None) -> Estimate:
    """Mean of independent values with the normal-theory interval; nan values are left out.

    span: what a value can be, for the interval of values that are all equal; None: they may be constant.
    """
    kept = _finite(values)
    n = len(kept)
    if n == 0:
        return Estimate(np.nan, np.nan, np.nan, np.nan, "clt", 0)
    mean = float(kept.mean())
    stderr = float(kept.std(ddof=1) / np.sqrt(n)) if n > 1 else np.nan
    half = float(scipy_stats.norm.ppf(0.5 + LEVEL / 2)) * stderr
    return _with_width(Estimate(mean, stderr, mean - half, mean + half, "clt", n), [n], span)


def _with_width(estimate: Estimate, images: ArrayLike, span: Span | None) -> Estimate:
    """As it is; where all images agree, with what unseen ones may change, or a constant. images: as in `unseen`."""
    if not estimate.collapsed:
        return estimate
    if span is None:
        return estimate.constant()
    share = unseen(images)
    return estimate.widened(*(estimate.value + share * (end - estimate.value) for end in span))


def wilson(hits: ArrayLike) -> Estimate:
    """Share of independent 0/1 outcomes with Wilson's score interval; nan outcomes are left out."""
    kept = _finite(hits)
    n = len(kept)
    if n == 0:
        return Estimate(np.nan, np.nan, np.nan, np.nan, "wilson", 0)
    share = float(kept.mean())
    interval = scipy_stats.binomtest(round(kept.sum()), n).proportion_ci(LEVEL, method="wilson")
    stderr = float(np.sqrt(share * (1 - share) / n))
    return Estimate(share, stderr, float(interval.low), float(interval.high), "wilson", n)


def cluster_bootstrap(
    values: ArrayLike, clusters: ArrayLike, columns: ArrayLike | None = None, span: Span | None = None
) -> Estimate:
    """Mean of values, or mean over columns of each column's mean, resampling whole clusters.

    Args:
        values: [n], nan left out.
        clusters: [n] labels of what is resampled (images).
        columns: [n] labels of the classes whose means are averaged; None for the plain mean. Classes
            without a value are left out (nan-mean), in every resample.
        span: what a value can be, for the interval where all clusters agree; None: they may be constant.
    """
    every = np.asarray(values, dtype=np.float64)
    kept = ~np.isnan(every)
    if not kept.any():
        return Estimate(np.nan, np.nan, np.nan, np.nan, "cluster_bootstrap", 0)
    present: Array = every[kept]
    groups = np.zeros(len(present), np.int64) if columns is None else _codes(np.asarray(columns)[kept])
    rows = _codes(np.asarray(clusters)[kept])
    shape = (rows.max() + 1, groups.max() + 1)
    sums, counts = np.zeros(shape), np.zeros(shape)
    np.add.at(sums, (rows, groups), present)
    np.add.at(counts, (rows, groups), 1.0)
    return _bootstrapped(sums, counts, len(present), span)


def _bootstrapped(sums: Array, counts: Array, n: int, span: Span | None) -> Estimate:
    """Mean over columns of sums / counts, both [clusters,columns], with the interval of resampled clusters."""
    value = float(_mean_of_ratios(np.ones((1, len(sums))), sums, counts)[0])
    if len(sums) < 2:
        return Estimate(value, np.nan, np.nan, np.nan, "cluster_bootstrap", n)
    resampled = np.concatenate([_mean_of_ratios(weights, sums, counts) for weights in _resamples(len(sums))])
    low, high = np.nanquantile(resampled, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    stderr = float(np.nanstd(resampled, ddof=1))
    return _with_width(Estimate(value, stderr, float(low), float(high), "cluster_bootstrap", n), _images(counts), span)


def _images(counts: Array) -> Array:
    """How many clusters each column's mean stands on, [K]; one that several columns share counts once in all."""
    held = (counts > 0).sum(0)
    held = held[held > 0]
    return held * min(1.0, len(counts) / held.sum())


def proportion(hits: ArrayLike, clusters: ArrayLike) -> Estimate:
    """Share of 0/1 outcomes: Wilson when every cluster has one outcome, cluster bootstrap otherwise."""
    return wilson(hits) if _one_each(hits, clusters) else cluster_bootstrap(hits, clusters, span=SHARE)


def mean(values: ArrayLike, clusters: ArrayLike, span: Span | None = None) -> Estimate:
    """Mean: CLT when every cluster has one value, cluster bootstrap otherwise.

    span: what a value can be, for the interval where all are equal; None: they may be constant.
    """
    alone = _one_each(values, clusters)
    return mean_clt(values, span) if alone else cluster_bootstrap(values, clusters, span=span)


def _one_each(values: ArrayLike, clusters: ArrayLike) -> bool:
    kept = pd.Series(clusters)[~np.isnan(np.asarray(values, dtype=np.float64))]
    return bool(kept.is_unique)


def _finite(values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64)
    return array[~np.isnan(array)]


def _codes(labels: NDArray[Any]) -> NDArray[np.int64]:
    return pd.factorize(labels, sort=True)[0].astype(np.int64)


def _resamples(n: int) -> Iterable[Array]:
    """How often each of n clusters is drawn in each resample, RESAMPLES rows in parts of bounded size [r,n].

    The draws depend on n alone, so that two statistics of one table see the same resamples; those of one part are kept
    until another table is asked for.
    """
    return _kept(n) if n * RESAMPLES <= PART else _drawn(n)


@lru_cache(maxsize=1)
def _kept(n: int) -> tuple[Array, ...]:
    return tuple(_drawn(n))


def _drawn(n: int) -> Iterator[Array]:
    generator = np.random.default_rng(n)
    rows = max(1, PART // n)
    for start in range(0, RESAMPLES, rows):
        count = min(rows, RESAMPLES - start)
        drawn = generator.integers(0, n, (count, n)) + n * np.arange(count)[:, None]
        yield np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n).astype(np.float64)


def _mean_of_ratios(weights: Array, sums: Array, counts: Array) -> Array:
    totals = weights @ counts
    ratios = np.divide(weights @ sums, totals, out=np.full_like(totals, np.nan), where=totals > 0)
    present = ~np.isnan(ratios)
    filled = np.where(present, ratios, 0.0).sum(1)
    return np.divide(filled, present.sum(1), out=np.full(len(ratios), np.nan), where=present.any(1))


def cluster_ratio(
    numerators: ArrayLike, denominators: ArrayLike, clusters: ArrayLike, span: Span | None = None
) -> Estimate:
    """Ratio of sums, or the mean over columns of each column's ratio of sums, resampling whole clusters.

    Args:
        numerators, denominators: [n] or [n,K]; rows with a nan anywhere are left out. Columns whose
            denominators sum to zero are left out (nan-mean), in every resample.
        clusters: [n] labels of what is resampled (images).
        span: what a ratio can be, for the interval where all clusters agree; None: they may be constant.
    """
    above, below = (np.asarray(values, dtype=np.float64) for values in (numerators, denominators))
    if above.ndim == 1:
        above, below = above[:, None], below[:, None]
    kept = ~np.isnan(above + below).any(1)
    if not kept.any():
        return Estimate(np.nan, np.nan, np.nan, np.nan, "cluster_bootstrap", 0)
    rows = _codes(np.asarray(clusters)[kept])
    sums, counts = np.zeros((2, rows.max() + 1, above.shape[1]))
    np.add.at(sums, rows, above[kept])
    np.add.at(counts, rows, below[kept])
    return _bootstrapped(sums, counts, int(kept.sum()), span)
