"""ViM: a virtual logit from what the features have outside of their principal space; Residual: that alone."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from assay.harness.detection import DetectorNeeds, Features, State, fitted
from assay.harness.training import TrainingSet
from torch import Tensor

from .logits import energy_score


def residual_space(training: TrainingSet, dimension: int | None) -> State:
    """origin: [D], where the logits are zero. residual_space: [D,D-dimension], orthonormal columns. In float64.

    The space is outside of the `dimension` leading eigenvectors of the training features' second moment about the
    origin -pinv(W) b. null is the authors' rule, 1000 of more than 1500 features and otherwise 512; half, if there are
    not more than 512 (where theirs leaves no residual).

    Raises:
        ValueError: the training features have no residual outside of so many dimensions.
    """
    weight, bias = (values.double() for values in training.head)
    origin = -torch.linalg.pinv(weight) @ bias
    moments, chosen = training.moments(), chosen_dimension(dimension, len(origin))
    spectrum = moments.spectrum(moments.second_about(origin))
    if chosen >= spectrum.rank:
        smaller = f"dimension from 1 to {spectrum.rank - 1}, " if spectrum.rank > 1 else ""
        raise ValueError(
            f"the training features have rank {spectrum.rank} of {len(origin)}, so dimension={chosen} leaves no "
            f"residual: choose {smaller}a larger train set, or another detector"
        )
    return {"origin": origin, "residual_space": spectrum.vectors[:, :-chosen].contiguous()}


def chosen_dimension(dimension: int | None, width: int) -> int:
    """Of the principal space of so many features: as given, or by the authors' rule."""
    automatic = 1000 if width > 1500 else 512 if width > 512 else width // 2
    chosen = automatic if dimension is None else dimension
    if not 0 < chosen < width:
        raise ValueError(f"dimension={chosen} of {width} features: choose from 1 to {width - 1}, or null")
    return chosen


def _residual(values: Tensor, origin: Tensor, residual_space: Tensor) -> Tensor:
    """Length of the part of a - o in the residual space: float64 [N]."""
    return ((values.double() - origin) @ residual_space).norm(dim=1)


@dataclass(frozen=True)
class ViM:
    """alpha * |residual| - log sum_c exp(z_c) (Wang et al. 2022).

    alpha = mean highest logit / mean residual, over the training set, so that both terms are of one size.

    dimension: of the principal space; null: see `residual_space`.
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
        state = residual_space(training, self.dimension)
        highest = residual = 0.0
        for part in training.parts():
            highest += float(part.logits.amax(1).double().sum())
            residual += float(_residual(part.tap(), **state).sum())
        return state | {"alpha": torch.tensor(highest / residual, dtype=torch.float64)}

    def score(self, features: Features, state: State) -> Tensor:
        """[N] in float64."""
        origin, space, alpha = fitted(self, state, "origin", "residual_space", "alpha")
        return alpha * _residual(features.tap(), origin, space) + energy_score(features.logits.double())


@dataclass(frozen=True)
class Residual:
    """|residual| of the features (Wang et al. 2022, the part of ViM that reads no logits).

    dimension: of the principal space; null: see `residual_space`.
    """

    dimension: int | None = None
    VERSION: ClassVar[int] = 1

    def needs(self) -> DetectorNeeds:
        """Penultimate features; their second moments in training."""
        return DetectorNeeds(penultimate=True, training=True)

    def fit(self, training: TrainingSet) -> State:
        """See `residual_space`."""
        return residual_space(training, self.dimension)

    def score(self, features: Features, state: State) -> Tensor:
        """[N] in float64, from 0."""
        origin, space = fitted(self, state, "origin", "residual_space")
        return _residual(features.tap(), origin, space)
