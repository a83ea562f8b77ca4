"""Layer-wise relevance propagation: one rule a layer, composed by config; and its contrastive form."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
from assay.harness.choices import check_choice
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.network import Network
from assay.harness.seeds import SampleRng
from assay.harness.types import Attribution, Needs
from torch import Tensor

from ..relevance import rules
from .attention import ATTENTION, Attention
from .engine import Tape
from .rules import Affine, AffineRule, AlphaBeta, Excitation, Flat, ShiftRule, ZBox
from .table import BATCH_NORM, SHIFT, BatchNorm, RuleTable, Start, check_batch_norm, check_start

ONE_SIGNED = (AlphaBeta, Excitation, Flat, ZBox)


@dataclass(frozen=True)
class Dense:
    """One rule for fully connected layers, another for convolutions."""

    dense: AffineRule
    convolution: AffineRule

    def __call__(self, x: Tensor, layer: Affine, relevance: Tensor) -> Tensor:
        """R of x."""
        return (self.dense if layer.is_dense else self.convolution)(x, layer, relevance)


@dataclass(frozen=True)
class LRP:
    """Layer-wise relevance propagation (Bach et al. 2015), from the logit to the input.

    rule: of convolutions and fully connected layers, an object of `rules`. dense: of fully connected layers, if
    another. first: of layers that read the input (`rules.ZBox`, `rules.Flat`), if another. layers: of layers by name,
    a pattern (`features.1?`, `layer4.*`) -> rule; these come before all others, and each must match a convolution or
    fully connected layer. batch_norm: `fold` merges it into the layer before it; `pass` lets relevance pass;
    `pass_nonzero` where its input is not exactly 0. One that follows no layer, and any constant, is merged into the
    layer after it; where that cannot be, a shift keeps its share (with one-signed rules without biases: nothing).
    start: the class' logit, or `one`: with one-signed rules the map of a class with a negative logit is then not turned
    over (with epsilon's and gamma's it is then). stabiliser: of sums of two activations, relative to their mean
    modulus, 0 or more. Max-pools give all to the largest input, average pools in proportion.
    attention: `attnlrp` (Achtibat et al. 2024): softmax by its Taylor expansion, products of two activations by halves;
    `cp_lrp` (Ali et al. 2022): attention is a constant; `refused`: such operations are. Norms of a token (layer-norm)
    have its size as a constant, and share by the rule of Epsilon; rules of one sign refuse them.
    """

    rule: AffineRule
    dense: AffineRule | None = None
    first: AffineRule | None = None
    layers: Mapping[str, AffineRule] = field(default_factory=dict)
    batch_norm: BatchNorm = "fold"
    stabiliser: float = 1e-6
    start: Start = "logit"
    attention: Attention = "refused"
    VERSION: ClassVar[int] = 3

    def __post_init__(self) -> None:
        check_batch_norm(self.batch_norm)
        check_choice("attention", self.attention, ATTENTION)
        check_start(self.start)
        rules.check_not_negative("stabiliser", self.stabiliser)

    def needs(self) -> Needs:
        """Nothing shared: the graph has rules in the place of derivatives."""
        return Needs(by_rounds=True)

    def attribute(self, forward: ForwardPass, targets: Targets, rng: SampleRng) -> Attribution:
        """[P,H,W]; sums to the logit but for what biases, dead denominators and the stabiliser keep."""
        tape, table = Tape.record(forward, batch_norm=self.batch_norm), self.table()

        def relevance(one_hot: Tensor) -> Tensor:
            return tape.pull(table, tape.logits, self.started(one_hot, tape.logits.detach()), tape.inputs)

        return Attribution(tape.by_pair(targets, relevance).sum(1))

    def started(self, one_hot: Tensor, logits: Tensor) -> Tensor:
        """Relevance of the outputs [B,C] to begin with."""
        return one_hot if self.start == "one" else one_hot * logits

    def table(self) -> RuleTable:
        """The rules by operation."""
        softmax, product = ATTENTION[self.attention]
        return RuleTable(
            self.rule if self.dense is None else Dense(self.dense, self.rule),
            first=self.first,
            named=self.layers,
            norm=BATCH_NORM[self.batch_norm],
            shift=self._shift(),
            joint=rules.gradient if self._leaves_biases_out else partial(rules.share, epsilon=self.stabiliser),
            method=f"{type(self).__name__} ({type(self.rule).__name__})",
            add=partial(rules.proportional, epsilon=self.stabiliser),
            normalise=None if self._leaves_biases_out else partial(rules.share, epsilon=self.stabiliser),
            softmax=softmax,
            product=product,
            stabiliser=self.stabiliser,
        )

    @property
    def _leaves_biases_out(self) -> bool:
        """Rules of one sign leave biases out of their denominators, unless they are told."""
        return isinstance(self.rule, ONE_SIGNED) and not getattr(self.rule, "bias", False)

    def _shift(self) -> ShiftRule:
        """A constant keeps its share, but with rules that leave biases out."""
        if self._leaves_biases_out:
            return SHIFT[self.batch_norm]
        return partial(rules.shift_keeps, epsilon=self.stabiliser)


@dataclass(frozen=True)
class ContrastiveLRP:
    """R_t - R_o Sum R_t / Sum R_o: LRP of the class minus that of all others (Gu et al. 2018, CLRP1).

    R_t starts with the class' logit y_t, R_o with y_t / n at each of the n other outputs (as in AGF's code). Outputs of
    the class' own group are not among the others. Where Sum R_o is 0 nothing is subtracted.

    lrp: the method whose maps are contrasted; of its `start` one, R_t starts with 1 and R_o with 1 / n.
    """

    lrp: LRP = field(default_factory=lambda: LRP(AlphaBeta()))
    VERSION: ClassVar[int] = 3

    def needs(self) -> Needs:
        """Nothing shared: the graph has rules in the place of derivatives."""
        return Needs(by_rounds=True)

    def attribute(self, forward: ForwardPass, targets: Targets, rng: SampleRng) -> Attribution:
        """[P,H,W]; sums to 0."""
        tape, table = Tape.record(forward, batch_norm=self.lrp.batch_norm), self.lrp.table()

        def relevance(one_hot: Tensor) -> Tensor:
            own = self.lrp.started(one_hot, tape.logits.detach())
            rest = other_outputs(forward.network, one_hot)
            others = own.sum(1, keepdim=True) * rest / rest.sum(1, keepdim=True).clamp(min=1)
            r_t, r_o = (tape.pull(table, tape.logits, start, tape.inputs) for start in (own, others))
            return r_t - r_o * rules.ratio(rules.per_sample(r_t), rules.per_sample(r_o))

        return Attribution(tape.by_pair(targets, relevance).sum(1))


def other_outputs(network: Network, one_hot: Tensor) -> Tensor:
    """1 at the outputs that contrast with each row's, 0 at its own and its group's members: [B,C] -> [B,C]."""
    own = one_hot.clone()
    for members in network.groups or ():
        index = torch.tensor(list(members), dtype=torch.int64, device=one_hot.device)
        touched = one_hot[:, index].sum(1, keepdim=True)  # 1 where the row's output is a member
        own[:, index] = torch.maximum(own[:, index], touched.expand(-1, len(index)))
    return (1 - own) * one_hot.sum(1, keepdim=True)
