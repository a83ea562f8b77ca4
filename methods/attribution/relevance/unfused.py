"""Fused attention in plain operations: projections, products, a softmax, each of which is recorded by itself.

Values are those of the fused kernel but for the order of its sums.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .operations import UnsupportedOp


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(q k^T scale + mask) v: [...,N,d], [...,M,d], [...,M,e] -> [...,N,e]."""
    return _attended(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)[0]


def _attended(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0,
    is_causal: bool = False,
    scale: float | None = None,
    is_grouped: bool = False,
) -> tuple[Tensor, Tensor]:
    """The values, and the weights [...,N,M].

    Raises:
        UnsupportedOp: weights are dropped at random.
    """
    if dropout > 0:
        raise UnsupportedOp(
            "scaled_dot_product_attention",
            f"drops attention weights at random (dropout_p={dropout:g}), so that no two passes are alike",
            "pass dropout_p=0.0 in evaluation, as `dropout_p=self.p if self.training else 0.0`",
        )
    if is_grouped:
        key, value = (each.repeat_interleave(query.shape[-3] // each.shape[-3], -3) for each in (key, value))
    scores = torch.matmul(query, key.transpose(-2, -1))
    scores = scores * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    weights = F.softmax(scores if mask is None else _masked(scores, mask), -1)
    return torch.matmul(weights, value), weights


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    """Scores that are hidden (false, or -inf) lose theirs and take no relevance; a finite mask is added.

    A mask that hides nothing, which Hugging Face's networks pass, is no step: not every rule passes masks.
    """
    if mask.dtype == torch.bool:
        return scores if mask.all() else scores.masked_fill(~mask, -math.inf)
    hidden = mask == -math.inf
    shown = scores + mask.masked_fill(hidden, 0) if (mask.masked_fill(hidden, 0) != 0).any() else scores
    return shown.masked_fill(hidden, -math.inf) if hidden.any() else shown


def multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """`F.multi_head_attention_forward`: tokens [N,B,D] -> [N,B,D] and, if asked for, the weights [B,N,M].

    Raises:
        UnsupportedOp: keys or values beside those of the tokens, key padding, or an input without batch.
    """
    others = (bias_k, bias_v, static_k, static_v, key_padding_mask)
    if add_zero_attn or any(each is not None for each in others) or query.ndim != 3:
        raise UnsupportedOp("multi_head_attention_forward", "has keys beside those of the tokens, padding or no batch")
    separate = (q_proj_weight, k_proj_weight, v_proj_weight) if use_separate_proj_weight else None
    projected = _projected((query, key, value), in_proj_weight, separate, in_proj_bias)
    q, k, v = (each.unflatten(-1, (num_heads, -1)).transpose(1, 2) for each in projected)  # [B,heads,N,d]
    mask = attn_mask.unflatten(0, (-1, num_heads)) if attn_mask is not None and attn_mask.ndim == 3 else attn_mask
    mask = ~mask if mask is not None and mask.dtype == torch.bool else mask  # here true hides
    values, weights = _attended(q, k, v, mask, dropout_p if training else 0)
    output = F.linear(values.transpose(1, 2).flatten(2), out_proj_weight, out_proj_bias).transpose(0, 1)
    if not need_weights:
        return output, None
    return output, weights.mean(1) if average_attn_weights else weights


def _projected(
    tokens: tuple[Tensor, Tensor, Tensor],
    weight: Tensor | None,
    separate: tuple[Tensor | None, ...] | None,
    bias: Tensor | None,
) -> tuple[Tensor, ...]:
    """Queries, keys and values [B,N,D], whose rows are images: by one layer where all are made of the same tokens."""
    if separate is None:
        assert weight is not None
        if tokens[0] is tokens[1] is tokens[2]:
            return F.linear(tokens[0].transpose(0, 1), weight, bias).chunk(3, -1)
        separate = weight.chunk(3)
    biases = (None, None, None) if bias is None else bias.chunk(3)
    each = zip(tokens, separate, biases, strict=True)
    return tuple(F.linear(x.transpose(0, 1), part, shift) for x, part, shift in each if part is not None)


UNFUSED: dict[str, Callable[..., Any]] = {
    "scaled_dot_product_attention": attention,
    "multi_head_attention_forward": multi_head_attention,
}
