"""The energy pointing game's filters: objects that fill the frame, classes with several boxes."""

from typing import cast

import pandas as pd
import pytest
import torch
from assay.harness.forward import ForwardPass
from assay.harness.types import Attribution, Batch, FramedMaps
from assay.metrics.localization import EnergyPointingGame
from conftest import sample

SAMPLES = [
    sample("small", (4, 4), {0: [[0, 0, 2, 2]]}),  # 4 of 16 pixels
    sample("half", (4, 4), {0: [[0, 0, 4, 2]]}),  # 8 of 16
    sample("large", (4, 4), {0: [[0, 0, 4, 3]]}),  # 12 of 16
    sample("two", (4, 4), {0: [[0, 0, 1, 4], [2, 0, 3, 4]]}),  # two boxes, 8 of 16
    sample("none", (4, 4), {0: []}),
]


def frame_of(metric: EnergyPointingGame) -> pd.DataFrame:
    """Constant maps: the share inside is the region's share."""
    batch = Batch.of(SAMPLES)
    maps = FramedMaps.of(Attribution(torch.ones(5, 2, 2)), batch)
    columns = metric.measure(batch, maps, cast(ForwardPass, None))
    return pd.DataFrame({"image_id": batch.image_ids, "label": 0} | {k: v.numpy() for k, v in columns.items()})


def test_columns_by_hand() -> None:
    """Region over frame 1/4, 1/2, 3/4, 1/2, 0; boxes 1, 1, 1, 2, 0 (padding is no box); exact."""
    frame = frame_of(EnergyPointingGame())
    assert frame["region_share"].tolist() == [0.25, 0.5, 0.75, 0.5, 0]
    assert frame["boxes"].tolist() == [1, 1, 1, 2, 0]


@pytest.mark.parametrize(
    ("metric", "variant", "value", "n", "undefined"),
    [
        (EnergyPointingGame(), "box", 0.5, 4, 1),
        (EnergyPointingGame(largest_region=0.5), "box,region<=0.5", 1.25 / 3, 3, 1),
        (EnergyPointingGame(single_box=True), "box,single_box", 0.5, 3, 0),
        (EnergyPointingGame(largest_region=0.5, single_box=True), "box,region<=0.5,single_box", 0.375, 2, 0),
    ],
)
def test_filters(metric: EnergyPointingGame, variant: str, value: float, n: int, undefined: int) -> None:
    """Score-CAM's (Sect. 4.3): at most half of the frame, and one box; what is left out is not counted as undefined."""
    rows = {row.stat: row for row in metric.summarize(frame_of(metric))}
    assert (rows["mean"].variant, rows["mean"].n) == (variant, n)
    assert rows["mean"].value == pytest.approx(value)
    assert rows["undefined_pairs"].value == undefined


def test_a_share_without_meaning() -> None:
    """ValueError names the setting and its value."""
    with pytest.raises(ValueError, match="largest_region=50"):
        EnergyPointingGame(largest_region=50)
