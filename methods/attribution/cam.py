"""Class-activation maps: a weight for each channel of one layer, and the weighted sum of its activations."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.layouts import Layout, seen_as
from assay.harness.seeds import SampleRng
from assay.harness.types import Attribution, Needs
from torch import Tensor

from .heads import anatomy
from .layers import spatial


def weighted_map(activation: Tensor, coefficients: Tensor, targets: Targets, signed: bool) -> Tensor:
    """Sum_k alpha_k A_k, rectified unless `signed`: activation [B,K,h,w], coefficients [P,K] -> [P,h,w]."""
    chosen = activation[targets.image]
    summed = torch.einsum("pk,pkhw->phw", coefficients, chosen)
    return summed if signed else summed.clamp(min=0)


def feature_map(forward: ForwardPass, layer: str) -> Tensor:
    """The layer's activation, checked to be [B,K,h,w] over the image.

    Raises:
        ValueError: it has no height and width, or not the image's, or the network's graph leaves them open.
    """
    activation = forward.activation(layer)
    try:
        values = spatial(activation, layer, forward.inputs.shape[2:], has_layout=True)
    except ValueError as error:
        would = ", ".join(forward.network.maps(forward.inputs)) or "none was found"
        raise ValueError(f"{error}. Layers that would do: {would}") from error
    if not forward.network.knows_layout(layer):
        raise ValueError(
            f"layer {layer!r} gives {list(values.shape)}, and the network's graph does not say which of these are "
            "channels: say layout=nchw or layout=nhwc (method.NAME.layout, or target_layout in the model's config)"
        )
    return values


@dataclass(frozen=True)
class ChannelWeighting:
    """What class-activation maps share: map = relu(Sum_k alpha_k A_k); a method says what alpha is.

    layer: whose activations are weighted. signed: keep negative values of the map. layout: of the activations: nchw,
    nhwc (channels last), tokens (of patches, row by row); None: as the network's graph says.
    """

    layer: str
    signed: bool = False
    layout: Layout | None = field(default=None, kw_only=True)

    @property
    def place(self) -> str:
        """The layer in its layout, by the network's name for it."""
        return seen_as(self.layer, self.layout)

    def needs(self) -> Needs:
        """The layer's activation; what follows takes the head alone."""
        return Needs(layers=(self.place,))

    def attribute(self, forward: ForwardPass, targets: Targets, rng: SampleRng) -> Attribution:
        """[P,h,w] at the layer's resolution, with coefficients [P,K]."""
        activation = feature_map(forward, self.place)
        coefficients = self.coefficients(forward, activation, targets, rng)
        return Attribution(weighted_map(activation, coefficients, targets, self.signed), coefficients, self.place)

    def coefficients(self, forward: ForwardPass, activation: Tensor, targets: Targets, rng: SampleRng) -> Tensor:
        """alpha [P,K] of activations [B,K,h,w]."""
        raise NotImplementedError


@dataclass(frozen=True)
class CAM(ChannelWeighting):
    """alpha_k = w_ck, the class' row of the only affine layer between the channels and the logits (Zhou et al. 2016).

    For heads in which that layer reads one number a channel or is a 1x1 convolution, and in which only average pools,
    dropout and flattening come before it (Eq. 1); after it may come what acts on each class alone, as SqueezeNet's ReLU
    and pool. Raises ValueError for other heads, such as those with a ReLU or a max-pool before it.
    """

    VERSION: ClassVar[int] = 2

    def coefficients(self, forward: ForwardPass, activation: Tensor, targets: Targets, rng: SampleRng) -> Tensor:
        """alpha [P,K]."""
        head = anatomy(forward.head(self.place).module)
        weight = None
        if head is not None and head.is_single and all(step.kind == "linear" for step in head.before):
            weight = head.first.weight
        if weight is None or weight[0].numel() != activation.shape[1]:
            raise ValueError(
                f"CAM reads the weights of a head that averages layer {self.layer!r} over space and applies one linear "
                "layer, with nothing else (a ReLU, a max-pool) before that, which this network's head is not: choose a "
                "layer after those, or use gradcam, which equals it where it is, up to a factor"
            )
        return weight[targets.label].flatten(1)


@dataclass(frozen=True)
class GradCAM(ChannelWeighting):
    """alpha_k = mean over space of df_c/dA_k; map = relu(Sum_k alpha_k A_k) (Selvaraju et al. 2017, Eq. 1-2).

    layer: whose activations are weighted. signed: keep negative values of the map.
    """

    VERSION: ClassVar[int] = 1

    def coefficients(self, forward: ForwardPass, activation: Tensor, targets: Targets, rng: SampleRng) -> Tensor:
        """alpha [P,K]."""
        return forward.head(self.place).gradient(activation, targets).mean((2, 3))
