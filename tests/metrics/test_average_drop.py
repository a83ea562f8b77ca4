"""Average drop, increase in confidence, average drop in deletion.

Probabilities of small integers' logits are compared with their formulas in double precision: 1e-6 in float32.
"""

from math import exp

import numpy as np
import pandas as pd
import pytest
import torch
from assay.harness.forward import ForwardPass
from assay.harness.network import Activation, Network
from assay.harness.types import Attribution, Batch, FramedMaps, ResultRow
from assay.metrics.average_drop import AverageDrop, as_masks
from conftest import sample
from torch import Tensor, nn


class Sums(nn.Module):
    """Logits (sum of the red channel, 0)."""

    def forward(self, x: Tensor) -> Tensor:
        red = x[:, 0].sum((1, 2))
        return torch.stack([red, torch.zeros_like(red)], 1)


def measure(metric: AverageDrop, maps: Tensor, activation: Activation = "softmax", rows: int = 1) -> dict[str, Tensor]:
    """On grey 4x4 images of .5 with mean .25 and deviation 1: normalised .25 each, red sum 4."""
    network = Network(Sums(), (0.25,) * 3, (1,) * 3, activation)
    batch = Batch.of([sample(f"image{row}", (8, 6), {0: []}) for row in range(len(maps))])
    forward = ForwardPass(network, batch.images, max_rows=rows)
    return metric.measure(batch, FramedMaps.of(Attribution(maps), batch), forward)


def sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


HALF = torch.cat([torch.ones(1, 4, 2), torch.zeros(1, 4, 2)], 2)  # the left half


def pick(rows: list[ResultRow], stat: str) -> ResultRow:
    (row,) = (row for row in rows if row.stat == stat)
    return row


# Masks


def test_masks_by_hand() -> None:
    """Rectified, then least value to 0 and largest to 1; a constant map is 1 above zero, else 0; exact."""
    maps = torch.tensor([[[-1.0, 0], [2, 4]], [[1, 2], [3, 5]], [[3, 3], [3, 3]], [[-2, -1], [-2, 0]]])
    assert as_masks(maps).tolist() == [
        [[0, 0], [0.5, 1]],
        [[0, 0.25], [0.5, 1]],
        [[1, 1], [1, 1]],
        [[0, 0], [0, 0]],
    ]


def test_keep_by_hand() -> None:
    """Half of four pixels: the second highest is the threshold, and values equal to it stay; exact."""
    maps = torch.tensor([[[0.0, 1], [2, 4]], [[0, 2], [2, 4]], [[3, 3], [3, 3]]])
    assert as_masks(maps, 0.5).tolist() == [[[0, 0], [0.5, 1]], [[0, 0.5], [0.5, 1]], [[1, 1], [1, 1]]]
    assert torch.equal(as_masks(maps, 1.0), as_masks(maps))


# The three measures (docs/metrics/average_drop.md)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_half_a_map_by_hand(activation: Activation) -> None:
    """Red sum 4, of which the half map shows 2 and hides 2. With two logits (r, 0) the softmax is sigmoid(r):
    Y = sigmoid(4), O = D = sigmoid(2)."""
    columns = measure(AverageDrop(), HALF, activation)
    expected = (sigmoid(4) - sigmoid(2)) / sigmoid(4)
    assert float(columns["clean"]) == pytest.approx(sigmoid(4), abs=1e-6)
    assert float(columns["shown"]) == pytest.approx(sigmoid(2), abs=1e-6)
    assert float(columns["hidden"]) == pytest.approx(sigmoid(2), abs=1e-6)
    assert float(columns["drop"]) == float(columns["deletion_drop"]) == pytest.approx(expected, abs=1e-6)
    assert columns["increase"].tolist() == [False]


def test_raw_space_by_hand() -> None:
    """Masked to black, a pixel is -.25 when normalised: 8 of .25 and 8 of -.25 leave 0: O = 1/2."""
    columns = measure(AverageDrop(space="raw"), HALF)
    assert float(columns["shown"]) == pytest.approx(0.5, abs=1e-6)


def test_an_increase_is_no_drop() -> None:
    """Hiding what speaks against the class: the class' logit is the negative sum (second class' view): O > Y, drop 0,
    and the deletion's drop is negative."""

    class Against(Sums):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).flip(1)

    network = Network(Against(), (0.25,) * 3, (1,) * 3)
    batch = Batch.of([sample("a", (4, 4), {0: []})])
    maps = FramedMaps.of(Attribution(HALF), batch)
    columns = AverageDrop().measure(batch, maps, ForwardPass(network, batch.images))
    assert float(columns["drop"]) == 0
    assert columns["increase"].tolist() == [True]
    assert float(columns["deletion_drop"]) == pytest.approx(1 - sigmoid(-2) / sigmoid(-4), rel=1e-5)


def test_maps_of_one_value() -> None:
    """A map that is the same everywhere shows all: no drop, no increase; an empty one shows nothing: Y to 1/2."""
    columns = measure(AverageDrop(), torch.stack([torch.full((2, 2), 0.3), torch.zeros(2, 2)]))
    assert columns["drop"].tolist() == pytest.approx([0, 1 - 0.5 / sigmoid(4)], abs=1e-6)
    assert columns["increase"].tolist() == [False, False]
    assert columns["deletion_drop"].tolist() == pytest.approx([1 - 0.5 / sigmoid(4), 0], abs=1e-6)


def test_rows_at_once_and_passes() -> None:
    """Two passes a pair, however many go at once, beside the shared clean one; equal columns."""
    maps = torch.rand(5, 4, 4, generator=torch.Generator().manual_seed(0))
    one, all_at_once = measure(AverageDrop(), maps, rows=1), measure(AverageDrop(), maps, rows=64)
    for name in one:
        torch.testing.assert_close(one[name], all_at_once[name])
    network = Network(Sums(), (0.25,) * 3, (1,) * 3)
    batch = Batch.of([sample(f"image{row}", (4, 4), {0: []}) for row in range(5)])
    AverageDrop().measure(batch, FramedMaps.of(Attribution(maps), batch), ForwardPass(network, batch.images))
    assert network.passes.forward == 15


def test_rows_by_hand() -> None:
    """Drops .5, 0, .25, undefined: AD .25; IC 1 of 4; ADD of .5, -.5, 1: 1/3."""
    frame = pd.DataFrame(
        {
            "image_id": list("abcd"),
            "label": 0,
            "drop": [0.5, 0, 0.25, np.nan],
            "increase": [False, True, False, False],
            "deletion_drop": [0.5, -0.5, 1, np.nan],
        }
    )
    rows = AverageDrop(keep=0.5).summarize(frame)
    assert {row.variant for row in rows} == {"normalised,keep=0.5"}
    assert pick(rows, "average_drop").value == pytest.approx(0.25)
    assert pick(rows, "average_drop").higher_is_better is False
    assert (pick(rows, "increase_in_confidence").value, pick(rows, "increase_in_confidence").n) == (0.25, 4)
    assert pick(rows, "average_drop_in_deletion").value == pytest.approx(1 / 3)
    assert (pick(rows, "undefined_pairs").value, pick(rows, "undefined_pairs").n) == (1, 4)
    empty = AverageDrop(subsets=["predicted"]).summarize(frame.assign(predicted=False))
    assert empty[0].status.startswith("undefined")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"space": "pixel"}, "space='pixel': choose one of normalised, raw"), ({"keep": 0.0}, "keep=0")],
)
def test_settings_without_meaning(options: dict, message: str) -> None:
    """ValueError names the setting, its value and the choices."""
    with pytest.raises(ValueError, match=message):
        AverageDrop(**options)
