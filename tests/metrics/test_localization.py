"""Pointing game, energy pointing game, positive ratio.

Hits, points and counts are compared exactly. Shares are float32 quotients of small integers: 1e-6.
"""

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import pandas as pd
import pytest
import torch
from assay.harness import stats
from assay.harness.forward import ForwardPass
from assay.harness.frames import distance_to_region
from assay.harness.types import Attribution, Batch, FramedMaps, Metric, ResultRow, Sample
from assay.metrics.localization import EnergyPointingGame, PointingGame, PositiveRatio, is_hit, tolerance_px
from conftest import golden, sample
from torch import Tensor

NO_FORWARD = cast(ForwardPass, None)  # these metrics look at the map alone


def measure(metric: Metric, maps: Tensor | Sequence, *samples: Sample) -> dict[str, Tensor]:
    """Columns of maps [P,h,w] at native resolution."""
    batch = Batch.of(samples)
    return metric.measure(batch, FramedMaps.of(Attribution(torch.as_tensor(maps).float()), batch), NO_FORWARD)


def table(columns: Mapping[str, Tensor | Sequence], images: Sequence[str], labels: Sequence[int]) -> pd.DataFrame:
    """A sample table as `summarize` receives it."""
    arrays = {name: np.asarray(column) for name, column in columns.items()}
    return pd.DataFrame({"image_id": list(images), "label": list(labels), **arrays})


def pick(rows: list[ResultRow], stat: str, subset: str = "all") -> ResultRow:
    """The one row of a statistic and a subset."""
    (row,) = (row for row in rows if (row.stat, row.subset) == (stat, subset))
    return row


def spot(height: int, width: int, *points: tuple[int, int]) -> Tensor:
    """A zero map [height,width] with ones at the points (x, y)."""
    values = torch.zeros(height, width)
    for x, y in points:
        values[y, x] = 1
    return values


# Pointing game, against TorchRay


@pytest.fixture(scope="module")
def torchray() -> dict[str, Tensor]:
    """TorchRay's PointingGame at 15 px: 200 points (some fractional) and masks, its decisions and accuracies."""
    return {name: torch.from_numpy(value) for name, value in golden("pointing").items()}


def test_all_decisions_of_torchray(torchray: dict[str, Tensor]) -> None:
    """Against 200 of TorchRay's decisions, exactly: 82 hits, edge cases at 14, 14.99, 15 and 15.01 px, one empty
    mask (a miss at distance inf). Distances within 1e-5 px: float32 squares of up to 80 px."""
    distance = distance_to_region(torchray["points_xy"], torchray["masks"].bool())
    hit = is_hit(distance, torch.full((200,), float(torchray["tolerance"])))
    assert torchray["tolerance"] == 15
    assert torch.equal(hit, torchray["hit"] == 1)
    assert hit.sum() == 82
    empty = ~torchray["masks"].bool().flatten(1).any(1)
    assert empty.nonzero().tolist() == [[24]]
    assert not hit[24]
    assert distance[24].isinf()
    torch.testing.assert_close(distance[~empty].double(), torchray["distance_px"][~empty], atol=1e-5, rtol=0)


def test_class_accuracies_of_torchray(torchray: dict[str, Tensor]) -> None:
    """Against TorchRay's accuracy of each class, to 1e-12 (quotients of small counts).

    Its mean counts a class without pairs (class 5) as 0; ours leaves it out, so five classes' mean is 6/5 of it.
    """
    distance = distance_to_region(torchray["points_xy"], torchray["masks"].bool())
    hit = is_hit(distance, torch.full((200,), 15.0))
    frame = table(
        {"hit": hit, "difficult": torch.zeros(200, dtype=torch.bool), "has_region": torch.ones(200, dtype=torch.bool)},
        [f"image{i}" for i in range(200)],
        torchray["class_ids"].tolist(),
    )
    each = frame.groupby("label")["hit"].mean()
    assert each.index.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(each, torchray["class_accuracies"][:5], atol=1e-12)
    rows = PointingGame(15, region="mask").summarize(frame)
    assert pick(rows, "class_mean").value == pytest.approx(float(torchray["accuracy"]) * 6 / 5, abs=1e-12)
    assert pick(rows, "mean").value == 82 / 200


def test_torchrays_points_as_maps(torchray: dict[str, Tensor]) -> None:
    """The whole way from map to hit: the 200 masks as samples, a map whose arg-max is the point rounded to a pixel,
    against the decision worked out in NumPy from all mask pixels; exact."""
    points = torchray["points_xy"].round().long()
    samples, maps, expected = [], [], []
    for row in range(200):
        mask = torchray["masks"][row].bool()
        samples.append(sample(f"image{row}", (64, 80), {0: []}, mask=mask))
        x, y = points[row].tolist()
        maps.append(spot(64, 80, (x, y)))
        ys, xs = np.nonzero(mask.numpy())
        expected.append(bool(((xs - x) ** 2 + (ys - y) ** 2 < 15**2).any()))
    columns = measure(PointingGame(15, region="mask"), torch.stack(maps), *samples)
    assert columns["hit"].tolist() == expected
    assert columns["point_x"].tolist() == points[:, 0].tolist()
    assert columns["point_y"].tolist() == points[:, 1].tolist()
    assert columns["ties"].tolist() == [1] * 200
    assert columns["has_region"].tolist() == [row != 24 for row in range(200)]


# Pointing game, by hand (docs/metrics/pointing_game.md has the first one)


def test_hit_and_miss_by_hand() -> None:
    """An 8x8 frame, box of pixels x 2..3, y 2..3. Points (3,2) on it: distance 0, hit even at 0 px. (6,2): 3 px,
    (6,7): sqrt(3^2 + 4^2) = 5 px. At 3 px the second misses (strictly nearer), at 3.5 px it hits; exact."""
    samples = [sample(name, (8, 8), {0: [[2, 2, 4, 4]]}) for name in "abc"]
    maps = torch.stack([spot(8, 8, point) for point in [(3, 2), (6, 2), (6, 7)]])
    columns = measure(PointingGame(3), maps, *samples)
    assert columns["distance_px"].tolist() == [0, 3, 5]
    assert columns["hit"].tolist() == [True, False, False]
    for tolerance, hits in [(0, 1), (3.5, 2), (5, 2), (5.01, 3)]:
        assert measure(PointingGame(tolerance), maps, *samples)["hit"].sum() == hits


def test_strictness() -> None:
    """Distance 15 misses at 15 px, as in TorchRay; on the region (0) every tolerance hits; exact."""
    distance = torch.tensor([0.0, 14.99, 15, 15.01, torch.inf])
    assert is_hit(distance, torch.full((5,), 15.0)).tolist() == [True, True, False, False, False]
    assert is_hit(distance, torch.zeros(5)).tolist() == [True, False, False, False, False]


def test_ties_take_the_first_in_reading_order() -> None:
    """Maxima at (5,1), (0,2) and (3,2): rows first, so (5,1), with ties = 3; a constant map points at (0,0), 64
    ties; exact."""
    samples = [sample(name, (8, 8), {0: [[0, 2, 1, 3]]}) for name in "ab"]
    columns = measure(PointingGame(1), torch.stack([spot(8, 8, (5, 1), (0, 2), (3, 2)), torch.zeros(8, 8)]), *samples)
    assert columns["point_x"].tolist() == [5, 0]
    assert columns["point_y"].tolist() == [1, 0]
    assert columns["ties"].tolist() == [3, 64]
    assert columns["hit"].tolist() == [False, False]


def test_relative_tolerance_by_hand() -> None:
    """tolerance_rel = .25 of the longer side: 2 px in a 4x8 frame, 4 px in a 16x12 frame. The point (3,0) is 3 px
    from the box at (0,0): a miss in the first, a hit in the second; exact."""
    small, large = sample("a", (4, 8), {0: [[0, 0, 1, 1]]}), sample("b", (16, 12), {0: [[0, 0, 1, 1]]})
    metric = PointingGame(tolerance_px=None, tolerance_rel=0.25)
    assert tolerance_px(None, 0.25, torch.tensor([[4, 8], [16, 12]])).tolist() == [2, 4]
    assert measure(metric, spot(4, 8, (3, 0))[None], small)["hit"].tolist() == [False]
    assert measure(metric, spot(16, 12, (3, 0))[None], large)["hit"].tolist() == [True]


def test_unequal_frames_in_one_batch() -> None:
    """Native 4x4 maps in frames 4x8, 8x4 and 4x4, together and alone: all columns bit-equal, and points never lie in
    the padding (a map that is negative everywhere is below the padding's zeros)."""
    samples = [
        sample(name, size, {0: [[0, 0, 2, 2]]}) for name, size in zip("abc", [(4, 8), (8, 4), (4, 4)], strict=True)
    ]
    maps = -1 - torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
    together = measure(PointingGame(2), maps, *samples)
    for row, one in enumerate(samples):
        for name, column in measure(PointingGame(2), maps[row : row + 1], one).items():
            assert torch.equal(column[0], together[name][row]), name
        assert together["point_x"][row] < one.size0[1]
        assert together["point_y"][row] < one.size0[0]


def test_resize_before_the_arg_max() -> None:
    """A 2x2 map with its maximum at (1,0), in a 4x4 frame, by hand: columns at source positions 0 (clamped from
    -.25), .25, .75 and 1 (from 1.25), so the first row is 0, .25, .75, 1 and the peak (3,0), not (2,0); exact."""
    columns = measure(PointingGame(1), [[[0, 1], [0, 0]]], sample("a", (4, 4), {0: [[3, 0, 4, 1]]}))
    assert (columns["point_x"].item(), columns["point_y"].item(), columns["hit"].item()) == (3, 0, True)


def test_region_is_the_pairs_class() -> None:
    """One image with two classes: the same map hits the class whose box it marks, and of a class' boxes any one
    counts; the difficult flag is the class' own; exact."""
    one = sample("a", (8, 8), {3: [[0, 0, 2, 2]], 1: [[6, 6, 8, 8], [4, 0, 6, 1]]}, difficult={1: True})
    columns = measure(PointingGame(1), spot(8, 8, (5, 0)).expand(2, 8, 8), one)
    assert columns["hit"].tolist() == [False, True]
    assert columns["difficult"].tolist() == [False, True]


def test_mask_and_box_regions() -> None:
    """A mask that is the left column of its box: a point on the right column hits the box and misses the mask by 1
    px; exact."""
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[:, 0] = True
    one = sample("a", (4, 4), {0: [[0, 0, 2, 4]]}, mask=mask)
    assert measure(PointingGame(1), spot(4, 4, (1, 1))[None], one)["hit"].item()
    columns = measure(PointingGame(1, region="mask"), spot(4, 4, (1, 1))[None], one)
    assert (columns["hit"].item(), columns["distance_px"].item()) == (False, 1)


def test_summary_by_hand() -> None:
    """Class 0: hits 1, 1, 0, 1; class 1: 0; class 2: 1 without a region (left out). mean 3/5 over pairs, class_mean
    (3/4 + 0) / 2 = .375; difficult pairs are class 0's 0 and 1 and class 1's 0: mean 1/3, class_mean (1/2 + 0) / 2.
    1e-12."""
    frame = table(
        {
            "hit": [True, True, False, True, False, True],
            "difficult": [False, False, True, True, True, True],
            "has_region": [True, True, True, True, True, False],
        },
        ["a", "b", "c", "d", "d", "e"],
        [0, 0, 0, 0, 1, 2],
    )
    rows = PointingGame(2).summarize(frame)
    expected = {
        ("mean", "all"): 3 / 5,
        ("class_mean", "all"): 0.375,
        ("mean", "difficult"): 1 / 3,
        ("class_mean", "difficult"): 0.25,
    }
    assert {(row.stat, row.subset): row.value for row in rows} == pytest.approx(expected, abs=1e-12)
    assert {row.n for row in rows if row.subset == "all"} == {5}
    assert {row.n for row in rows if row.subset == "difficult"} == {3}
    assert {row.variant for row in rows} == {"tol=2px,box"}
    assert all(row.higher_is_better and row.status == "ok" and row.unit == "fraction" for row in rows)
    assert PointingGame(None, 0.05, "mask").summarize(frame)[0].variant == "tol=0.05rel,mask"


def test_interval_is_wilsons_for_one_pair_an_image() -> None:
    """One pair an image: `mean` carries Wilson's interval; images with several pairs: the cluster bootstrap; the same
    numbers as `harness.stats` gives, exactly."""
    hits = [True, False, True, True]
    columns = {"hit": hits, "difficult": [False] * 4, "has_region": [True] * 4}
    alone = pick(PointingGame(2).summarize(table(columns, "abcd", [0, 1, 0, 1])), "mean")
    shared = pick(PointingGame(2).summarize(table(columns, "aabb", [0, 1, 0, 1])), "mean")
    expected = stats.wilson([1, 0, 1, 1])
    assert (alone.ci_low, alone.ci_high, alone.ci_method) == (expected.ci_low, expected.ci_high, "wilson")
    assert shared.ci_method == "cluster_bootstrap"


def test_all_hits_are_no_constant() -> None:
    """44 pairs of 22 images, all hits: `mean` and `class_mean` end at 1 and begin where 22 images can tell; one miss
    is the bootstrap's again."""
    columns = {"hit": [True] * 44, "difficult": [False] * 44, "has_region": [True] * 44}
    frame = table(columns, list(np.repeat(np.arange(22).astype(str), 2)), [0, 1] * 22)
    for stat in ("mean", "class_mean"):
        row = pick(PointingGame(2).summarize(frame), stat)
        assert (row.value, row.ci_high, row.ci_method) == (1, 1, "clopper_pearson")
        assert row.ci_low == pytest.approx(0.025 ** (1 / 22), abs=1e-12)
    frame.loc[0, "hit"] = False
    assert pick(PointingGame(2).summarize(frame), "mean").ci_method == "cluster_bootstrap"


def test_no_difficult_pairs() -> None:
    """A subset without pairs is a row without a value that says why, never a 0."""
    frame = table({"hit": [True], "difficult": [False], "has_region": [True]}, ["a"], [0])
    row = pick(PointingGame(2).summarize(frame), "mean", "difficult")
    assert (row.value, row.n, row.status) == (None, 0, "undefined:no pair in subset difficult has a value")


@pytest.mark.parametrize(
    ("absolute", "relative", "message"),
    [(15, 0.1, "give one of them"), (None, None, "give one of them"), (-1, None, "negative"), (None, -0.1, "negative")],
)
def test_tolerance_is_checked(absolute: float | None, relative: float | None, message: str) -> None:
    """Exactly one tolerance, not negative: ValueError at construction."""
    with pytest.raises(ValueError, match=message):
        PointingGame(absolute, relative)


# Energy pointing game (docs/metrics/energy_pointing_game.md)


def test_energy_by_hand() -> None:
    """A 2x3 map (1 2 -4 / 3 0 2), box of the left two columns: positive mass 1+2+3 = 6 inside of 8: .75. The box of
    the whole frame: 1. An empty box list and a map without positive value: nan. 1e-6."""
    values = [[1.0, 2, -4], [3, 0, 2]]
    samples = [
        sample("a", (2, 3), {0: [[0, 0, 2, 2]]}),
        sample("b", (2, 3), {0: [[0, 0, 3, 2]]}),
        sample("c", (2, 3), {0: []}),
        sample("d", (2, 3), {0: [[0, 0, 2, 2]]}),
    ]
    columns = measure(EnergyPointingGame(), [values, values, values, [[-1.0, 0, 0], [0, 0, -2]]], *samples)
    assert columns["inside_share"][:2].tolist() == pytest.approx([0.75, 1], abs=1e-6)
    assert columns["inside_share"][2:].isnan().all()
    rows = EnergyPointingGame().summarize(table(columns, "abcd", [0] * 4))
    assert pick(rows, "mean").value == pytest.approx(1.75 / 2, abs=1e-6)
    assert pick(rows, "mean").n == 2
    assert pick(rows, "median").value == pytest.approx(0.875, abs=1e-6)
    assert (pick(rows, "undefined_pairs").value, pick(rows, "undefined_pairs").n) == (2, 4)
    assert pick(rows, "undefined_pairs").unit == "count"


def test_energy_with_masks_and_unequal_frames() -> None:
    """Against a plain loop over pixels in NumPy; frames 6x9 and 7x5 and masks of two classes in one batch; 1e-6."""
    generator = torch.Generator().manual_seed(0)
    samples: list[Sample] = []
    expected: list[float] = []
    maps = torch.randn(3, 4, 4, generator=generator)
    for name, size, labels in [("a", (6, 9), (0, 2)), ("b", (7, 5), (1,))]:
        masks = {label: torch.rand(size, generator=generator) < 0.4 for label in labels}
        samples.append(sample(name, size, {label: [] for label in labels}, mask=masks))
        for label in labels:
            native = maps[len(expected)][None, None]
            values = torch.nn.functional.interpolate(native, size, mode="bilinear", align_corners=False)[0, 0].numpy()
            inside = sum(
                max(float(values[y, x]), 0) for y in range(size[0]) for x in range(size[1]) if masks[label][y, x]
            )
            expected.append(inside / float(values.clip(0).sum()))
    columns = measure(EnergyPointingGame("mask"), maps, *samples)
    assert columns["inside_share"].tolist() == pytest.approx(expected, abs=1e-6)


def test_energy_ignores_scale() -> None:
    """Multiplying a map by 2^10 changes no share (exactly: a power of two)."""
    samples = [sample("a", (6, 6), {0: [[0, 0, 3, 3]]})]
    maps = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(0))
    shares = [measure(EnergyPointingGame(), factor * maps, *samples)["inside_share"] for factor in (1, 1024)]
    assert torch.equal(shares[0], shares[1])


def test_energy_without_any_value() -> None:
    """Every map without positive mass: mean and median are undefined, and the count says 2."""
    rows = EnergyPointingGame().summarize(table({"inside_share": [np.nan, np.nan]}, "ab", [0, 0]))
    assert (pick(rows, "mean").value, pick(rows, "mean").status) == (
        None,
        "undefined:no pair in subset all has a value",
    )
    assert (pick(rows, "median").value, pick(rows, "median").status) == (
        None,
        "undefined:no pair in subset all has a value",
    )
    assert pick(rows, "undefined_pairs").value == 2


# Positive ratio (docs/metrics/positive_ratio.md)


def test_positive_ratio_by_hand() -> None:
    """A 2x3 map (1 2 -4 / 3 0 2): 4 of 6 pixels are above zero (0 is not); all zero: 0; all positive: 1. 1e-6."""
    samples = [sample(name, (2, 3), {0: [[0, 0, 1, 1]]}) for name in "abc"]
    columns = measure(PositiveRatio(), [[[1.0, 2, -4], [3, 0, 2]], [[0.0] * 3] * 2, [[0.5] * 3] * 2], *samples)
    assert columns["positive_ratio"].tolist() == pytest.approx([4 / 6, 0, 1], abs=1e-6)
    rows = PositiveRatio().summarize(table(columns, "abc", [0] * 3))
    assert pick(rows, "mean").value == pytest.approx(5 / 9, abs=1e-6)
    assert pick(rows, "median").value == pytest.approx(2 / 3, abs=1e-6)
    assert pick(rows, "undefined_pairs").value == 0
    assert {row.higher_is_better for row in rows} == {None}


@pytest.mark.parametrize("images", ["abcd", "aabb"])
def test_maps_that_are_positive_everywhere_have_a_constant(images: str) -> None:
    """Noise, distances: 1 for every pair leaves nothing to estimate; a share of energy that is 1 for all does."""
    columns: dict[str, Sequence] = dict.fromkeys(["positive_ratio", "inside_share", "boxes", "region_share"], [1] * 4)
    frame = table(columns, images, [0] * 4)
    ratio, energy = (pick(metric.summarize(frame), "mean") for metric in (PositiveRatio(), EnergyPointingGame()))
    assert (ratio.value, ratio.ci_low, ratio.ci_high, ratio.ci_method) == (1, 1, 1, "constant")
    assert (energy.value, energy.ci_high, energy.ci_method) == (1, 1, "clopper_pearson")
    assert energy.ci_low == pytest.approx(0.025 ** (1 / len(set(images))), abs=1e-12)


def test_padding_is_not_counted() -> None:
    """Positive maps in frames 2x3, 4x3 and 4x4 of one batch: 1 each, not 6/16 and 12/16; exact."""
    samples = [
        sample(name, size, {0: [[0, 0, 1, 1]]}) for name, size in zip("abc", [(2, 3), (4, 3), (4, 4)], strict=True)
    ]
    assert measure(PositiveRatio(), torch.ones(3, 2, 2), *samples)["positive_ratio"].tolist() == [1, 1, 1]


def test_positive_ratio_is_of_the_resized_map() -> None:
    """A 1x2 map (-1, 3) in a 1x4 frame, by hand: -1, 0, 2, 3 at source positions 0, .25, .75, 1: 2 of 4 above zero.
    Rectified before the resize it is 0, .75, 2.25, 3: 3 of 4. Exact."""
    one = sample("a", (1, 4), {0: [[0, 0, 1, 1]]})
    assert measure(PositiveRatio(), [[[-1.0, 3]]], one)["positive_ratio"].item() == 0.5
    assert measure(PositiveRatio(), [[[0.0, 3]]], one)["positive_ratio"].item() == 0.75


# All three


@pytest.mark.parametrize("metric", [PointingGame(2), EnergyPointingGame(), PositiveRatio()], ids=repr)
def test_alone_or_in_a_batch(metric: Metric) -> None:
    """Eight samples of unequal frames together and one by one: equal to 1e-6 (sums over a padded frame take another
    order), decisions and counts exactly."""
    generator = torch.Generator().manual_seed(0)
    samples = [sample(f"image{i}", (5 + i, 13 - i), {0: [[i / 2, 1, 4, 5]]}) for i in range(8)]
    maps = torch.randn(8, 4, 4, generator=generator)
    together = measure(metric, maps, *samples)
    for row, one in enumerate(samples):
        for name, column in measure(metric, maps[row : row + 1], one).items():
            if column.is_floating_point():
                torch.testing.assert_close(column[0], together[name][row], atol=1e-6, rtol=1e-6, equal_nan=True)
            else:
                assert column[0] == together[name][row], name


@pytest.mark.parametrize("metric", [PointingGame(2), EnergyPointingGame(), PositiveRatio()], ids=repr)
def test_columns_that_methods_are_compared_in_exist(metric: Metric) -> None:
    """PAIRED names columns that `measure` gives, one number a pair; the map is not changed."""
    maps = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0))
    kept, samples = maps.clone(), [sample(name, (4, 4), {0: [[0, 0, 2, 2]]}) for name in "ab"]
    columns = measure(metric, maps, *samples)
    assert set(metric.PAIRED) <= set(columns)
    assert all(column.shape == (2,) for column in columns.values())
    assert torch.equal(maps, kept)
