"""MaxLogit-pNorm: the highest logit in proportion to the size of all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from assay.harness.curves import risk_values
from assay.harness.detection import DetectorNeeds, Features, State, fitted
from assay.harness.training import TrainingSet
from torch import Tensor

from ..ood.logits import log_doubt
from .training_errors import ROWS, judged_with_errors


class Centred(NamedTuple):
    """Logits less their mean, z' = z - mean z, and the same with a largest size of 1; float64 [N,C].

    Logits of -inf (a class without members) are 0, which counts nowhere.
    """

    values: Tensor
    scaled: Tensor

    @classmethod
    def of(cls, logits: Tensor) -> "Centred":
        """Of logits [N,C]."""
        logits = logits.double()
        finite = logits.isfinite()
        count = finite.sum(1, keepdim=True)
        centred = torch.where(finite, logits, 0)
        centred = torch.where(finite, centred - centred.sum(1, keepdim=True) / count, 0)
        largest = centred.abs().amax(1, keepdim=True)
        return cls(
            centred, centred / torch.where(largest > 0, largest, 1)
        )  # of powers of large logits nothing overflows

    def score(self, power: float) -> Tensor:
        """-max z' / ||z'||_p: [N]; p = 0: -max z'. Where all logits are equal it is 0, the least sure."""
        if power == 0:
            return -self.values.amax(1)
        # Of centred values the 1-norm is twice the sum of positive ones: then one alone is exactly half of it, as in
        # many images, whose order rounding would decide.
        norm = 2 * self.scaled.clamp(min=0).sum(1) if power == 1 else self.scaled.abs().pow(power).sum(1)
        size = norm.pow(1 / power)
        return -self.scaled.amax(1) / torch.where(size > 0, size, 1)


def tried(features: Features, powers: Sequence[float | None]) -> Tensor:
    """Scores by each power (None: MSP's), [P,N]; ROWS images at once, of whose logits float64 copies are made."""

    def of(logits: Tensor) -> Tensor:
        centred = Centred.of(logits)
        return torch.stack([log_doubt(logits, features.sigmoid) if p is None else centred.score(p) for p in powers])

    return torch.cat([of(rows) for rows in features.logits.split(ROWS)], 1)


@dataclass(frozen=True)
class PNorm:
    """MaxLogit-pNorm (Cattelan and Silva 2024): minus the highest centred logit over the p-norm of all of them.

    p is the one of `powers` with the smallest AURC on the training images; where the softmax' highest probability (MSP)
    has a smaller one there, that is the score, as in the paper. p = 0 is the highest centred logit itself.
    Like every choice by errors it needs images that the network errs on: `dataset@train` should be held out.
    """

    powers: Sequence[float] = tuple(range(11))
    VERSION: ClassVar[int] = 2

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
        flags, every = wrong.numpy(), tried(features, self._candidates)
        aurc = torch.tensor([risk_values(scores.numpy(), flags)["aurc"] for scores in every], dtype=torch.float64)
        return {"aurc": aurc, "chosen": aurc.argmin()}  # the first of equal ones

    def score(self, features: Features, state: State) -> Tensor:
        """[N], float64."""
        (chosen,) = fitted(self, state, "chosen")
        return tried(features, [self._candidates[int(chosen)]])[0]

    @property
    def _candidates(self) -> list[float | None]:
        return [*self.powers, None]
