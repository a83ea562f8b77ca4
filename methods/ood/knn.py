"""KNN: how far the k-th nearest training image is."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from assay.harness.detection import DetectorNeeds, Features, State, fitted
from assay.harness.training import TrainingSet
from torch import Tensor
from torch.nn.functional import normalize

from .neighbours import check_search, directions, in_parts, searched


@dataclass(frozen=True)
class KNN:
    """Euclidean distance of the normalised penultimate features to their k-th neighbour in training (Sun et al. 2022).

    k: 50 CIFAR-10, 1000 ImageNet with all of its images (10 with a share of 0.01). share: of the training images
    to search, drawn uniformly by the training set's seed; at most `TrainingSet.BANK` images whatever the share.
    """

    k: int = 50
    share: float = 1.0
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_search(self.k, self.share)

    def needs(self) -> DetectorNeeds:
        """Penultimate features, of training images as well."""
        return DetectorNeeds(penultimate=True, training=True)

    def fit(self, training: TrainingSet) -> State:
        """neighbours: [n,D], rows of length 1."""
        return {"neighbours": directions(searched(training, self.k, self.share).tap())}

    def score(self, features: Features, state: State) -> Tensor:
        """[N]."""
        (neighbours,) = fitted(self, state, "neighbours")
        return torch.cat([self._distance(part, neighbours) for part in in_parts(normalize(features.tap()), neighbours)])

    def _distance(self, queries: Tensor, neighbours: Tensor) -> Tensor:
        """Found by the similarity, then measured: sqrt(2 - 2 similarity) is wrong in the fourth digit near 0."""
        similarity = queries @ neighbours.T
        kth = similarity.topk(self.k, 1).indices[:, -1]
        return (queries - neighbours[kth]).norm(dim=1)
