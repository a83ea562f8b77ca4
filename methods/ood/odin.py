"""ODIN: a small step towards the prediction, and a softmax at a high temperature."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from assay.harness.choices import check_choice
from assay.harness.detection import DetectorNeeds, Features, State
from assay.harness.forward import ForwardPass
from torch import Tensor
from torch.nn.functional import cross_entropy

Space = Literal["pixel", "normalised"]


def check_space(name: str, space: str) -> None:
    """Raise ValueError unless the space is known."""
    check_choice(name, space, get_args(Space))


def stepped(forward: ForwardPass, gradient: Tensor, size: float, space: Space) -> Tensor:
    """Normalised inputs [B,3,H,W] moved by `size` against the sign of a gradient, without clamping.

    size: in units of pixels in [0,1], or of the normalised input. The sign of 0 is +1, as in the authors' code.
    """
    sign = torch.where(gradient >= 0, 1.0, -1.0).to(gradient)
    return forward.inputs.detach() - size * (sign / forward.network.std if space == "pixel" else sign)


@dataclass(frozen=True)
class ODIN:
    """Minus the highest softmax at temperature T of the stepped input (Liang, Li and Srikant 2018, Eq. 1-2).

    The step goes against the sign of the gradient of the cross-entropy of z / T at the predicted class. Two forward
    passes and one backward an image, of which the first is shared; with eps=0 the logits are enough.

    temperature: T. eps: the step's size; 0.0016 is what the DICE and LINe tables' ancestor tuned for DenseNet on
    CIFAR-10 (0.0012 CIFAR-100). eps_space: pixel ([0,1], divided by the standard deviation inside), or normalised
    (there 0.005 ResNet50, 0.03 MobileNetV2).
    """

    temperature: float = 1000.0
    eps: float = 0.0016
    eps_space: Space = "pixel"
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_space("eps_space", self.eps_space)
        if self.temperature <= 0:
            raise ValueError(f"temperature={self.temperature}: choose one above 0")

    def needs(self) -> DetectorNeeds:
        """The images, unless eps is 0."""
        return DetectorNeeds(images=self.eps != 0)

    def score(self, features: Features, state: State) -> Tensor:
        """[N], without a step."""
        if self.eps != 0:
            raise ValueError(f"{self} steps from the images: call score_images, or set eps=0")
        return self._confidence(features.logits)

    def score_images(self, forward: ForwardPass, features: Features, state: State) -> Tensor:
        """[N]."""
        if self.eps == 0:
            return self._confidence(forward.logits)
        gradient = forward.gradient_of(lambda logits, _: self._loss(logits))
        with torch.no_grad():
            return self._confidence(forward.network(stepped(forward, gradient, self.eps, self.eps_space)))

    def _loss(self, logits: Tensor) -> Tensor:
        return cross_entropy(logits.double() / self.temperature, logits.argmax(1), reduction="none")

    def _confidence(self, logits: Tensor) -> Tensor:
        """In float64: at T = 1000 scores lie within 1e-4 of 1/C, where float32 would make ties."""
        return -(logits.double() / self.temperature).softmax(1).amax(1)
