"""Thresholds of error detectors, chosen on one set of images, and what they do on another."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from assay.harness import stats
from assay.harness.types import ResultRow
from numpy.typing import NDArray

from .ranked import Images

CLOSE = "close_recall"
Scores = NDArray[np.float64]
Flags = NDArray[np.bool_]
Choose = Callable[[Scores, Flags], float]


def close_recall_threshold(scores: Scores, wrong: Flags) -> float:
    """The score t that makes the recalls of wrong (score >= t) and right predictions (score < t) closest.

    Candidates are the scores themselves; of several that are equally close the largest. Both kinds must be there.
    """
    distinct, levels = np.unique(scores, return_inverse=True)
    errors, right = (np.bincount(levels[kind], minlength=len(distinct)) for kind in (wrong, ~wrong))
    found = errors.sum() - errors.cumsum() + errors
    passed = right.cumsum() - right
    apart = np.abs(found * right.sum() - passed * errors.sum())  # of the recalls, times both numbers: exact
    return float(distinct[np.flatnonzero(apart == apart.min())[-1]])


def threshold_finding(scores: Scores, wrong: Flags, recall: float) -> float:
    """The largest score t with at least that share of the wrong predictions at t or above."""
    falling = np.sort(scores[wrong])[::-1]
    return float(falling[_needed(recall, len(falling)) - 1])


def threshold_passing(scores: Scores, wrong: Flags, recall: float) -> float:
    """The smallest score t with at least that share of the right predictions below it.

    Where no score is high enough, the next number above the highest: nothing of this set is flagged.
    """
    rising = np.sort(scores[~wrong])
    below = rising[_needed(recall, len(rising)) - 1]
    above = scores[scores > below]
    return float(above.min() if len(above) else np.nextafter(below, np.inf))


def _needed(recall: float, count: int) -> int:
    return max(1, int(np.ceil(round(recall * count, 6))))  # 1e-7 of a few is one, not the last of them (index -1)


class Rule(NamedTuple):
    """How a threshold is chosen, and the variant of the rows at it."""

    variant: str
    choose: Choose


def rules(recalls_correct: list[float], recalls_error: list[float]) -> list[Rule]:
    """Those of chosen recalls.

    Raises:
        ValueError: a recall is no share above 0.
    """
    kinds = {"recall_correct": (threshold_passing, recalls_correct), "recall_error": (threshold_finding, recalls_error)}
    made = []
    for name, (choose, recalls) in kinds.items():
        for recall in recalls:
            if not 0 < recall <= 1:
                raise ValueError(f"{name} of {recall}: give shares above 0, up to 1")
            made.append(Rule(f"{name}>={recall:g}", _at(choose, recall)))
    return made


def _at(choose: Callable[[Scores, Flags, float], float], recall: float) -> Choose:
    return lambda scores, wrong: choose(scores, wrong, recall)


CLOSEST = Rule(CLOSE, close_recall_threshold)


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold: predict wrong where score >= threshold; or why there is none."""

    variant: str
    threshold: float | None
    chosen_on: Images
    why: str = ""

    @classmethod
    def of(cls, rule: Rule, images: Images) -> "OperatingPoint":
        """Chosen by a rule on a set of images."""
        if images.one_sided:
            return cls(rule.variant, None, images, f"no threshold from the {_place(images)} set: {images.one_sided}")
        return cls(rule.variant, rule.choose(images.scores, images.wrong), images)

    def own(self) -> Iterator[ResultRow]:
        """The threshold."""
        row = ResultRow(self.variant, "threshold", self.threshold, len(self.chosen_on.scores), self.chosen_on.subset)
        yield self._checked(replace(row, unit="score", headline=False), "")

    def recalls(self, images: Images) -> Iterator[ResultRow]:
        """Shares of the wrong predictions that are flagged, and of the right ones that are not."""
        flagged = self._flags(images)
        kinds = {"recall_error": (flagged[images.wrong], "wrong"), "recall_correct": (~flagged[~images.wrong], "right")}
        for stat, (hits, kind) in kinds.items():
            absent = "" if len(hits) else f"no {kind} prediction among {len(images.wrong)} images"
            yield self._share(stat, hits, images, images.useless or absent)

    def outcome(self, images: Images) -> Iterator[ResultRow]:
        """What becomes of the images: the confusion, and the accuracy if all that is flagged were put right, or were
        answered by a second network."""
        flagged = self._flags(images)
        for kind, predictions in (("wrong", images.wrong), ("right", ~images.wrong)):
            for act, done in (("flagged", flagged), ("passed", ~flagged)):
                count = float((predictions & done).sum())
                row = ResultRow(self.variant, f"{kind}_{act}", count, len(flagged), images.subset, unit="count")
                yield self._checked(replace(row, headline=False), images.useless)
        yield self._share("accuracy_if_fixed", flagged | ~images.wrong, images, images.useless)
        if images.second is not None:
            yield from self._cascade(images, images.second, flagged)

    def _cascade(self, images: Images, second: Flags, flagged: Flags) -> Iterator[ResultRow]:
        """What is flagged is answered by a second network, which is right on `second`; how many that are."""
        shown = self.variant == CLOSE
        answered = np.where(flagged, second, ~images.wrong)
        yield replace(self._share("cascade_accuracy", answered, images, images.useless), headline=shown)
        passed_on = self._share("passed_on", flagged, images, images.useless)
        yield replace(passed_on, higher_is_better=None, headline=shown)

    def _flags(self, images: Images) -> Flags:
        return images.scores >= (np.inf if self.threshold is None else self.threshold)

    def _share(self, stat: str, hits: Flags, images: Images, why: str) -> ResultRow:
        row = ResultRow(self.variant, stat, **stats.wilson(hits).fields(), subset=images.subset, higher_is_better=True)
        return self._checked(replace(row, headline=False), why)

    def _checked(self, row: ResultRow, why: str) -> ResultRow:
        return row.undefined(self.why or why) if self.why or why else row


def _place(images: Images) -> str:
    return "test" if images.subset == "all" else images.subset
