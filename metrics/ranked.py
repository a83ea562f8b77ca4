"""Rows about the order of scores: ranking of failures, risk and coverage, points of the ROC curve."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from assay.harness.counts import ALARMS, COVERAGES, RISKS, Statistics
from assay.harness.curves import Ends, coverage_ends, estimate, risk_bootstrap, risk_ends, roc_ends
from assay.harness.types import ResultRow
from numpy.typing import NDArray

LARGER = "larger"  # a detector's column: the class that a second network predicts


class Ranking(NamedTuple):
    """A statistic of the order of the scores: a result row's stat, variant, direction, whether it is shown, and x.

    source: what it is called in `harness.curves`. two_sided: whether it compares failures with the rest.
    """

    stat: str
    source: str
    variant: str
    higher_is_better: bool
    headline: bool = False
    two_sided: bool = False
    x: float | None = None
    x_label: str = ""


RANKINGS = (
    Ranking("auroc", "auroc", "ties=half", True, headline=True, two_sided=True),
    Ranking("aupr_error", "aupr_out", "trapezoid", True, two_sided=True),
    Ranking("aupr_error", "ap_out", "average_precision", True, two_sided=True),
)
AREAS = (
    Ranking("aurc", "aurc", "ties=mean", False, headline=True),
    Ranking("aurc", "aurc_trapezoid", "trapezoid", False),
    Ranking("e_aurc", "e_aurc", "ties=mean,discrete", False),
    Ranking("e_aurc", "e_aurc_analytic", "ties=mean,analytic", False),
    Ranking("e_aurc", "e_aurc_trapezoid", "trapezoid,analytic", False),
    Ranking("augrc", "augrc", "trapezoid", False, headline=True),
)
ROC = tuple(
    Ranking("roc", f"found@{x:g}", "ties=mean", True, two_sided=True, x=x, x_label="right predictions flagged")
    for x in ALARMS
)
CURVES = (
    *(Ranking("risk", f"risk@{x:g}", "ties=mean", False, x=x, x_label="coverage") for x in COVERAGES),
    *(Ranking("coverage", f"coverage@{x:g}", "threshold", True, x=x, x_label="risk") for x in RISKS),
)


class Images(NamedTuple):
    """A score table's columns, and the subset that its rows are named after.

    second: which images a second network gets right, where the detector has asked one.
    """

    scores: NDArray[np.float64]
    wrong: NDArray[np.bool_]
    subset: str
    second: NDArray[np.bool_] | None = None

    @classmethod
    def of(cls, table: pd.DataFrame, subset: str) -> "Images":
        """From a table's `score` and `is_error`; an image without a label is neither right nor wrong."""
        table = table[table["label"] >= 0]
        second = (table[LARGER] == table["label"]).to_numpy(bool) if LARGER in table else None
        return cls(table["score"].to_numpy(float), table["is_error"].to_numpy(bool), subset, second)

    @property
    def useless(self) -> str:
        """Why no order can be judged; empty if it can."""
        if unknown := int(np.isnan(self.scores).sum()):
            return f"{unknown} of {len(self.scores)} scores are not a number"
        return "" if len(self.scores) else "no images"

    @property
    def one_sided(self) -> str:
        """Why right and wrong cannot be told apart; empty if they can."""
        absent = "wrong" if not self.wrong.any() else "right" if self.wrong.all() else ""
        return self.useless or (f"no {absent} prediction among {len(self.wrong)} images" if absent else "")


@dataclass(frozen=True)
class Ranked:
    """Statistics of the order of some images' scores, their resamples, and how far unseen images reach."""

    images: Images
    values: dict[str, float]
    resampled: Statistics
    ends: Ends

    @classmethod
    def of(cls, images: Images, resamples: int) -> "Ranked":
        """Of one set of images, each drawn by itself."""
        if images.useless:
            return cls(images, {}, {}, {})
        values, resampled = risk_bootstrap(images.scores, images.wrong, 0, resamples)
        return cls(images, values, resampled, ends_of(images, values))

    def rows(self, rankings: Sequence[Ranking]) -> Iterator[ResultRow]:
        """A row each; undefined where there is nothing to compare."""
        n = len(self.images.scores)
        for each in rankings:
            row = ResultRow(each.variant, each.stat, None, n, self.images.subset, each.x, x_label=each.x_label)
            row = replace(row, higher_is_better=each.higher_is_better, headline=each.headline)
            if why := self.images.one_sided if each.two_sided else self.images.useless:
                yield row.undefined(why)  # risks are defined without errors too
            else:
                yield replace(row, **self._estimate(each, n))

    def _estimate(self, each: Ranking, n: int) -> dict[str, Any]:
        order = self.resampled["auroc"] if each.two_sided else None
        value, resampled = self.values[each.source], self.resampled[each.source]
        return estimate(value, resampled, "bootstrap", n, self.ends[each.source], order).fields()


def ends_of(images: Images, values: dict[str, float]) -> Ends:
    """Of what is defined."""
    ranked = {} if images.one_sided else roc_ends(images.scores[~images.wrong], images.scores[images.wrong])
    return ranked | risk_ends(values, len(images.scores)) | coverage_ends(images.scores, images.wrong)
