"""How much right and wrong predictions of a class rest on its own units: their conductance, by rank and by class."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
from assay.harness import stats
from assay.harness.types import ResultRow
from numpy.typing import NDArray

CONDUCTANCE, UNITS = "class_conductance", "units"  # the detector's columns: float [N,K], int [N,top]
NO_UNITS = "the detector has no units of a class: method=[class_units]"


@dataclass(frozen=True)
class UnitConductance:
    """The conductance paper's Tables 1 and 2 and Figure 2: mean conductance of class-specific units.

    Over right and over wrong predictions (`variant`), on the test set: of the unit of each rank (`x`, the most specific
    to the predicted class first; subset `all`), and of each class predicted (subset `class=3`) of its first units,
    whose number is `x`. No setting.
    """

    VERSION: ClassVar[int] = 1
    PARTNERS: ClassVar[Literal["validation"]] = "validation"

    def summarize(self, test: pd.DataFrame, partners: Mapping[str, pd.DataFrame]) -> dict[str, list[ResultRow]]:
        """Rows of the test set."""
        if CONDUCTANCE not in test:
            return {"test": [ResultRow("right", "mean", None, len(test)).undefined(NO_UNITS)]}
        known = test[test["label"] >= 0]
        rows = [row for variant, part in _sides(known) for row in _by_rank(part, variant)]
        for label, images in known.groupby("predicted"):
            rows += [row for variant, part in _sides(images) for row in _by_unit(part, variant, f"class={label}")]
        return {"test": rows}


def _sides(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Right and wrong predictions, where there are some."""
    for variant, part in (("right", table[~table["is_error"]]), ("wrong", table[table["is_error"]])):
        if len(part):
            yield variant, part


def _stacked(table: pd.DataFrame, column: str) -> NDArray[np.float64]:
    return np.stack(list(table[column])).astype(np.float64)


def _by_rank(table: pd.DataFrame, variant: str) -> Iterator[ResultRow]:
    """The mean of each rank; the first is a headline."""
    for rank, values in enumerate(_stacked(table, CONDUCTANCE).T, start=1):
        yield _row(values, variant, "all", rank, "rank", headline=rank == 1)


def _by_unit(table: pd.DataFrame, variant: str, subset: str) -> Iterator[ResultRow]:
    units = table[UNITS].iloc[0]  # the same of all images that are predicted as the class
    values = _stacked(table, CONDUCTANCE)
    for rank, unit in enumerate(units):
        yield _row(values[:, rank], variant, subset, int(unit), "unit", headline=False)


def _row(
    values: NDArray[np.float64], variant: str, subset: str, x: float, x_label: str, *, headline: bool
) -> ResultRow:
    made = stats.mean_clt(values).fields()
    return ResultRow(variant, "mean", **made, subset=subset, x=x, x_label=x_label, unit="logit", headline=headline)
