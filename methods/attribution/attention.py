"""Methods that read a transformer's attention: rollout, and the two of Chefer et al. that weigh it by gradients.

Each makes a matrix M_l [N,N] of every layer's attention A_l [heads,N,N] and multiplies them, M_L ... M_1. The map is
the row of what the logits read: the class token, or the mean over the tokens that are pooled. The matrices are those of
the network as it is, fused kernels included (`relevance.engine.Tape.attentions`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from assay.harness.choices import check_choice
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.layouts import tokens_to_map
from assay.harness.seeds import SampleRng
from assay.harness.types import Attribution, Needs
from torch import Tensor

from .attended import attended, read_tokens
from .relevance import rules
from .relevance.attention import halved
from .relevance.rules import AlphaBeta, per_sample, ratio
from .relevance.table import RuleTable

Heads = Literal["mean", "max", "min"]
HEADS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda values: values.mean(1),
    "max": lambda values: values.amax(1),
    "min": lambda values: values.amin(1),
}


def rolled(steps: Sequence[Tensor], read: Tensor) -> Tensor:
    """read^T M_L ... M_1: matrices [B,N,N] in the order of layers, [N] -> [B,N]."""
    row = read.expand(len(steps[0]), 1, -1)
    for step in reversed(steps):
        row = row @ step
    return row[:, 0]


def on_patches(tokens: Tensor, inputs: Tensor) -> Tensor:
    """[B,N], class and other tokens first, -> [B,h,w]."""
    return tokens_to_map(tokens[:, :, None], inputs)[:, 0]


def _with_itself(values: Tensor) -> Tensor:
    """I + M."""
    return values + torch.eye(values.shape[-1], dtype=values.dtype, device=values.device)


@dataclass(frozen=True)
class AttentionRollout:
    """Product of r I + (1 - r) A_l, rows of sum 1 (Abnar and Zuidema 2020, Eq. 1 and 3); the same map for every class.

    heads: how the heads of a layer become one matrix. residual: r, the share of what passes beside the attention.
    """

    heads: Heads = "mean"
    residual: float = 0.5
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_choice("heads", self.heads, HEADS)
        if not 0 <= self.residual < 1:
            raise ValueError(f"residual={self.residual}: choose 0 or more, and less than 1")

    def needs(self) -> Needs:
        """Nothing shared: the pass is recorded."""
        return Needs()

    def attribute(self, forward: ForwardPass, targets: Targets, rng: SampleRng) -> Attribution:
        """[P,h,w], a value a patch, not negative."""
        tape = attended(forward, type(self).__name__)
        steps = [self.step(each.detach()) for each in tape.attentions]
        found = on_patches(rolled(steps, read_tokens(tape)), tape.inputs.detach())
        return Attribution(tape.by_pair(targets, lambda one_hot: found))

    def step(self, attention: Tensor) -> Tensor:
        """[B,heads,N,N] -> [B,N,N] with rows of sum 1; r where heads have no token in common (min): 0/0 := 0."""
        fused = HEADS[self.heads](attention)
        fused = ratio(fused, fused.sum(-1, keepdim=True))
        return _with_itself(fused * ((1 - self.residual) / self.residual)) * self.residual if self.residual else fused


@dataclass(frozen=True)
class GenericAttention:
    """R = R + mean_heads(dy_t/dA_l A_l)^+ R from R = I (Chefer et al. 2021b, Eq. 5 and 6)."""

    VERSION: ClassVar[int] = 1

    def needs(self) -> Needs:
        """Nothing shared: the pass is recorded."""
        return Needs(by_rounds=True)

    def attribute(self, forward: ForwardPass, targets: Targets, rng: SampleRng) -> Attribution:
        """[P,h,w], a value a patch, not negative."""
        tape = attended(forward, type(self).__name__)
        read = read_tokens(tape)

        def tokens(one_hot: Tensor) -> Tensor:
            gradients = tape.pull_to_attentions(None, one_hot)
            steps = [positive(each.detach(), g) for each, g in zip(tape.attentions, gradients, strict=True)]
            return on_patches(rolled(steps, read), tape.inputs.detach())

        return Attribution(tape.by_pair(targets, tokens))


def positive(values: Tensor, gradient: Tensor) -> Tensor:
    """I + mean over heads of max(values gradient, 0): [B,heads,N,N] twice -> [B,N,N]."""
    return _with_itself((values * gradient).clamp_(min=0).mean(1))


def normalised_sum(summands: Sequence[Tensor], depths: Sequence[int], relevance: Tensor) -> tuple[Tensor | None, ...]:
    """x_k / (x_0 + x_1) R, then scaled to the sum |S_k| / (|S_0| + |S_1|) S, S_k and S the sums of each and of R.

    So that sums that nearly cancel hand on no more than they were given (Chefer et al. 2021, Eq. 9 and 10).
    """
    parts = [part for part in rules.proportional(summands, depths, relevance) if part is not None]
    sums = [per_sample(part) for part in parts]
    moduli = sum(each.abs() for each in sums)
    total = per_sample(relevance)
    return tuple(part * ratio(ratio(each.abs(), moduli) * total, each) for part, each in zip(parts, sums, strict=True))  # type: ignore[arg-type]


TABLE = RuleTable(
    AlphaBeta(),
    shift=rules.shift_takes_nothing,
    joint=rules.gradient,
    add=normalised_sum,
    normalise=rules.identity,
    softmax=rules.identity,
    product=halved,
    method="TransformerAttribution",
    may_grow=True,
    by_image=True,
)


@dataclass(frozen=True)
class TransformerAttribution:
    """Product of I + mean_heads(dy_t/dA_l R_l)^+ (Chefer, Gur, Wolf 2021, Eq. 13 and 14), R_l the relevance of A_l.

    Relevance starts with 1 at the class: alpha 1, beta 0 in layers, halves of a product to each factor,
    `normalised_sum` beside shortcuts; norms, softmax and activations hand it on as it is (published code).
    """

    VERSION: ClassVar[int] = 1

    def needs(self) -> Needs:
        """Nothing shared: the pass is recorded."""
        return Needs(by_rounds=True)

    def attribute(self, forward: ForwardPass, targets: Targets, rng: SampleRng) -> Attribution:
        """[P,h,w], a value a patch, not negative."""
        tape = attended(forward, type(self).__name__, "fold")
        read = read_tokens(tape)

        def tokens(one_hot: Tensor) -> Tensor:
            gradients = tape.pull_to_attentions(None, one_hot)
            relevances = tape.pull_to_attentions(TABLE, one_hot)
            steps = [positive(each, g) for each, g in zip(relevances, gradients, strict=True)]
            return on_patches(rolled(steps, read), tape.inputs.detach())

        return Attribution(tape.by_pair(targets, tokens))
