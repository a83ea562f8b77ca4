"""What mutants of the network say of its predictions: their label change rates, and how many of them are enough."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
from assay.harness import stats
from assay.harness.curves import RESAMPLES
from assay.harness.types import ResultRow
from numpy.typing import NDArray

from .ranked import Images, Ranked, Ranking

CHANGED = (
    "changed"  # the detector's column: int8 [N,M], 1 where a mutant predicts another class, -1 where none was asked
)
NUMBERS = (1, 2, 3, 5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 100)  # of mutants, as far as there are so many
NO_MUTANTS = "the detector asks no mutants: method=[lcr]"


@dataclass(frozen=True)
class LabelChange:
    """The conductance paper's Table 3 and Figure 4, on the test set and the validation set.

    `mean` of the label change rates of right and of wrong predictions (the tables have their standard deviation as
    `std`), and `lcr_difference`, (mean - std) of the wrong ones less (mean + std) of the right ones, as the paper
    subtracts them; standard deviations are by n - 1. `auroc_by_mutants`: that of the first x mutants, wrong predictions
    positive; undefined where not all images were asked about all x.

    resamples: of the bootstrap.
    """

    resamples: int = RESAMPLES
    VERSION: ClassVar[int] = 2
    PARTNERS: ClassVar[Literal["validation"]] = "validation"

    def __post_init__(self) -> None:
        if self.resamples < 2:
            raise ValueError(f"resamples={self.resamples}: give at least 2")

    def summarize(self, test: pd.DataFrame, partners: Mapping[str, pd.DataFrame]) -> dict[str, list[ResultRow]]:
        """Rows of the test set (subset `all`) and of the validation set (subset `validation`)."""
        rows = list(self._rows(test, "all"))
        if "validation" in partners:
            rows += self._rows(partners["validation"], "validation")
        return {"test": rows}

    def _rows(self, table: pd.DataFrame, subset: str) -> Iterator[ResultRow]:
        if CHANGED not in table:
            yield ResultRow("difference", "lcr_difference", None, len(table), subset).undefined(NO_MUTANTS)
            return
        images = Images.of(table, subset)
        rows = list(table.loc[table["label"] >= 0, CHANGED])
        changed: NDArray[np.int8] = np.stack(rows) if rows else np.zeros((0, 1), dtype=np.int8)
        yield from _rates(images, _rate(changed))
        yield from self._by_number(images, changed)

    def _by_number(self, images: Images, changed: NDArray[np.int8]) -> Iterator[ResultRow]:
        """AUROC of the first x mutants."""
        for number in sorted({*(x for x in NUMBERS if x <= changed.shape[1]), changed.shape[1]}):
            point = Ranking("auroc_by_mutants", "auroc", "ties=half", True, two_sided=True, x=number, x_label="mutants")
            rows = Ranked.of(images._replace(scores=_rate(changed[:, :number])), self.resamples).rows([point])
            why = _missing(changed[:, :number])
            yield from (row.undefined(why) for row in rows) if why else rows


def _missing(changed: NDArray[np.int8]) -> str:
    """Why these mutants have no rate in common; empty if all were asked about all images."""
    stopped = int((changed < 0).any(1).sum())
    few = f"{stopped} of {len(changed)} images were asked of fewer than {changed.shape[1]} mutants (mutants.stop)"
    return few if stopped else ""


def _rate(changed: NDArray[np.int8]) -> NDArray[np.float64]:
    """Share of the asked mutants that changed the prediction: [N]."""
    rates: NDArray[np.float64] = (changed == 1).sum(1) / (changed >= 0).sum(1)
    return rates


def _rates(images: Images, rates: NDArray[np.float64]) -> Iterator[ResultRow]:
    """Means of both kinds, and how far they lie apart."""
    sides = {"right": rates[~images.wrong], "wrong": rates[images.wrong]}
    for variant, values in sides.items():
        made = stats.mean_clt(values, stats.SHARE)
        row = ResultRow(variant, "mean", **made.fields(), subset=images.subset)
        yield row if made.n else row.undefined(f"no {variant} prediction among {len(rates)} images")
    few = [variant for variant, values in sides.items() if len(values) < 2]
    difference = ResultRow("difference", "lcr_difference", None, len(rates), images.subset, higher_is_better=True)
    if few:
        yield difference.undefined(f"fewer than two {few[0]} predictions among {len(rates)} images")
        return
    right, wrong = sides.values()
    yield replace(difference, value=float(wrong.mean() - wrong.std(ddof=1) - right.mean() - right.std(ddof=1)))
