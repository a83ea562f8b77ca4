"""Class-activation maps from the head's gradient g = df_c/dA beyond its mean: Grad-CAM++, XGrad-CAM, Layer-CAM."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.layouts import Layout, seen_as
from assay.harness.seeds import SampleRng
from assay.harness.types import Attribution, Needs
from torch import Tensor

from .cam import ChannelWeighting, feature_map
from .relevance.rules import check_not_negative


@dataclass(frozen=True)
class GradCAMpp(ChannelWeighting):
    """alpha_k = Sum_ij w_ij relu(g_ij), w = g^2 / (2 g^2 + (Sum_ab A_ab) g^3) (Chattopadhay et al. 2018, Eq. 7, 19).

    w is 0 where g is, and epsilon stands in its denominator. As in pytorch-grad-cam; torch-cam sums A g^3 over space
    instead (correlation .98). Eq. 19 holds for y = exp(f_c): the factor exp(f_c) cancels when maps are normalised.
    """

    epsilon: float = 1e-6
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_not_negative("epsilon", self.epsilon)

    def coefficients(self, forward: ForwardPass, activation: Tensor, targets: Targets, rng: SampleRng) -> Tensor:
        """alpha [P,K]."""
        gradient = forward.head(self.place).gradient(activation, targets)
        mass = activation.sum((2, 3), keepdim=True)[targets.image]
        square = gradient.square()
        share = square / (2 * square + mass * square * gradient + self.epsilon)
        return (share.masked_fill(gradient == 0, 0) * gradient.clamp(min=0)).sum((2, 3))


@dataclass(frozen=True)
class XGradCAM(ChannelWeighting):
    """alpha_k = Sum_ij g_ij A_ij / (Sum_ij A_ij + epsilon) (Fu et al. 2020, Eq. 6)."""

    epsilon: float = 1e-7
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_not_negative("epsilon", self.epsilon)

    def coefficients(self, forward: ForwardPass, activation: Tensor, targets: Targets, rng: SampleRng) -> Tensor:
        """alpha [P,K]."""
        gradient = forward.head(self.place).gradient(activation, targets)
        mass = activation.sum((2, 3)) + self.epsilon
        return torch.einsum("pkhw,pkhw->pk", gradient, activation[targets.image]) / mass[targets.image]


@dataclass(frozen=True)
class LayerCAM:
    """map = relu(Sum_k relu(g_k) A_k), a weight for each position: there is no coefficient vector (Jiang et al. 2021).

    layer: whose activations are weighted. signed: keep negative values of the map. layout: as in `ChannelWeighting`.
    """

    layer: str
    signed: bool = False
    layout: Layout | None = field(default=None, kw_only=True)
    VERSION: ClassVar[int] = 1

    @property
    def place(self) -> str:
        """The layer in its layout, by the network's name for it."""
        return seen_as(self.layer, self.layout)

    def needs(self) -> Needs:
        """The layer's activation; the gradient takes the head alone."""
        return Needs(layers=(self.place,))

    def attribute(self, forward: ForwardPass, targets: Targets, rng: SampleRng) -> Attribution:
        """[P,h,w] at the layer's resolution."""
        activation = feature_map(forward, self.place)
        weights = forward.head(self.place).gradient(activation, targets).clamp(min=0)
        values = torch.einsum("pkhw,pkhw->phw", weights, activation[targets.image])
        return Attribution(values if self.signed else values.clamp(min=0), layer=self.place)
