"""Temperature scaling: the highest probability of logits that are divided by a fitted number."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from assay.harness.detection import DetectorNeeds, Features, State, fitted
from assay.harness.training import TrainingSet
from scipy.optimize import brentq
from torch import Tensor

from ..ood.logits import log_doubt
from .training_errors import ROWS, judged_with_errors

LIMITS = (1e-3, 1e3)  # of 1/T


@dataclass(frozen=True)
class Temperature:
    """Minus the highest softmax probability at a temperature T (Guo et al. 2017), as log(1 - p), which does not tie.

    T is the one number that makes the training images' labels likeliest (least mean -log p of the label), which is a
    convex problem in 1/T. It is fitted on what `dataset@train` gives: images that the network was trained on make T too
    small. Dividing by T moves no prediction; it changes how images of different predictions are ordered.
    The softmax is taken where classes do not exclude each other (sigmoid), too. Features do not say that a network is
    binary, whose logits are [-z, z] and their softmax sigmoid(2 z / T): the fitted T is twice that of z itself, and the
    probabilities are the same.
    """

    VERSION: ClassVar[int] = 1

    def needs(self) -> DetectorNeeds:
        """The logits, and training images."""
        return DetectorNeeds(training=True)

    def fit(self, training: TrainingSet) -> State:
        """temperature: float64 [].

        Raises:
            ValueError: no error among the training images, or a T beyond 1/1000 to 1000.
        """
        features, _ = judged_with_errors(self, training)
        slope = nll_slope(features.logits, features.labels)
        low, high = (np.log(limit) for limit in LIMITS)
        if not slope(low) < 0 < slope(high):
            raise ValueError(
                f"no temperature between {LIMITS[0]:g} and {LIMITS[1]:g} is best for these training images"
            )
        return {"temperature": torch.tensor(float(np.exp(-brentq(slope, low, high, xtol=1e-12))), dtype=torch.float64)}

    def score(self, features: Features, state: State) -> Tensor:
        """[N], float64, up to 0."""
        (temperature,) = fitted(self, state, "temperature")
        return log_doubt(features.logits.double() / temperature, sigmoid=False)


def nll_slope(logits: Tensor, labels: Tensor) -> Callable[[float], float]:
    """log(1/T) -> the slope over 1/T of the mean of -log p(label); it grows, so that its zero is the one minimum.

    logits: [N,C]. labels: int64 [N]. It is the mean over images of (expected logit - logit of the label).
    """
    parts = list(zip(logits.split(ROWS), labels.split(ROWS), strict=True))

    def slope(log_inverse: float) -> float:
        inverse = float(np.exp(log_inverse))
        return sum(float(_excess(part.double(), chosen, inverse).sum()) for part, chosen in parts) / len(logits)

    return slope


def _excess(logits: Tensor, labels: Tensor, inverse: float) -> Tensor:
    probable = (logits * inverse).softmax(1)
    own = logits.gather(1, labels[:, None])[:, 0]
    return torch.where(probable > 0, probable * logits, 0).sum(1) - own  # 0 times a logit of -inf is 0
