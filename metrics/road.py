"""Does the network follow the map, when what is removed leaves no trace? Pixels are replaced by what surrounds them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch
from assay.harness import stats
from assay.harness.choices import check_choice
from assay.harness.forward import ForwardPass
from assay.harness.seeds import SampleRng
from assay.harness.transfer import sent
from assay.harness.types import Batch, FramedMaps, ResultRow
from torch import Tensor

from .imputation import impute
from .perturbation import TIES, area, curve_rows, mean_of, span_of, unit_of
from .pixel_ranks import READS, Order, ranks, read_clean
from .subsets import check_subsets, estimate_row, parts

NOISE = "road noise"  # stream: the same noise for every method


@dataclass(frozen=True)
class ROAD:
    """Remove and debias (Rong et al. 2022): the network's answer while pixels give way to their surroundings.

    After step k, k * step percent of the pixels are removed, in the map's order, and imputed (`impute`) with Gaussian
    noise on top, so that neither a colour nor the outline of what is missing tells the class. order=morf: a good map
    loses the answer early; order=lerf: it keeps it.

    steps, step: points, and percent of the pixels between them; below 100 together.
    read: as in `metrics.perturbation`. noise: standard deviation, in raw pixel values (0 to 1).
    seed: of ties and noise. subsets: of `metrics.subsets`.
    """

    order: Order = "morf"
    steps: int = 9
    step: float = 10
    read: str = "accuracy"
    noise: float = 0.01
    seed: int = 0
    subsets: Sequence[str] = ("all",)
    VERSION: ClassVar[int] = 2
    PAIRED: ClassVar[tuple[str, ...]] = ("auc",)
    SUMMARY_SETTINGS: ClassVar[tuple[str, ...]] = ("subsets",)

    def __post_init__(self) -> None:
        check_subsets(self.subsets)
        check_choice("order", self.order, ("morf", "lerf"))
        check_choice("read", self.read, list(READS))
        if self.steps < 1 or self.step <= 0 or self.steps * self.step >= 100 or self.noise < 0:
            raise ValueError(
                f"steps={self.steps}, step={self.step:g} percent, noise={self.noise:g}: at least one step, together "
                "below 100 percent, and no negative noise"
            )

    def measure(self, batch: Batch, maps: FramedMaps, forward: ForwardPass) -> dict[str, Tensor]:
        """curve [P,steps+1] (the clean image first), auc float64 [P], difficult."""
        places = ranks(maps.over_inputs(batch), self.order, SampleRng.of(self.seed, TIES, batch))
        pixels = places[0].numel()
        counts = [int(round(number * self.step * pixels / 100, 6)) for number in range(1, self.steps + 1)]
        drawn = SampleRng.of(self.seed, NOISE, batch).noise(batch.images.shape[1:], batch.images.device).normal()
        noise = self.noise * drawn[:, 0].to(batch.images)
        clean = read_clean(forward, batch.targets, self.read)
        curve = torch.cat([clean[:, None], self._after(batch, forward, places, counts, noise)], 1)
        return {"curve": curve, "auc": area(curve), "difficult": batch.difficult}

    def _after(self, batch: Batch, forward: ForwardPass, places: Tensor, counts: list[int], noise: Tensor) -> Tensor:
        """The read of each pair's class with the first counts[k] places imputed: [P,K]."""
        steps, found = sent(torch.tensor(counts), places.device), []
        for rows in torch.arange(len(places) * len(counts), device=places.device).split(forward.max_rows):
            pair, step = rows // len(counts), rows % len(counts)
            image, removed = batch.targets.image[pair], places[pair] < steps[step, None, None]
            imputed = impute(batch.images[image], removed).to(batch.images) + noise[image] * removed[:, None]
            logits = forward.network.infer(forward.network.normalise(imputed))
            found.append(READS[self.read](forward.network, logits, batch.targets.label[pair]))
        return torch.cat(found).view(len(places), len(counts))

    def summarize(self, frame: pd.DataFrame) -> list[ResultRow]:
        """The mean curve with a band (x in percent) and its area, in each subset."""
        return [row for subset, part in parts(frame, self.subsets) for row in self._rows(subset, part)]

    def _rows(self, subset: str, part: pd.DataFrame) -> Iterator[ResultRow]:
        variant = f"{self.order},road{self.noise:g},{self.read},{self.steps}x{self.step:g}%"
        higher, mean = self.order == "lerf", mean_of(self.read)
        xs = [number * self.step for number in range(self.steps + 1)]
        yield from curve_rows(part, self.read, xs, "pixels removed, %", variant, subset, higher, mean)
        auc = stats.mean(part["auc"], part["image_id"], span_of(self.read))
        yield estimate_row(auc, "auc", variant, subset, higher, unit_of(self.read))
