"""MaxLogit-pNorm: the highest logit in proportion to the size of all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from assay.harness.curves import risk_values
from assay.harness.detection import DetectorNeeds, Features, State, fitted
from assay.harness.training import TrainingSet
from torch import Tensor

from ..ood.logits import log_doubt
from .training_errors import judged_with_errors


def pnorm_score(logits: Tensor, power: float) -> Tensor:
    """-max z' / ||z'||_p with z' = z - mean z, float64: [N,C] -> [N]; p = 0: -max z'.

    Logits of -inf (a class without members) count nowhere; where all are equal the score is 0, the least sure.
    """
    logits = logits.double()
    finite = logits.isfinite()
    count = finite.sum(1, keepdim=True)
    centred = torch.where(finite, logits, 0)
    centred = torch.where(finite, centred - centred.sum(1, keepdim=True) / count, 0)
    if power == 0:
        return -centred.amax(1)
    largest = centred.abs().amax(1, keepdim=True)
    scaled = centred / torch.where(largest > 0, largest, 1)  # of powers of large logits nothing overflows
    size = scaled.abs().pow(power).sum(1).pow(1 / power)
    return -scaled.amax(1) / torch.where(size > 0, size, 1)


@dataclass(frozen=True)
class PNorm:
    """MaxLogit-pNorm (Cattelan and Silva 2024): minus the highest centred logit over the p-norm of all of them.

    p is the one of `powers` with the smallest AURC on the training images; where the softmax' highest probability (MSP)
    has a smaller one there, that is the score, as in the paper. p = 0 is the highest centred logit itself.
    Like every choice by errors it needs images that the network errs on: `dataset@train` should be held out.
    """

    powers: Sequence[float] = tuple(range(11))
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not self.powers or min(self.powers) < 0:
            raise ValueError(f"powers={list(self.powers)}: give at least one, none below 0")

    def needs(self) -> DetectorNeeds:
        """The logits, and training images."""
        return DetectorNeeds(training=True)

    def fit(self, training: TrainingSet) -> State:
        """aurc: float64 [P+1], of each power, and last of MSP; chosen: int64 [], which of them scores.

        Raises:
            ValueError: no error among the training images.
        """
        features, wrong = judged_with_errors(self, training)
        flags = wrong.numpy()
        tried = [self._score(features, number) for number in range(len(self.powers) + 1)]
        aurc = torch.tensor([risk_values(scores.numpy(), flags)["aurc"] for scores in tried], dtype=torch.float64)
        return {"aurc": aurc, "chosen": aurc.argmin()}  # the first of equal ones

    def score(self, features: Features, state: State) -> Tensor:
        """[N], float64."""
        (chosen,) = fitted(self, state, "chosen")
        return self._score(features, int(chosen))

    def _score(self, features: Features, number: int) -> Tensor:
        if number == len(self.powers):
            return log_doubt(features.logits, features.sigmoid)
        return pnorm_score(features.logits, self.powers[number])
