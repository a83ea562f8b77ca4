"""NCI: how much centred features point to the predicted class' weights, and how long features are."""

from dataclasses import dataclass
from typing import ClassVar

from assay.harness.detection import DetectorNeeds, Features, State, fitted
from assay.harness.training import TrainingSet
from torch import Tensor

from .fdbd import NEAREST


@dataclass(frozen=True)
class NCI:
    """Minus w_p (a - m) / |a - m|, m the training mean, p the predicted class, minus alpha |a|_1 (Liu and Qin 2025).

    Features of a network that was trained to the end collapse to the directions of their classes' weights.

    alpha: of the features' length; chosen on a validation set in the paper, by OpenOOD from 0.0001 to 0.1; 0 leaves the
    directions alone.
    """

    alpha: float = 0.0001
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not self.alpha >= 0:
            raise ValueError(f"alpha={self.alpha}: choose 0 or a number above")

    def needs(self) -> DetectorNeeds:
        """Penultimate features; their training mean."""
        return DetectorNeeds(penultimate=True, training=True)

    def fit(self, training: TrainingSet) -> State:
        """mean: float64 [D]."""
        return {"mean": training.moments().mean}

    def score(self, features: Features, state: State) -> Tensor:
        """[N] in float64."""
        (mean,) = fitted(self, state, "mean")
        values, weight = features.tap().double(), features.linear_head().weight.double()
        centred = values - mean
        towards = (centred * weight[features.predicted]).sum(1) / centred.norm(dim=1).clamp(min=NEAREST)
        return -towards - self.alpha * values.abs().sum(1)
