"""Excitation backprop and its contrastive form (Zhang et al. 2016), as TorchRay computes them."""

from dataclasses import dataclass, replace
from typing import ClassVar

from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.seeds import SampleRng
from assay.harness.types import Attribution, Needs
from torch import Tensor

from .engine import Tape
from .rules import Excitation, Inhibition, gradient, shift_takes_nothing
from .table import RuleTable

TABLE = RuleTable(Excitation(), shift=shift_takes_nothing, joint=gradient, method="excitation backprop", may_grow=True)


@dataclass(frozen=True)
class ExcitationBackprop:
    """Marginal winning probabilities from a probability of 1 at the class (Zhang et al. 2016, Eq. 5-6).

    layer: where propagation stops; the map is the channel sum of its output's relevance. null: at the input, where
    signed values make the rule ill-conditioned.
    """

    layer: str | None = None
    VERSION: ClassVar[int] = 3

    def needs(self) -> Needs:
        """Nothing shared: the graph has rules in the place of derivatives."""
        return Needs(by_rounds=self.layer is None)

    def attribute(self, forward: ForwardPass, targets: Targets, rng: SampleRng) -> Attribution:
        """[P,h,w], sums to 1."""
        tape = Tape.record(forward, tuple(filter(None, [self.layer])), batch_norm="pass", before_constants=True)
        stop = tape.feature_map(self.layer)
        return Attribution(tape.by_pair(targets, lambda start: tape.pull(TABLE, tape.logits, start, stop)).sum(1))


@dataclass(frozen=True)
class ContrastiveEB:
    """Excitation backprop of p - q (Zhang et al. 2016, section 3.3).

    p is the class' excitation at the contrast layer, q that of the dual class, whose weights in the last layer are
    negated: p_i ~ a_i w+_ti, q_i ~ a_i |w-_ti|, each with sum 1. It is sent down from there like any excitation.

    contrast_layer: what the last layer reads. layer: where propagation stops. signed: keep negative values of the
    map; TorchRay clamps them (the arg-max is the same).
    """

    contrast_layer: str
    layer: str | None = None
    signed: bool = True
    VERSION: ClassVar[int] = 3

    def needs(self) -> Needs:
        """Nothing shared: the graph has rules in the place of derivatives."""
        return Needs()

    def attribute(self, forward: ForwardPass, targets: Targets, rng: SampleRng) -> Attribution:
        """[P,h,w]; sums to 0 while signed."""
        tape = Tape.record(
            forward, tuple(filter(None, [self.contrast_layer, self.layer])), batch_norm="pass", before_constants=True
        )
        if tape.is_after_last(self.contrast_layer):
            raise ValueError(
                f"contrast_layer={self.contrast_layer!r}: no convolution or linear layer lies between it and the "
                "logits, so p = q and the map is zero: choose what the last layer reads"
            )
        contrast, stop = tape.at(self.contrast_layer), tape.feature_map(self.layer)
        dual = replace(TABLE, last=Inhibition())

        def relevance(start: Tensor) -> Tensor:
            p, q = (tape.pull(table, tape.logits, start, contrast) for table in (TABLE, dual))
            return tape.pull(TABLE, contrast, p - q, stop)

        values = tape.by_pair(targets, relevance).sum(1)
        return Attribution(values if self.signed else values.clamp(min=0))
