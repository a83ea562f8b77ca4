"""NNGuide: the energy, guided by how near confident training images are."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from assay.harness.detection import DetectorNeeds, Features, State, fitted
from assay.harness.training import TrainingSet
from torch import Tensor
from torch.nn.functional import normalize

from .logits import energy_score
from .neighbours import ROWS, check_search, directions, in_parts, searched


def _confidence(logits: Tensor) -> Tensor:
    """log sum_c exp(z_c), in float64: [N]."""
    return -energy_score(logits.double())


@dataclass(frozen=True)
class NNGuide:
    """Minus guidance times log sum_c exp(z_c) (Park, Jung and Teoh 2023).

    The guidance is the mean of the k largest inner products of the image's direction with training images' directions,
    each times its own log sum_c exp(z_c).

    k, share: of the training images, drawn uniformly by the training set's seed, at most `TrainingSet.BANK`; the
    paper's for ImageNet are 10 and 0.01.
    """

    k: int = 10
    share: float = 1.0
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_search(self.k, self.share)

    def needs(self) -> DetectorNeeds:
        """Penultimate features, of training images as well."""
        return DetectorNeeds(penultimate=True, training=True)

    def fit(self, training: TrainingSet) -> State:
        """guides: [n,D], directions of training images times their confidence."""
        chosen = searched(training, self.k, self.share)
        guides = directions(chosen.tap())
        for rows, logits in zip(guides.split(ROWS), chosen.logits.split(ROWS), strict=True):
            rows.mul_(_confidence(logits)[:, None].to(rows))
        return {"guides": guides}

    def score(self, features: Features, state: State) -> Tensor:
        """[N] in float64."""
        (guides,) = fitted(self, state, "guides")
        parts = in_parts(normalize(features.tap()), guides)
        guidance = torch.cat([(part @ guides.T).topk(self.k, 1).values.double().mean(1) for part in parts])
        return -guidance * _confidence(features.logits)
