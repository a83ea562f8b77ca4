"""fDBD: how near the decision boundaries are, for how far the features lie from the training mean."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from assay.harness.choices import check_choice
from assay.harness.detection import DetectorNeeds, Features, State, fitted
from assay.harness.training import TrainingSet
from torch import Tensor

Origin = Literal["mean", "zero"]
NEAREST = 1e-8  # a feature at the origin itself is taken to be so far from it


@dataclass(frozen=True)
class FDBD:
    """Minus the mean distance to the boundaries of the predicted class, over that to an origin (Liu and Qin 2024).

    The boundary between the predicted class p and another class c is |z_p - z_c| / |w_p - w_c| away.

    origin: `mean` of the training features, the paper's; `zero`, so that the features' own length regularises
    (OpenOOD chooses between both by a validation set).
    """

    origin: Origin = "mean"
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_choice("origin", self.origin, get_args(Origin))

    def needs(self) -> DetectorNeeds:
        """Penultimate features; their training mean."""
        return DetectorNeeds(penultimate=True, training=True)

    def fit(self, training: TrainingSet) -> State:
        """apart: [C,C], lengths of the differences of the classes' weights, 1 on the diagonal. origin: [D]. In float64.

        Raises:
            ValueError: two classes have the same weights, so that no boundary lies between them.
        """
        weight, mean = training.head.weight.double(), training.moments().mean
        apart = torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist")
        apart = apart.fill_diagonal_(1)
        if len(same := (apart == 0).nonzero()):
            first, second = same[0].tolist()
            raise ValueError(f"classes {first} and {second} have the same weights: there is no boundary between them")
        return {"apart": apart, "origin": mean if self.origin == "mean" else torch.zeros_like(mean)}

    def score(self, features: Features, state: State) -> Tensor:
        """[N] in float64."""
        apart, origin = fitted(self, state, "apart", "origin")
        logits = features.logits.double()
        distances = (logits.amax(1, keepdim=True) - logits) / apart[features.predicted]
        away = (features.tap().double() - origin).norm(dim=1).clamp(min=NEAREST)
        return -distances.sum(1) / (away * (logits.shape[1] - 1))
