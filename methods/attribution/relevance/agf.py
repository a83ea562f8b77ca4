"""Attribution-guided factorization (Gur, Ali, Wolf 2021): relevance, guided by gradients and what they factor into."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
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
from .operations import Operation, UnsupportedOp
from .rap import RESIDUAL
from .rules import Affine, ZBox, indicator, per_sample, ratio, ratio_
from .table import BATCH_NORM, SHIFT, BatchNorm, RuleTable, check_batch_norm

Residual = Literal["positive", "proportional"]
TERMS = ("F_x", "F_dx", "M", "A")
SHARPNESS = 10  # of the sigmoid before the factorization


def contrasted(logits: Tensor, one_hot: Tensor) -> Tensor:
    """dq_t/dy [B,C] of q = softmax_j(y_t exp(-((y_j - y_t) / sigma)^2 / 2)), sigma = max_j |y_j - y_t|.

    The derivative passes through y_t and sigma as well. Rows without a class are 0.
    """
    with torch.enable_grad():
        leaf = logits.detach().requires_grad_()
        own = (leaf * one_hot).sum(1, keepdim=True)
        away = leaf - own
        sigma = away.abs().amax(1, keepdim=True).clamp(min=torch.finfo(leaf.dtype).tiny)
        q = (own * torch.exp(-((away / sigma) ** 2) / 2)).softmax(1)
        (gradient,) = torch.autograd.grad((q * one_hot).sum(), leaf)
    return gradient * one_hot.sum(1, keepdim=True)


def over_maximum(values: Tensor) -> Tensor:
    """Values over the largest of each sample, [B,...]."""
    return ratio(values, values.flatten(1).amax(1).view(-1, *[1] * (values.ndim - 1)))


def guided(shared: Tensor, residue: Tensor) -> Tensor:
    """C + r 1[C != 0] minus the sum of that in equal parts where C != 0: the sum of C is kept. Written over C."""
    used = indicator(shared, torch.ne)
    counted = used * residue
    each = ratio(per_sample(counted), per_sample(used))
    return shared.add_(counted).addcmul_(used, each, value=-1)


def agreement(x: Tensor, gradient: Tensor) -> Tensor:
    """M = max(mean_c(x g), 0) over its largest value: [B,c,h,w] twice -> [B,1,h,w]."""
    return over_maximum((x * gradient).mean(1, keepdim=True).clamp(min=0))


def factorised(values: Tensor, shared: Tensor) -> Tensor:
    """How much more like the positions that C favours a position is than like the others: F, [B,c,h,w] -> [B,1,h,w].

    H = sigmoid(10 v), v the values over their largest; R = [R-, R+] [c,2] the means of H over the positions where
    mean_c C is negative and positive; W = max((R^T R + I)^-1 R^T H, 0) [2,hw]; F = max(W+ - W-, 0).
    """
    samples = over_maximum(values).mul_(SHARPNESS).sigmoid_().flatten(2)  # H [B,c,hw]
    mean = shared.mean(1).flatten(1)  # [B,hw]
    sides = torch.stack([indicator(mean, torch.lt), indicator(mean, torch.gt)], 2)  # [B,hw,2]
    basis = ratio(samples @ sides, sides.sum(1, keepdim=True))  # R [B,c,2]
    gram = basis.mT @ basis + torch.eye(2, dtype=values.dtype, device=values.device)
    weights = torch.linalg.solve(gram, basis.mT @ samples).clamp(min=0)  # W [B,2,hw]
    favoured = (weights[:, 1] - weights[:, 0]).clamp(min=0)
    return favoured.view(-1, 1, *values.shape[2:])


@dataclass(frozen=True)
class Factorised:
    """phi' = Delta(C, r), C = J(|x|, |w|, phi), Delta(C, r) = C + r - 1[C != 0] Sum r / #(C != 0).

    r = ((F_x + M) / (1 + e^-C) + F_dx + A) 1[C != 0], A = J(1, |w|, phi), M of the gradient g = dq_t/dx through this
    layer, F_dx of the gradient through those outputs alone that have relevance. In 1x1 convolutions, and in fully
    connected layers, r is 0; but one that reads a map as a vector has r = M 1[C != 0].
    """

    terms: Sequence[str] = TERMS

    def __call__(self, x: Tensor, layer: Affine, relevance: Tensor) -> Tensor:
        """phi of x."""
        magnitude = layer.reweighed(torch.abs)
        total = magnitude.apply(size := x.abs(), magnitude.weight, None)
        shared = magnitude.pull_back(x, ratio_(relevance, total)).mul_(size)
        if layer.is_dense:
            return self._from_vector(x, layer, shared)
        return shared if layer.is_pointwise else guided(shared, self._residue(x, magnitude, layer, relevance, shared))

    def _from_vector(self, x: Tensor, layer: Affine, shared: Tensor) -> Tensor:
        if layer.map_shape is None or "M" not in self.terms:
            return shared
        if not layer.map_shape:
            raise UnsupportedOp("linear", "reads a map whose axes have changed places, so its channels are not known")
        gradient = layer.pull_back(x, _given(layer))
        maps, gradients, parts = (each.unflatten(1, layer.map_shape) for each in (x, gradient, shared))
        return guided(parts, agreement(maps, gradients)).flatten(1)

    def _residue(self, x: Tensor, magnitude: Affine, layer: Affine, relevance: Tensor, shared: Tensor) -> Tensor:
        given, inside = _given(layer), x.new_zeros(())
        if "F_x" in self.terms:
            inside = inside + factorised(x, shared)
        if "M" in self.terms:
            inside = inside + agreement(x, layer.pull_back(x, given))
        residue = shared.sigmoid().mul_(inside)
        if "F_dx" in self.terms:
            residue += factorised(layer.pull_back(x, indicator(relevance, torch.ne).mul_(given)), shared)
        if "A" in self.terms:
            reach = magnitude.apply(torch.ones_like(x[:1]), magnitude.weight, None)
            residue += magnitude.pull_back(x, ratio(relevance, reach))
        return residue


def _given(layer: Affine) -> Tensor:
    assert layer.gradient is not None
    return layer.gradient


def input_times_gradient(x: Tensor, layer: Affine, gradient: Tensor) -> Tensor:
    """x dq_t/dx at the last layer: where relevance begins."""
    return x * layer.pull_back(x, gradient)


@dataclass(frozen=True)
class AGF:
    """Attribution-guided factorization (Gur, Ali, Wolf 2021), from q_t, a softmax that contrasts (`contrasted`).

    phi = x dq_t/dx at the input of the last layer, then `Factorised` in convolutions, and z^B at the input.

    terms: which of F_x, F_dx, M, A are added (the paper's ablation). residual: sums of two activations share relevance
    in proportion to max(x, 0), or (`proportional`, the published code) to x: sums that nearly cancel then divide it.
    batch_norm: `pass` (the code), `pass_nonzero`, or `fold`.
    """

    terms: Sequence[str] = TERMS
    residual: Residual = "positive"
    batch_norm: BatchNorm = "pass"
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if unknown := set(self.terms) - set(TERMS):
            raise ValueError(f"terms={list(self.terms)}: {', '.join(sorted(unknown))} unknown, choose of {TERMS}")
        check_choice("residual", self.residual, RESIDUAL)
        check_batch_norm(self.batch_norm)

    def needs(self) -> Needs:
        """Nothing shared: the graph has rules in the place of derivatives."""
        return Needs(by_rounds=True)

    def attribute(self, forward: ForwardPass, targets: Targets, rng: SampleRng) -> Attribution:
        """[P,H,W]; sums to Sum x dq_t/dx of the last layer but for outputs without contributions."""
        tape = Tape.record(forward, batch_norm=self.batch_norm)

        def relevance(one_hot: Tensor) -> Tensor:
            start = contrasted(tape.logits, one_hot)
            gradients: dict[Operation, Tensor] = {}
            tape.pull(None, tape.logits, start, tape.inputs, partial(_keep, gradients))
            return tape.pull(self.table(gradients), tape.logits, start, tape.inputs)

        return Attribution(tape.by_pair(targets, relevance).sum(1))

    def table(self, gradients: dict[Operation, Tensor]) -> RuleTable:
        """The rules by operation, with the gradient of q_t for each layer's output."""
        return RuleTable(
            Factorised(tuple(self.terms)),
            first=ZBox(),
            last=input_times_gradient,
            norm=BATCH_NORM[self.batch_norm],
            shift=SHIFT[self.batch_norm],
            add=RESIDUAL[self.residual],
            joint=rules.gradient,
            gradient_after_last=True,
            gradients=gradients,
            method=type(self).__name__,
            by_image=True,
            adds=1,
        )


def _keep(gradients: dict[Operation, Tensor], operation: Operation, gradient: Tensor) -> None:
    """What `Factorised` reads: gradients of convolutions with a kernel, and of layers that read a map as a vector."""
    layer = operation.affine
    if layer is not None and (layer.map_shape or not layer.is_pointwise):
        gradients[operation] = gradient
