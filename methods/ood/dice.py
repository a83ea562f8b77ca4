"""DICE: keep the weights of the last layer that contribute most, then the energy; alone or after ReAct's clipping."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from assay.harness.detection import DetectorNeeds, Features, LinearHead, State, fitted
from assay.harness.training import TrainingSet
from torch import Tensor

from .logits import energy_score
from .percentiles import check_percentile, clip_point, clipped, percentile


def pruned_weight(training: TrainingSet, rank: float) -> Tensor:
    """W where V = mean(a) * W (signed) exceeds its percentile over the whole matrix, 0 elsewhere: [C,D]."""
    weight = training.head.weight
    contribution = training.moments().mean * weight.double()
    return torch.where(contribution > percentile(contribution, rank), weight, 0)


@dataclass(frozen=True)
class DICE:
    """Energy of the pruned last layer (Sun and Li 2022).

    percentile: p, the share of weights to drop: 90 for CIFAR, 70 for ImageNet.
    """

    percentile: float = 90
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_percentile("percentile", self.percentile)

    def needs(self) -> DetectorNeeds:
        """Penultimate features; the training mean."""
        return DetectorNeeds(penultimate=True, training=True)

    def fit(self, training: TrainingSet) -> State:
        """weight: [C,D]."""
        return {"weight": pruned_weight(training, self.percentile)}

    def score(self, features: Features, state: State) -> Tensor:
        """[N]."""
        (weight,) = fitted(self, state, "weight")
        return energy_score(LinearHead(weight, features.linear_head().bias)(features.tap()))


@dataclass(frozen=True)
class DICEReAct:
    """DICE on clipped features (Sun and Li 2022); the mask is made from unclipped means.

    percentile: DICE's p. clip: ReAct's c; clip_percentile: where clip is null, c is this percentile of all training
    activations. The published rows: p=90, c=1.0 on CIFAR; the authors' notes say p=10, c=1.0 for ResNet50.
    """

    percentile: float = 90
    clip: float | None = 1.0
    clip_percentile: float = 90
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_percentile("percentile", self.percentile)
        check_percentile("clip_percentile", self.clip_percentile)

    def needs(self) -> DetectorNeeds:
        """Penultimate features; the training mean."""
        return DetectorNeeds(penultimate=True, training=True)

    def fit(self, training: TrainingSet) -> State:
        """weight: [C,D]. clip: []."""
        clip = clip_point(training, self.clip, self.clip_percentile)
        return {"weight": pruned_weight(training, self.percentile), "clip": clip}

    def score(self, features: Features, state: State) -> Tensor:
        """[N]."""
        weight, clip = fitted(self, state, "weight", "clip")
        return energy_score(LinearHead(weight, features.linear_head().bias)(clipped(features.tap(), clip)))
