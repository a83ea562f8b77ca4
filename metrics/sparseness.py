"""Is the map concentrated? The Gini index of its values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import pandas as pd
import torch
from assay.harness import stats
from assay.harness.forward import ForwardPass
from assay.harness.types import Batch, FramedMaps, ResultRow
from torch import Tensor

from .subsets import check_subsets, column_rows, parts

Of = Literal["absolute", "positive"]


def gini(values: Tensor) -> Tensor:
    """Gini index of the rows of [P,n], none negative: float64 [P]; nan where all are zero.

    With v sorted upwards: sum over k = 1..n of (2k - n - 1) v_k, over n sum v (Hurley and Rickard 2009). 0 for equal
    values, 1 - 1/n for one value alone.
    """
    ordered = values.double().sort(dim=1).values
    count = ordered.shape[1]
    weights = 2 * torch.arange(1, count + 1, device=values.device, dtype=torch.float64) - count - 1
    total = ordered.sum(1)
    return ((ordered * weights).sum(1) / (count * total)).masked_fill(total == 0, torch.nan)


@dataclass(frozen=True)
class Sparseness:
    """Gini index of a map over the network's input (Chalasani et al. 2020): how few pixels carry it.

    No claim that sparse is right: a single wrong pixel has the highest value.

    of: absolute (|map|, as published) or positive (its positive part).
    subsets: of `metrics.subsets`.
    """

    of: Of = "absolute"
    subsets: Sequence[str] = ("all",)
    VERSION: ClassVar[int] = 1
    PAIRED: ClassVar[tuple[str, ...]] = ("gini",)
    SUMMARY_SETTINGS: ClassVar[tuple[str, ...]] = ("subsets",)

    def __post_init__(self) -> None:
        check_subsets(self.subsets)
        if self.of not in ("absolute", "positive"):
            raise ValueError(f"of={self.of!r}: choose absolute or positive")

    def measure(self, batch: Batch, maps: FramedMaps, forward: ForwardPass) -> dict[str, Tensor]:
        """gini float64 [P], nan for maps of zeros; difficult."""
        values = maps.over_inputs(batch).flatten(1)
        chosen = values.abs() if self.of == "absolute" else values.clamp(min=0)
        return {"gini": gini(chosen), "difficult": batch.difficult}

    def summarize(self, frame: pd.DataFrame) -> list[ResultRow]:
        """Mean over pairs, median and undefined_pairs of each subset."""
        named = parts(frame, self.subsets)
        return [row for name, part in named for row in column_rows(part, "gini", self.of, name, None, span=stats.SHARE)]
