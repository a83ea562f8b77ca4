"""KNN: how far the k-th nearest training image is."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from assay.harness.detection import DetectorNeeds, Features, State, fitted
from assay.harness.training import TrainingSet
from torch import Tensor
from torch.nn.functional import normalize

PAIRS = 2**24  # similarities held at once: 64 MiB


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
        if self.k < 1:
            raise ValueError(f"k={self.k}: the nearest neighbour is k=1")
        if not 0 < self.share <= 1:
            raise ValueError(f"share={self.share}: choose a share of the training images above 0 and up to 1")

    def needs(self) -> DetectorNeeds:
        """Penultimate features, of training images as well."""
        return DetectorNeeds(penultimate=True, training=True)

    def fit(self, training: TrainingSet) -> State:
        """neighbours: [n,D], rows of length 1."""
        bank = normalize(training.bank.tap())
        rows = min(len(bank), round(self.share * training.count))
        if self.k > rows:
            raise ValueError(
                f"k={self.k} is more than the {rows} training images searched (share={self.share} of {training.count}, "
                f"at most {training.BANK}): choose a smaller k or a larger share"
            )
        if rows < len(bank):
            drawn = np.random.default_rng([training.seed, rows]).choice(len(bank), rows, replace=False)
            bank = bank[torch.from_numpy(np.sort(drawn))]
        return {"neighbours": bank}

    def score(self, features: Features, state: State) -> Tensor:
        """[N]."""
        (neighbours,) = fitted(self, state, "neighbours")
        return torch.cat([self._distance(part, neighbours) for part in _parts(normalize(features.tap()), neighbours)])

    def _distance(self, queries: Tensor, neighbours: Tensor) -> Tensor:
        """Found by the similarity, then measured: sqrt(2 - 2 similarity) is wrong in the fourth digit near 0."""
        similarity = queries @ neighbours.T
        kth = similarity.topk(self.k, 1).indices[:, -1]
        return (queries - neighbours[kth]).norm(dim=1)


def _parts(queries: Tensor, neighbours: Tensor) -> Iterator[Tensor]:
    return iter(queries.split(max(1, PAIRS // len(neighbours))))
