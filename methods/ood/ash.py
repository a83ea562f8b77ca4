"""ASH-S: keep a sample's largest activations, scale them up by how much was dropped, then the energy."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from assay.harness.detection import DetectorNeeds, Features, State
from torch import Tensor

from .logits import energy_score
from .percentiles import check_percentile


def shaped(features: Tensor, percentile: float) -> Tensor:
    """The largest (100 - p) % of each row's entries times exp(sum before / sum after), 0 elsewhere: [N,D].

    As many are kept as in the authors' code, D - round(p D / 100), and at least one.
    """
    width = features.shape[1]
    kept = max(1, width - round(width * percentile / 100))
    top = features.topk(kept, 1)
    after = top.values.sum(1, keepdim=True)
    # A row of zeros stays one.
    scale = torch.where(after == 0, 0, features.sum(1, keepdim=True) / after).exp()
    return torch.zeros_like(features).scatter(1, top.indices, top.values * scale)


@dataclass(frozen=True)
class ASH:
    """Energy of the last layer on shaped penultimate features (Djurisic et al. 2023, the variant ASH-S).

    percentile: p, the share of a sample's activations to drop.
    """

    percentile: float = 90
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_percentile("percentile", self.percentile)

    def needs(self) -> DetectorNeeds:
        """Penultimate features."""
        return DetectorNeeds(penultimate=True)

    def score(self, features: Features, state: State) -> Tensor:
        """[N]."""
        return energy_score(features.linear_head()(shaped(features.tap(), self.percentile)))
