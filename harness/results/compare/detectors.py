"""Two detectors: how much better one tells failures apart, on every set of images that both have scored."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from ...curves import RESAMPLES
from ...failures import Mixture, Source
from ...seeds import derive_seed
from ..settings import flat
from .candidates import Candidate, Known
from .differences import (
    Differences,
    Pair,
    error_differences,
    failure_differences,
    mean_difference,
    ood_differences,
)
from .judged import ERROR, FAILURE, OOD, Judged, judged

TPR = 0.95  # of a metric that does not say


def detector_rows(a: Candidate, b: Candidate, known: Known) -> list[dict[str, Any]]:
    """A row a quantity of each metric that judged both on the same images."""
    pairs = [(one, two) for one in judged(a, known) for two in judged(b, known) if one.pairs_with(two)]
    rows: list[dict[str, Any]] = []
    for pair in pairs:
        rows += [row for row in _rows(*pair) if row not in rows]  # another validation set changes no ranking
    return rows


def _rows(one: Judged, two: Judged) -> Iterator[dict[str, Any]]:
    found = {ERROR: _on_errors, OOD: _on_sets, FAILURE: _on_sources}[one.about["kind"]](one, two)
    shared = {"split": one.split, "reference": one.about["reference"], "metric": one.about["name"]}
    settings = flat(one.about["identity"]["metric"])
    shared |= {"taken": {name: value for name, value in settings.items() if name != "known"}}  # that is the set's
    columns = {column_of(statistic, one.setting("tpr", TPR)): difference for statistic, difference in found.items()}
    for column, difference in columns.items():
        if column not in one.undefined | two.undefined:
            yield shared | {"column": column} | difference.numbers()


def column_of(statistic: str, tpr: float) -> str:
    """As result rows call it: `fpr95_id_pos`."""
    return statistic.replace("fpr", f"fpr{100 * tpr:g}", 1)


def _on_errors(one: Judged, two: Judged) -> Differences:
    table = _paired(one.test.table(), two.test.table())
    table = table[table["label"] >= 0]  # an image without a label is neither right nor wrong
    wrong = (table["label"] != table["predicted"]).to_numpy(bool)
    return error_differences(_scores(table), wrong, one.setting("resamples", RESAMPLES))


def _on_sets(one: Judged, two: Judged) -> Differences:
    """On an ood set, or on the average of several."""
    inside = _scores(_paired(one.test.table(), two.test.table()))
    settings = one.setting("tpr", TPR), one.setting("resamples", RESAMPLES)
    outside = {name: _scores(_paired(one.sets[name].table(), two.sets[name].table())) for name in sorted(one.sets)}
    return mean_difference([ood_differences(inside, outside[name], derive_seed(name), *settings) for name in outside])


def _on_sources(one: Judged, two: Judged) -> Differences:
    """On the test set, another set, or all together."""
    tables = {name: _paired(one.sets[name].table(), two.sets[name].table()) for name in sorted(one.sets)}
    test = _paired(one.test.table(), two.test.table())
    mixtures = (_mixture(one, test, tables, f"score_{side}") for side in "ab")
    return failure_differences((next(mixtures), next(mixtures)), one.setting("resamples", RESAMPLES))


def _mixture(judged: Judged, test: pd.DataFrame, tables: Mapping[str, pd.DataFrame], score: str) -> Mixture:
    """Of one detector's scores."""
    first = Source.of("test", test, True, score)
    others = [Source.of(name, table, name in judged.known, score) for name, table in tables.items()]
    return Mixture(first, [first, *others]) if judged.is_together else Mixture.about(first, (others or [first])[0])


def _paired(left: pd.DataFrame, right: pd.DataFrame) -> pd.DataFrame:
    """A row an image that both have, with `score_a` and `score_b`."""
    return left.merge(right[["sample_id", "score"]], on="sample_id", suffixes=("_a", "_b"), validate="one_to_one")


def _scores(table: pd.DataFrame) -> Pair:
    return table["score_a"].to_numpy(np.float64), table["score_b"].to_numpy(np.float64)
