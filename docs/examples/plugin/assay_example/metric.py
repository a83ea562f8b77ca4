"""A metric: `measure` looks at a batch's maps, `summarize` at the table of all of them."""

from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch
from assay.harness import stats
from assay.harness.forward import ForwardPass
from assay.harness.types import Batch, FramedMaps, ResultRow
from torch import Tensor


@dataclass(frozen=True)
class MassCentre:
    """Share of pairs whose map's positive part has its centre of mass on the object; a map without one misses.

    tolerance_px: so many pixels of the frame beside the object are a hit, too.
    """

    tolerance_px: float
    VERSION: ClassVar[int] = 1
    PAIRED: ClassVar[tuple[str, ...]] = ("hit",)  # what `compare` takes differences of
    SUMMARY_SETTINGS: ClassVar[tuple[str, ...]] = ()  # settings that `measure` does not read

    def measure(self, batch: Batch, maps: FramedMaps, forward: ForwardPass) -> dict[str, Tensor]:
        """hit bool [P]."""
        mass = maps.positive  # [P,H,W]
        total = mass.flatten(1).sum(1)
        places = [torch.arange(side, device=mass.device).float() for side in mass.shape[1:]]
        x, y = (mass.sum(1) @ places[1]) / total, (mass.sum(2) @ places[0]) / total
        centre = torch.stack([x, y], 1).nan_to_num().round().long()  # [P,2]
        return {"hit": (batch.distance(centre, "box") <= self.tolerance_px) & (total > 0)}

    def summarize(self, frame: pd.DataFrame) -> list[ResultRow]:
        """One row, with its interval."""
        share = stats.proportion(frame["hit"], frame["image_id"])
        return [ResultRow(f"tol={self.tolerance_px:g}px", "mean", **share.fields(), higher_is_better=True)]
