"""SHE: how much the features are those of the predicted class' training images."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from assay.harness.detection import DetectorNeeds, Features, State, fitted
from assay.harness.training import TrainingSet
from torch import Tensor
from torch.nn.functional import cosine_similarity

Likeness = Literal["inner_product", "euclidean", "cosine"]
LIKENESS: dict[Likeness, Callable[[Tensor, Tensor], Tensor]] = {
    "inner_product": lambda values, patterns: (values * patterns).sum(1),
    "euclidean": lambda values, patterns: -(values - patterns).norm(dim=1),
    "cosine": lambda values, patterns: cosine_similarity(values, patterns),
}


@dataclass(frozen=True)
class SHE:
    """Minus the likeness of the features to the predicted class' pattern (Zhang et al. 2023).

    A class' pattern is the mean of the features of its training images that the network classifies right.

    likeness: inner_product is the paper's; euclidean and cosine are OpenOOD's alternatives.
    """

    likeness: Likeness = "inner_product"
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.likeness not in LIKENESS:
            raise ValueError(f"likeness={self.likeness!r}: choose one of {', '.join(LIKENESS)}")

    def needs(self) -> DetectorNeeds:
        """Penultimate features; those of labelled training images."""
        return DetectorNeeds(penultimate=True, training=True)

    def fit(self, training: TrainingSet) -> State:
        """patterns: float64 [C,D].

        Raises:
            ValueError: no training image of some class is classified right, so that it has no pattern.
        """
        sums, counts = torch.zeros_like(training.head.weight.double()), torch.zeros(len(training.head.bias)).double()
        for part in training.parts():
            right = part.rows(part.predicted == part.labels)
            sums.index_add_(0, right.labels, right.tap().double())
            counts += right.labels.bincount(minlength=len(counts))
        if len(without := (counts == 0).nonzero().flatten().tolist()):
            raise ValueError(
                f"{len(without)} of {len(counts)} classes (the first is {without[0]}) have no training image that the "
                "network classifies right, and so no pattern: give a larger train set, or choose another detector"
            )
        return {"patterns": sums / counts[:, None]}

    def score(self, features: Features, state: State) -> Tensor:
        """[N] in float64."""
        (patterns,) = fitted(self, state, "patterns")
        return -LIKENESS[self.likeness](features.tap().double(), patterns[features.predicted])
