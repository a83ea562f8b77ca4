"""FullGrad (Srinivas and Fleuret 2019): the input's share of a logit and every bias' share, as one map."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from assay.harness.choices import check_choice
from assay.harness.forward import ForwardPass, check_rows
from assay.harness.heads import Targets
from assay.harness.seeds import SampleRng
from assay.harness.types import Attribution, Needs
from torch import Tensor

from .layers import spatial
from .relevance.engine import Tape
from .relevance.operations import Operation, UnsupportedOp
from .relevance.rules import per_sample, ratio, vjp

Rescale = Literal["image", "channel", "none"]
COMPLETE = 1e-2  # of the sum of moduli: rounding is far below, a constant that was not seen is not
MEND = "full gradients need a network of layers, biases, batch-norms and activations: use integrated_gradients"


# The parts: gradient times bias of each operation, in the shape of its output. Their sum and that of x df/dx is the
# logit, since every operation is Jacobian times input plus its bias.


def _of_layer(op: Operation, gradient: Tensor) -> Tensor | None:
    assert op.affine is not None
    bias = op.affine.bias
    if bias is None:
        return None
    if op.affine.is_dense:
        part = gradient * bias
        return part.movedim(-1, 1) if part.ndim == 4 else part
    return gradient * bias.view(-1, *[1] * (gradient.ndim - 2))


def _of_constant(op: Operation, gradient: Tensor) -> Tensor | None:
    return None if op.shift is None else gradient * op.shift


def _of_activation(op: Operation, gradient: Tensor) -> Tensor | None:
    """The implicit bias eta(z) - eta'(z) z of what is not piecewise linear through 0; nothing of a ReLU."""
    if op.name in HOMOGENEOUS or len(op.inputs) == 2:
        return None
    (x,) = op.inputs
    return gradient * op.function(x) - vjp(op.function, op.inputs, gradient)[0] * x


def _of_joint(op: Operation, gradient: Tensor) -> Tensor | None:
    """The entropy of logsumexp's weights p over positions, y - Sum p x: it has no place."""
    (x,) = op.inputs
    return per_sample(gradient * op.function(x)) - per_sample(vjp(op.function, op.inputs, gradient)[0] * x).view(
        -1, *[1] * (gradient.ndim - 1)
    )


def _of_nothing(op: Operation, gradient: Tensor) -> Tensor | None:
    return None


def _refused(op: Operation, gradient: Tensor) -> Tensor | None:
    raise UnsupportedOp(op.name, "has no bias of its own in FullGrad", MEND)


HOMOGENEOUS = frozenset({"relu", "leaky_relu", "prelu"})
MIXING = frozenset({"local_response_norm"})  # activations of more than one unit
PARTS: Mapping[str, Callable[[Operation, Tensor], Tensor | None]] = {
    "affine": _of_layer,
    **dict.fromkeys(("norm", "shift"), _of_constant),
    **dict.fromkeys(("activation", "winner"), _of_activation),
    "joint": _of_joint,
    **dict.fromkeys(("pool", "maximum", "add"), _of_nothing),
    **dict.fromkeys(("statistics", "gated", "gate", "normalise", "softmax", "product"), _refused),
}


def bias_part(op: Operation, gradient: Tensor) -> Tensor | None:
    """Gradient times bias at the operation's output, shaped like it; None where it has no bias.

    Raises:
        UnsupportedOp: gates, norms of the image's own statistics, local response normalisation.
    """
    return (_refused if op.name in MIXING else PARTS[op.kind])(op, gradient)


# Maps


def _spread(values: Tensor, dims: tuple[int, ...]) -> Tensor:
    """(v - min) / (max - min) over these dimensions, 0 where all are equal."""
    low, high = values.amin(dims, keepdim=True), values.amax(dims, keepdim=True)
    return ratio(values - low, high - low)


RESCALE: Mapping[str, Callable[[Tensor], Tensor]] = {
    "image": partial(_spread, dims=(1, 2, 3)),
    "channel": partial(_spread, dims=(2, 3)),
    "none": lambda values: values,
}


class _Sum:
    """The maps of a batch as they add up, and the sums that completeness compares."""

    def __init__(self, method: "FullGrad", inputs: Tensor) -> None:
        self.method, self.size = method, inputs.shape[2:]
        self.maps = torch.zeros_like(inputs[:, 0])
        self.total, self.moduli = (torch.zeros_like(inputs[:, 0, 0, 0]) for _ in range(2))

    def take(self, op: Operation, gradient: Tensor) -> None:
        """Add the operation's part, if it has one."""
        part = bias_part(op, gradient)
        if part is not None:
            check_rows(op.affine.layer if op.affine is not None else op.name, part, len(self.maps))
            self.add(spatial(part, op.name, self.size) if part.ndim == 4 else part)

    def add(self, part: Tensor) -> None:
        """[B,K,h,w], or [B,...] of what has no place: that counts for completeness alone."""
        magnitude = part.abs()
        self.total += per_sample(part).view(-1)
        self.moduli += per_sample(magnitude).view(-1)
        if part.ndim == 4:
            self.maps += self.method.placed(magnitude if self.method.absolute else part, self.size)


@dataclass(frozen=True)
class FullGrad:
    """psi(x df/dx) + Sum over biases b of psi(b df/db) (Srinivas and Fleuret 2019, Eq. 4-5).

    The parts sum to the logit. Biases: of convolutions and fully connected layers, of batch-norms (beta - mu gamma /
    sigma), constants, and implicit ones of activations other than ReLU and of logsumexp; parts without height and width
    (fully connected layers) are in no map.

    psi: modulus (`absolute`), min-max, sum over channels, bilinear to the input's size. rescale: over all of an image's
    channels together (`image`, the published code), each by itself (`channel`, pytorch-grad-cam), or `none`.
    align_corners: of the bilinear resize (the published code: true).
    """

    absolute: bool = True
    rescale: Rescale = "image"
    align_corners: bool = True
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_choice("rescale", self.rescale, RESCALE)

    def needs(self) -> Needs:
        """Nothing shared: the gradients of all operations are read."""
        return Needs(by_rounds=True)

    def attribute(self, forward: ForwardPass, targets: Targets, rng: SampleRng) -> Attribution:
        """[P,H,W].

        Raises:
            UnsupportedOp: the network computes with more than biases and activations.
            ValueError: the parts do not sum to the logit: there is a constant that was not seen.
        """
        tape = Tape.record(forward, batch_norm="apart")
        return Attribution(tape.by_pair(targets, lambda one_hot: self.summed(tape, one_hot).maps))

    def summed(self, tape: Tape, one_hot: Tensor) -> _Sum:
        """The sum of all parts of each image's class, checked to be complete."""
        parts = _Sum(self, tape.inputs.detach())
        gradient = tape.pull(None, tape.logits, one_hot, tape.inputs, parts.take)
        parts.add(tape.inputs.detach() * gradient)
        _check_complete(parts, (tape.logits.detach() * one_hot).sum(1))
        return parts

    def placed(self, part: Tensor, size: torch.Size) -> Tensor:
        """[B,K,h,w] -> [B,H,W]."""
        summed = RESCALE[self.rescale](part).sum(1, keepdim=True)
        if summed.shape[2:] == size:
            return summed[:, 0]
        return F.interpolate(summed, size, mode="bilinear", align_corners=self.align_corners)[:, 0]


def _check_complete(parts: _Sum, logits: Tensor) -> None:
    wrong = (parts.total - logits).abs() > COMPLETE * parts.moduli
    if wrong.any():
        row = int(wrong.int().argmax())
        raise ValueError(
            f"FullGrad's parts sum to {float(parts.total[row]):.3g} and the logit is {float(logits[row]):.3g}: the "
            f"network adds constants that are no biases (a concatenation or padding with numbers); {MEND}"
        )
