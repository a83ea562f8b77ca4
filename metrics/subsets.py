"""Parts of a sample table that get result rows of their own (difficult pairs, single classes), and those rows.

A subset is a function from the table to a bool column. `predicted` is always in the table (the network
itself predicts the pair's class); `difficult` is there if the metric measured it (`batch.difficult`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import pandas as pd
from assay.harness import stats
from assay.harness.stats import Estimate, Span
from assay.harness.types import ResultRow

Subset = Callable[[pd.DataFrame], pd.Series]
_NONE = "no pair in subset {} has a value"


def _column(frame: pd.DataFrame, name: str) -> pd.Series:
    if name not in frame:
        raise ValueError(f"subset {name!r} needs a column {name!r}, which this metric does not measure")
    return frame[name].astype(bool)


def every(frame: pd.DataFrame) -> pd.Series:
    """All pairs."""
    return pd.Series(True, index=frame.index)


def difficult(frame: pd.DataFrame) -> pd.Series:
    """Pairs with the pointing game's flag: a small object, and one of another class in the image."""
    return _column(frame, "difficult")


def predicted(frame: pd.DataFrame) -> pd.Series:
    """Pairs whose class the network predicts (softmax: top-1; sigmoid: at least .5)."""
    return _column(frame, "predicted")


def predicted_difficult(frame: pd.DataFrame) -> pd.Series:
    """Both."""
    return predicted(frame) & difficult(frame)


SUBSETS: Mapping[str, Subset] = {
    "all": every,
    "difficult": difficult,
    "predicted": predicted,
    "predicted_difficult": predicted_difficult,
}


def check_subsets(names: Sequence[str]) -> None:
    """Every name must be a subset, once."""
    unknown = [name for name in names if name not in SUBSETS]
    if unknown or not names or len(set(names)) < len(names):
        raise ValueError(f"subsets={list(names)}: give some of {', '.join(SUBSETS)}, each once")


def parts(
    frame: pd.DataFrame, names: Sequence[str] = ("all",), per_class: bool = False
) -> Iterator[tuple[str, pd.DataFrame]]:
    """The named parts of a sample table, empty ones too; then one for each class in it, `class=<index>`."""
    for name in names:
        yield name, frame[SUBSETS[name](frame)]
    if per_class:
        for label, part in frame.groupby("label", sort=True):
            yield f"class={label}", part


def estimate_row(
    estimate: Estimate,
    stat: str,
    variant: str,
    subset: str,
    higher: bool | None,
    unit: str = "fraction",
    *,
    headline: bool = True,
) -> ResultRow:
    """One statistic with its interval; without any pair it is undefined."""
    row = ResultRow(
        variant, stat, **estimate.fields(), subset=subset, higher_is_better=higher, unit=unit, headline=headline
    )
    return row if estimate.n else row.undefined(_NONE.format(subset))


def column_rows(
    part: pd.DataFrame,
    column: str,
    variant: str,
    subset: str,
    higher: bool | None,
    unit: str = "fraction",
    span: Span | None = None,
) -> list[ResultRow]:
    """A column's mean over the pairs that have a value, their median, and the number of pairs without one.

    span: what a value can be, for the interval where all are equal; None: they may be constant (`harness.stats`).
    """
    defined = part[column].dropna()
    median = ResultRow(
        variant, "median", None, len(defined), subset, unit=unit, higher_is_better=higher, headline=False
    )
    return [
        estimate_row(stats.mean(part[column], part["image_id"], span), "mean", variant, subset, higher, unit),
        replace(median, value=float(defined.median())) if len(defined) else median.undefined(_NONE.format(subset)),
        undefined_row(part[column].isna(), variant, subset),
    ]


def undefined_row(undefined: pd.Series, variant: str, subset: str) -> ResultRow:
    """The number of pairs that an average leaves out; n counts all."""
    count = float(undefined.sum())
    return ResultRow(variant, "undefined_pairs", count, len(undefined), subset, unit="count", headline=False)
