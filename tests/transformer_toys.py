"""A small transformer of random weights, its attention written in several ways."""

from typing import TypeVar

import torch
import torch.nn.functional as F
from assay.harness.network import Network
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


class Attended(nn.MultiheadAttention):
    """Self-attention of tokens [B,N,D] -> [B,N,D]: `module` is PyTorch's own, others are in words of one's own."""

    def __init__(self, width: int, heads: int, spelling: str) -> None:
        super().__init__(width, heads, batch_first=True)
        self.spelling = spelling

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Tokens."""
        if self.spelling == "module":
            return super().forward(x, x, x, need_weights=False)[0]
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out_proj(self.attended(q, k, v).transpose(1, 2).flatten(2))

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Values of queries [B,heads,N,d]."""
        if self.spelling == "fused":
            return F.scaled_dot_product_attention(q, k, v)
        if self.spelling == "einsum":
            scores = torch.einsum("bhid,bhjd->bhij", q, k) / q.shape[-1] ** 0.5
            return torch.einsum("bhij,bhjd->bhid", F.softmax(scores, dim=-1), v)
        q = q * q.shape[-1] ** -0.5
        return F.dropout((q @ k.transpose(-2, -1)).softmax(-1), 0.1, self.training) @ v


class Block(nn.Module):
    """Attention with a layer scale, then two linear layers, each behind a norm and beside a shortcut."""

    def __init__(self, width: int, heads: int, spelling: str) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attended(width, heads, spelling)
        self.scale = nn.Parameter(torch.ones(width))
        self.first, self.second = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B,N,D] -> [B,N,D]."""
        x = x + self.scale * self.attention(self.norm1(x))
        return x + self.second(F.gelu(self.first(self.norm2(x))))


class Transformer(nn.Module):
    """Patches of 4 x 4 pixels, a class token, two blocks of two heads, five classes.

    pooled: the logits read the mean of the patches, and there is no class token.
    """

    def __init__(self, spelling: str = "module", pooled: bool = False, side: int = 16, depth: int = 2) -> None:
        super().__init__()
        width, self.pooled = 8, pooled
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, (side // 4) ** 2 + (not pooled), width))
        self.blocks = nn.ModuleList([Block(width, 2, spelling) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)

    @property
    def layers(self) -> list[Block]:
        """The blocks, by their type."""
        return [block for block in self.blocks if isinstance(block, Block)]

    def forward(self, x: Tensor) -> Tensor:
        """[B,3,16,16] -> [B,5]."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        if not self.pooled:
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        x = x + self.positions
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x.mean(1) if self.pooled else x[:, 0])


def normal(module: Module, spread: float = 0.5) -> Module:
    """The module with all its parameters drawn anew, seeded: weights around 0, those of norms around 1."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        is_weight = parameter.ndim > 1
        draw = torch.randn(parameter.shape, generator=generator) * spread
        parameter.data.copy_(draw if is_weight else draw + 1)
    return module.eval()


def tiny_transformer(spelling: str = "module", pooled: bool = False, side: int = 16) -> Network:
    """`Transformer` in float64; the same weights for every spelling."""
    return Network(normal(Transformer(spelling, pooled, side)), (0.5,) * 3, (0.25,) * 3).to(dtype=torch.float64)
