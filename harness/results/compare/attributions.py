"""Two attribution methods: the mean difference of each column that their metrics call paired."""

from collections.abc import Iterator
from math import nan
from typing import Any

import pandas as pd

from ... import stats
from ...stats import Estimate, Span
from ...store.store import SAMPLES
from ..pairs import joined
from ..settings import metric_settings
from .candidates import Candidate

OUTCOMES: Span = (-1.0, 1.0)  # what a difference of two outcomes can be


def attribution_rows(a: Candidate, b: Candidate) -> Iterator[dict[str, Any]]:
    """A row a paired column of each metric that both have on the same first images; intervals resample images."""
    for key in sorted(set(a.store.groups()) & set(b.store.groups())):
        about = a.store.group(key).about()
        for stop in sorted(set(a.store.group(key).stops()) & set(b.store.group(key).stops())):
            if (finished := a.store.group(key).finished(stop)) is None:
                continue  # damaged, and said so
            shared = {"split": finished.split, "reference": "", "metric": about["name"]}
            shared |= {"taken": metric_settings(about)}
            rows = _differences(a, b, key, stop, about["paired"]) if about["paired"] else ()
            yield from (shared | row for row in rows)


def _differences(a: Candidate, b: Candidate, key: str, stop: int, columns: list[str]) -> Iterator[dict[str, Any]]:
    table = _pairs(a, b, key, stop)
    for column in columns:
        estimate = _estimate(table[f"{column}_a"], table[f"{column}_b"], table["image_id"])
        if estimate.n:  # or it is a column that no pair of these samples has
            yield {"column": column, "difference": estimate.value} | _interval(estimate)


def _estimate(one: pd.Series, other: pd.Series, images: pd.Series) -> Estimate:
    """Of the mean difference. That of two outcomes (hit or not) cannot be a constant, however the seen ones agree."""
    outcomes = one.dtype == other.dtype == bool
    difference = one.astype(float) - other.astype(float)
    return stats.mean(difference.to_numpy(), images, OUTCOMES if outcomes else None)


def _interval(estimate: Estimate) -> dict[str, Any]:
    """None where the difference is the same in all images and nothing bounds what it is in others."""
    known = estimate.ci_method != "constant"
    ends = {"ci_low": estimate.ci_low, "ci_high": estimate.ci_high} if known else {"ci_low": nan, "ci_high": nan}
    return {**ends, "ci_method": estimate.ci_method, "n": estimate.n}


def _pairs(a: Candidate, b: Candidate, key: str, stop: int) -> pd.DataFrame:
    left, right = (joined(*(each.store.group(name).read(stop) for name in (SAMPLES, key))) for each in (a, b))
    return left.merge(right.drop(columns="image_id"), on="sample_id", suffixes=("_a", "_b"))
