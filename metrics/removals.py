"""Parts of an image taken away, each alone, and what the network loses of each pair's class."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from assay.harness.choices import check_choice
from assay.harness.forward import ForwardPass
from assay.harness.seeds import SampleRng
from assay.harness.types import Batch
from torch import Tensor

from .perturbation import NOISE, canvas_name
from .pixel_ranks import CANVASES, READS, Blur, read_clean
from .subsets import check_subsets


@dataclass(frozen=True)
class Removal:
    """What metrics share that take parts of the image away one at a time.

    canvas, blur_kernel_px, blur_sigma_px: what stands in the part's place, see `metrics.pixel_ranks`.
    read: score (logit) or probability. seed: of noise and of random parts.
    subsets: of `metrics.subsets`.
    """

    canvas: str = "mean"
    blur_kernel_px: int = 11
    blur_sigma_px: float = 5.0
    read: str = "score"
    seed: int = 0
    subsets: Sequence[str] = ("all",)
    SUMMARY_SETTINGS: ClassVar[tuple[str, ...]] = ("subsets",)

    def __post_init__(self) -> None:
        check_subsets(self.subsets)
        check_choice("canvas", self.canvas, list(CANVASES))
        check_choice("read", self.read, ("probability", "score"))

    @property
    def _blur(self) -> Blur:
        return Blur(self.blur_kernel_px, self.blur_sigma_px)

    @property
    def how(self) -> str:
        """Canvas and read, as they stand in the variant column."""
        return f"{canvas_name(self.canvas, self._blur)},{self.read}"

    def drops(self, batch: Batch, forward: ForwardPass, taken: Tensor) -> Tensor:
        """The clean read minus the read without each part, float64 [P,S]; parts are bool [B,S,h,w].

        An image's inputs pass once for all of its pairs.
        """
        (image, label), parts = batch.targets, taken.shape[1]
        canvas, found = CANVASES[self.canvas](forward, self._blur, SampleRng.of(self.seed, NOISE, batch)), []
        for rows in torch.arange(len(taken) * parts, device=image.device).split(forward.max_rows):
            row, chosen = rows // parts, taken[rows // parts, rows % parts]
            found.append(forward.network.infer(torch.where(chosen[:, None], canvas[row], forward.inputs[row])))
        logits = torch.cat(found).unflatten(0, (-1, parts))[image].flatten(0, 1)  # [P*S,C]
        without = READS[self.read](forward.network, logits, label.repeat_interleave(parts)).unflatten(0, (-1, parts))
        return read_clean(forward, batch.targets, self.read).double()[:, None] - without.double()
