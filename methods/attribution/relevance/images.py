"""Along which dimension of each value the images of a batch lie: 0, or another in a network with tokens first.

Rules and the alarm weigh the values of an image, the rows of dimension 0 image by image, against one another. Where
images lie is followed from the input through each call, and not read from sizes, which a batch of as many images as
there are tokens would make alike. Dimensions are counted from the last, -1, as in broadcasting.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from .constants import replaced
from .operations import RESHAPING, VIEWS, Reading

MARK = 7919  # a stride or size that no other dimension has
WEIGHED = frozenset({"affine", "pool", "joint", "shift", "statistics", "add", "normalise", "product"})
REDUCING = frozenset({"mean", "sum", "amax", "logsumexp"})
MULTIPLYING = frozenset({"matmul", "__matmul__", "bmm"})


def misplaced(name: str, method: str) -> str:
    """Of an operation whose values have their images elsewhere."""
    return (
        f"{method} weighs the values of each image against one another, and those of {name!r} do not have the images "
        "of the batch in dimension 0 (tokens come first, [tokens, batch, width], or images are mixed): write the "
        "network with the batch first (batch_first=True in nn.MultiheadAttention and nn.TransformerEncoderLayer), or "
        "choose a method on the input gradient"
    )


def behind(reading: Reading, inputs: Sequence[Tensor], dims: Sequence[int | None]) -> int | None:
    """Where the images are behind an operation with a rule, of whose inputs they are at `dims`; None: unknown."""
    dim = dims[0]
    if dim is None or any(each != dim for each in dims):
        return None
    if reading.name in REDUCING:
        return _reduced(reading.function, inputs[0], dim)
    if reading.equation:
        return _lettered(reading.equation, inputs, dim)
    return None if reading.name in MULTIPLYING and dim > -3 else dim


def moved(
    name: str,
    called: Callable[..., Any],
    args: Any,
    kwargs: Mapping[str, Any],
    x: Tensor,
    dim: int,
    output: Tensor,
    images: int,
) -> int | None:
    """Where the images of x, at `dim`, are in what a structural operation gives; None: unknown."""
    if name in RESHAPING:
        return _reshaped(x, dim, output, images)
    if name == "stack":
        place = kwargs.get("dim", args[1] if len(args) > 1 else 0) % output.ndim
        return dim if place <= x.ndim + dim else dim - 1
    found = _viewed(name, called, args, kwargs, x, dim) if name in VIEWS else dim
    if name not in VIEWS and output.ndim != x.ndim:
        found = -output.ndim if dim == -x.ndim else None
    kept = found is not None and found >= -output.ndim and output.shape[found] == x.shape[dim]
    return found if kept else None


def _viewed(
    name: str, called: Callable[..., Any], args: Any, kwargs: Mapping[str, Any], x: Tensor, dim: int
) -> int | None:
    """By the stride that images alone have. A selection by index copies: images before it stay where they are."""
    place = x.ndim + dim
    index = args[1] if len(args) > 1 and isinstance(args[1], tuple) else args[1:2]
    if name == "__getitem__" and any(isinstance(each, (Tensor, list)) for each in index):
        return dim if len(index) > place and all(isinstance(each, slice) for each in index[: place + 1]) else None
    strides = [MARK if k == place else 0 for k in range(x.ndim)]
    marked = torch.empty_strided(x.shape, strides, dtype=x.dtype, device="meta")
    output = called(*replaced(tuple(args), lambda value: marked if value is x else value), **kwargs)
    output = output if isinstance(output, Tensor) else output[0]
    found = [k for k, stride in enumerate(output.stride()) if stride == MARK]
    return found[-1] - output.ndim if found else None


def _reshaped(x: Tensor, dim: int, output: Tensor, images: int) -> int | None:
    """The same values in another shape: image by image, where other dimensions are joined to that of the images."""
    outer = prod(x.shape[:dim])
    for k, size in enumerate(output.shape):
        if prod(output.shape[:k]) == outer and size % images == 0:
            return k - output.ndim
    return None


def _reduced(function: Callable[..., Tensor], x: Tensor, dim: int) -> int | None:
    """Behind a mean or maximum: where a size is that no other dimension has."""
    shape = [MARK if k == x.ndim + dim else size for k, size in enumerate(x.shape)]
    sizes = function(torch.empty(shape, dtype=x.dtype, device="meta")).shape
    return sizes.index(MARK) - len(sizes) if MARK in sizes else None


def _lettered(equation: str, inputs: Sequence[Tensor], dim: int) -> int | None:
    """By the letter that images have in an Einstein sum."""
    terms, _, result = equation.replace(" ", "").partition("->")
    first, *others = terms.split(",")
    if "." in equation:
        leading = all(each.startswith("...") for each in (first, *others, result))
        return dim if leading and all(dim == -x.ndim for x in inputs) and len(result) == len(first) else None
    letter = first[dim]
    is_kept = letter in result and all(each[dim] == letter for each in others)
    return result.index(letter) - len(result) if is_kept else None
