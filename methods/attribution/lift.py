"""Class-activation maps whose coefficients a backward pass through the head gives: LIFT-CAM and LRP-CAM."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from assay.harness.forward import ForwardPass
from assay.harness.heads import Head, Targets
from assay.harness.network import Network
from assay.harness.seeds import SampleRng
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .cam import ChannelWeighting
from .multipliers import SUMS, Scope, multipliers
from .relevance.engine import Tape
from .relevance.operations import spelling
from .relevance.rules import Epsilon, check_not_negative
from .relevance.table import RuleTable

SCOPE = Scope("the head", "choose a layer after it, or shapcam, which runs any head", products=True)


@dataclass(frozen=True)
class LiftCAM(ChannelWeighting):
    """alpha_k = Sum_ij of DeepLIFT's contributions of A_k to the logit, reference 0 (Jung and Oh 2021, Eq. 10).

    Rescale rule; products share by the average of their factors. Sum_k alpha_k = F(A) - F(0); on a head that is linear
    in masks alpha is the Shapley value (supplement, section 3.1), and DeepSHAP with its one reference is the same
    (section 5.1).
    """

    VERSION: ClassVar[int] = 3

    def coefficients(self, forward: ForwardPass, activation: Tensor, targets: Targets, rng: SampleRng) -> Tensor:
        """alpha [P,K]."""
        head, reference = forward.head(self.place), torch.zeros_like(activation)
        forward.network.passes.head += len(activation) * len(targets.rounds())
        each = multipliers(head, head.module, activation, reference, targets, SCOPE).values
        return torch.einsum("pkhw,pkhw->pk", each, activation[targets.image])


class _Shortcuts(TorchFunctionMode):
    """Lets each given tensor that is added to an activation be one itself, which relevance can reach.

    Without a graph it would be a constant like a bias of the addition, and take no share of the relevance.
    """

    def __init__(self, values: Sequence[Tensor]) -> None:
        super().__init__()
        self.values = values

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if spelling(func, options).name in SUMS:
            args = [self._reachable(value) for value in args]
            options = {name: self._reachable(value) for name, value in options.items()}
        return func(*args, **options)

    def _reachable(self, value: Any) -> Any:
        return value.detach().requires_grad_() if any(value is each for each in self.values) else value


class _HeadModule(nn.Module):
    """A head as a network whose input is the activation."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.layers, self.head = head.module, [head]  # in a list: no module of its own
        crossing = zip(head.crossing, head.constants, strict=True)
        per_image = [value for how, value in crossing if how.per_image and isinstance(value, Tensor)]
        self.shortcuts = [value for value in per_image if value.is_floating_point()]

    def forward(self, activation: Tensor) -> Tensor:
        with _Shortcuts(self.shortcuts):
            return self.head[0](activation)


@dataclass(frozen=True)
class LRPCAM(ChannelWeighting):
    """alpha_k = Sum_ij R(A_k), relevance from the logit by LRP's epsilon rule (LIFT-CAM's supplement, Eq. 1).

    Biases keep their share, so that Sum_k alpha_k is not F(A) - F(0), and so do shortcuts that pass the layer by: what
    the head adds from them takes its part x_k / (x_0 + x_1) of the relevance; what it multiplies by takes none.

    epsilon: stabiliser, relative to the mean modulus of a layer's outputs.
    """

    epsilon: float = 1e-6
    VERSION: ClassVar[int] = 4

    def __post_init__(self) -> None:
        check_not_negative("epsilon", self.epsilon)

    def coefficients(self, forward: ForwardPass, activation: Tensor, targets: Targets, rng: SampleRng) -> Tensor:
        """alpha [P,K]."""
        channels, head = activation.shape[1], _HeadModule(forward.head(self.place))
        network = Network(head, (0.0,) * channels, (1.0,) * channels).to(activation.device, activation.dtype)
        tape = Tape.record(ForwardPass(network, activation))
        table = RuleTable(Epsilon(self.epsilon), method="LRP-CAM")

        def relevance(one_hot: Tensor) -> Tensor:
            forward.network.passes.head += len(one_hot)
            return tape.pull(table, tape.logits, one_hot * tape.logits.detach(), tape.inputs)

        return tape.by_pair(targets, relevance).sum((2, 3))
