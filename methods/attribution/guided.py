"""Guided backpropagation and the deconvnet: the gradient with another backward rule at every ReLU."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.seeds import SampleRng
from assay.harness.types import Attribution, Needs
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from .gradient import Reduce, reduce_channels
from .relevance.operations import Made, UnsupportedOp, flat, is_property, on_path, spelling

MOST_SIGNS = 3  # values that a mask or signs have: -1, 0, 1


class _Bounds(NamedTuple):
    """What a call keeps its argument between: min(max(x, floor), ceiling), None for no bound."""

    floor: Any = None
    ceiling: Any = None

    @property
    def is_rectifier(self) -> bool:
        """A rectifier is 0 below 0, and something else above."""
        return _is_zero(self.floor) and not _is_zero(self.ceiling)


def _is_zero(bound: Any) -> bool:
    """Of a number or a tensor of bounds."""
    return bound is not None and bool((torch.as_tensor(bound) == 0).all())


def _constant(a: Any, b: Any) -> Any:
    """The one of two values that is not on the path, None where both are (a maxout)."""
    return None if on_path(a) and on_path(b) else b if on_path(a) else a


def _second(input: Any, *other: Any, **options: Any) -> Any:
    """The bound in `max(x, bound)`; None of `max(x, dim)`, the largest along a dimension."""
    found = [value for value in (*other, *options.values()) if isinstance(value, Tensor)]
    return _constant(input, found[0]) if found else None


BOUNDED: dict[str, Callable[..., _Bounds]] = {
    "relu": lambda input, inplace=False: _Bounds(0),
    "relu6": lambda input, inplace=False: _Bounds(0, 6),
    "hardtanh": lambda input, min_val=-1.0, max_val=1.0, inplace=False: _Bounds(min_val, max_val),
    "clamp": lambda input, min=None, max=None: _Bounds(min, max),
    "clamp_min": lambda input, min: _Bounds(min),
    "clamp_max": lambda input, max: _Bounds(None, max),
    "maximum": lambda input, other: _Bounds(_constant(input, other)),
    "minimum": lambda input, other: _Bounds(None, _constant(input, other)),
    "max": lambda input, *other, **options: _Bounds(_second(input, *other, **options)),
    "min": lambda input, *other, **options: _Bounds(None, _second(input, *other, **options)),
    "_threshold": lambda input, threshold, value, inplace=False: _Bounds(value if threshold == value else None),
}
# What rectifiers are made of in other words: a choice by the sign, a modulus, (x > 0) x.
DISGUISES = frozenset(
    {
        *("where", "masked_fill", "masked_scatter", "index_put", "index_fill", "scatter", "__setitem__"),
        *("data", "abs", "fmax", "fmin", "sign", "sgn", "heaviside", "copysign", "logaddexp"),
    }
)
# Rectifiers of another shape: what passes of a gradient there is defined for none of them.
OTHERS = frozenset(
    {
        *("leaky_relu", "prelu", "rrelu", "elu", "celu", "selu", "gelu", "silu", "mish", "hardswish", "softplus"),
        *("hardshrink", "softshrink", "tanhshrink", "log_sigmoid"),
    }
)


class _ReluRule(torch.autograd.Function):
    """A rectifier with `rule(gradient, active)` as its backward, active = where the gradient would pass."""

    @staticmethod
    def forward(
        ctx: Any,
        rule: Callable[[Tensor, Tensor], Tensor],
        ceiling: Any,
        made: Sequence[Tensor],
        x: Tensor,
        inplace: bool,
    ) -> Tensor:
        ctx.set_materialize_grads(False)  # no gradient at all is not one of zeros
        (output,) = made  # in a list: an argument that is returned would be a view, which nothing may write into
        ctx.rule, ctx.ceiling = rule, ceiling
        ctx.save_for_backward(output)
        if not inplace:
            return output
        ctx.mark_dirty(x)  # later readers of x see the rectified values, as without this mode
        return x.copy_(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[None, None, None, Tensor | None, None]:
        (output,), (gradient,) = ctx.saved_tensors, gradients
        passed = None if gradient is None else ctx.rule(gradient, _active(output, ctx.ceiling))
        return None, None, None, passed, None


def _active(output: Tensor, ceiling: Any) -> Tensor:
    """Where a rectifier hands on its input."""
    return output > 0 if ceiling is None else (output > 0) & (output < ceiling)


class _ReluMode(TorchFunctionMode):
    """Sees each ReLU that any module or functional code calls; counts them.

    What may be a rectifier in other words, or is made out of sight, is refused by name (UnsupportedOp).
    """

    def __init__(self, rule: Callable[[Tensor, Tensor], Tensor], method: str, module: nn.Module) -> None:
        super().__init__()
        self.rule, self.method, self.seen = rule, method, 0
        self.mend = f"{method} gives its rule to calls of relu, relu6, hardtanh, clamp and maximum; use gradient"
        self.made, self.others = Made(module, self.mend), set[str]()
        self._signs: Any = WeakTensorKeyDictionary()  # values off the path that are computed from what is on it

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        values = [value for value in flat((*args, *kwargs.values())) if isinstance(value, Tensor)]
        carried = [value for value in values if on_path(value)]
        if not torch.is_grad_enabled() or not (carried or any(value in self._signs for value in values)):
            return func(*args, **kwargs)
        if is_property(func) and not on_path(output := func(*args, **kwargs)):
            return output
        self.made.check(carried)
        name, inplace = spelling(func, kwargs)
        bounds = BOUNDED[name](*args, **kwargs) if carried and name in BOUNDED else _Bounds()
        if bounds.is_rectifier:
            output = self._rectified(func, bounds.ceiling, inplace, args, kwargs)
        else:
            self._refuse_disguises(name, bounds, carried, values)
            self.others |= {name} & OTHERS
            output = func(*args, **kwargs)
        self._remember([output, *(args[:1] if inplace else ())])
        return output

    def _rectified(self, func: Any, ceiling: Any, inplace: bool, args: Any, kwargs: Any) -> Tensor:
        self.seen += 1
        x, change = self._argument(func, args, kwargs)
        with torch.no_grad():
            output = change(x.detach().clone() if inplace else x.detach())
        rectified: Tensor = _ReluRule.apply(self.rule, ceiling, [output], x, inplace)
        return rectified

    def _argument(self, func: Any, args: Any, kwargs: Any) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """What is rectified, and the call as a function of it."""
        at = next((k for k, value in enumerate(args) if on_path(value)), None)
        if at is not None:
            return args[at], lambda x: func(*args[:at], x, *args[at + 1 :], **kwargs)
        name = next(name for name, value in kwargs.items() if on_path(value))
        return kwargs[name], lambda x: func(*args, **{**kwargs, name: x})

    def _refuse_disguises(
        self, name: str, bounds: _Bounds, carried: Sequence[Tensor], values: Sequence[Tensor]
    ) -> None:
        """Raise UnsupportedOp for what may be a rectifier."""
        by_sign = name == "mul" and any(value in self._signs and _is_mask(value) for value in values)
        if carried and (name in DISGUISES or by_sign or _is_zero(bounds.ceiling) or name == "_threshold"):
            raise UnsupportedOp(name, "may be a rectifier that is no ReLU call", self.mend)

    def _remember(self, outputs: Iterable[Any]) -> None:
        found = [value for value in flat(outputs) if isinstance(value, Tensor)]
        self.made.add([value for value in found if on_path(value)])
        for value in found:
            if not on_path(value):
                self._signs[value] = True


def _is_mask(value: Tensor) -> bool:
    """A few values at many places: zeros and ones, signs."""
    return value.numel() > MOST_SIGNS and len(value.unique()) <= MOST_SIGNS


def _positive(gradient: Tensor, active: Tensor) -> Tensor:
    return gradient.clamp(min=0)


def _rectified_gradient(
    forward: ForwardPass, targets: Targets, rule: Callable[[Tensor, Tensor], Tensor], name: str
) -> Tensor:
    with _ReluMode(rule, name, forward.network.module) as mode:
        gradient = forward.network.gradient(forward.inputs, targets)[0]
    if mode.seen == 0:
        raise ValueError(f"{name} changes the backward pass of ReLUs, and this network has none: use gradient")
    if mode.others:
        other = min(mode.others)
        raise UnsupportedOp(other, "is a rectifier too, beside ReLUs, and has no rule of this method", mode.mend)
    return gradient


@dataclass(frozen=True)
class GuidedBackprop:
    """At each ReLU only positive gradients at active units pass (Springenberg et al. 2015)."""

    reduce: Reduce = "max_abs"
    VERSION: ClassVar[int] = 2

    def needs(self) -> Needs:
        """Nothing shared: the graph has other ReLUs."""
        return Needs(by_rounds=True)

    def attribute(self, forward: ForwardPass, targets: Targets, rng: SampleRng) -> Attribution:
        """[P,H,W]."""
        gradient = _rectified_gradient(
            forward, targets, lambda g, active: g.clamp(min=0).mul_(active), "guided_backprop"
        )
        return Attribution(reduce_channels(gradient, self.reduce))


@dataclass(frozen=True)
class Deconvnet:
    """At each ReLU only positive gradients pass, active unit or not (Zeiler and Fergus 2014)."""

    reduce: Reduce = "max_abs"
    VERSION: ClassVar[int] = 2

    def needs(self) -> Needs:
        """Nothing shared: the graph has other ReLUs."""
        return Needs(by_rounds=True)

    def attribute(self, forward: ForwardPass, targets: Targets, rng: SampleRng) -> Attribution:
        """[P,H,W]."""
        gradient = _rectified_gradient(forward, targets, _positive, "deconvnet")
        return Attribution(reduce_channels(gradient, self.reduce))
