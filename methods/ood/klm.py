"""KL matching: how far the class probabilities are from those that are typical of a class."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from assay.harness.detection import DetectorNeeds, Features, State, fitted
from assay.harness.training import TrainingSet
from torch import Tensor


@dataclass(frozen=True)
class KLMatching:
    """min_k KL(softmax(z), d_k), d_k the mean softmax of the training images predicted as k (Hendrycks et al. 2022).

    The paper and OpenOOD take d_k from held-out images: name them as the training set (`dataset@train`). Labels are not
    read; a class that is never predicted has no d_k. Softmax also of networks whose classes do not exclude each other.
    """

    VERSION: ClassVar[int] = 1

    def needs(self) -> DetectorNeeds:
        """The logits, of training images as well."""
        return DetectorNeeds(training=True)

    def fit(self, training: TrainingSet) -> State:
        """typical: float64 [K,C], a row for each class that is predicted."""
        sums, counts = torch.zeros(0, 0).double(), torch.zeros(0).double()
        for part in training.parts():
            if not len(sums):
                sums, counts = sums.new_zeros(2 * part.logits.shape[1:]), counts.new_zeros(part.logits.shape[1])
            sums.index_add_(0, part.predicted, part.logits.double().softmax(1))
            counts += part.predicted.bincount(minlength=len(counts))
        return {"typical": (sums / counts[:, None])[counts > 0]}

    def score(self, features: Features, state: State) -> Tensor:
        """[N] in float64, from 0 up to rounding."""
        (typical,) = fitted(self, state, "typical")
        p = features.logits.double().softmax(1)
        surprise = typical.log().nan_to_num(neginf=torch.finfo(typical.dtype).min)  # finite: 0 log 0 is 0
        return ((-torch.special.entr(p)).sum(1, keepdim=True) - p @ surprise.T).amin(1)
