"""Class-activation maps whose coefficients a backward pass through the head gives: LIFT-CAM and LRP-CAM.

DeepLIFT's rescale rule is a gradient of the head, run on the activation and on the reference 0 together, in which
every nonlinearity has the slope between the two in the place of its derivative.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from assay.harness.forward import ForwardPass
from assay.harness.heads import Head, Targets
from assay.harness.network import Network
from assay.harness.seeds import SampleRng
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from .cam import ChannelWeighting
from .relevance.engine import RuleTable, Tape
from .relevance.operations import STRUCTURAL, Made, UnsupportedOp, is_property, on_path, spelling
from .relevance.rules import Epsilon, check_not_negative

Function = Callable[..., Tensor]

ELEMENTWISE = frozenset(
    {
        *("relu", "relu6", "hardtanh", "leaky_relu", "elu", "silu", "gelu", "hardswish", "mish", "tanh", "softplus"),
        *("sigmoid", "hardsigmoid"),
    }
)
MAXIMA = frozenset({"max_pool1d", "max_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d", "amax"})
JOINT = frozenset({"logsumexp"})
QUOTIENTS = frozenset({"div", "rdiv"})
SUMS = frozenset({"add", "sub", "rsub"})
# The gradient is the multiplier of what is linear: in all values together, or in one value on the path alone.
JOINTLY_LINEAR = (STRUCTURAL - {"where", "masked_fill"}) | SUMS
LINEAR = frozenset(
    {
        *("linear", "conv1d", "conv2d", "conv3d", "batch_norm", "mean", "sum", "interpolate", "neg"),
        *("avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d"),
    }
)
SHAPED = frozenset(  # constants that have a value's shape alone
    {
        *("zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full", "new_empty"),
        *("new_tensor", "size"),
    }
)
MEND = "choose a layer after it, or shapcam, which runs any head"
NODES = 8  # of the quadrature along the line from reference to value
TINY = 1e-10  # of differences whose slope is the derivative, as in Captum


class _Slopes(torch.autograd.Function):
    """An operation on stacked inputs [2B,...], values above references, whose backward is a rule for multipliers."""

    @staticmethod
    def forward(ctx: Any, rule: "Rule", function: Function, *inputs: Tensor) -> Tensor:
        ctx.rule, ctx.function = rule, function
        ctx.save_for_backward(*inputs)
        return function(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        return None, None, *ctx.rule(ctx.function, ctx.saved_tensors, gradient)


Rule = Callable[[Function, tuple[Tensor, ...], Tensor], tuple[Tensor, ...]]


def _differentiated(function: Function, inputs: tuple[Tensor, ...], gradient: Tensor) -> tuple[Tensor, ...]:
    leaves = tuple(x.detach().requires_grad_() for x in inputs)
    with torch.enable_grad():
        output = function(*leaves)
    return torch.autograd.grad(output, leaves, gradient)


def _twice(top: Tensor) -> Tensor:
    """Multipliers of the values, above nothing for the references."""
    return torch.cat([top, torch.zeros_like(top)])


def rescale(function: Function, inputs: tuple[Tensor, ...], gradient: Tensor) -> tuple[Tensor, ...]:
    """Delta out / Delta in for each element (Shrikumar et al. 2017, Eq. 12), the derivative where Delta in is 0."""
    (x,) = inputs
    value, reference = x.chunk(2)
    step = value - reference
    after, before = function(x).chunk(2)
    (slope,) = _differentiated(function, (value,), torch.ones_like(after))
    slope = torch.where(step.abs() < TINY, slope, (after - before) / step)
    return (_twice(gradient.chunk(2)[0] * slope),)


def maximum(function: Function, inputs: tuple[Tensor, ...], gradient: Tensor) -> tuple[Tensor, ...]:
    """Delta out of a window to its arg-max among the values or, where the reference is higher, among the references."""
    value, reference = inputs[0].chunk(2)
    after, before = function(value), function(reference)
    change = gradient.chunk(2)[0] * (after - before)
    rises = after >= before
    (up,) = _differentiated(function, (value,), change * rises)
    (down,) = _differentiated(function, (reference,), change * ~rises)
    step = value - reference
    return (_twice(((up + down) / step).masked_fill(step.abs() < TINY, 0)),)


def averaged(function: Function, inputs: tuple[Tensor, ...], gradient: Tensor) -> tuple[Tensor, ...]:
    """The gradient averaged over the straight line from reference to value (Gauss-Legendre).

    For operations that join several values: products and logsumexp, which the rescale rule does not know. Local
    accuracy holds, for a product exactly.
    """
    pairs, top = [x.chunk(2) for x in inputs], gradient.chunk(2)[0]
    totals = [torch.zeros_like(value) for value, _ in pairs]
    for node, weight in zip(*(each.tolist() for each in np.polynomial.legendre.leggauss(NODES)), strict=True):
        share = (1 + node) / 2
        points = tuple(reference + share * (value - reference) for value, reference in pairs)
        for total, each in zip(totals, _differentiated(function, points, top), strict=True):
            total += weight / 2 * each
    return tuple(_twice(total) for total in totals)


def _quotient(dividend: Any, divisor: Any) -> Tensor:
    """dividend / divisor with DeepLIFT's multipliers: a product with the reciprocal, to which the rescale rule applies.

    Local accuracy holds exactly unless the reference's divisor is 0.
    """
    if not on_path(divisor):
        return dividend / divisor
    inverse = _Slopes.apply(rescale, torch.reciprocal, divisor)
    return _Slopes.apply(averaged, torch.mul, dividend, inverse) if on_path(dividend) else dividend * inverse


class DeepLift(TorchFunctionMode):
    """Gives every nonlinear operation on the path from a stacked leaf [2B,...] DeepLIFT's multipliers as gradient.

    What is computed of the activation by another way (a mask x > 0, a detached value) is no constant between value and
    reference: what joins it with the path is refused, as is what runs unseen.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self._made = Made(head, MEND)
        self._loose: Any = WeakTensorKeyDictionary()  # values off the path that are computed from what is on it

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        values = [value for value in _flat((*args, *options.values())) if isinstance(value, Tensor)]
        carried = [value for value in values if on_path(value)]
        loose = any(value in self._loose for value in values)
        if not torch.is_grad_enabled() or not (carried or loose):
            return func(*args, **options)
        name, _ = spelling(func, options)
        if carried and not is_property(func):
            self._made.check(carried)
        if carried and loose:
            raise UnsupportedOp(name, "reads a mask or a detached value of the activation here", MEND)
        output = self._multiplied(name, func, args, options, len(carried)) if carried else func(*args, **options)
        for value in _flat([output]):
            self._remember(name, value)
        return output

    def _remember(self, name: str, value: Any) -> None:
        if isinstance(value, Tensor) and on_path(value):
            self._made.add([value])
        elif isinstance(value, Tensor) and name not in SHAPED:
            self._loose[value] = True

    def _multiplied(self, name: str, func: Function, args: Any, options: Mapping[str, Any], carried: int) -> Any:
        """The operation on the path, with its multipliers."""
        if name in ELEMENTWISE:
            return _Slopes.apply(rescale, lambda x: func(x, *args[1:], **options), args[0])
        if name in MAXIMA:
            return _Slopes.apply(maximum, lambda x: func(x, *args[1:], **options), args[0])
        if name in JOINT:
            return _Slopes.apply(averaged, lambda x: func(x, *args[1:], **options), args[0])
        if name == "mul":
            both = all(map(on_path, args))
            return _Slopes.apply(averaged, func, *args) if both else func(*args, **options)
        if name in QUOTIENTS and not options:  # a rounding mode is not linear
            return _quotient(*(args[::-1] if name == "rdiv" else args))
        if name in JOINTLY_LINEAR or (name in LINEAR and carried == 1):
            return func(*args, **options)
        output: Any = func(*args, **options)
        if not on_path(output):
            return output
        raise ValueError(f"the head calls {name!r}, for which DeepLIFT has no rule: {MEND}")


def _flat(values: Any) -> list[Any]:
    found: list[Any] = []
    for value in values:
        found += _flat(value) if isinstance(value, (list, tuple)) else [value]
    return found


def multipliers(head: Head, activation: Tensor, targets: Targets) -> Tensor:
    """DeepLIFT's multipliers of each pair's logit at the activation [B,...], reference 0: [P,...]."""
    count = len(activation)
    leaf = torch.cat([activation, torch.zeros_like(activation)]).requires_grad_()
    rows = torch.arange(count, device=activation.device).repeat(2)
    with torch.enable_grad(), DeepLift(head.module):
        logits = head(leaf, rows)
    made = activation.new_zeros(len(targets.image), *activation.shape[1:])
    for pairs in targets.rounds():
        start = torch.zeros_like(logits)
        start[targets.image[pairs], targets.label[pairs]] = 1
        head.passes.head += count
        (gradient,) = torch.autograd.grad(logits, leaf, start, retain_graph=True)
        made[pairs] = gradient[:count][targets.image[pairs]]
    return made


@dataclass(frozen=True)
class LiftCAM(ChannelWeighting):
    """alpha_k = Sum_ij of DeepLIFT's contributions of A_k to the logit, reference 0 (Jung and Oh 2021, Eq. 10).

    Rescale rule; products share by the average of their factors. Sum_k alpha_k = F(A) - F(0); on a head that is linear
    in masks alpha is the Shapley value (supplement, section 3.1), and DeepSHAP with its one reference is the same
    (section 5.1).
    """

    VERSION: ClassVar[int] = 2

    def coefficients(self, forward: ForwardPass, activation: Tensor, targets: Targets, rng: SampleRng) -> Tensor:
        """alpha [P,K]."""
        each = multipliers(forward.head(self.place), activation, targets)
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
