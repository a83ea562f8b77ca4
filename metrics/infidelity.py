"""Does the map foresee what the network loses? Sums of the map over random squares against drops of the logit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch
import torch.nn.functional as F
from assay.harness import stats
from assay.harness.forward import ForwardPass
from assay.harness.seeds import SampleRng
from assay.harness.transfer import sent
from assay.harness.types import Batch, FramedMaps, ResultRow
from torch import Tensor

from .removals import Removal
from .subsets import column_rows, estimate_row, parts

SQUARES = "infidelity squares"  # stream: the same squares for every method


def squares(rng: SampleRng, count: int, size: Sequence[int], shares: tuple[float, float]) -> Tensor:
    """Random squares, `count` an image: top, bottom, left, right (half-open), int64 [B,count,4].

    Sides are uniform between two shares of the shorter side, places uniform among those inside the image.
    """
    drawn = rng.uniform((count, 3))  # [B,count,3]
    low, high = (max(1, round(share * min(size))) for share in shares)
    side = low + (drawn[..., 0] * (high - low + 1)).long()
    top, left = ((drawn[..., n] * (length - side + 1)).long() for n, length in enumerate(size, start=1))
    return torch.stack([top, top + side, left, left + side], -1)


def masks_of(bounds: Tensor, size: Sequence[int]) -> Tensor:
    """Pixels of rectangles [B,S,4]: bool [B,S,h,w]."""
    down, across = (torch.arange(length, device=bounds.device) for length in size)
    top, bottom, left, right = bounds[..., None].unbind(2)
    rows, columns = (down >= top) & (down < bottom), (across >= left) & (across < right)
    return rows[..., :, None] & columns[..., None, :]


def sums_over(values: Tensor, bounds: Tensor) -> Tensor:
    """Sums of maps [P,h,w] over rectangles [P,S,4], from one table of cumulative sums a map: [P,S]."""
    table = F.pad(values.cumsum(1).cumsum(2), (1, 0, 1, 0))  # [P,h+1,w+1]
    top, bottom, left, right = bounds.unbind(2)
    row = torch.arange(len(values), device=values.device)[:, None]
    return table[row, bottom, right] - table[row, top, right] - table[row, bottom, left] + table[row, top, left]


def fitted(foreseen: Tensor, drops: Tensor) -> Tensor:
    """The scale b of each row of [P,S] that makes b foreseen closest to the drops: float64 [P,1]; 0 for zeros."""
    squared = (foreseen**2).sum(1, keepdim=True)
    scale = (foreseen * drops).sum(1, keepdim=True) / squared
    return scale.masked_fill(squared == 0, 0)


@dataclass(frozen=True)
class Infidelity(Removal):
    """Expected squared difference between what a map foresees and what the network does (Yeh et al. 2019, Def. 2.1).

    A perturbation takes a random square away (the paper's square removal). The map foresees its sum over the square, as
    a map of contributions does (gradient x input, relevance); the network loses the clean read minus the read without
    it. With `scaled` the map may be multiplied by the one number that suits it best, as in Captum (`normalize=True`):
    methods that promise no unit then compare.

    samples: squares a pair (the same for all pairs and methods of an image).
    least, largest: sides of the squares, as shares of the image's shorter side.
    The rest: see `Removal`.
    """

    samples: int = 64
    least: float = 0.1
    largest: float = 0.4
    scaled: bool = True
    VERSION: ClassVar[int] = 1
    PAIRED: ClassVar[tuple[str, ...]] = ("infidelity", "unexplained")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 2 or not 0 < self.least <= self.largest <= 1:
            raise ValueError(
                f"samples={self.samples}, least={self.least:g}, largest={self.largest:g}: at least two squares, with "
                "sides above 0 and at most 1 of the shorter side"
            )

    @property
    def variant(self) -> str:
        """As it stands in the variant column."""
        form = "scaled" if self.scaled else "unscaled"
        return f"{self.how},{self.samples}x{self.least:g}-{self.largest:g},{form}"

    def measure(self, batch: Batch, maps: FramedMaps, forward: ForwardPass) -> dict[str, Tensor]:
        """infidelity [P]; unexplained [P], infidelity over the drops' mean square, nan where none drops; difficult."""
        values, sides = maps.over_inputs(batch).double(), (self.least, self.largest)
        size = values.shape[1:]
        drawn = squares(SampleRng.of(self.seed, SQUARES, batch), self.samples, size, sides)
        bounds = sent(drawn, values.device)
        foreseen = sums_over(values, bounds[batch.targets.image])
        drops = self.drops(batch, forward, masks_of(bounds, size))
        scale = fitted(foreseen, drops) if self.scaled else foreseen.new_ones(())
        infidelity, square = (scale * foreseen - drops).square().mean(1), drops.square().mean(1)
        unexplained = (infidelity / square).masked_fill(square == 0, torch.nan)
        return {"infidelity": infidelity, "unexplained": unexplained, "difficult": batch.difficult}

    def summarize(self, frame: pd.DataFrame) -> list[ResultRow]:
        """Of each subset: mean, median and undefined_pairs of the unexplained share; infidelity in squared reads."""
        rows = []
        for name, part in parts(frame, self.subsets):
            rows += column_rows(part, "unexplained", self.variant, name, False, span=self._span)
            raw, unit = stats.mean(part["infidelity"], part["image_id"]), f"{self._unit} squared"
            rows.append(estimate_row(raw, "infidelity", self.variant, name, False, unit, headline=False))
        return rows

    @property
    def _unit(self) -> str:
        return "logit" if self.read == "score" else "fraction"

    @property
    def _span(self) -> tuple[float, float] | None:
        """Scaled by least squares, a map explains nothing at worst."""
        return stats.SHARE if self.scaled else None
