"""Readers of what transformers are made of beside layers: norms of each token, softmax, products of two activations."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .operations import Reading, UnsupportedOp, flat, on_path


def _layer_norm(
    function: Callable[..., Tensor],
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Reading:
    """(x - mean) / std: the mean is part of the layer, 1 / std a constant (Ali et al. 2022; Achtibat et al. 2024)."""
    dims = tuple(range(-len(normalized_shape), 0))

    def frozen(x: Tensor) -> Tensor:
        spread = (input.detach().var(dims, unbiased=False, keepdim=True) + eps).rsqrt()
        factor = spread if weight is None else spread * weight
        centred = (x - x.mean(dims, keepdim=True)) * factor
        return centred if bias is None else centred + bias

    return Reading("normalise", (input,), lambda x: function(x, normalized_shape, weight, bias, eps), frozen=frozen)


def _rms_norm(
    function: Callable[..., Tensor],
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Reading:
    """x / root mean square, which is a constant."""

    def apply(x: Tensor) -> Tensor:
        return function(x, normalized_shape, weight, eps)

    margin = torch.finfo(input.dtype).eps if eps is None else eps
    dims = tuple(range(-len(normalized_shape), 0))
    factor = (input.detach().square().mean(dims, keepdim=True) + margin).rsqrt()
    factor = factor if weight is None else factor * weight
    return Reading("normalise", (input,), apply, frozen=lambda x: x * factor)


def _normalize(
    function: Callable[..., Tensor], input: Tensor, p: float = 2, dim: int = 1, eps: float = 1e-12, out: Any = None
) -> Reading:
    """x / |x|, which is a constant."""
    size = input.detach().norm(p, dim, keepdim=True).clamp(min=eps)
    return Reading("normalise", (input,), lambda x: function(x, p, dim, eps), frozen=lambda x: x / size)


def _softmax(function: Callable[..., Tensor], input: Tensor, *rest: Any, **options: Any) -> Reading:
    return Reading("softmax", (input,), lambda x: function(x, *rest, **options))


def _product(function: Callable[..., Tensor], input: Tensor, other: Tensor, **options: Any) -> Reading:
    """A matrix product of two activations; one with a constant that is no linear layer's is refused."""
    if options or not (on_path(input) and on_path(other)):
        raise UnsupportedOp(function.__name__)
    return Reading("product", (input, other), function)


def _einsum(function: Callable[..., Tensor], equation: Any, *operands: Any) -> Reading:
    """The same in Einstein's notation."""
    values = list(flat(operands))
    if not isinstance(equation, str) or len(values) != 2 or not all(map(on_path, values)):
        raise UnsupportedOp("einsum")
    return Reading("product", tuple(values), lambda a, b: function(equation, a, b), equation=equation)


WEIGHING: dict[str, Callable[..., Reading]] = {
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "normalize": _normalize,
    "softmax": _softmax,
    **dict.fromkeys(("matmul", "__matmul__", "bmm"), _product),
    "einsum": _einsum,
}


def of_softmax(kind: str, inputs: Sequence[bool | None]) -> bool | None:
    """Whether an operation's output is made of outputs of softmax alone, as weights that are scaled or mixed are.

    inputs: the same of what it reads. None: in part, as a sum of weights and another activation is. Of a product of
    weights and values, as of a gated signal, what the values are.
    """
    if kind == "gated":
        return inputs[0]
    if kind == "product":
        inputs = [each for each in inputs if each is not True] or [True]
    return all(inputs) or (None if any(each is not False for each in inputs) else False)
