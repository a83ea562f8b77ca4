"""Norms of a place and softmax step by step, in operations of which DeepLIFT has rules for each."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .relevance.unfused import UNFUSED


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    """(x - mean) / sqrt(mean of squares + eps), times the weight, plus the bias: a quotient of two values."""
    centred = input - input.mean(_last(normalized_shape), keepdim=True)
    scaled = _by_its_size(centred, normalized_shape, eps) * (1 if weight is None else weight)
    return scaled if bias is None else scaled + bias


def rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """x / sqrt(mean of squares + eps), times the weight."""
    scaled = _by_its_size(input, normalized_shape, torch.finfo(input.dtype).eps if eps is None else eps)
    return scaled if weight is None else scaled * weight


def softmax(input: Tensor, dim: int, *others: Any, dtype: torch.dtype | None = None, **unread: Any) -> Tensor:
    """exp(x - logsumexp(x)): finite, however large the scores."""
    kind = next((each for each in others if isinstance(each, torch.dtype)), dtype)
    scores = input if kind is None else input.to(kind)
    return (scores - scores.logsumexp(dim, keepdim=True)).exp()


def _last(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(range(-len(shape), 0))


def _by_its_size(values: Tensor, shape: Sequence[int], eps: float) -> Tensor:
    return values / (values.square().mean(_last(shape), keepdim=True) + eps).sqrt()


STEPWISE: dict[str, Callable[..., Any]] = {
    **UNFUSED,
    **{"layer_norm": layer_norm, "rms_norm": rms_norm, "softmax": softmax},
}
