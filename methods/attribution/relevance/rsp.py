"""Relative sectional propagation (Nam, Choi, Lee 2021): target against hostile attributions, from a layer's CAM."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from assay.harness.choices import check_choice
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.network import Network
from assay.harness.seeds import SampleRng
from assay.harness.types import Attribution, Needs
from torch import Tensor

from ..relevance import rules
from .engine import Tape
from .lrp import other_outputs
from .rules import Affine, Map, SumRule, ZBox, indicator, per_sample, ratio, ratio_
from .table import BATCH_NORM, SHIFT, BatchNorm, RuleTable, check_batch_norm

Start = Literal["single", "relative"]
Residual = Literal["positive", "proportional"]
Hostile = Literal["predicted"] | int
SMALL = 1e-9  # which the code adds to what pools and sums read, so that units of 0 share alike


def positive_shifted(summands: Sequence[Tensor], depths: Sequence[int], relevance: Tensor) -> tuple[Tensor | None, ...]:
    """(max(x_k, 0) + 1e-9) / (their sum) R for each summand."""
    parts = [x.clamp(min=0).add_(SMALL) for x in torch.broadcast_tensors(*summands)]
    each = ratio_(relevance, rules.sum_of([parts[0] + parts[1], *parts[2:]]))
    return rules.shared_out(each, parts, summands)


RESIDUAL: dict[str, SumRule] = {"positive": positive_shifted, "proportional": rules.proportional}


def by_correlation(x: Tensor, layer: Affine, relevance: Tensor) -> Tensor:
    """J(x, V, R) with V = Sum over positions of R x, the weights that x and R >= 0 would grow, of each sample alone.

    [B,...] -> [B,...]; the layer's own weights play no part.
    """
    if layer.is_pointwise and layer.backward is not None and layer.backward.by_position:
        return _by_position(x, relevance)

    def one(x: Tensor, relevance: Tensor) -> Tensor:
        x, relevance = x[None], relevance[None]
        grown = layer._replace(weight=layer.weight_gradient(x, relevance))
        each = ratio_of(relevance, grown.apply(x, grown.weight, None))
        return (grown.pull_back(x, each) * x)[0]

    result: Tensor = torch.func.vmap(one)(x, relevance)
    return result


def _by_position(x: Tensor, relevance: Tensor) -> Tensor:
    """The same where an output reads its own position alone: products of matrices, faster than convolutions."""
    values, made = x.flatten(2), relevance.flatten(2)  # [B,i,hw], [B,o,hw]
    grown = made @ values.mT
    each = ratio_(made, grown @ values)
    return (grown.mT @ each).mul_(values).view(x.shape)


def ratio_of(relevance: Tensor, total: Tensor) -> Tensor:
    """`rules.ratio` out of place, as a map over samples needs it."""
    return (relevance / total).nan_to_num(0, 0, 0)


@dataclass(frozen=True)
class Sectional:
    """R' = 2 (J(x+, V+, P) - J(x+, V-, N)), minus its excess over Sum P - Sum N in equal parts where it is not 0.

    P = R+, N = |R-|, and V+, V- the weights of `by_correlation`. In 1x1 convolutions (and fully connected layers)
    there is neither the factor 2 nor the shift. Sum R is kept, but for outputs whose inputs are all 0.
    """

    def __call__(self, x: Tensor, layer: Affine, relevance: Tensor) -> Tensor:
        """R of x."""
        active = x.clamp(min=0)
        target, hostile = (by_correlation(active, layer, part.clamp(min=0)) for part in (relevance, -relevance))
        if layer.is_pointwise:
            return target.sub_(hostile)
        shared = target.sub_(hostile).mul_(2)
        excess = per_sample(relevance).view(-1, *[1] * (x.ndim - 1))
        used = indicator(shared, torch.ne)
        return shared.addcmul_(used, ratio(excess, per_sample(used)), value=-1)


def pool_shifted(x: Tensor, function: Map, relevance: Tensor) -> Tensor:
    """J with the pool, on x + 1e-9."""
    return rules.share(x + SMALL, function, relevance)


@dataclass(frozen=True)
class RSP:
    """Relative sectional propagation (Nam, Choi, Lee 2021).

    Starts at the layer with C_t = a mean_hw(dy_t/da), a its activation: `single` C_t over its largest value;
    `relative` C_t against those of hostile classes (`relative_start`). Ends at the input with the z^B rule.

    layer: where it starts. hostile: of `relative`, so many outputs with the highest logits beside the class' own group,
    or `predicted`, those with a probability of at least .5 (sigmoid networks alone); an image without any starts as
    `single`. residual: sums of two activations share relevance in proportion to max(x, 0) + 1e-9 (the code), or to x.
    batch_norm: `pass_nonzero`, `pass`, or `fold`.
    """

    layer: str
    start: Start = "single"
    hostile: Hostile = 2
    residual: Residual = "positive"
    batch_norm: BatchNorm = "pass_nonzero"
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.start not in ("single", "relative"):
            raise ValueError(f"start={self.start!r}: choose single or relative (against hostile classes)")
        _check_hostile(self.hostile)
        check_choice("residual", self.residual, RESIDUAL)
        check_batch_norm(self.batch_norm)

    def needs(self) -> Needs:
        """Nothing shared: the graph has rules in the place of derivatives."""
        return Needs(by_rounds=True)

    def attribute(self, forward: ForwardPass, targets: Targets, rng: SampleRng) -> Attribution:
        """[P,H,W]; sums to the start's sum (`relative`: 1) but for outputs whose inputs are all 0."""
        tape, table = Tape.record(forward, (self.layer,), self.batch_norm), self.table()
        activation = tape.feature_map(self.layer)

        def cam(one_hot: Tensor) -> Tensor:
            gradient = tape.pull(None, tape.logits, one_hot, activation)
            return activation.detach() * gradient.mean((2, 3), keepdim=True)

        def relevance(one_hot: Tensor) -> Tensor:
            own, others = cam(one_hot), self._hostile(forward.network, one_hot, tape.logits.detach())
            start = relative_start(own, [(cam(other), other.sum(1)) for other in others])
            return tape.pull(table, activation, start, tape.inputs)

        return Attribution(tape.by_pair(targets, relevance).sum(1))

    def _hostile(self, network: Network, one_hot: Tensor, logits: Tensor) -> list[Tensor]:
        """The hostile classes of each image, one after the other: one-hot rows [B,C], zero where it has no more."""
        if self.start == "single":
            return []
        rest = other_outputs(network, one_hot)
        if self.hostile == "predicted":
            _check_sigmoid(network)
            rest = rest * (logits >= 0)
        most = int(rest.sum(1).max()) if self.hostile == "predicted" else self.hostile
        order = logits.masked_fill(rest == 0, -torch.inf).argsort(dim=1, descending=True, stable=True)
        ranked = [torch.zeros_like(rest).scatter_(1, order[:, k : k + 1], 1) for k in range(min(most, rest.shape[1]))]
        return [each * rest for each in ranked]

    def table(self) -> RuleTable:
        """The rules by operation."""
        return RuleTable(
            Sectional(),
            first=ZBox(),
            pool=pool_shifted,
            maximum=pool_shifted,
            norm=BATCH_NORM[self.batch_norm],
            shift=SHIFT[self.batch_norm],
            joint=rules.gradient,
            add=RESIDUAL[self.residual],
            method=type(self).__name__,
            by_image=True,
        )


def _check_hostile(choice: object) -> None:
    if choice != "predicted" and not (isinstance(choice, int) and choice >= 1):
        raise ValueError(f"hostile={choice!r}: choose predicted or a number of classes, 1 or more")


def _check_sigmoid(network: Network) -> None:
    if network.activation != "sigmoid":
        raise ValueError(
            f"hostile='predicted' needs a network that predicts several classes (activation sigmoid); this one has "
            f"{network.activation}: choose a number of classes"
        )


def over_largest(cam: Tensor) -> Tensor:
    """A CAM tensor [B,K,h,w] over its largest value; over its largest modulus where no value is positive."""
    high, low = (pick(cam.flatten(1), 1).view(-1, 1, 1, 1) for pick in (torch.amax, torch.amin))
    return ratio(cam, torch.where(high > 0, high, -low))


def sections(values: Tensor, factor: float = 1) -> Tensor:
    """factor P / Sum P - N / Sum N with P = v+, N = |v-|, an empty section being 0."""
    positive, negative = values.clamp(min=0), (-values).clamp(min=0)
    return factor * ratio(positive, per_sample(positive)) - ratio(negative, per_sample(negative))


def relative_start(own: Tensor, others: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Where relevance starts: C_t over its largest value; against n hostile classes n C_t - Sum C_o, in sections.

    Each C is taken over its largest value; P / Sum P - N / Sum N of the difference is summed over channels [B,1,h,w],
    and of that 2 P / Sum P - N / Sum N is spread over the channels in equal parts (published code): a sum of 1.

    Args:
        own: C_t [B,K,h,w].
        others: C_o [B,K,h,w], and which images have this hostile class, ones and zeros [B].
    """
    single = over_largest(own)
    if not others:
        return single
    count = torch.stack([present for _, present in others]).sum(0).view(-1, 1, 1, 1)
    hostile = rules.sum_of([over_largest(cam) for cam, _ in others])
    against = sections(count * single - hostile).sum(1, keepdim=True)
    spread = (sections(against, 2) / own.shape[1]).expand_as(own)
    return torch.where(count > 0, spread, single)
