"""A detector: a class with `score()`, and `fit()` if it learns."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from assay.harness.detection import DetectorNeeds, Features, State, fitted
from assay.harness.training import TrainingSet
from torch import Tensor


@dataclass(frozen=True)
class ClassMeans:
    """Distance of an image's features to the nearest class' mean over the training images.

    layer: whose activations, averaged over space; null: the penultimate features.
    """

    layer: str | None
    VERSION: ClassVar[int] = 1

    def needs(self) -> DetectorNeeds:
        """One layer, of training images as well."""
        return DetectorNeeds(self.layer is None, (self.layer,) if self.layer else (), training=True)

    def fit(self, training: TrainingSet) -> State:
        """means [C,K], of classes with images: tensors by name, kept as safetensors."""
        moments = training.moments(self.layer)
        return {"means": moments.class_means[moments.counts > 0].float()}

    def score(self, features: Features, state: State) -> Tensor:
        """[N], higher = more likely a failure."""
        (means,) = fitted(self, state, "means")
        exact = "donot_use_mm_for_euclid_dist"  # products would round as the batch is large, and badly near 0
        return torch.cdist(features.tap(self.layer), means, compute_mode=exact).amin(1)
