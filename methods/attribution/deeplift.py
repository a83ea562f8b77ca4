"""DeepLIFT (Shrikumar, Greenside, Kundaje 2017), the rescale rule, for a whole network."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from assay.harness.choices import check_choice
from assay.harness.forward import ForwardPass
from assay.harness.frames import gaussian_blur
from assay.harness.heads import Targets
from assay.harness.seeds import SampleRng
from assay.harness.types import Attribution, Needs
from torch import Tensor

from .gradient import BASELINES, Reduce, reduce_channels
from .multipliers import Multipliers, Scope, multipliers

SCOPE = Scope(
    "the network",
    "use integrated_gradients, which is complete as well, or input_x_gradient: they work with any network",
    products=False,
)
BLUR = "blur"
LACKING = 1e-3  # share of Sum |map| by which a map may miss f(x) - f(x'); rounding takes up to 2e-4 in float32


@dataclass(frozen=True)
class DeepLIFT:
    """m (x - x') with the multipliers m of the rescale rule (Shrikumar et al. 2017, Eq. 3-5 and 12).

    Completeness: the map sums to f_c(x) - f_c(x') (with reduce=sum); a map that does not is refused.

    baseline x': `mean` (zero in normalised space), black, white, or blur (the image under a Gaussian of blur_sigma_px,
    cut to blur_kernel_px, an odd number). reduce: how colour channels become one map.
    """

    baseline: str = "mean"
    blur_sigma_px: float = 5.0
    blur_kernel_px: int = 11
    reduce: Reduce = "sum"
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_choice("baseline", self.baseline, {**BASELINES, BLUR: None})
        if self.blur_kernel_px % 2 == 0 or self.blur_kernel_px < 1 or self.blur_sigma_px <= 0:
            raise ValueError(
                f"blur_kernel_px={self.blur_kernel_px}, blur_sigma_px={self.blur_sigma_px:g}: odd and positive"
            )

    def needs(self) -> Needs:
        """Nothing shared: the graph has slopes in the place of derivatives."""
        return Needs(by_rounds=True)

    def attribute(self, forward: ForwardPass, targets: Targets, rng: SampleRng) -> Attribution:
        """[P,H,W].

        Raises:
            ValueError: the network calls an operation without a rule, or computes out of sight of the rules.
        """
        inputs, baseline = forward.inputs.detach(), self.reference(forward)
        baseline = baseline.expand_as(inputs) if forward.network.cells > 1 else baseline  # a row of layers is a cell
        forward.network.passes.backward += len(inputs) * len(targets.rounds())
        found = multipliers(forward.network, forward.network.module, inputs, baseline, targets, SCOPE)
        contributions = (inputs - baseline).expand(inputs.shape)[targets.image] * found.values
        _check_complete(contributions, found)
        return Attribution(reduce_channels(contributions, self.reduce))

    def reference(self, forward: ForwardPass) -> Tensor:
        """x', normalised: [1,C,H,W], or [B,C,H,W] where each image has its own."""
        if self.baseline != BLUR:
            return BASELINES[self.baseline](forward)
        blurred = gaussian_blur(forward.images.flatten(0, 1), self.blur_sigma_px, self.blur_kernel_px // 2)
        return forward.network.normalise(blurred.view_as(forward.images))


def _check_complete(contributions: Tensor, found: Multipliers) -> None:
    """Raise ValueError unless each pair's contributions [P,C,H,W] sum to its f(x) - f(x').

    What the rules do not see (a choice by an activation's sign, a value without graph) shows here. Half of the digits
    of the logits are left to rounding.
    """
    each, change = contributions.flatten(1), found.after - found.before
    rounding = torch.finfo(each.dtype).eps ** 0.5 * torch.maximum(found.after.abs(), found.before.abs())
    excess = (each.sum(1) - change).abs() - LACKING * (each.abs().sum(1) + change.abs()) - rounding
    if bool((excess > 0).any()):
        worst = int(excess.argmax())
        raise ValueError(
            f"DeepLIFT's map sums to {float(each[worst].sum()):.6g}, and f(x) - f(x') is {float(change[worst]):.6g}: "
            "the network does something that the rescale rule does not see, as a choice by an activation's sign "
            f"(torch.where, masks) or a detached value; {SCOPE.mend}"
        )
