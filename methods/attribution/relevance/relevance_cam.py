"""Relevance-CAM (Lee, Kim, Park, Eo, Hwang 2021): a class-activation map whose weights are relevance."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from assay.harness.choices import check_choice
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.seeds import SampleRng
from assay.harness.types import Attribution, Needs
from torch import Tensor

from ..relevance import rules
from .engine import Tape
from .lrp import other_outputs
from .rap import RESIDUAL
from .rules import Affine, Map, of_signs, shares, split_signs
from .table import BATCH_NORM, SHIFT, BatchNorm, RuleTable, check_batch_norm

Residual = Literal["positive", "proportional"]


@dataclass(frozen=True)
class Exciting:
    """alpha 1, beta 0 with one denominator: Sum of x+ w+ and x- w-, plus a convolution's bias so many times.

    biases: 2 (the published code adds it once for each sign of x), 1, or 0. A fully connected layer's is left out.
    """

    biases: int = 2

    def __call__(self, x: Tensor, layer: Affine, relevance: Tensor) -> Tensor:
        """R of x."""
        is_counted = self.biases > 0 and not layer.is_dense
        bias = self.biases * layer.bias if is_counted and layer.bias is not None else None
        return shares(of_signs(split_signs(x, layer), layer, 1), relevance, bias=bias)


def pool_positive_part(x: Tensor, function: Map, relevance: Tensor) -> Tensor:
    """J with the pool, on max(x, 0)."""
    return rules.share(x.clamp(min=0), function, relevance)


@dataclass(frozen=True)
class RelevanceCAM:
    """Sum_k alpha_k A_k, A a layer's activation and alpha_k the mean over positions of its relevance; no ReLU.

    Relevance starts as 1 at the class and -1/n at the other outputs, of which there are n with the class (those of its
    own group get 0), and takes the alpha 1, beta 0 rule.

    layer: whose maps are summed. biases: how often a convolution's bias is part of its denominator, 2 (the published
    code), 1 or 0. residual: sums of two activations share relevance in proportion to x (the code), or to max(x, 0).
    batch_norm: `pass_nonzero` (the code), `pass`, or `fold`.
    """

    layer: str
    biases: int = 2
    residual: Residual = "proportional"
    batch_norm: BatchNorm = "pass_nonzero"
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.biases not in (0, 1, 2):
            raise ValueError(f"biases={self.biases}: choose 2 (the published code), 1 or 0")
        check_choice("residual", self.residual, RESIDUAL)
        check_batch_norm(self.batch_norm)

    def needs(self) -> Needs:
        """Nothing shared: the graph has rules in the place of derivatives."""
        return Needs()

    def attribute(self, forward: ForwardPass, targets: Targets, rng: SampleRng) -> Attribution:
        """[P,h,w] with coefficients alpha [P,K]."""
        tape, table = Tape.record(forward, (self.layer,), self.batch_norm), self.table()
        activation = tape.feature_map(self.layer)

        def coefficients(one_hot: Tensor) -> Tensor:
            start = one_hot - other_outputs(forward.network, one_hot) / one_hot.shape[1]
            return tape.pull(table, tape.logits, start, activation).mean((2, 3))

        alpha = tape.by_pair(targets, coefficients)  # [P,K]
        values = (alpha[:, :, None, None] * activation.detach()[targets.image]).sum(1)
        return Attribution(values, alpha, self.layer)

    def table(self) -> RuleTable:
        """The rules by operation."""
        return RuleTable(
            Exciting(self.biases),
            pool=pool_positive_part,
            norm=BATCH_NORM[self.batch_norm],
            shift=SHIFT[self.batch_norm],
            joint=rules.gradient,
            add=RESIDUAL[self.residual],
            method=type(self).__name__,
        )
