"""Class-activation maps: a weight for each channel of one layer, and the weighted sum of its activations."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harness.network import ForwardPass, Targets
from harness.types import Attribution, Needs, SampleRng


def weighted_map(activation: Tensor, coefficients: Tensor, targets: Targets, signed: bool) -> Tensor:
    """Sum_k alpha_k A_k, rectified unless `signed`: activation [B,K,h,w], coefficients [P,K] -> [P,h,w]."""
    chosen = activation[targets.image]
    summed = torch.einsum("pk,pkhw->phw", coefficients, chosen)
    return summed if signed else summed.clamp(min=0)


def feature_map(forward: ForwardPass, layer: str) -> Tensor:
    """The layer's activation, checked to be [B,K,h,w]."""
    activation = forward.activation(layer)
    if activation.ndim != 4:
        raise ValueError(
            f"layer {layer!r} gives {list(activation.shape)}; class-activation maps need [batch, channels, height, "
            "width]: choose a convolutional layer"
        )
    return activation


@dataclass(frozen=True)
class GradCAM:
    """alpha_k = mean over space of df_c/dA_k; map = relu(Sum_k alpha_k A_k) (Selvaraju et al. 2017, Eq. 1-2).

    layer: whose activations are weighted. signed: keep negative values of the map.
    """

    layer: str
    signed: bool = False
    VERSION: ClassVar[int] = 1

    def needs(self) -> Needs:
        """The layer's activation; the gradient takes the head alone."""
        return Needs(layers=(self.layer,))

    def attribute(self, forward: ForwardPass, targets: Targets, rng: SampleRng) -> Attribution:
        """[P,h,w] at the layer's resolution, with coefficients [P,K]."""
        activation = feature_map(forward, self.layer)
        coefficients = forward.head(self.layer).gradient(activation, targets).mean((2, 3))
        values = weighted_map(activation, coefficients, targets, self.signed)
        return Attribution(values, coefficients, self.layer)
