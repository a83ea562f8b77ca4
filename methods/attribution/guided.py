"""Guided backpropagation and the deconvnet: the gradient with another backward rule at every ReLU."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.seeds import SampleRng
from assay.harness.types import Attribution, Needs
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .gradient import Reduce, reduce_channels

RELUS = {F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu6}


def _is_relu(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """A rectifier; `hardtanh` is one when its lower bound is 0 (as in ReLU6)."""
    if function in (F.hardtanh, F.hardtanh_):
        return (args[1] if len(args) > 1 else kwargs.get("min_val", -1.0)) == 0
    return function in RELUS


def _is_inplace(function: Any, kwargs: dict[str, Any]) -> bool:
    """Whether the call writes into its argument (F.relu hands `inplace` on as a keyword, however it was given)."""
    return bool(kwargs.get("inplace")) or function.__name__.endswith("_")


def _ceiling(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
    """Where the rectifier saturates: infinity for a plain ReLU."""
    if function in (F.hardtanh, F.hardtanh_):
        return float(args[2] if len(args) > 2 else kwargs.get("max_val", 1.0))
    return 6.0 if function is F.relu6 else math.inf


class _ReluRule(torch.autograd.Function):
    """A rectifier with `rule(gradient, active)` as its backward, active = where the gradient would pass."""

    @staticmethod
    def forward(
        ctx: Any, rule: Callable[[Tensor, Tensor], Tensor], ceiling: float, output: Tensor, x: Tensor, inplace: bool
    ) -> Tensor:
        ctx.rule, ctx.ceiling = rule, ceiling
        ctx.save_for_backward(output)
        if not inplace:
            return output
        ctx.mark_dirty(x)  # later readers of x see the rectified values, as without this mode
        return x.copy_(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None, Tensor, None]:
        (output,) = ctx.saved_tensors
        active = output > 0 if ctx.ceiling == math.inf else (output > 0) & (output < ctx.ceiling)
        return None, None, None, ctx.rule(gradients[0], active), None


class _ReluMode(TorchFunctionMode):
    """Sees each ReLU that any module or functional code calls; counts them."""

    def __init__(self, rule: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.rule, self.seen = rule, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if not _is_relu(func, args, kwargs):
            return func(*args, **kwargs)
        self.seen += 1
        inplace, ceiling = _is_inplace(func, kwargs), _ceiling(func, args, kwargs)
        x, *rest = args or (kwargs.pop("input"),)
        with torch.no_grad():
            output = func(x.detach().clone() if inplace else x.detach(), *rest, **kwargs)
        return _ReluRule.apply(self.rule, ceiling, output, x, inplace)


def _positive(gradient: Tensor, active: Tensor) -> Tensor:
    return gradient.clamp(min=0)


def _rectified_gradient(
    forward: ForwardPass, targets: Targets, rule: Callable[[Tensor, Tensor], Tensor], name: str
) -> Tensor:
    with _ReluMode(rule) as mode:
        gradient = forward.network.gradient(forward.inputs, targets)[0]
    if mode.seen == 0:
        raise ValueError(f"{name} changes the backward pass of ReLUs, and this network has none: use gradient")
    return gradient


@dataclass(frozen=True)
class GuidedBackprop:
    """At each ReLU only positive gradients at active units pass (Springenberg et al. 2015)."""

    reduce: Reduce = "max_abs"
    VERSION: ClassVar[int] = 1

    def needs(self) -> Needs:
        """Nothing shared: the graph has other ReLUs."""
        return Needs()

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
    VERSION: ClassVar[int] = 1

    def needs(self) -> Needs:
        """Nothing shared: the graph has other ReLUs."""
        return Needs()

    def attribute(self, forward: ForwardPass, targets: Targets, rng: SampleRng) -> Attribution:
        """[P,H,W]."""
        gradient = _rectified_gradient(forward, targets, _positive, "deconvnet")
        return Attribution(reduce_channels(gradient, self.reduce))
