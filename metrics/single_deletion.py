"""Does each region matter as much as the map says? The map's sums against the drops when one region is taken away."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch
import torch.nn.functional as F
from assay.harness.forward import ForwardPass
from assay.harness.transfer import sent
from assay.harness.types import Batch, FramedMaps, ResultRow
from torch import Tensor

from .correlation import correlation
from .removals import Removal
from .subsets import column_rows, parts


@dataclass(frozen=True)
class SingleDeletion(Removal):
    """Correlation of a map's regions with what the network loses without each (Alvarez-Melis and Jaakkola 2018).

    For every square of a grid, alone: the class's read on the clean image minus the read with the canvas in the square;
    correlated (Pearson) with the map's sums over the squares. No path of deletions: a region's part in the result does
    not depend on which went before it.

    region_px: side of a square; those at the right and bottom borders may be cut. The rest: see `Removal`.
    """

    region_px: int = 16
    VERSION: ClassVar[int] = 1
    PAIRED: ClassVar[tuple[str, ...]] = ("correlation",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.region_px < 1:
            raise ValueError(f"region_px={self.region_px}: at least 1")

    def measure(self, batch: Batch, maps: FramedMaps, forward: ForwardPass) -> dict[str, Tensor]:
        """correlation float64 [P], nan where the map's sums or the drops are all equal; difficult.

        Raises:
            ValueError: the image has fewer than three regions: two points always correlate.
        """
        values = maps.over_inputs(batch)
        numbers = region_numbers(values.shape[1:], self.region_px)
        if (regions := int(numbers.max()) + 1) < 3:
            raise ValueError(f"region_px={self.region_px}: the image has {regions} regions, and a correlation needs 3")
        taken = sent(numbers, values.device) == torch.arange(regions, device=values.device)[:, None, None]  # [R,h,w]
        drops = self.drops(batch, forward, taken.expand(len(batch.samples), -1, -1, -1))
        sums = region_sums(values, self.region_px)
        return {"correlation": correlation(sums, drops), "difficult": batch.difficult}

    def summarize(self, frame: pd.DataFrame) -> list[ResultRow]:
        """Mean over pairs, median and undefined_pairs of each subset."""
        variant = f"{self.how},{self.region_px}px"
        return [
            row
            for name, part in parts(frame, self.subsets)
            for row in column_rows(part, "correlation", variant, name, True, span=(-1.0, 1.0))
        ]


def region_numbers(size: Sequence[int], side_px: int) -> Tensor:
    """The number of each pixel's square, row by row: int64 [h,w]."""
    down, across = (torch.arange(length) // side_px for length in size)
    return down[:, None] * (int(across.max()) + 1) + across


def region_sums(values: Tensor, side_px: int) -> Tensor:
    """Sums of maps [P,h,w] over the squares of a grid, row by row: float64 [P,R]."""
    height, width = values.shape[1:]
    padded = F.pad(values.double(), (0, -width % side_px, 0, -height % side_px))
    return F.avg_pool2d(padded[:, None], side_px).flatten(1) * side_px**2
