"""LINe: clip activations, then keep the units and weights that matter to the predicted class."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from assay.harness.detection import DetectorNeeds, Features, LinearHead, State, fitted
from assay.harness.training import TrainingSet
from torch import Tensor

from .logits import energy_score
from .percentiles import check_percentile, clipped

Contributions = Literal["closed_form", "integrated_gradients"]
PredictFrom = Literal["clipped", "unclipped"]


def closed_form_contributions(training: TrainingSet) -> Tensor:
    """C[l,i] = W[l,i] * mean of a_i over the training images labelled l: float64 [C,D].

    The Taylor contribution a_i df_l/da_i, which LINe averages, has the constant gradient W[l,i] at the penultimate
    layer; so has every point of an integrated gradient, hence the two columns of the paper's Table S.4 are one.
    """
    return _with_unseen(training, training.head.weight.double() * training.moments().class_means)


def _with_unseen(training: TrainingSet, contribution: Tensor) -> Tensor:
    """A class without training images takes the mean over all images: without any, all its units would be pruned."""
    moments = training.moments()
    seen = moments.counts > 0
    if not bool(seen.all()):
        warnings.warn(
            f"{int((~seen).sum())} of {len(seen)} classes have no training image: their contributions are those of "
            "the mean image",
            stacklevel=2,
        )
    return torch.where(seen[:, None], contribution, training.head.weight.double() * moments.mean)


def integrated_contributions(
    head: Callable[[Tensor], Tensor], activations: Tensor, labels: Tensor, steps: int
) -> Tensor:
    """a * mean over k = 1..n of df_label/da at (k/n) a, for any layer's head: [N,...] (LINe, Eq. S.1).

    Args:
        head: logits [N,C] of activations [N,...].
        labels: int64 [N].
        steps: n; 1 is the Taylor contribution.
    """
    total = torch.zeros_like(activations)
    for step in range(1, steps + 1):
        point = (activations * (step / steps)).detach().requires_grad_()
        with torch.enable_grad():
            chosen = head(point).gather(1, labels[:, None]).sum()
        total += torch.autograd.grad(chosen, point)[0]
    return activations * total / steps


def _weight_thresholds(contribution: Tensor, weight: Tensor, rank: float) -> Tensor:
    """Percentile of |C[l]| W over the whole matrix, for each l: float64 [C].

    All classes use one buffer. New ones, with a small result kept after each, leave holes in the heap that the next
    does not fit into: 14 GB for ImageNet's 1000 matrices of 16 MB.
    """
    thresholds, votes = np.empty(len(contribution)), np.empty(weight.shape)
    for label, row in enumerate(contribution.abs().numpy()):
        np.multiply(row, weight.numpy(), out=votes)
        thresholds[label] = np.percentile(votes, rank, overwrite_input=True)
    return torch.from_numpy(thresholds)


@dataclass(frozen=True)
class LINe:
    """Energy of the last layer on clipped features, pruned for the class l that they predict (Ahn et al. 2023).

    a' = min(a, delta); l = argmax W a' + b; unit i counts if C[l,i] exceeds the p_activation percentile of C[l,:],
    weight (c,i) if |C[l,i]| W[c,i] exceeds the p_weight percentile of the whole matrix, with C the mean contributions
    of the training images of each label. The mask is that of the authors' code, one a predicted class.

    clip_activations, prune_activations, prune_weights: the parts (AC, AP, WP). predict_from: the code's choice, or
    `unclipped`. contributions: see `closed_form_contributions`; integrated_gradients takes `steps` points to find
    the same. (p_activation, p_weight, delta) of the authors: 90, 90, 1.0 CIFAR-10; 10, 90, 1.0 CIFAR-100; 10, 10, 0.8
    ResNet50; 10, 10, 0.6 MobileNetV2.
    """

    p_activation: float = 90
    p_weight: float = 90
    delta: float = 1.0
    clip_activations: bool = True
    prune_activations: bool = True
    prune_weights: bool = True
    predict_from: PredictFrom = "clipped"
    contributions: Contributions = "closed_form"
    steps: int = 10
    VERSION: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_percentile("p_activation", self.p_activation)
        check_percentile("p_weight", self.p_weight)
        if self.predict_from not in ("clipped", "unclipped"):
            raise ValueError(f"predict_from={self.predict_from!r}: choose clipped or unclipped")
        if self.contributions not in ("closed_form", "integrated_gradients"):
            raise ValueError(f"contributions={self.contributions!r}: choose closed_form or integrated_gradients")
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}: give at least 1")

    def needs(self) -> DetectorNeeds:
        """Penultimate features; the training means of each class."""
        return DetectorNeeds(penultimate=True, training=True)

    def fit(self, training: TrainingSet) -> State:
        """contribution: [C,D]. unit_threshold, weight_threshold: [C]. Masks are made again where they are used."""
        closed = self.contributions == "closed_form"
        contribution = closed_form_contributions(training) if closed else self._integrated(training)
        weight = training.head.weight.double()
        return {
            "contribution": contribution,
            "unit_threshold": torch.from_numpy(np.percentile(contribution.numpy(), self.p_activation, axis=1)),
            "weight_threshold": _weight_thresholds(contribution, weight, self.p_weight),
        }

    def _integrated(self, training: TrainingSet) -> Tensor:
        """Class means of integrated contributions, part by part: float64 [C,D]."""
        counts = training.moments().counts
        total = torch.zeros_like(training.moments().sums)
        for part in training.parts():
            known = part.rows(part.labels >= 0)
            values = integrated_contributions(training.head.__call__, known.tap(), known.labels, self.steps)
            total.index_add_(0, known.labels, values.double())
        return _with_unseen(training, total / counts.clamp(min=1)[:, None])

    def score(self, features: Features, state: State) -> Tensor:
        """[N]: rows that predict one class share one masked matrix."""
        head, values = features.linear_head(), features.tap()
        kept = clipped(values, self.delta) if self.clip_activations else values
        predicted = head(kept if self.predict_from == "clipped" else values).argmax(1)
        contribution, unit, weight = fitted(self, state, "contribution", "unit_threshold", "weight_threshold")
        exact = head.weight.double()  # as the thresholds were found
        scores = kept.new_empty(len(kept))
        for label in predicted.unique().tolist():
            rows, row, matrix = predicted == label, contribution[label], head.weight
            chosen = kept[rows] * (row > unit[label]) if self.prune_activations else kept[rows]
            if self.prune_weights:
                matrix = matrix * (row.abs() * exact > weight[label])
            scores[rows] = energy_score(LinearHead(matrix, head.bias)(chosen))
        return scores
