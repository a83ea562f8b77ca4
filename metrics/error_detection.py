"""Does a score tell wrong predictions from right ones? Ranking, risk and coverage, and thresholds in use."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
from assay.harness import stats
from assay.harness.curves import RESAMPLES
from assay.harness.types import ResultRow
from numpy.typing import NDArray

from .operating_points import CLOSEST, OperatingPoint, Rule, rules
from .ranked import AREAS, CURVES, RANKINGS, ROC, Images, Ranked, Ranking

NO_VALIDATION = "no validation set to choose the threshold on: dataset@validation=NAME"


@dataclass(frozen=True)
class ErrorDetection:
    """The papers' tables of wrong predictions; a wrong prediction is positive.

    Ranking (`auroc`, `aupr_error`) and points of the ROC curve on the test and the validation set; areas under risk and
    coverage (`aurc`, `e_aurc`, `augrc`), the risk among the surest predictions at coverages .1 to 1, and the coverage
    at risks .01 to .2, on the test set. Intervals resample images (where no resample differs from another:
    `harness.curves.roc_ends`, `risk_ends`, `coverage_ends`).

    Operating points: the threshold that makes the recalls of right and wrong predictions closest on the validation set
    (`close_recall`), and those that keep a share of either there; recalls on both sets, and what becomes of the test
    images. Points of a chosen recall are also reported as chosen on the test set itself (`on=test`): what the curve
    allows, and no forecast. Intervals of shares at a threshold are Wilson's and take it as given.

    Cascade, where the detector asks a second network (`method=[cascade]`): its accuracy, and at each operating point
    the accuracy if it answers what is flagged, and the share of images that is passed on to it.

    resamples: of the bootstrap. recalls_correct, recalls_error: shares of the right predictions to be passed, of the
        wrong ones to be flagged.
    """

    resamples: int = RESAMPLES
    recalls_correct: Sequence[float] = ()
    recalls_error: Sequence[float] = ()
    VERSION: ClassVar[int] = 2
    PARTNERS: ClassVar[Literal["validation"]] = "validation"

    def __post_init__(self) -> None:
        if self.resamples < 2:
            raise ValueError(f"resamples={self.resamples}: give at least 2")
        self._rules()

    def _rules(self) -> list[Rule]:
        return rules(list(self.recalls_correct), list(self.recalls_error))

    def summarize(self, test: pd.DataFrame, partners: Mapping[str, pd.DataFrame]) -> dict[str, list[ResultRow]]:
        """Rows of the test set (subset `all`) and of the validation set (subset `validation`)."""
        images = Images.of(test, "all")
        rows = [*_shares(images), *self._ranked(images, (*RANKINGS, *AREAS, *CURVES, *ROC))]
        for rule in self._rules():
            point = OperatingPoint.of(rule._replace(variant=f"{rule.variant},on=test"), images)
            rows += [*point.own(), *point.recalls(images), *point.outcome(images)]
        held_out = Images.of(partners["validation"], "validation") if "validation" in partners else None
        if held_out is not None:
            rows += [*_shares(held_out), *self._ranked(held_out, (*RANKINGS, *ROC))]
        return {"test": [*rows, *self._applied(images, held_out)]}

    def _applied(self, images: Images, held_out: Images | None) -> Iterator[ResultRow]:
        """Thresholds of the validation set, there and on the test set."""
        for rule in (CLOSEST, *self._rules()):
            if held_out is None:
                point = OperatingPoint(rule.variant, None, images, NO_VALIDATION)
                yield from point.recalls(images)
            else:
                point = OperatingPoint.of(rule, held_out)
                yield from (*point.own(), *point.recalls(held_out), *point.recalls(images), *point.outcome(images))

    def _ranked(self, images: Images, rankings: Sequence[Ranking]) -> Iterator[ResultRow]:
        return Ranked.of(images, self.resamples).rows(rankings)


def _shares(images: Images) -> Iterator[ResultRow]:
    """The network's accuracy, a second one's, and the number of errors that there are to find."""
    yield _accuracy("top1", ~images.wrong, images.subset)
    if images.second is not None:
        yield _accuracy("top1,larger", images.second, images.subset)
    errors = ResultRow("top1", "n_errors", float(images.wrong.sum()), len(images.wrong), images.subset, unit="count")
    yield replace(errors, headline=False)


def _accuracy(variant: str, right: NDArray[np.bool_], subset: str) -> ResultRow:
    share = stats.wilson(right)
    row = ResultRow(variant, "accuracy", **share.fields(), subset=subset, higher_is_better=True, headline=False)
    return row if share.n else row.undefined("no images")
