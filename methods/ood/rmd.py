"""Relative Mahalanobis distance: to the nearest class, for that to the training set as a whole."""

from dataclasses import dataclass
from typing import ClassVar

from assay.harness.detection import DetectorNeeds, Features, State, fitted
from assay.harness.training import TrainingSet
from torch import Tensor

from .mahalanobis import Gaussian


@dataclass(frozen=True)
class RMD:
    """min_c d_c - d_0 of squared Mahalanobis distances of the penultimate features (Ren et al. 2021).

    d_c is to class c under the covariance within classes that all share, d_0 to the mean of all training images under
    their covariance; directions in which these have no spread but rounding (`Moments.spectrum`) do not count.
    """

    VERSION: ClassVar[int] = 1

    def needs(self) -> DetectorNeeds:
        """Penultimate features; their moments in training."""
        return DetectorNeeds(penultimate=True, training=True)

    def fit(self, training: TrainingSet) -> State:
        """means: [C',D], precision: [D,D] of the classes with images; mean: [D], whole: [D,D] of all. In float64."""
        moments = training.moments()
        classes, mean = Gaussian.of(moments), moments.mean
        whole = moments.spectrum(moments.second_about(mean)).inverse
        return {"means": classes.means, "precision": classes.precision, "mean": mean, "whole": whole}

    def score(self, features: Features, state: State) -> Tensor:
        """[N] in float64, of any sign."""
        means, precision, mean, whole = fitted(self, state, "means", "precision", "mean", "whole")
        nearest = Gaussian(means, precision).distance(features.tap())
        return 2 * (nearest - Gaussian(mean[None], whole).distance(features.tap()))
