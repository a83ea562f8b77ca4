"""Does the map stay when the image hardly changes? Its largest change within a small box around the image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch
from assay.harness.forward import ForwardPass
from assay.harness.seeds import SampleRng
from assay.harness.types import Batch, FramedMaps, ResultRow
from torch import Tensor

from .subsets import check_subsets, column_rows, parts

STREAM = "sensitivity noise"  # the same noise for every method


@dataclass(frozen=True)
class MaxSensitivity:
    """max over y of |map(y) - map(x)| / |map(x)|, y uniform in a box around x (Yeh et al. 2019, Def. 2.3, Monte Carlo).

    Norms are Euclidean, of maps at their native resolution; the class stays that of x. A method that draws noise draws
    the same for x and y.

    radius: of the box, in raw pixel values (images are in [0,1]); what leaves [0,1] is not clipped.
    samples: points y an image, of which the largest change counts: more can only raise it.
    seed: of the points. subsets: of `metrics.subsets`.
    """

    radius: float = 0.02
    samples: int = 10
    seed: int = 0
    subsets: Sequence[str] = ("all",)
    VERSION: ClassVar[int] = 2
    PAIRED: ClassVar[tuple[str, ...]] = ("sensitivity",)
    SUMMARY_SETTINGS: ClassVar[tuple[str, ...]] = ("subsets",)

    def __post_init__(self) -> None:
        check_subsets(self.subsets)
        if self.radius <= 0 or self.samples < 1:
            raise ValueError(f"radius={self.radius:g}, samples={self.samples}: above 0, and at least 1")

    def measure(self, batch: Batch, maps: FramedMaps, forward: ForwardPass) -> dict[str, Tensor]:
        """sensitivity float64 [P], nan for maps of zeros; difficult."""
        at_x, images = maps.attribution.values.double().flatten(1), batch.images
        noise = SampleRng.of(self.seed, STREAM, batch).noise(images.shape[1:], images.device)
        largest = at_x.new_zeros(len(at_x))
        for number in range(self.samples):
            moved = images + self.radius * (2 * noise.uniform(number, number + 1)[:, 0] - 1).to(images)
            at_y = maps.explained(forward.network, moved).values.double().flatten(1)
            largest = torch.maximum(largest, (at_y - at_x).norm(dim=1))
        length = at_x.norm(dim=1)
        return {"sensitivity": (largest / length).masked_fill(length == 0, torch.nan), "difficult": batch.difficult}

    def summarize(self, frame: pd.DataFrame) -> list[ResultRow]:
        """Mean over pairs, median and undefined_pairs of each subset."""
        variant = f"radius={self.radius:g},{self.samples}x"
        return [
            row
            for name, part in parts(frame, self.subsets)
            for row in column_rows(part, "sensitivity", variant, name, False, "ratio")
        ]
