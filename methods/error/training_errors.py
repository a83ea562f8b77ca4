"""Right and wrong predictions among training images: what error detectors are fitted on."""

import warnings
from typing import NamedTuple

from assay.harness.detection import Features
from assay.harness.training import TrainingSet
from torch import Tensor

FEW_ERRORS = 200
ROWS = 4096  # images of whose logits float64 copies are made at once


class Judged(NamedTuple):
    """Features of labelled training images, at most `TrainingSet.BANK`, and which of them are predicted wrong [N]."""

    features: Features
    wrong: Tensor

    @property
    def errors(self) -> int:
        """How many are wrong."""
        return int(self.wrong.sum())


def judged(detector: object, training: TrainingSet) -> Judged:
    """The bank's labelled images; warns, for the detector, where few of them are predicted wrong."""
    bank = training.bank
    known = bank.labels >= 0
    bank = bank if bool(known.all()) else bank.rows(known)  # a copy only where it is needed
    made = Judged(bank, bank.predicted != bank.labels)
    if made.errors < FEW_ERRORS:
        warnings.warn(
            f"{detector}: {made.errors} errors among {len(bank)} training images; below {FEW_ERRORS} there is little "
            "to learn from: fit it on images that the network was not trained on",
            stacklevel=3,
        )
    return made


def judged_with_errors(detector: object, training: TrainingSet) -> Judged:
    """The same.

    Raises:
        ValueError: no prediction is wrong, or all are: there is nothing to choose by.
    """
    made = judged(detector, training)
    if made.errors in (0, len(made.wrong)):
        raise ValueError(
            f"{made.errors} of {len(made.wrong)} labelled training images are predicted wrong: {detector} chooses by "
            "errors and right predictions; fit it on images that the network was not trained on (dataset@train=NAME)"
        )
    return made
