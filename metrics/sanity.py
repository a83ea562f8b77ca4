"""Tests of a method against a known answer."""

from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch
from assay.harness import stats
from assay.harness.forward import ForwardPass
from assay.harness.types import Batch, FramedMaps, ResultRow
from torch import Tensor

from .localization import is_hit, positive_share, tolerance_px

OWN = ("peak_in_cue", "mass_in_cue")
OTHERS = ("peak_in_cue_of_others", "mass_in_cue_of_others")


@dataclass(frozen=True)
class CueRate:
    """Does a method find the planted cue? (`scenes_cue`: a small patch alone decides the eleventh class.)

    `peak_in_cue`: share of images whose arg-max lies in the patch, within the tolerance;
    `mass_in_cue`: mean share of the positive map inside it. Only pairs of the cue's class that the network
    predicts count, since a network that missed the cue has nothing to be explained.

    `..._of_others`: the same two for the other predicted classes of images with the patch, which say nothing about
    them: there, a map that points at it explains whatever the network saw and not the class that was asked for.

    cue_class: index of the class that the patch decides.
    """

    cue_class: int = 10
    tolerance_px: float = 2.0
    VERSION: ClassVar[int] = 2
    PAIRED: ClassVar[tuple[str, ...]] = (*OWN, *OTHERS)
    SUMMARY_SETTINGS: ClassVar[tuple[str, ...]] = ()

    def measure(self, batch: Batch, maps: FramedMaps, forward: ForwardPass) -> dict[str, Tensor]:
        """Peaks [P], 0 or 1, and masses [P] in [0,1]; nan where a pair is not of that kind."""
        cue, is_own = batch.of_class(self.cue_class), batch.targets.label == self.cue_class
        patch = cue.region("box")
        peak = is_hit(cue.distance(maps.peak[0], "box"), tolerance_px(self.tolerance_px, None, batch.frames)).float()
        mass = positive_share(maps, patch)
        is_other = ~is_own & patch.flatten(1).any(1)
        return {
            name: values.masked_fill(~is_asked, torch.nan)
            for names, is_asked in ((OWN, is_own), (OTHERS, is_other))
            for name, values in zip(names, (peak, mass), strict=True)
        }

    def summarize(self, frame: pd.DataFrame) -> list[ResultRow]:
        """Shares over the predicted pairs of the cue's class and, where there are any, over those of the others."""
        predicted = frame[frame["predicted"]]
        rows = self._rows(predicted, OWN, higher_is_better=True)
        rows = [row if row.n else row.undefined("no predicted pair of the cue's class has a value") for row in rows]
        return rows + [row for row in self._rows(predicted, OTHERS, higher_is_better=False) if row.n]

    def _rows(self, frame: pd.DataFrame, names: tuple[str, str], higher_is_better: bool) -> list[ResultRow]:
        peak, mass = (frame[name].to_numpy(float) for name in names)
        images = frame["image_id"]
        estimates = (stats.proportion(peak, images), stats.mean(mass, images, stats.SHARE))
        return [
            ResultRow(f"tol={self.tolerance_px:g}px", name, **each.fields(), higher_is_better=higher_is_better)
            for name, each in zip(names, estimates, strict=True)
        ]
