"""Does a score tell wrong predictions from right ones? AUROC, AUPR, recalls at a threshold, risk and coverage."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import pandas as pd
from assay.harness import stats
from assay.harness.counts import COVERAGES, Statistics
from assay.harness.curves import RESAMPLES, Ends, estimate, risk_bootstrap, risk_ends, roc_ends
from assay.harness.types import ResultRow
from numpy.typing import NDArray

CLOSE = "close_recall"
NO_VALIDATION = "no validation set to choose the threshold on: dataset@validation=NAME"


class Ranking(NamedTuple):
    """A statistic of the order of the scores: a result row's stat, variant, direction, whether it is shown, and x.

    source: what it is called in `harness.curves`.
    """

    stat: str
    source: str
    variant: str
    higher_is_better: bool
    headline: bool = False
    x: float | None = None


RANKINGS = (
    Ranking("auroc", "auroc", "ties=half", True, headline=True),
    Ranking("aupr_error", "aupr_out", "trapezoid", True),
    Ranking("aupr_error", "ap_out", "average_precision", True),
)
RISKS = (
    Ranking("aurc", "aurc", "ties=mean", False, headline=True),
    Ranking("e_aurc", "e_aurc", "ties=mean", False),
    *(Ranking("risk", f"risk@{x:g}", "ties=mean", False, x=x) for x in COVERAGES),
)


class Images(NamedTuple):
    """A score table's columns, and the subset that its rows are named after."""

    scores: NDArray[np.float64]
    wrong: NDArray[np.bool_]
    subset: str

    @classmethod
    def of(cls, table: pd.DataFrame, subset: str) -> "Images":
        """From a table's `score` and `is_error`; an image without a label is neither right nor wrong."""
        table = table[table["label"] >= 0]
        return cls(table["score"].to_numpy(float), table["is_error"].to_numpy(bool), subset)

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
class ErrorDetection:
    """The papers' tables of wrong predictions; a wrong prediction is positive.

    Ranking (`auroc`, `aupr_error`) on the test and the validation set; recalls of right and wrong predictions at
    the threshold that makes them closest on the validation set (`close_recall`), on both; the risk among the
    surest predictions at coverages .1 to 1 and its mean (`aurc`, `e_aurc`) on the test set. Intervals resample
    images (where no resample differs from another: `harness.curves.roc_ends`, `risk_ends`); those of shares at the
    threshold are Wilson's and take the threshold as given.

    resamples: of the bootstrap.
    """

    resamples: int = RESAMPLES
    VERSION: ClassVar[int] = 1
    PARTNERS: ClassVar[Literal["validation"]] = "validation"

    def __post_init__(self) -> None:
        if self.resamples < 2:
            raise ValueError(f"resamples={self.resamples}: give at least 2")

    def summarize(self, test: pd.DataFrame, partners: Mapping[str, pd.DataFrame]) -> dict[str, list[ResultRow]]:
        """Rows of the test set (subset `all`) and of the validation set (subset `validation`)."""
        images = Images.of(test, "all")
        rows = [*_shares(images), *self._ranked(images, (*RANKINGS, *RISKS))]
        if "validation" not in partners:
            return {"test": [*rows, *(row.undefined(NO_VALIDATION) for row in _recalls(images, 0.0))]}
        held_out = Images.of(partners["validation"], "validation")
        rows += [*_shares(held_out), *self._ranked(held_out, RANKINGS)]
        return {"test": [*rows, *_at_threshold(images, held_out)]}

    def _ranked(self, images: Images, rankings: Sequence[Ranking]) -> Iterator[ResultRow]:
        once: dict[str, float] = {}
        resampled: Statistics = {}
        if not images.useless:
            once, resampled = risk_bootstrap(images.scores, images.wrong, 0, self.resamples)
        ends, n = _ends(images, once), len(images.scores)
        for stat, source, variant, higher, headline, x in rankings:
            row = ResultRow(variant, stat, None, n, images.subset, x, higher_is_better=higher, headline=headline)
            row = replace(row, x_label="" if x is None else "coverage")
            if why := images.one_sided if higher else images.useless:  # risks are defined without errors too
                yield row.undefined(why)
            else:
                order = resampled["auroc"] if higher else None
                made = estimate(once[source], resampled[source], "bootstrap", n, ends[source], order)
                yield replace(row, **made.fields())


def _ends(images: Images, once: dict[str, float]) -> Ends:
    """Of what is defined."""
    ranked = {} if images.one_sided else roc_ends(images.scores[~images.wrong], images.scores[images.wrong])
    return ranked if images.useless else ranked | risk_ends(once, len(images.scores))


def _shares(images: Images) -> Iterator[ResultRow]:
    """The network's accuracy, and the number of errors that there are to find."""
    share = stats.wilson(~images.wrong)
    accuracy = ResultRow("top1", "accuracy", **share.fields(), subset=images.subset, higher_is_better=True)
    errors = ResultRow("top1", "n_errors", float(images.wrong.sum()), share.n, images.subset, unit="count")
    yield replace(accuracy if share.n else accuracy.undefined("no images"), headline=False)
    yield replace(errors, headline=False)


def _at_threshold(test: Images, held_out: Images) -> Iterator[ResultRow]:
    """The threshold of the validation set, and recalls there and on the test set."""
    if held_out.one_sided:
        why = f"no threshold from the validation set: {held_out.one_sided}"
        rows = [*_recalls(test, 0.0), *_recalls(held_out, 0.0), _threshold_row(None, held_out)]
        yield from (row.undefined(why) for row in rows)
        return
    threshold = close_recall_threshold(held_out.scores, held_out.wrong)
    yield from _recalls(test, threshold)
    yield from _recalls(held_out, threshold)
    yield _threshold_row(threshold, held_out)


def _threshold_row(threshold: float | None, images: Images) -> ResultRow:
    n = len(images.scores)
    return ResultRow(CLOSE, "threshold", threshold, n, images.subset, unit="score", headline=False)


def _recalls(images: Images, threshold: float) -> Iterator[ResultRow]:
    """Shares of the wrong predictions that are flagged (score >= threshold), and of the right ones that are not."""
    flagged = images.scores >= threshold
    for stat, hits, kind in (
        ("recall_error", flagged[images.wrong], "wrong"),
        ("recall_correct", ~flagged[~images.wrong], "right"),
    ):
        row = ResultRow(CLOSE, stat, **stats.wilson(hits).fields(), subset=images.subset, higher_is_better=True)
        row = replace(row, headline=False)
        if images.useless or not row.n:
            row = row.undefined(images.useless or f"no {kind} prediction among {len(images.wrong)} images")
        yield row


def close_recall_threshold(scores: NDArray[np.float64], wrong: NDArray[np.bool_]) -> float:
    """The score t that makes the recalls of wrong (score >= t) and right predictions (score < t) closest.

    Candidates are the scores themselves; of several that are equally close the largest. Both kinds must be there.
    """
    distinct, levels = np.unique(scores, return_inverse=True)
    errors, right = (np.bincount(levels[kind], minlength=len(distinct)) for kind in (wrong, ~wrong))
    found = errors.sum() - errors.cumsum() + errors
    passed = right.cumsum() - right
    apart = np.abs(found * right.sum() - passed * errors.sum())  # of the recalls, times both numbers: exact
    return float(distinct[np.flatnonzero(apart == apart.min())[-1]])
