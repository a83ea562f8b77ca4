"""Gradients of convolutions and linear layers by themselves, without a graph and without a forward pass."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import torch.nn.grad
from torch import Tensor

from .rows import where_given
from .rules import Backward

Function = Callable[..., Tensor]


class _Convolution(NamedTuple):
    """A convolution as torch has it, and its gradients."""

    forward: Function
    of_input: Function
    of_weight: Function


_CONVOLUTIONS = {
    "conv1d": _Convolution(F.conv1d, torch.nn.grad.conv1d_input, torch.nn.grad.conv1d_weight),
    "conv2d": _Convolution(F.conv2d, torch.nn.grad.conv2d_input, torch.nn.grad.conv2d_weight),
    "conv3d": _Convolution(F.conv3d, torch.nn.grad.conv3d_input, torch.nn.grad.conv3d_weight),
}


def backward_of(name: str, rest: Sequence[Any], options: Mapping[str, Any]) -> Backward | None:
    """The gradients of a layer that is called with (input, weight, bias, *rest, **options).

    None for transposed convolutions and for paddings by name.
    """
    if name == "linear":
        return Backward(
            lambda x, w, g: where_given(partial(torch.matmul, other=w), g), lambda x, w, g: _rows(g).T @ _rows(x)
        )
    if name not in _CONVOLUTIONS or any(isinstance(value, str) for value in (*rest, *options.values())):
        return None
    convolution = _CONVOLUTIONS[name]
    return Backward(
        lambda x, w, g: _of_input(convolution, x, w, g, *rest, **options),
        lambda x, w, g: convolution.of_weight(x, w.shape, g, *rest, **options),
        by_position=_is_by_position(*rest, **options),
    )


def _is_by_position(stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> bool:
    return groups == 1 and not any(_each(padding)) and all(step == 1 for step in _each(stride))


def _rows(values: Tensor) -> Tensor:
    """[...,D] -> [R,D]."""
    return values.reshape(-1, values.shape[-1])


def _of_input(
    convolution: _Convolution,
    x: Tensor,
    weight: Tensor,
    gradient: Tensor,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """w^T g. Where one position is read for each output, a convolution of g: half the time of torch's own gradient."""
    is_pointwise = groups == 1 and all(size == 1 for size in weight.shape[2:])
    if not is_pointwise or any(_each(padding)):
        return convolution.of_input(x.shape, weight, gradient, stride, padding, dilation, groups)
    back, steps = convolution.forward(gradient, weight.transpose(0, 1)), _each(stride)
    if all(step == 1 for step in steps):
        return back
    spread = read = torch.zeros_like(x)
    for axis, step in enumerate(steps if len(steps) > 1 else steps * (x.ndim - 2), start=2):
        read = read[(slice(None),) * axis + (slice(None, None, step),)]
    read.copy_(back)
    return spread


def _each(setting: Any) -> tuple[int, ...]:
    """A stride or padding, of all axes or of each."""
    return tuple(setting) if isinstance(setting, Sequence) else (setting,)
