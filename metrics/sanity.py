"""Tests of a method against a known answer."""

from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
from torch import Tensor

from harness import stats
from harness.network import ForwardPass
from harness.types import Batch, FramedMaps, ResultRow
from metrics.localization import is_hit, positive_share, tolerance_px


@dataclass(frozen=True)
class CueRate:
    """Does a method find the planted cue? (`scenes_cue`: a small patch alone decides the eleventh class.)

    `peak_in_cue`: share of images whose arg-max lies in the patch, within the tolerance;
    `mass_in_cue`: mean share of the positive map inside it. Only pairs of the cue's class that the network
    predicts count, since a network that missed the cue has nothing to be explained.

    cue_class: index of the class that the patch decides.
    """

    cue_class: int = 10
    tolerance_px: float = 2.0
    VERSION: ClassVar[int] = 1
    PAIRED: ClassVar[tuple[str, ...]] = ("peak_in_cue", "mass_in_cue")
    SUMMARY_SETTINGS: ClassVar[tuple[str, ...]] = ()

    def measure(self, batch: Batch, maps: FramedMaps, forward: ForwardPass) -> dict[str, Tensor]:
        """peak_in_cue [P] bool, mass_in_cue [P] in [0,1]."""
        distance = batch.distance(maps.peak[0], "box")
        return {
            "peak_in_cue": is_hit(distance, tolerance_px(self.tolerance_px, None, batch.frames)),
            "mass_in_cue": positive_share(maps, batch.region("box")),
        }

    def summarize(self, frame: pd.DataFrame) -> list[ResultRow]:
        """Shares over the predicted pairs of the cue's class."""
        cue = frame[(frame["label"] == self.cue_class) & frame["predicted"]]
        estimates = {
            "peak_in_cue": stats.proportion(cue["peak_in_cue"].to_numpy(float), cue["image_id"]),
            "mass_in_cue": stats.mean(cue["mass_in_cue"].to_numpy(float), cue["image_id"]),
        }
        variant = f"tol={self.tolerance_px:g}px"
        rows = [ResultRow(variant, s, **e.fields(), higher_is_better=True) for s, e in estimates.items()]
        return [row if row.n else row.undefined("no predicted pair of the cue's class has a value") for row in rows]
