"""ViM: a virtual logit from what the features have outside of their principal space."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from assay.harness.detection import DetectorNeeds, Features, State, fitted
from assay.harness.training import TrainingSet
from torch import Tensor

from .logits import energy_score


@dataclass(frozen=True)
class ViM:
    """alpha * |residual| - log sum_c exp(z_c) (Wang et al. 2022).

    The residual of a is that of a + pinv(W) b, where the origin has logits of zero, outside of the `dimension`
    leading eigenvectors of the training features' second moment about the same origin. alpha = mean highest logit /
    mean residual, over the training set, so that both terms are of one size.

    dimension: null is the authors' rule, 1000 of more than 1500 features and otherwise 512; half, if there are not
    more than 512 (where theirs leaves no residual).
    """

    dimension: int | None = None
    VERSION: ClassVar[int] = 2

    def needs(self) -> DetectorNeeds:
        """Penultimate features; their second moments in training."""
        return DetectorNeeds(penultimate=True, training=True)

    def fit(self, training: TrainingSet) -> State:
        """origin: [D]. residual_space: [D,D-dimension], orthonormal columns. alpha: []. In float64.

        Raises:
            ValueError: the training features have no residual outside of so many dimensions.
        """
        weight, bias = (values.double() for values in training.head)
        origin = -torch.linalg.pinv(weight) @ bias
        moments, dimension = training.moments(), self._dimension(len(origin))
        spectrum = moments.spectrum(moments.second_about(origin))
        if dimension >= spectrum.rank:
            smaller = f"dimension from 1 to {spectrum.rank - 1}, " if spectrum.rank > 1 else ""
            raise ValueError(
                f"the training features have rank {spectrum.rank} of {len(origin)}, so dimension={dimension} leaves no "
                f"residual: choose {smaller}a larger train set, or another detector"
            )
        state = {"origin": origin, "residual_space": spectrum.vectors[:, :-dimension].contiguous()}
        highest = residual = 0.0
        for part in training.parts():
            highest += float(part.logits.amax(1).double().sum())
            residual += float(_residual(part.tap(), **state).sum())
        return state | {"alpha": torch.tensor(highest / residual, dtype=torch.float64)}

    def _dimension(self, width: int) -> int:
        automatic = 1000 if width > 1500 else 512 if width > 512 else width // 2
        dimension = automatic if self.dimension is None else self.dimension
        if not 0 < dimension < width:
            raise ValueError(f"dimension={dimension} of {width} features: choose from 1 to {width - 1}, or null")
        return dimension

    def score(self, features: Features, state: State) -> Tensor:
        """[N] in float64."""
        origin, space, alpha = fitted(self, state, "origin", "residual_space", "alpha")
        return alpha * _residual(features.tap(), origin, space) + energy_score(features.logits.double())


def _residual(values: Tensor, origin: Tensor, residual_space: Tensor) -> Tensor:
    """Length of the part of a - o in the residual space: float64 [N]."""
    return ((values.double() - origin) @ residual_space).norm(dim=1)
