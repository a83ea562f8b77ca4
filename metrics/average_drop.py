"""Does the map show what the network needs? Its answer on the image seen through the map, and with the map cut out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import pandas as pd
import torch
from assay.harness import stats
from assay.harness.choices import check_choice
from assay.harness.forward import ForwardPass
from assay.harness.types import Batch, FramedMaps, ResultRow
from torch import Tensor

from .subsets import check_subsets, estimate_row, parts, undefined_row

Space = Literal["normalised", "raw"]

# (forward, image numbers [R], masks [R,1,h,w]) -> masked network inputs [R,3,h,w].
SPACES: Mapping[str, Callable[[ForwardPass, Tensor, Tensor], Tensor]] = {
    "normalised": lambda forward, image, masks: forward.inputs[image] * masks,
    "raw": lambda forward, image, masks: forward.network.normalise(forward.images[image] * masks),
}


def as_masks(maps: Tensor, keep: float | None = None) -> Tensor:
    """Rectified maps scaled to [0,1] by their least and largest value: [P,h,w] -> [P,h,w].

    A map of one value is 1 if that is above zero, else 0. keep: values below the share's highest become 0.
    """
    rectified = maps.clamp(min=0)
    low, high = rectified.amin((1, 2), keepdim=True), rectified.amax((1, 2), keepdim=True)
    masks = torch.where(high > low, (rectified - low) / (high - low), (high > 0).to(maps))
    if keep is None:
        return masks
    flat = masks.flatten(1)
    kept = max(1, round(keep * flat.shape[1]))
    threshold = flat.kthvalue(flat.shape[1] - kept + 1, dim=1).values
    return masks * (masks >= threshold[:, None, None])


@dataclass(frozen=True)
class AverageDrop:
    """Average drop, increase in confidence and average drop in deletion (LIFT-CAM, Jung and Oh 2021, Sect. 5.1).

    With Y, O and D the probability of the class on x, on x * m and on x * (1 - m), m the map rectified, over the input
    and scaled to [0,1]: AD = mean max(0, Y - O) / Y, IC = share of O > Y (both: Chattopadhay et al. 2018, Sect. 4.1),
    ADD = mean (Y - D) / Y. Probabilities are the network's own: softmax or sigmoid. The papers explain the predicted
    class: protocol=top1, or the subset `predicted`.

    space: where x is multiplied: `normalised` (what is masked becomes the mean colour; the codes of Score-CAM and
        torch-cam) or `raw` (black).
    keep: null, or the share of pixels, the map's highest, that stay in m (Score-CAM, Sect. 4.2: .5).
    subsets: of `metrics.subsets`.
    """

    space: Space = "normalised"
    keep: float | None = None
    subsets: Sequence[str] = ("all",)
    VERSION: ClassVar[int] = 1
    PAIRED: ClassVar[tuple[str, ...]] = ("drop", "increase", "deletion_drop")
    SUMMARY_SETTINGS: ClassVar[tuple[str, ...]] = ("subsets",)

    def __post_init__(self) -> None:
        check_subsets(self.subsets)
        check_choice("space", self.space, SPACES)
        if self.keep is not None and not 0 < self.keep <= 1:
            raise ValueError(f"keep={self.keep:g}: a share of the pixels, above 0 and at most 1, or null")

    @property
    def variant(self) -> str:
        """As it stands in the variant column."""
        return self.space + ("" if self.keep is None else f",keep={self.keep:g}")

    def measure(self, batch: Batch, maps: FramedMaps, forward: ForwardPass) -> dict[str, Tensor]:
        """clean, shown, hidden (Y, O, D), drop, increase (bool), deletion_drop, difficult: [P] each.

        drop and deletion_drop are nan where Y is 0.
        """
        image, label = batch.targets
        masks = as_masks(maps.over_inputs(batch), self.keep)[:, None]
        clean = forward.probabilities[image, label]
        shown, hidden = (self._seen(forward, batch, each) for each in (masks, 1 - masks))
        return {
            "clean": clean,
            "shown": shown,
            "hidden": hidden,
            "drop": ((clean - shown).clamp(min=0) / clean).masked_fill(clean == 0, torch.nan),
            "increase": shown > clean,
            "deletion_drop": ((clean - hidden) / clean).masked_fill(clean == 0, torch.nan),
            "difficult": batch.difficult,
        }

    def _seen(self, forward: ForwardPass, batch: Batch, masks: Tensor) -> Tensor:
        """Probability of each pair's class on its masked image: masks [P,1,h,w] -> [P]."""
        image, label = batch.targets
        found = []
        with torch.no_grad():
            for rows in torch.arange(len(image), device=image.device).split(forward.max_rows):
                logits = forward.network(SPACES[self.space](forward, image[rows], masks[rows]))
                found.append(forward.network.probabilities(logits).gather(1, label[rows, None])[:, 0])
        return torch.cat(found)

    def summarize(self, frame: pd.DataFrame) -> list[ResultRow]:
        """average_drop, increase_in_confidence, average_drop_in_deletion and undefined_pairs of each subset."""
        rows = []
        for subset, part in parts(frame, self.subsets):
            images, increase = part["image_id"], part["increase"].to_numpy(float)
            drop, deletion = stats.mean(part["drop"], images, stats.SHARE), stats.mean(part["deletion_drop"], images)
            rows += [
                estimate_row(drop, "average_drop", self.variant, subset, False),
                estimate_row(stats.proportion(increase, images), "increase_in_confidence", self.variant, subset, True),
                estimate_row(deletion, "average_drop_in_deletion", self.variant, subset, True),
                undefined_row(part["drop"].isna(), self.variant, subset),
            ]
        return rows
