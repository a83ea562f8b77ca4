"""Every pair of cells that two names mean, and the rows of their differences."""

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from ...config import ConfigError
from ...detection import AVERAGE, TOGETHER
from ...store.damage import Incomplete, found, unless_damaged
from ...store.identity import canonical
from ..settings import named_apart
from .attributions import attribution_rows
from .candidates import Candidate, Known, called, known_cells
from .detectors import detector_rows, undefined_pairs
from .judged import uncompared

PLACE = ["model", "dataset", "split", "reference", "protocol"]
NUMBERS = ["difference", "ci_low", "ci_high", "ci_method", "n"]
SETTINGS = ["first", "second"]
IDLE = "they rank nothing"
UNDEFINED = "none of their quantities is defined there: has an image a label?"
ORDER = ["model", "reference", "dataset", "split", "protocol", "metric", *SETTINGS]


def compare(root: Path, first: str, second: str) -> pd.DataFrame:
    """first - second on every (model, dataset, ...) that has both: what images they share is resampled for both alike.

    Of attributions, the mean difference of each paired column; of detectors, the differences of AUROC and FPR95 on
    each ood set and on their average, and of AUROC, AURC and AUGRC of wrong predictions and of failures.

    Args:
        root: the store.
        first, second: method names, or beginnings of cell keys (to tell two settings of one method apart).

    Returns:
        model, dataset, split, reference (the in-distribution set of an ood row), protocol, metric, column, difference,
        ci_low, ci_high (nan where ci_method is `constant`: the difference is the same in all images), ci_method, n, and
        `first`, `second`: settings that another cell of the same name has otherwise. So does `metric` of another.
    """
    known = known_cells(root)
    left, right = called(known, first), called(known, second)
    rows = []
    for a, b in ((a, b) for a in left for b in right if a.is_comparable(b)):
        about = a.labels | {"first": a.unlike([*left, *right]), "second": b.unlike([*left, *right])}
        rows += [about | row for row in unless_damaged(partial(_rows, a, b, known)) or ()]
    if not rows and found:
        raise Incomplete(f"{first} and {second}: what could be compared is damaged")
    if not rows and (idle := left_out(root, first, second)):
        raise ConfigError(f"{first} and {second} share nothing that can be compared: {'; '.join(idle)}")
    if not rows:
        raise ConfigError(f"{first} and {second} have no finished metric on the same model, data set and protocol")
    frame = pd.DataFrame(_metrics_apart(rows), columns=[*PLACE, "metric", "column", *NUMBERS, *SETTINGS])
    return frame.sort_values(ORDER, key=_last, kind="stable", ignore_index=True)


def left_out(root: Path, first: str, second: str) -> list[str]:
    """Metrics of the cells that `compare` pairs, of which it makes no difference: by why, as text."""
    known = known_cells(root)
    left, right = called(known, first), called(known, second)
    pairs = [(a, b) for a in left for b in right if a.is_comparable(b)]
    names = {each for a, b in pairs for each in unless_damaged(partial(_left_out, a, b, known)) or ()}
    by_reason = {why: sorted(name for name, its in names if its == why) for why in (IDLE, UNDEFINED)}
    return [f"{', '.join(those)} ({why})" for why, those in by_reason.items() if those]


def _left_out(a: Candidate, b: Candidate, known: Known) -> set[tuple[str, str]]:
    """Metrics, with the data set on which they are undefined, and why they are left out."""
    undefined = {f"{name} on {a.labels['dataset']}" for name in undefined_pairs(a, b, known)}
    return {(name, IDLE) for name in {*uncompared(a)} & {*uncompared(b)}} | {(name, UNDEFINED) for name in undefined}


def _rows(a: Candidate, b: Candidate, known: Known) -> list[dict[str, Any]]:
    return [*attribution_rows(a, b), *detector_rows(a, b, known)]


def _metrics_apart(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Metrics of one name that were taken in different ways, by what tells them apart."""
    ways = list({(row["metric"], canonical(row["taken"])): row for row in rows}.values())
    names = named_apart([row["metric"] for row in ways], [row["taken"] for row in ways])
    said = {(row["metric"], canonical(row["taken"])): name for row, name in zip(ways, names, strict=True)}
    return [row | {"metric": said[row["metric"], canonical(row["taken"])]} for row in rows]


def _last(column: pd.Series) -> pd.Series:
    """What stands for several sets behind them."""
    if column.name != "dataset":
        return column
    is_pooled = column.str.split(" ").str[0].isin([AVERAGE, TOGETHER])
    return column.where(~is_pooled, "~" + column)
