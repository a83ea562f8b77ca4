"""Score-CAM: the class' score on the image seen through each activation map."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.seeds import SampleRng
from torch import Tensor

from .cam import ChannelWeighting

Variant = Literal["official", "paper"]


@dataclass(frozen=True)
class ScoreCAM(ChannelWeighting):
    """alpha_k from the score on x * H_k, H_k the upsampled map scaled to [0,1] (Wang et al. 2020, Eq. 4-5, Alg. 1).

    x is the normalised input. The masked images are those of all classes: they go through the network once.

    variant: `official`, the authors' code: alpha_k is the class' probability; flat maps are skipped (alpha_k = 0).
        `paper`: softmax over channels of the logit's increase over the input 0 (which cancels), as in pytorch-grad-cam;
        a flat map has no increase.
    align_corners: of the bilinear upsampling; pytorch-grad-cam aligns them.
    """

    variant: Variant = "official"
    align_corners: bool = False
    VERSION: ClassVar[int] = 1
    FORWARD_ONLY: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.variant not in ("official", "paper"):
            raise ValueError(f"variant={self.variant!r}: choose official or paper")

    def coefficients(self, forward: ForwardPass, activation: Tensor, targets: Targets, rng: SampleRng) -> Tensor:
        """alpha [P,K]."""
        with torch.no_grad():
            if self.variant == "paper":
                unseen = forward.network(torch.zeros_like(forward.inputs[:1]))[0, targets.label]
            else:
                unseen = activation.new_zeros(len(targets.image))
            seen = activation.new_zeros(len(targets.image), activation.shape[1])
            is_flat = activation.amax((2, 3)) == activation.amin((2, 3))
            wanted = torch.zeros_like(is_flat[:, 0]).index_fill(0, targets.image, True)
            for rows in (~is_flat & wanted[:, None]).nonzero().split(forward.max_rows):
                found = self.outputs(forward, activation, rows)[:, targets.label]  # [R,P]
                own = torch.where(rows[:, :1] == targets.image, found, 0)
                seen.index_add_(1, rows[:, 1], own.T)  # one row each, and zeros
            scores = torch.where(is_flat[targets.image], unseen[:, None], seen)
            return scores.softmax(1) if self.variant == "paper" else scores

    def outputs(self, forward: ForwardPass, activation: Tensor, rows: Tensor) -> Tensor:
        """Probabilities (`paper`: logits) of the images seen through maps: rows [R,2] of (image, channel) -> [R,C]."""
        maps = activation[rows[:, 0], rows[:, 1]][:, None]
        size = forward.inputs.shape[2:]
        large = F.interpolate(maps, tuple(size), mode="bilinear", align_corners=self.align_corners)
        low, high = large.amin((2, 3), keepdim=True), large.amax((2, 3), keepdim=True)
        logits = forward.network.infer(forward.inputs[rows[:, 0]] * ((large - low) / (high - low)))
        return logits if self.variant == "paper" else forward.network.output_probabilities(logits)
