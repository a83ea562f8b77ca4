"""Operations in the words of others that have rules: `glu`, `add(alpha=...)`, `x.max(dim)`, products with a matrix."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .operations import on_path


class Rewriting(NamedTuple):
    """The function in whose place it stands, for calls that `applies` admits."""

    function: Callable[..., Any]
    applies: Callable[..., bool] = lambda *args, **options: True


def _has_alpha_alone(*args: Any, **options: Any) -> bool:
    return set(options) == {"alpha"}


def _is_by_matrix(*args: Any, **options: Any) -> bool:
    """Whether the second factor is a constant matrix, as a linear layer's is."""
    return len(args) == 2 and not options and args[1].ndim == 2 and not on_path(args[1])


def _is_constant(*values: Any) -> bool:
    return not any(map(on_path, values))


def _addcmul(input: Tensor, a: Tensor, b: Tensor, *, value: float = 1) -> Tensor:
    return input + (a * value if on_path(a) else a) * (b if on_path(a) else b * value)


def _addmm(input: Tensor, x: Tensor, matrix: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return F.linear(x, alpha * matrix.t()) + beta * input


def _is_zero(bound: Any) -> bool:
    return bound is not None and not on_path(bound) and bool((torch.as_tensor(bound) == 0).all())


def _negative_part(input: Any, *others: Any, **options: Any) -> Tensor:
    """min(x, 0), a rectifier of -x."""
    x = next(value for value in (input, *others, *options.values()) if on_path(value))
    return -(-x).relu()


def _glu(input: Tensor, dim: int = -1) -> Tensor:
    signal, gate = input.chunk(2, dim)
    return signal * gate.sigmoid()


def _max(input: Tensor, other: Any, keepdim: bool = False) -> Any:
    """The larger of two values; or the largest along a dimension (equal ones share), and their places."""
    if isinstance(other, Tensor):
        return torch.maximum(input, other)
    return torch.return_types.max((input.amax(other, keepdim), input.detach().max(other, keepdim).indices))


def _max_of(input: Tensor, *other: Any, **options: Any) -> Any:
    named = {"dim", "other"} & set(options)
    second = other or [options.pop(name) for name in named]
    return _max(input, *second, **options)


REWRITTEN: dict[str, Rewriting] = {
    "add": Rewriting(lambda a, b, alpha: a + alpha * b, _has_alpha_alone),
    "sub": Rewriting(lambda a, b, alpha: a - alpha * b, _has_alpha_alone),
    "rsub": Rewriting(lambda a, b, alpha: b - alpha * a, _has_alpha_alone),
    "lerp": Rewriting(
        lambda input, end, weight: input * (1 - weight) + end * weight,
        lambda input, end, weight: _is_constant(weight),
    ),
    "addcmul": Rewriting(_addcmul),
    "addcdiv": Rewriting(
        lambda input, a, b, *, value=1: input + a * (value / b), lambda input, a, b, **options: _is_constant(b)
    ),
    "addmm": Rewriting(_addmm, lambda input, x, matrix, **options: _is_constant(matrix)),
    "clamp": Rewriting(_negative_part, lambda input, min=None, max=None: min is None and _is_zero(max)),
    "clamp_max": Rewriting(_negative_part, lambda input, max: _is_zero(max)),
    "minimum": Rewriting(_negative_part, lambda input, other: _is_zero(input) or _is_zero(other)),
    "glu": Rewriting(_glu),
    "max": Rewriting(_max_of, lambda *args, **options: len(args) + len(options) > 1),
    **dict.fromkeys(
        ("matmul", "__matmul__", "mm"), Rewriting(lambda x, matrix: F.linear(x, matrix.t()), _is_by_matrix)
    ),
}
