"""RISE: the class' score on images behind random masks."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.seeds import SampleRng
from assay.harness.transfer import sent
from assay.harness.types import Attribution, Needs
from torch import Tensor

DRAWN = 64  # masks drawn at once: fixed, so that numbers do not depend on the batch


@dataclass(frozen=True)
class RISE:
    """map = 1 / (N p) Sum_i f_c(x * M_i) M_i over N random masks (Petsiuk et al. 2018, Eq. 6).

    A mask is a grid of cells, each open with probability p, enlarged bilinearly by one cell more than the image needs
    and shifted at random by up to a cell. f_c is a probability, x the normalised input. The masked images are those of
    all classes: they go through the network once.

    masks: N; the paper has 4000 (VGG16) and 8000 (ResNet-50). cells: of the grid's side. keep: p.
    """

    masks: int = 4000
    cells: int = 7
    keep: float = 0.5
    VERSION: ClassVar[int] = 1
    FORWARD_ONLY: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.masks < 1 or self.cells < 1 or not 0 < self.keep < 1:
            raise ValueError(
                f"masks={self.masks}, cells={self.cells}, keep={self.keep:g}: at least 1 each, and keep in (0,1)"
            )

    def needs(self) -> Needs:
        """Nothing shared: every mask is a pass of its own."""
        return Needs()

    def attribute(self, forward: ForwardPass, targets: Targets, rng: SampleRng) -> Attribution:
        """[P,H,W]."""
        total = forward.inputs.new_zeros(len(targets.image), *forward.inputs.shape[2:])
        with torch.no_grad():
            pairs_of = targets.by_image()
            for drawn in self._drawn(rng):
                cells = sent(drawn, total.device).to(total)
                for image, pairs in pairs_of.items():
                    for part in cells[image].split(forward.max_rows):
                        masks = self.grown(part, forward.inputs.shape[2], forward.inputs.shape[3])
                        logits = forward.network.infer(forward.inputs[image] * masks[:, None])
                        scores = forward.network.output_probabilities(logits)[:, targets.label[pairs]]
                        total[pairs] += torch.einsum("np,nhw->phw", scores, masks)
        return Attribution(total / (self.masks * self.keep))

    def _drawn(self, rng: SampleRng) -> Iterator[Tensor]:
        """Uniform numbers of some masks at a time: [B,n,cells^2+2]."""
        for start in range(0, self.masks, DRAWN):
            yield rng.uniform((min(DRAWN, self.masks - start), self.cells**2 + 2))

    def grown(self, uniform: Tensor, height: int, width: int) -> Tensor:
        """Masks of uniform numbers, the cells' and then the two shifts': [n,cells^2+2] -> [n,height,width] in [0,1]."""
        sides = [-(-side // self.cells) for side in (height, width)]  # px of a cell, rounded up
        grid = (uniform[:, :-2] < self.keep).to(uniform).view(-1, 1, self.cells, self.cells)
        large = F.interpolate(grid, [(self.cells + 1) * side for side in sides], mode="bilinear", align_corners=False)
        down, across = (
            (drawn * side).long()[:, None] for drawn, side in zip(uniform[:, -2:].unbind(1), sides, strict=True)
        )
        y = down + torch.arange(height, device=uniform.device)  # [n,height], shifted by less than a cell
        x = across + torch.arange(width, device=uniform.device)
        rows = torch.arange(len(uniform), device=uniform.device)[:, None, None]
        return large[rows, 0, y[:, :, None], x[:, None, :]]
