"""Gradient Hedge (Nam et al. 2021; published code: Attribution-Equilibrium)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from assay.harness.choices import check_choice
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.seeds import SampleRng
from assay.harness.types import Attribution, Needs
from torch import Tensor

from ..relevance import rules
from .engine import Tape
from .rules import Affine, Map, SumRule, ZBox, flow, indicator, per_sample, ratio
from .table import BATCH_NORM, SHIFT, BatchNorm, RuleTable, check_batch_norm

Residual = Literal["main_only", "split"]
TERMS = ("C", "A", "U", "Psi")
RESIDUAL: dict[str, SumRule] = {"main_only": rules.deepest_alone, "split": rules.halved}


def normalised(relevance: Tensor) -> tuple[Tensor, Tensor]:
    """P = R+ / Sum R+ and N = |R-| / Sum |R-|, an empty section being 0: twice [B,...]."""
    sections = relevance.clamp(min=0), (-relevance).clamp(min=0)
    positive, negative = (section * ratio(torch.ones_like(total := per_sample(section)), total) for section in sections)
    return positive, negative


@dataclass(frozen=True)
class Hedge:
    """R' = C + A + U (Eq. 6-12 with the code's normalisation), whose sum is gamma - 2, or 0 in 1x1 convolutions.

    C = J(x+, |w|, gamma P - N) minus Psi = 1 / #(C != 0) wherever C != 0; A = J(1[x > 0], |w|, P);
    U = -J(1[x <= 0], |w|, N). In 1x1 convolutions (and fully connected layers) gamma is 1 and there is no Psi.
    """

    gamma: float
    terms: Sequence[str] = TERMS

    def __call__(self, x: Tensor, layer: Affine, relevance: Tensor) -> Tensor:
        """R of x."""
        positive, negative = normalised(relevance)
        layer, result = layer.reweighed(torch.abs), torch.zeros_like(x)
        if "C" in self.terms:
            result += self._contribution(x.clamp(min=0), layer, positive, negative)
        if "A" in self.terms:
            result += flow(indicator(x, torch.gt), layer, positive)
        if "U" in self.terms:
            result -= flow(indicator(x, torch.le), layer, negative)
        return result

    def _contribution(self, x: Tensor, layer: Affine, positive: Tensor, negative: Tensor) -> Tensor:
        if layer.is_pointwise:
            return flow(x, layer, positive - negative)
        shared = flow(x, layer, self.gamma * positive - negative)
        if "Psi" not in self.terms:
            return shared
        active = indicator(shared, torch.ne)
        return shared.addcmul_(active, ratio(torch.ones_like(count := per_sample(active)), count), value=-1)


def pool_positive(x: Tensor, function: Map, relevance: Tensor) -> Tensor:
    """J with the pool, on max(x, 0) + 1e-9."""
    return rules.share(x.clamp(min=0) + 1e-9, function, relevance)


@dataclass(frozen=True)
class GradientHedge:
    """Attributions of a layer's Grad-CAM-like tensor, propagated so that positive and negative parts balance.

    Starts at G = a mean_hw(dy_t/da) / |Sum G|, a the layer's activation; ends at the input with the z^B rule.

    layer: where it starts. gamma: weight of the positive section, 1 to 2. terms: which of C, A, U, Psi to use, one at
    least (Psi shifts C, so it needs C). residual: `main_only` leaves shortcuts without relevance, as the published code
    does (whose maps of residual networks are twice these); `split` halves it. batch_norm: `pass_nonzero` (the code),
    `pass`, or `fold`. stop: a layer before that one, whose output's relevance (its channel sum) is the map (Fig. 3);
    None: the input.
    """

    layer: str
    gamma: float = 1.0
    terms: Sequence[str] = TERMS
    residual: Residual = "main_only"
    batch_norm: BatchNorm = "pass_nonzero"
    stop: str | None = None
    VERSION: ClassVar[int] = 3

    def __post_init__(self) -> None:
        check_choice("residual", self.residual, RESIDUAL)
        check_batch_norm(self.batch_norm)
        if unknown := set(self.terms) - set(TERMS):
            raise ValueError(f"terms={list(self.terms)}: {', '.join(sorted(unknown))} unknown, choose of {TERMS}")
        if not self.terms or ("Psi" in self.terms and "C" not in self.terms):
            raise ValueError(
                f"terms={list(self.terms)}: choose one at least of {TERMS}, and C where Psi is (it shifts C)"
            )
        if not 1 <= self.gamma <= 2:
            raise ValueError(f"gamma={self.gamma}: choose 1 to 2")

    def needs(self) -> Needs:
        """Nothing shared: the graph has rules in the place of derivatives."""
        return Needs(by_rounds=self.stop is None)

    def attribute(self, forward: ForwardPass, targets: Targets, rng: SampleRng) -> Attribution:
        """[P,H,W], or of the layer's size [P,h,w] where it stops at one.

        Raises:
            ValueError: stop lies behind layer (the same layer gives what the method starts with).
        """
        layers = dict.fromkeys(filter(None, (self.layer, self.stop)))
        tape, table = Tape.record(forward, tuple(layers), self.batch_norm), self.table()
        activation, end = tape.feature_map(self.layer), tape.feature_map(self.stop)

        def relevance(one_hot: Tensor) -> Tensor:
            gradient = tape.pull(None, tape.logits, one_hot, activation)
            return tape.pull(table, activation, balanced(activation.detach(), gradient), end)

        return Attribution(tape.by_pair(targets, relevance).sum(1))

    def table(self) -> RuleTable:
        """The rules by operation."""
        return RuleTable(
            Hedge(self.gamma, self.terms),
            first=ZBox(),
            pool=pool_positive,
            maximum=pool_positive,
            norm=BATCH_NORM[self.batch_norm],
            shift=SHIFT[self.batch_norm],
            joint=rules.gradient,
            add=RESIDUAL[self.residual],
            method=type(self).__name__,
            by_image=True,
        )


def balanced(activation: Tensor, gradient: Tensor) -> Tensor:
    """G / |Sum G| with G = a mean_hw(gradient): [B,K,h,w] twice -> [B,K,h,w]."""
    product = activation * gradient.mean((2, 3), keepdim=True)
    return ratio(product, per_sample(product).abs())
