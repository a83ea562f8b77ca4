"""Two detectors: how much better one tells failures apart, on every set of images that both have scored."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ...curves import RESAMPLES
from ...failures import Mixture, Source
from ...inside import Inside
from ...seeds import derive_seed
from ..settings import flat
from .candidates import Candidate, Known
from .differences import (
    ERROR_STATISTICS,
    OOD_STATISTICS,
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
    rows: list[dict[str, Any]] = []
    for pair in _pairs(a, b, known):
        rows += [row for row in _rows(*pair) if row not in rows]  # another validation set changes no ranking
    return rows


def undefined_pairs(a: Candidate, b: Candidate, known: Known) -> Iterator[str]:
    """Metrics that judged both on the same images and of which nothing is defined for both: no image has a label."""
    yield from (one.about["name"] for one, two in _pairs(a, b, known) if not _defined(one, two))


def _pairs(a: Candidate, b: Candidate, known: Known) -> list[tuple[Judged, Judged]]:
    return [(one, two) for one in judged(a, known) for two in judged(b, known) if one.pairs_with(two)]


def _defined(one: Judged, two: Judged) -> dict[str, str]:
    """Statistics that the rows of both have, by column."""
    tpr = one.setting("tpr", TPR)
    columns = {column_of(statistic, tpr): statistic for statistic in MADE[one.about["kind"]].statistics}
    return {column: statistic for column, statistic in columns.items() if column not in one.undefined | two.undefined}


def _rows(one: Judged, two: Judged) -> Iterator[dict[str, Any]]:
    if not (defined := _defined(one, two)):
        return  # without a labelled image there is nothing to draw from
    found = MADE[one.about["kind"]].differences(one, two)
    shared = {"split": one.split, "reference": one.about["reference"], "metric": one.about["name"]}
    settings = flat(one.about["identity"]["metric"])
    shared |= {"taken": {name: value for name, value in settings.items() if name != "known"}}  # that is the set's
    for column, statistic in defined.items():
        yield shared | {"column": column} | found[statistic].numbers()


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
    test = _paired(one.test.table(), two.test.table())
    shifted = {name: _paired(each.table(), two.shifted[name].table()) for name, each in one.shifted.items()}
    inside = Inside.of(test, shifted, "score_a"), Inside.of(test, shifted, "score_b")
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


class Made(NamedTuple):
    """What is made of a pair of one kind of metric: which statistics, and their differences."""

    statistics: tuple[str, ...]
    differences: Callable[[Judged, Judged], Differences]


MADE = {
    ERROR: Made(ERROR_STATISTICS, _on_errors),
    OOD: Made(OOD_STATISTICS, _on_sets),
    FAILURE: Made(ERROR_STATISTICS, _on_sources),
}  # by kind
