"""How much of the map lies outside the object, against how much lies inside?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar
from weakref import WeakKeyDictionary

import pandas as pd
import torch
from assay.harness.forward import ForwardPass
from assay.harness.pixels import count, lowest, signed_totals, total
from assay.harness.types import Batch, FramedMaps, Region, ResultRow
from torch import Tensor

from .subsets import check_subsets, column_rows, parts

VARIANTS = ("all", "positive", "min_max")


def counted_pixels(batch: Batch, region: Region) -> Tensor:
    """Pixels that count, bool [P,H,W]: the frame; with masks, without the pixels that they leave open."""
    return batch.counted if region == "mask" else batch.valid


def object_pixels(batch: Batch, region: Region) -> Tensor:
    """Those of them that are of the pair's class, bool [P,H,W]; boxes lie in the frame."""
    return batch.region(region) & batch.counted if region == "mask" else batch.region(region)


_SUMS: "WeakKeyDictionary[FramedMaps, dict[Tensor, tuple[Tensor, Tensor]]]" = WeakKeyDictionary()


def signed_sums(maps: FramedMaps, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """`pixels.signed_totals` of the maps over a set of pixels, made once for all metrics of a batch."""
    made = _SUMS.setdefault(maps, {})
    if pixels not in made:
        made[pixels] = signed_totals(maps.maps, pixels)
    return made[pixels]


@dataclass(frozen=True)
class OutsideInside:
    """Mean of the map outside the object over its mean inside: small when the map lies on the object.

    With R+ = max(R, 0), R- = max(-R, 0), and means over the pixels outside and inside the region:

    - all: (mean_out R+ + mean_in R-) / (mean_in R+ + mean_out R-), RAP (Nam et al. 2020), Eq. 11. Its
      negative terms are magnitudes: only so do misplaced values of either sign raise the ratio.
    - positive: mean_out R+ / mean_in R+ (Lapuschkin et al. 2016).
    - min_max: mean_out N / mean_in N, N the map rescaled to [0,1] by its lowest and highest counted pixel,
      Gradient Hedging, Eq. 14.

    A ratio a pair; undefined where its denominator is 0 or where no pixel lies inside or outside.

    region: box (union of the class' boxes) or mask (without the pixels that it leaves open).
    subsets, per_class: parts of the pairs with rows of their own, see `metrics.subsets`.
    """

    region: Region = "box"
    subsets: Sequence[str] = ("all",)
    per_class: bool = False
    VERSION: ClassVar[int] = 1
    PAIRED: ClassVar[tuple[str, ...]] = ("ratio_all", "ratio_positive", "ratio_min_max")
    SUMMARY_SETTINGS: ClassVar[tuple[str, ...]] = ("subsets", "per_class")

    def __post_init__(self) -> None:
        check_subsets(self.subsets)

    def measure(self, batch: Batch, maps: FramedMaps, forward: ForwardPass) -> dict[str, Tensor]:
        """ratio_all, ratio_positive, ratio_min_max: float64 [P], nan where undefined; difficult."""
        counted = counted_pixels(batch, self.region)
        inside = object_pixels(batch, self.region)
        outside = counted & ~inside
        pixels_in, pixels_out = (count(each) for each in (inside, outside))
        positive_in, negative_in = (each / pixels_in for each in signed_sums(maps, inside))
        positive_out, negative_out = (each / pixels_out for each in signed_sums(maps, outside))
        least = lowest(maps.maps, counted).double()
        return {
            "ratio_all": quotient(positive_out + negative_in, positive_in + negative_out),
            "ratio_positive": quotient(positive_out, positive_in),
            # The means of N are (mean - least) / (highest - least), whose denominators cancel.
            "ratio_min_max": quotient(positive_out - negative_out - least, positive_in - negative_in - least),
            "difficult": batch.difficult,
        }

    def summarize(self, frame: pd.DataFrame) -> list[ResultRow]:
        """Mean, median and number of undefined pairs of each variant, in each subset."""
        return [
            row
            for subset, part in parts(frame, self.subsets, self.per_class)
            for variant in VARIANTS
            for row in column_rows(part, f"ratio_{variant}", f"{variant},{self.region}", subset, False, "ratio")
        ]


def mean_over(values: Tensor, pixels: Tensor) -> Tensor:
    """Mean of each map [P,H,W] over a set of pixels, bool [P,H,W]: float64 [P], nan over none."""
    return total(values, pixels) / count(pixels)


def quotient(above: Tensor, below: Tensor) -> Tensor:
    """above / below, nan where below is zero: [P]."""
    return torch.where(below > 0, above / below, torch.nan)
