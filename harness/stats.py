"""Intervals for every reported number: CLT, Wilson, and a bootstrap that resamples images.

Pairs (image, class) of one image are not independent, so intervals of pair-level means resample whole
images (cluster bootstrap). A statistic is a ratio of sums per column (class), then a mean over columns:
that covers plain means, class means and differences, in one matrix product for all resamples.
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats as scipy_stats

RESAMPLES = 2000
LEVEL = 0.95

Array = NDArray[np.float64]


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
        numbers = {k: None if np.isnan(v) else float(v) for k, v in self._asdict().items() if k not in ("ci_method", "n")}
        return {**numbers, "ci_method": self.ci_method, "n": self.n}


def mean_clt(values: ArrayLike) -> Estimate:
    """Mean of independent values with the normal-theory interval; nan values are left out."""
    kept = _finite(values)
    n = len(kept)
    if n == 0:
        return Estimate(np.nan, np.nan, np.nan, np.nan, "clt", 0)
    mean = float(kept.mean())
    stderr = float(kept.std(ddof=1) / np.sqrt(n)) if n > 1 else np.nan
    half = float(scipy_stats.norm.ppf(0.5 + LEVEL / 2)) * stderr
    return Estimate(mean, stderr, mean - half, mean + half, "clt", n)


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


def cluster_bootstrap(values: ArrayLike, clusters: ArrayLike, columns: ArrayLike | None = None) -> Estimate:
    """Mean of values, or mean over columns of each column's mean, resampling whole clusters.

    Args:
        values: [n], nan left out.
        clusters: [n] labels of what is resampled (images).
        columns: [n] labels of the classes whose means are averaged; None for the plain mean. Classes
            without a value are left out (nan-mean), in every resample.
    """
    values = np.asarray(values, dtype=np.float64)
    kept = ~np.isnan(values)
    if not kept.any():
        return Estimate(np.nan, np.nan, np.nan, np.nan, "cluster_bootstrap", 0)
    values = values[kept]
    groups = np.zeros(len(values), int) if columns is None else _codes(np.asarray(columns)[kept])
    rows = _codes(np.asarray(clusters)[kept])
    shape = (rows.max() + 1, groups.max() + 1)
    sums, counts = np.zeros(shape), np.zeros(shape)
    np.add.at(sums, (rows, groups), values)
    np.add.at(counts, (rows, groups), 1.0)
    value = float(_mean_of_ratios(np.ones((1, shape[0])), sums, counts)[0])
    if shape[0] < 2:
        return Estimate(value, np.nan, np.nan, np.nan, "cluster_bootstrap", len(values))
    resampled = _mean_of_ratios(_weights(shape[0]), sums, counts)
    low, high = np.nanquantile(resampled, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    stderr = float(np.nanstd(resampled, ddof=1))
    return Estimate(value, stderr, float(low), float(high), "cluster_bootstrap", len(values))


def proportion(hits: ArrayLike, clusters: ArrayLike) -> Estimate:
    """Share of 0/1 outcomes: Wilson when every cluster has one outcome, cluster bootstrap otherwise."""
    return wilson(hits) if _one_each(hits, clusters) else cluster_bootstrap(hits, clusters)


def mean(values: ArrayLike, clusters: ArrayLike) -> Estimate:
    """Mean: CLT when every cluster has one value, cluster bootstrap otherwise."""
    return mean_clt(values) if _one_each(values, clusters) else cluster_bootstrap(values, clusters)


def _one_each(values: ArrayLike, clusters: ArrayLike) -> bool:
    kept = pd.Series(clusters)[~np.isnan(np.asarray(values, dtype=np.float64))]
    return bool(kept.is_unique)


def _finite(values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64)
    return array[~np.isnan(array)]


def _codes(labels: NDArray[Any]) -> NDArray[np.int64]:
    return pd.factorize(labels, sort=True)[0].astype(np.int64)


def _weights(n: int) -> Array:
    """How often each of n clusters is drawn in each resample: [RESAMPLES,n], the same for the same n."""
    generator = np.random.default_rng(n)
    return generator.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)


def _mean_of_ratios(weights: Array, sums: Array, counts: Array) -> Array:
    totals = weights @ counts
    ratios = np.divide(weights @ sums, totals, out=np.full_like(totals, np.nan), where=totals > 0)
    present = ~np.isnan(ratios)
    filled = np.where(present, ratios, 0.0).sum(1)
    return np.divide(filled, present.sum(1), out=np.full(len(ratios), np.nan), where=present.any(1))
