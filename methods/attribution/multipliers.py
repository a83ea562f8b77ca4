"""DeepLIFT's multipliers, of a whole network or of a head: the rescale rule as a gradient (Shrikumar et al. 2017).

Two forward passes: one of the references, which are remembered at every nonlinear operation, and one of the values.
In the gradient of the second each nonlinear operation has the slope between the two, Delta out / Delta in, in the
place of its derivative; what is linear keeps its derivative, which is that slope. So one backward pass gives every
multiplier m, and Sum m (x - x') = f(x) - f(x'). References that all images share are one row.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from assay.harness.heads import Targets, target_gradients
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from .relevance.operations import STRUCTURAL, Made, UnsupportedOp, flat, is_property, on_path, pure, spelling
from .relevance.rewriting import REWRITTEN
from .relevance.rules import Differentiable, vjp
from .relevance.rules import gradient as slope_of
from .stepwise import STEPWISE

Function = Callable[..., Tensor]

# Functions of each element: smooth but at 0, and with a kink elsewhere.
SMOOTH = frozenset(
    {
        *("leaky_relu", "prelu", "elu", "celu", "selu", "silu", "gelu", "mish", "sigmoid", "tanh", "softplus"),
        *("softsign", "abs", "square", "sqrt", "exp", "pow"),
    }
)
BENT = frozenset(
    {
        *("relu6", "hardtanh", "hardswish", "hardsigmoid", "_threshold"),
        *("clamp", "clamp_min", "clamp_max", "maximum", "minimum"),
    }
)
MAXIMA = frozenset({"max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "amax"})
JOINT = frozenset({"logsumexp"})
PRODUCTS = frozenset({"mul", "matmul", "__matmul__", "bmm"})
QUOTIENTS = frozenset({"div", "rdiv"})
SUMS = frozenset({"add", "sub", "rsub"})
# The gradient is the multiplier of what is linear: in all values together, or in one value on the path alone.
JOINTLY_LINEAR = (STRUCTURAL - {"where", "masked_fill"}) | SUMS | {"slice"}  # as torch.export writes x[:, 1:]
LINEAR = frozenset(
    {
        *("linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
        *("mean", "sum", "interpolate", "neg", "matmul", "__matmul__", "mm", "mul"),
        *("avg_pool1d", "avg_pool2d", "avg_pool3d"),
        *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
    }
)
SHAPED = frozenset(  # constants that have a value's shape alone
    {
        *("zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full", "new_empty"),
        *("new_tensor", "size"),
    }
)
NODES = 8  # of the quadrature along the line from reference to value
TINY = 1e-10  # of differences whose slope is the derivative, as in Captum


# Rules: what an operation was at the values and at the references -> how multipliers go back through it


class Kept(NamedTuple):
    """A value without graph, and the count of in-place operations that had written into it."""

    value: Tensor
    version: int

    @classmethod
    def of(cls, value: Tensor) -> "Kept":
        """As it is now."""
        return cls(value.detach(), value._version)

    def read(self) -> Tensor:
        """The value.

        Raises:
            ValueError: it has been written into since, so it is not what the operation read or made.
        """
        if self.value._version != self.version:
            raise ValueError(
                "DeepLIFT: the network writes in place into what a nonlinear operation has read or made (`y = relu(x); "
                "y += z`), which no gradient survives either: write `y = y + z`"
            )
        return self.value


class Reference(NamedTuple):
    """An operation in the pass of the references; of one input, with its graph there unless it wrote in place."""

    name: str
    function: Function
    inputs: tuple[Tensor, ...]
    output: Tensor


Back = Callable[[Tensor], tuple[Tensor, ...]]  # multipliers of the output -> multipliers of each input
Rule = Callable[[Function, tuple[Tensor, ...], Tensor, Reference], Back]


def _by(slope: Tensor) -> Back:
    return lambda gradient: (gradient * slope,)


def _quotient_or_derivative(
    function: Function, value: Tensor, output: Tensor, reference: Reference, margin: Tensor | float
) -> Tensor:
    """Delta out / Delta in, the derivative where |Delta in| is at most the margin."""
    step = value - reference.inputs[0]
    slope, near = (output - reference.output) / step, step.abs() <= margin
    if near.is_cpu and not near.any():  # elsewhere the host would wait for the answer
        return slope
    (derivative,) = vjp(function, (value,), torch.ones_like(output))
    return torch.where(near, derivative, slope)


def rescale(function: Function, inputs: tuple[Tensor, ...], output: Tensor, reference: Reference) -> Back:
    """Delta out / Delta in for each element (Shrikumar et al. 2017, Eq. 12), the derivative where Delta in is tiny.

    Tiny: at most TINY, or sqrt(eps) of the larger of the two, where the quotient would be one of rounding errors and
    the derivative is as good (both are on one side of 0).
    """
    (value,) = inputs
    larger = torch.maximum(value.abs(), reference.inputs[0].abs())
    margin = (larger * torch.finfo(value.dtype).eps ** 0.5).clamp(min=TINY)
    return _by(_quotient_or_derivative(function, value, output, reference, margin))


def rescale_bent(function: Function, inputs: tuple[Tensor, ...], output: Tensor, reference: Reference) -> Back:
    """The same of a function with kinks, across which no derivative stands for the quotient: tiny is at most TINY."""
    return _by(_quotient_or_derivative(function, inputs[0], output, reference, TINY))


def rectified(function: Function, inputs: tuple[Tensor, ...], output: Tensor, reference: Reference) -> Back:
    """The same of a ReLU, whose quotient is exact for the smallest Delta in: its derivative where that is 0."""
    step = inputs[0] - reference.inputs[0]
    slope = (output - reference.output).div_(step)
    if not slope.is_cpu or slope.sum().isnan():  # 0 / 0, which is rare; elsewhere the host would wait for the answer
        slope = torch.where(step == 0, inputs[0] > 0, slope)
    return _by(slope)


def maximum(function: Function, inputs: tuple[Tensor, ...], output: Tensor, reference: Reference) -> Back:
    """Delta out of a window to its arg-max among the values or, where the reference is higher, among the references."""
    kept, other = Kept.of(inputs[0]), reference.inputs[0].expand(inputs[0].shape)
    is_own = reference.inputs[0].shape == other.shape  # not one row for all images
    change = output - reference.output
    rises, step = change >= 0, inputs[0] - other

    def back(gradient: Tensor) -> tuple[Tensor, ...]:
        up, falling = slope_of(kept.read(), function, gradient * change * rises), gradient * change * ~rises
        down = slope_of(other, reference.function, falling) if is_own else vjp(function, (other,), falling)[0]
        return ((up + down).div_(step).masked_fill_(step.abs() < TINY, 0),)

    return back


def averaged(function: Function, inputs: tuple[Tensor, ...], output: Tensor, reference: Reference) -> Back:
    """The gradient averaged over the straight line from reference to value (Gauss-Legendre).

    For operations that join several values: products and logsumexp, which the rescale rule does not know. Local
    accuracy holds, for a product exactly.
    """
    kept = [Kept.of(x) for x in inputs]

    def back(gradient: Tensor) -> tuple[Tensor, ...]:
        pairs = [(each.read(), other) for each, other in zip(kept, reference.inputs, strict=True)]
        totals = [torch.zeros_like(value) for value, _ in pairs]
        for node, weight in zip(*(each.tolist() for each in np.polynomial.legendre.leggauss(NODES)), strict=True):
            share = (1 + node) / 2
            points = tuple(other + share * (value - other) for value, other in pairs)
            for total, each in zip(totals, vjp(function, points, gradient), strict=True):
                total += weight / 2 * each
        return tuple(totals)

    return back


RULES: dict[str, Rule] = {
    "relu": rectified,
    **dict.fromkeys(SMOOTH, rescale),
    **dict.fromkeys(BENT, rescale_bent),
    **dict.fromkeys(MAXIMA, maximum),
    **dict.fromkeys(JOINT, averaged),
}


def _called(function: Function, inputs: tuple[Tensor, ...]) -> tuple[Function, Tensor]:
    """The function and what it gives; of one value with the graph of this call, which `slope_of` goes back through."""
    if len(inputs) > 1:
        return function, function(*inputs)
    called = Differentiable.of(function, inputs[:1])
    return called, called.output


class _Slopes(torch.autograd.Function):
    """An operation whose backward is a rule for multipliers."""

    @staticmethod
    def forward(
        ctx: Any, rule: Rule, function: Function, reference: Reference, inplace: bool, *inputs: Tensor
    ) -> Tensor:
        called, output = _called(function, inputs)
        output = output.detach()
        ctx.back = rule(called, tuple(x.detach() for x in inputs), output, reference)
        if not inplace:
            return output
        ctx.mark_dirty(inputs[0])  # later readers of it see the result, as without the mode
        return inputs[0].copy_(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, None, *ctx.back(gradients[0])


# The passes


class Scope(NamedTuple):
    """What is explained, as messages call it, what mends a refusal, and whether products of activations have a rule.

    With products, attention, softmax and layer-norms are taken step by step (`stepwise`).
    """

    what: str
    mend: str
    products: bool


class DeepLift(TorchFunctionMode):
    """Remembers nonlinear operations in the first pass, of references, and gives them slopes in the second, of values.

    An operation without a rule on the path from the input is refused by name, and so is what is made out of sight. What
    is computed of the input by another way (a mask x > 0, a detached value) is no constant between value and reference:
    what joins it with the path is refused.
    """

    def __init__(self, module: nn.Module, scope: Scope) -> None:
        super().__init__()
        self.scope, self.made = scope, Made(module, scope.mend)
        self._loose: Any = WeakTensorKeyDictionary()  # values off the path that are computed from what is on it
        self._seen: list[_Seen] = []
        self._replayed: Iterator[_Seen] | None = None

    def begin_values(self) -> None:
        """The pass of the references is over, that of the values begins."""
        self._replayed = iter(self._seen)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        values = [value for value in flat((*args, *options.values())) if isinstance(value, Tensor)]
        carried = [value for value in values if on_path(value)]
        loose = any(value in self._loose for value in values)
        if not torch.is_grad_enabled() or not (carried or loose):
            return func(*args, **options)
        name, inplace = spelling(func, options)
        if carried and not is_property(func):
            self.made.check(carried)
        if carried and loose:
            raise UnsupportedOp(name, "reads a mask or a detached value of the activation here", self.scope.mend)
        if carried and name == "max" and REWRITTEN[name].applies(*args, **options):
            with self:
                return REWRITTEN[name].function(*args, **options)
        if carried and self.scope.products and name in STEPWISE:
            with self:
                return STEPWISE[name](*args, **options)
        output = self._output(name, inplace, func, args, options, carried) if carried else func(*args, **options)
        for value in flat((output, *args[:inplace])):
            self._remember(name, value)
        return output

    def _remember(self, name: str, value: Any) -> None:
        if isinstance(value, Tensor) and on_path(value):
            self.made.add([value])
        elif isinstance(value, Tensor) and name not in SHAPED:
            self._loose[value] = True

    def _output(
        self, name: str, inplace: bool, func: Any, args: Any, options: dict[str, Any], carried: Sequence[Tensor]
    ) -> Any:
        if name in QUOTIENTS and not options and not inplace:  # a rounding mode is not linear
            return self._quotient(name, *(args[::-1] if name == "rdiv" else args))
        if (rule := self._rule(name, len(carried))) is not None:
            return self._sloped(name, rule, inplace, func, args, options)
        output = func(*args, **options)
        if not _is_linear(name, args, options, len(carried)) and any(map(on_path, flat((output,)))):
            raise self._no_rule(name)
        return output

    def _rule(self, name: str, count: int) -> Rule | None:
        if count == 1:
            return RULES.get(name)
        return averaged if name in JOINT or (name in PRODUCTS and self.scope.products) else None

    def _no_rule(self, name: str) -> ValueError:
        return ValueError(f"{self.scope.what} calls {name!r}, for which DeepLIFT has no rule: {self.scope.mend}")

    def _quotient(self, name: str, dividend: Any, divisor: Any) -> Tensor:
        """dividend / divisor: a product with the reciprocal, to which the rescale rule applies.

        Local accuracy holds exactly unless the reference's divisor is 0.
        """
        if not on_path(divisor):
            return dividend / divisor
        if on_path(dividend) and not self.scope.products:
            raise self._no_rule(name)
        inverse = self._sloped("reciprocal", rescale, False, torch.reciprocal, (divisor,), {})
        if not on_path(dividend):
            return dividend * inverse
        return self._sloped("mul", averaged, False, torch.mul, (dividend, inverse), {})

    def _sloped(self, name: str, rule: Rule, inplace: bool, func: Any, args: Any, options: dict[str, Any]) -> Tensor:
        if options.get("inplace"):
            options = {**options, "inplace": False}
        elif inplace:
            func = pure(func, inplace)
        inputs, function = _of_path(func, args, options)
        if self._replayed is not None:
            made: Tensor = _Slopes.apply(rule, function, self._reference(name, inputs), inplace, *inputs)
            return made
        called, output = _called(function, inputs)
        before = tuple(x.detach().clone() for x in inputs) if inplace else inputs
        self._seen.append(_Seen(name, called, tuple(map(Kept.of, before)), Kept.of(output)))
        return inputs[0].copy_(output) if inplace else output

    def _reference(self, name: str, inputs: tuple[Tensor, ...]) -> Reference:
        """The same call in the pass of the references."""
        assert self._replayed is not None
        seen = next(self._replayed, None)
        found = None if seen is None else seen.read()
        if found is None or found.name != name or not all(map(_fits, found.inputs, inputs)):
            raise ValueError(
                f"{self.scope.what} calls {name!r} of {[list(x.shape) for x in inputs]} for the images, and for the "
                f"baseline {found and found.name!r}: what it computes depends on the image, or it mixes images with "
                f"other dimensions; {self.scope.mend}"
            )
        return found


class _Seen(NamedTuple):
    """A nonlinear operation as it was remembered."""

    name: str
    function: Function
    inputs: tuple[Kept, ...]
    output: Kept

    def read(self) -> Reference:
        """ValueError where it has been written into since."""
        return Reference(self.name, self.function, tuple(each.read() for each in self.inputs), self.output.read())


def _fits(reference: Tensor, value: Tensor) -> bool:
    """Whether the reference is one for each element of the value, or one that several images share."""
    return reference.ndim == value.ndim and all(
        one in (1, other) for one, other in zip(reference.shape, value.shape, strict=True)
    )


def _of_path(func: Function, args: Sequence[Any], options: dict[str, Any]) -> tuple[tuple[Tensor, ...], Function]:
    """The values on the path among a call's arguments, and the call as a function of them."""
    every, names = [*args, *options.values()], list(options)
    places = [k for k, value in enumerate(every) if on_path(value)]

    def call(*values: Tensor) -> Tensor:
        given = list(every)
        for k, value in zip(places, values, strict=True):
            given[k] = value
        return func(*given[: len(args)], **dict(zip(names, given[len(args) :], strict=True)))

    return tuple(every[k] for k in places), call


def _is_linear(name: str, args: Sequence[Any], options: dict[str, Any], count: int) -> bool:
    """Whether a call is linear in its `count` values on the path; a batch-norm by its running statistics is."""
    if name == "batch_norm":
        return count == 1 and not options.get("training", args[5] if len(args) > 5 else False)
    return name in JOINTLY_LINEAR or (name in LINEAR and count == 1)


class Multipliers(NamedTuple):
    """m [P,...] of each pair's logit, and that logit at the values and at the references [P]."""

    values: Tensor
    after: Tensor
    before: Tensor


def multipliers(
    run: Callable[[Tensor], Tensor],
    module: nn.Module,
    values: Tensor,
    references: Tensor,
    targets: Targets,
    scope: Scope,
) -> Multipliers:
    """DeepLIFT's multipliers (rescale rule) of each pair's logit.

    Args:
        run: values [B,...] -> logits [B,C]. module: what runs, for messages.
        values: [B,...]. references: [B,...], or [1,...] where all images share it.

    Raises:
        ValueError: an operation without a rule, or one that the passes do not have in common, by name.
    """
    mode, leaf = DeepLift(module, scope), values.detach().requires_grad_()
    with torch.enable_grad(), mode:
        before = run(references.detach().requires_grad_()).detach()
        mode.begin_values()
        logits = run(leaf)
    after, before = (each.expand(logits.shape)[targets.image, targets.label] for each in (logits.detach(), before))
    return Multipliers(target_gradients(logits, leaf, targets)[0], after, before)
