"""AdaSCALE: SCALE with a percentile for each image, by how far its largest features move under a trifling change."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, get_args

import torch
from assay.harness.choices import check_choice
from assay.harness.detection import DetectorNeeds, Features, ReadingNeeds, State, fitted
from assay.harness.forward import ForwardPass
from assay.harness.network import Network
from assay.harness.seeds import SampleRng
from assay.harness.training import TrainingSet
from assay.harness.types import Needs
from torch import Tensor

from .ash import Negative, rectified
from .logits import energy_score
from .percentiles import check_percentile

ROWS = 16  # training images that a fit sends through the network at once


@dataclass(frozen=True)
class PerturbedFeatures:
    """Penultimate features [N,D] of images whose least important numbers are pushed along the gradient.

    Importance is the size of the gradient of the predicted class' logit with respect to the normalised input. share: of
    the input's numbers (pixels times channels) that are pushed, the o of the paper. eps: by how much, in units of the
    normalised input; a gradient of 0 pushes nothing. A forward and a backward pass an image beside the shared one.
    """

    share: float = 0.05
    eps: float = 0.5
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share={self.share}: choose a share of the input's numbers above 0, at most 1")
        if not 0 < self.eps < math.inf:
            raise ValueError(f"eps={self.eps}: choose a step above 0, in units of the normalised input")

    def needs(self) -> ReadingNeeds:
        """Gradients, and the penultimate features of the pass beside its own; fits draw the images that they read."""
        return ReadingNeeds(of_pass=Needs(input_graph=True, penultimate=True), of_training=False)

    def about(self, network: Network) -> dict[str, Any]:
        """Its settings."""
        return {"share": self.share, "eps": self.eps}

    def read(self, forward: ForwardPass, rng: SampleRng, state: State) -> Tensor:
        """[B,D]."""
        return self.of(forward)

    def of(self, forward: ForwardPass) -> Tensor:
        """[B,D] of the images of a pass that keeps the graph to its input."""
        gradient = forward.gradient_of(lambda logits, _: logits.gather(1, logits.argmax(1, keepdim=True))[:, 0])
        network, moved = forward.network, forward.inputs.detach() + self.eps * self._directions(gradient)
        return ForwardPass(network, moved * network.std + network.mean, penultimate=True).penultimate

    def _directions(self, gradient: Tensor) -> Tensor:
        """The signs of the `share` smallest entries (at least one) of each image's gradient, 0 elsewhere: [B,3,H,W].

        Which of equal entries are taken is open, and of those at 0 nothing depends on it.
        """
        flat = gradient.flatten(1)
        places = flat.abs().topk(max(1, int(flat.shape[1] * self.share)), 1, largest=False).indices
        return torch.zeros_like(flat).scatter(1, places, flat.gather(1, places).sign()).view_as(gradient)


@dataclass(frozen=True)
class AdaSCALE:
    """Energy of the last layer on scaled features, AdaSCALE-A (Regmi 2025): unlike shifts, unlike percentiles.

    For features a, and a' of the perturbed image: Q' = C + weight Q, with Q the sum of |a - a'| over the largest
    `k_shift` % of a, C that of relu(a') over the largest `k_correction` %. F is the share of training images whose Q'
    is not larger; p = p_min + (1 - F)(p_max - p_min); a is scaled as by SCALE with that p.

    p_min, p_max: 80 and 85 for ResNet-50 on ImageNet; 60 to 99 are tried for others. k_shift: k1 of the paper (k2 in
    OpenOOD's settings). k_correction: its k2. Both count units as int(D k / 100), and at least one. weight: lambda.
    share, eps: see `PerturbedFeatures`. samples: training images that F is made of, drawn uniformly by the training
    set's seed; all, if there are no more. negative: what to do with features that are not rectified (`rectified`).
    """

    p_min: float = 80
    p_max: float = 85
    k_shift: float = 1
    k_correction: float = 5
    weight: float = 10
    share: float = 0.05
    eps: float = 0.5
    samples: int = 5000
    negative: Negative = "refuse"
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        for name in ("p_min", "p_max", "k_shift", "k_correction"):
            check_percentile(name, getattr(self, name))
        if self.p_min > self.p_max:
            raise ValueError(f"p_min={self.p_min}, p_max={self.p_max}: the smaller one first")
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"weight={self.weight}: choose one from 0")
        if self.samples < 1 or self.samples != int(self.samples):
            raise ValueError(f"samples={self.samples}: compare shifts with those of 1 training image or more")
        check_choice("negative", self.negative, get_args(Negative))
        _ = self._perturbed

    @cached_property
    def _perturbed(self) -> PerturbedFeatures:
        return PerturbedFeatures(self.share, self.eps)

    def needs(self) -> DetectorNeeds:
        """Penultimate features, also those of perturbed images; training images to compare with."""
        return DetectorNeeds(penultimate=True, training=True, readings=(self._perturbed,))

    def fit(self, training: TrainingSet) -> State:
        """shifts: Q' of training images, float64 [n], ascending."""
        return {"shifts": torch.cat(list(self._training_shifts(training))).sort().values}

    def score(self, features: Features, state: State) -> Tensor:
        """[N]."""
        (shifts,) = fitted(self, state, "shifts")
        values = rectified(self, features.tap(), self.negative)
        ranks = torch.searchsorted(shifts, self._shifts(values, features.reading(self._perturbed)), right=True)
        percentiles = self.p_min + (1 - ranks.double() / len(shifts)) * (self.p_max - self.p_min)
        return energy_score(features.linear_head()(values * self._scale(values, percentiles).to(values)))

    def _training_shifts(self, training: TrainingSet) -> Iterator[Tensor]:
        rows = training.draw(self.samples)
        for start in range(0, len(rows), ROWS):
            images = training.images(rows[start : start + ROWS])
            forward = ForwardPass(training.network, images, input_graph=True, penultimate=True)
            values = rectified(self, forward.penultimate, self.negative)
            yield self._shifts(values, self._perturbed.of(forward)).cpu()

    def _shifts(self, features: Tensor, perturbed: Tensor) -> Tensor:
        """Q' of features [N,D] and those of the perturbed images: float64 [N]."""
        features, perturbed = features.double(), perturbed.double()
        moved = _over_largest(features, (features - perturbed).abs(), self.k_shift)
        return _over_largest(features, perturbed.relu(), self.k_correction) + self.weight * moved

    def _scale(self, features: Tensor, percentiles: Tensor) -> Tensor:
        """exp(sum / sum of the largest (100 - p) %) of each row, float64 [N,1]; 1 for a row of zeros.

        As many are summed as in the authors' code, D - round(p D / 100), and at least one.
        """
        rows, width = features.double().relu(), features.shape[1]
        counts = (width - (width * percentiles / 100).round()).long().clamp(min=1)
        most = max(1, width - round(width * self.p_min / 100))
        largest = rows.topk(most, 1).values.cumsum(1).gather(1, counts[:, None] - 1)
        return torch.where(largest == 0, 0, rows.sum(1, keepdim=True) / largest).exp()


def _over_largest(features: Tensor, values: Tensor, percent: float) -> Tensor:
    """Sum of values [N,D] over the units of each row's largest features: [N]."""
    count = max(1, int(features.shape[1] * percent / 100))
    return values.gather(1, features.topk(count, 1).indices).sum(1)
