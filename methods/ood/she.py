"""SHE: how much the features are those of the predicted class' training images."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from assay.harness.choices import check_choice
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


def _with_unseen(sums: Tensor, counts: Tensor) -> Tensor:
    """Means [C,D] of classes' sums; of a class without images the mean of all."""
    if not float(counts.sum()):
        raise ValueError("no training image is classified right: are its labels those of the network?")
    unseen = counts == 0
    if bool(unseen.any()):
        warnings.warn(
            f"{int(unseen.sum())} of {len(counts)} classes have no training image that is classified right: their "
            "pattern is the mean of all images that are",
            stacklevel=2,
        )
    return torch.where(unseen[:, None], sums.sum(0) / counts.sum(), sums / counts.clamp(min=1)[:, None])


@dataclass(frozen=True)
class SHE:
    """Minus the likeness of the features to the predicted class' pattern (Zhang et al. 2023).

    A class' pattern is the mean of the features of its training images that the network classifies right; where there
    is none, of all images that it classifies right, with a warning.

    likeness: inner_product is the paper's; euclidean and cosine are OpenOOD's alternatives.
    """

    likeness: Likeness = "inner_product"
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_choice("likeness", self.likeness, LIKENESS)

    def needs(self) -> DetectorNeeds:
        """Penultimate features; those of labelled training images."""
        return DetectorNeeds(penultimate=True, training=True)

    def fit(self, training: TrainingSet) -> State:
        """patterns: float64 [C,D].

        Raises:
            ValueError: no training image at all is classified right.
        """
        sums, counts = torch.zeros_like(training.head.weight.double()), torch.zeros(len(training.head.bias)).double()
        for part in training.parts():
            right = part.rows(part.predicted == part.labels)
            sums.index_add_(0, right.labels, right.tap().double())
            counts += right.labels.bincount(minlength=len(counts))
        return {"patterns": _with_unseen(sums, counts)}

    def score(self, features: Features, state: State) -> Tensor:
        """[N] in float64."""
        (patterns,) = fitted(self, state, "patterns")
        return -LIKENESS[self.likeness](features.tap().double(), patterns[features.predicted])
