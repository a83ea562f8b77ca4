"""Two attribution methods: the mean difference of each column that their metrics call paired."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from ... import stats
from ...store.store import SAMPLES
from ..tidy import joined
from .candidates import Candidate


def attribution_rows(a: Candidate, b: Candidate) -> Iterator[dict[str, Any]]:
    """A row a paired column of each metric that both have on the same first images; intervals resample images."""
    for key in sorted(set(a.store.groups()) & set(b.store.groups())):
        about = a.store.group(key).about()
        for stop in sorted(set(a.store.group(key).stops()) & set(b.store.group(key).stops())):
            finished = a.store.group(key).finished(stop)
            assert finished is not None
            shared = {"split": finished.split, "reference": "", "metric": about["name"]}
            rows = _differences(a, b, key, stop, about["paired"]) if about["paired"] else ()
            yield from (shared | row for row in rows)


def _differences(a: Candidate, b: Candidate, key: str, stop: int, columns: list[str]) -> Iterator[dict[str, Any]]:
    table = _pairs(a, b, key, stop)
    for column in columns:
        difference = table[f"{column}_a"].astype(float) - table[f"{column}_b"].astype(float)
        estimate = stats.mean(difference.to_numpy(), table["image_id"])
        if estimate.n:  # or it is a column that no pair of these samples has
            numbers = {"ci_low": estimate.ci_low, "ci_high": estimate.ci_high, "n": estimate.n}
            yield {"column": column, "difference": estimate.value, **numbers}


def _pairs(a: Candidate, b: Candidate, key: str, stop: int) -> pd.DataFrame:
    left, right = (joined(*(each.store.group(name).read(stop) for name in (SAMPLES, key))) for each in (a, b))
    return left.merge(right.drop(columns="image_id"), on="sample_id", suffixes=("_a", "_b"))
