"""Relative attributing propagation (Nam et al. 2020): relevance by magnitude, then a shift that keeps the sum."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, NamedTuple

import torch
from assay.harness.choices import check_choice
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.seeds import SampleRng
from assay.harness.types import Attribution, Needs
from torch import Tensor

from ..relevance import rules
from .engine import Tape
from .rules import (
    Affine,
    AffineRule,
    SumRule,
    ZBox,
    indicator,
    magnitude_of_sign,
    per_sample,
    ratio,
    ratio_,
    split_signs,
    sum_of,
)
from .table import BATCH_NORM, SHIFT, BatchNorm, RuleTable, Start, check_batch_norm, check_start

Variant = Literal["official", "paper"]
Residual = Literal["positive", "proportional"]


class Half(NamedTuple):
    """Inputs of one sign, |x| [B,...], the layer with weights that excite and with magnitudes of those that inhibit."""

    magnitude: Tensor
    exciting: Affine
    inhibiting: Affine


class _Bipolar:
    """z+ = Sum of the positive contributions and z- = Sum of the negative ones' magnitudes, each [B,...].

    Nothing reads the sums after a rule, which may write over them.
    """

    def __init__(self, halves: Sequence[Half]) -> None:
        self.halves = halves
        self.excited = sum_of([up.apply(u, up.weight, None) for u, up, _ in halves])
        self.inhibited = sum_of([down.apply(u, down.weight, None) for u, _, down in halves])

    def share(self, by_excited: Tensor, by_inhibited: Tensor) -> Tensor:
        """Relevance of x from relevance per unit of either sum: x (w+^T s+ + |w-|^T s-)."""
        return sum_of(
            [up.pull_back(u, by_excited).add_(down.pull_back(u, by_inhibited)).mul_(u) for u, up, down in self.halves]
        )


def _halves(x: Tensor, layer: Affine) -> list[Half]:
    """x+ with w+ and |w-|; |x-| with |w-| and w+."""
    positive, negative = split_signs(x, layer)
    up, down = (layer.reweighed(partial(magnitude_of_sign, sign=sign)) for sign in (1, -1))
    return [Half(positive, up, down)] + ([] if negative is None else [Half(-negative, down, up)])


def _less(relevance: Tensor, excess: Tensor, active: Tensor) -> Tensor:
    """Relevance [B,...] minus a sum a sample [B,1,...] in equal parts on the active (1, otherwise 0) units."""
    return relevance.addcmul_(active, ratio(excess, per_sample(active)), value=-1)


@dataclass(frozen=True)
class Official:
    """The published code's rule, x+ and x- apart (each with all of R: a layer with negative inputs doubles it).

    C = J(x+, w+, P) + J(x+, |w-|, N + R rho) in convolutions, J(x+, w+, R) + J(x+, |w-|, R rho) in fully connected
    layers, P = R+, N = R-, rho = z- / (z+ + z-); then C loses what it has too much, in equal parts wherever C != 0.
    """

    def __call__(self, x: Tensor, layer: Affine, relevance: Tensor) -> Tensor:
        """R of x."""
        return sum_of([self._half(_Bipolar([half]), layer, relevance) for half in _halves(x, layer)])

    def _half(self, sums: _Bipolar, layer: Affine, relevance: Tensor) -> Tensor:
        by_inhibited = ratio_(relevance, sums.excited + sums.inhibited)  # R rho / z-
        if layer.is_dense:
            by_excited = ratio_(relevance, sums.excited)
        else:
            part = relevance.clamp(min=0)
            by_excited = ratio_(part, sums.excited)
            by_inhibited.add_(ratio_(torch.clamp(relevance, max=0, out=part), sums.inhibited))
        shared = sums.share(by_excited, by_inhibited)
        return _less(shared, per_sample(shared) - _summed(relevance, shared), indicator(shared, torch.ne))


@dataclass(frozen=True)
class Paper:
    """The paper's rule (Eq. 7-9): R~ = J(z+, R) + J(z-, rho R), minus Sum J(z-, rho R) / #(x != 0) where x != 0.

    z+ holds the contributions x+ w+ and x- w-, z- their counterparts: one denominator for both signs of x.
    """

    def __call__(self, x: Tensor, layer: Affine, relevance: Tensor) -> Tensor:
        """R of x."""
        sums = _Bipolar(_halves(x, layer))
        by_inhibited = ratio_(relevance, sums.excited + sums.inhibited)
        shared = sums.share(ratio_(relevance, sums.excited), by_inhibited)
        return _less(shared, _summed(by_inhibited * sums.inhibited, shared), indicator(x, torch.ne))


def _summed(values: Tensor, like: Tensor) -> Tensor:
    """Sum a sample, shaped to broadcast with another tensor."""
    return values.flatten(1).sum(1).view(-1, *[1] * (like.ndim - 1))


def absolute_contributions(x: Tensor, layer: Affine, gradient: Tensor, start: Start = "logit") -> Tensor:
    """The last layer (Eq. 5-6): |x_i w_ti| y_t / Sum |x w_t|, y_t the logit with its bias, or 1 in its place.

    gradient: of the logit with respect to the layer's output, 1 at the class unless a pool or the like follows.
    """
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        output = layer.apply(leaf, layer.weight, layer.bias)
    (factor,) = torch.autograd.grad(output, leaf, gradient)
    magnitude = (x * factor).abs()
    total = per_sample(magnitude)
    logit = torch.ones_like(total) if start == "one" else per_sample(output.detach() * gradient)
    return magnitude * ratio(logit, total)


RULES: dict[str, AffineRule] = {"official": Official(), "paper": Paper()}
RESIDUAL: dict[str, SumRule] = {"positive": rules.positive_parts, "proportional": rules.proportional}


@dataclass(frozen=True)
class RAP:
    """Relative attributing propagation (Nam et al. 2020): what matters more than average is positive.

    variant: `official`, the published code's arithmetic, or `paper`, its equations; see docs/methods/relevance.md.
    batch_norm: `pass_nonzero` (the code), `pass`, or `fold`. residual: a sum of two activations shares relevance in
    proportion to max(x, 0), which meets the paper's figures, or (`proportional`, the published code) to x: sums that
    nearly cancel then divide relevance, and in float32 the map depends on rounding. start: relevance is the class'
    logit, or `one`: the map of a class with a negative logit is not turned over. The input layer takes the z^B rule.
    layer: where propagation stops; the map is the channel sum of its output's relevance (Fig. 4). null: at the input.
    """

    variant: Variant = "official"
    batch_norm: BatchNorm = "pass_nonzero"
    residual: Residual = "positive"
    start: Start = "logit"
    layer: str | None = None
    VERSION: ClassVar[int] = 3

    def __post_init__(self) -> None:
        check_choice("variant", self.variant, RULES)
        check_choice("residual", self.residual, RESIDUAL)
        check_batch_norm(self.batch_norm)
        check_start(self.start)

    def needs(self) -> Needs:
        """Nothing shared: the graph has rules in the place of derivatives."""
        return Needs(by_rounds=self.layer is None)

    def attribute(self, forward: ForwardPass, targets: Targets, rng: SampleRng) -> Attribution:
        """[P,h,w]; sums to the logit (or 1) where no batch-norm and no negative layer input intervenes.

        Raises:
            ValueError: no convolution or linear layer lies behind the layer to stop at.
        """
        tape, table = Tape.record(forward, tuple(filter(None, [self.layer])), batch_norm=self.batch_norm), self.table()
        if self.layer is not None and tape.is_after_last(self.layer):
            raise ValueError(
                f"layer={self.layer!r}: no convolution or linear layer lies between it and the logits, so that no rule "
                "has been applied there: choose a layer that the last one reads, or one before"
            )
        stop = tape.feature_map(self.layer)
        return Attribution(tape.by_pair(targets, lambda start: tape.pull(table, tape.logits, start, stop)).sum(1))

    def table(self) -> RuleTable:
        """The rules by operation."""
        return RuleTable(
            RULES[self.variant],
            first=ZBox(),
            last=partial(absolute_contributions, start=self.start),
            norm=BATCH_NORM[self.batch_norm],
            shift=SHIFT[self.batch_norm],
            joint=rules.gradient,
            add=RESIDUAL[self.residual],
            gradient_after_last=True,
            method=type(self).__name__,
            may_grow=True,  # `official` doubles relevance at layers with negative inputs
        )
