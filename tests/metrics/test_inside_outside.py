"""Outside-inside ratios, against arithmetic by hand and a plain loop in NumPy.

Sums are in float64 of float32 products that are exact: 1e-12 relative; scaled maps lose float32's 1e-6.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import pandas as pd
import pytest
import torch
from assay.harness import stats
from assay.harness.forward import ForwardPass
from assay.harness.types import Attribution, Batch, FramedMaps, Region, ResultRow, Sample
from assay.metrics.inside_outside import OutsideInside
from conftest import sample
from torch import Tensor

NO_FORWARD = cast(ForwardPass, None)  # the metric looks at the map alone
RATIOS = OutsideInside.PAIRED


def measure(metric: OutsideInside, maps: Tensor | Sequence, *samples: Sample) -> dict[str, Tensor]:
    """Columns of maps [P,h,w] at native resolution."""
    batch = Batch.of(samples)
    return metric.measure(batch, FramedMaps.of(Attribution(torch.as_tensor(maps).float()), batch), NO_FORWARD)


def table(columns: dict[str, Tensor], images: Sequence[str], labels: Sequence[int]) -> pd.DataFrame:
    """A sample table as `summarize` receives it."""
    arrays = {name: column.numpy() for name, column in columns.items()}
    return pd.DataFrame({"image_id": list(images), "label": list(labels), "predicted": True, **arrays})


def pick(rows: list[ResultRow], variant: str, stat: str, subset: str = "all") -> ResultRow:
    """The one row of a variant, a statistic and a subset."""
    (row,) = (row for row in rows if (row.variant, row.stat, row.subset) == (variant, stat, subset))
    return row


def loop(values: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> list[float]:
    """The three ratios of one map, pixel by pixel, with the min-max rescaling carried out."""
    counted = values[inside | outside]
    low, high = float(counted.min()), float(counted.max())
    sums = dict.fromkeys(["p_in", "p_out", "n_in", "n_out", "m_in", "m_out"], 0.0)
    for value, is_in, is_out in zip(values.ravel().tolist(), inside.ravel(), outside.ravel(), strict=True):
        for where in ["in"] * bool(is_in) + ["out"] * bool(is_out):
            size = int((inside if where == "in" else outside).sum())
            sums[f"p_{where}"] += max(value, 0) / size
            sums[f"n_{where}"] += max(-value, 0) / size
            sums[f"m_{where}"] += (value - low) / (high - low) / size
    every = (sums["p_out"] + sums["n_in"]) / (sums["p_in"] + sums["n_out"])
    return [every, sums["p_out"] / sums["p_in"], sums["m_out"] / sums["m_in"]]


def random_batch() -> tuple[list[Sample], Tensor]:
    """Three images of unequal frames with four pairs: boxes, masks, and pixels to be ignored."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for name, size, labels in [("a", (6, 9), (0, 2)), ("b", (9, 5), (1,)), ("c", (4, 4), (2,))]:
        boxes = {label: [[0, 0, 3, 3], [2, 2, 4, 4]] for label in labels}
        masks = {label: torch.rand(size, generator=generator) < 0.4 for label in labels}
        ignore = torch.rand(size, generator=generator) < 0.2
        samples.append(replace(sample(name, size, boxes, mask=masks), ignore=ignore))
    return samples, torch.randn(4, 4, 4, generator=generator)


def test_by_hand() -> None:
    """docs/metrics/outside_inside.md. A 2x3 map (1 2 -4 / -3 0 2), box of the left two columns.

    Inside 1, 2, -3, 0: mean R+ 3/4, mean R- 3/4. Outside -4, 2: mean R+ 1, mean R- 2.
    all: (1 + 3/4) / (3/4 + 2) = 7/11. positive: 1 / (3/4) = 4/3.
    min_max: N = (R + 4) / 6; inside 5/6, 1, 1/6, 4/6, mean 2/3; outside 0, 1, mean 1/2: 3/4.
    """
    columns = measure(OutsideInside(), [[[1.0, 2, -4], [-3, 0, 2]]], sample("a", (2, 3), {0: [[0, 0, 2, 2]]}))
    assert [columns[name].item() for name in RATIOS] == pytest.approx([7 / 11, 4 / 3, 3 / 4], rel=1e-12)


@pytest.mark.parametrize("region", ["box", "mask"])
def test_against_a_loop(region: Region) -> None:
    """Unequal frames in one batch against a loop over pixels; ignored pixels count for boxes, not for masks; 1e-6
    (the loop rescales each float32 pixel of another implementation's resize)."""
    samples, maps = random_batch()
    batch = Batch.of(samples)
    columns = measure(OutsideInside(region), maps, *samples)
    for row, (one, label) in enumerate(batch.pairs):
        native = maps[row][None, None]
        values = torch.nn.functional.interpolate(native, one.size0, mode="bilinear", align_corners=False)[0, 0].numpy()
        inside = np.zeros(one.size0, bool)
        for x0, y0, x1, y1 in one.boxes[label].int().tolist():
            inside[y0:y1, x0:x1] = True
        counted = np.ones(one.size0, bool)
        if region == "mask":
            assert isinstance(one.mask, dict)
            assert one.ignore is not None
            inside, counted = one.mask[label].numpy(), ~one.ignore.numpy()
        expected = loop(values, inside & counted, ~inside & counted)
        assert [columns[name][row].item() for name in RATIOS] == pytest.approx(expected, rel=1e-6)


def test_positive_maps_have_one_ratio() -> None:
    """Without negative values `all` is `positive`, as the paper says; exact. A map that is 0 somewhere and nowhere
    negative has it as its `min_max`, too; 1e-12."""
    samples, maps = random_batch()
    columns = measure(OutsideInside(), maps.abs(), *samples)
    assert torch.equal(columns["ratio_all"], columns["ratio_positive"])
    maps = torch.tensor([[[0.0, 1, 2], [3, 4, 5]]])
    columns = measure(OutsideInside(), maps, sample("a", (2, 3), {0: [[0, 0, 2, 2]]}))
    assert columns["ratio_min_max"].item() == pytest.approx(columns["ratio_positive"].item(), rel=1e-12)


def test_misplaced_negatives_raise_the_ratio() -> None:
    """The text of RAP: negative values inside the box raise `all`, negative values outside lower it."""
    box = {0: [[0, 0, 2, 2]]}
    maps = torch.tensor([[[1.0, 2, 1], [3, 0, 2]]]).repeat(3, 1, 1)
    maps[1, 1, 1], maps[2, 0, 2] = -1, -1
    plain, wrong, right = measure(OutsideInside(), maps, *[sample(n, (2, 3), box) for n in "abc"])["ratio_all"]
    assert right < plain < wrong


def test_constant_background_and_sign() -> None:
    """`min_max` ignores an added constant (1e-6), the other two do not; a map and its negative have `all` ratios
    whose product is 1 (1e-12)."""
    samples, maps = random_batch()
    columns, shifted = measure(OutsideInside(), maps, *samples), measure(OutsideInside(), maps + 3, *samples)
    torch.testing.assert_close(shifted["ratio_min_max"], columns["ratio_min_max"], rtol=1e-5, atol=0)
    assert not torch.isclose(shifted["ratio_positive"], columns["ratio_positive"], rtol=0.01).any()
    product = columns["ratio_all"] * measure(OutsideInside(), -maps, *samples)["ratio_all"]
    torch.testing.assert_close(product, torch.ones_like(product), rtol=1e-12, atol=0)


def test_undefined() -> None:
    """Denominators of 0 are nan, not inf or 0, each by itself:

    a, b: flat maps of 0 and of -1: the min-max is 0/0; -1 has `all` (0 + 1) / (0 + 1) = 1. c: positive outside only:
    mean_in R+ = 0, and inside is all at the minimum. d, e: a box that is empty or the whole frame: nothing to
    compare. f: (1 0 / 0 0): defined, all 0.
    """
    boxes: list[list] = [[[0, 0, 1, 2]]] * 3 + [[], [[0, 0, 2, 2]], [[0, 0, 1, 2]]]
    samples = [sample(name, (2, 2), {0: box}) for name, box in zip("abcdef", boxes, strict=True)]
    maps = torch.zeros(6, 2, 2)
    maps[1], maps[2, 0, 1], maps[3:, 0, 0] = -1, 1, 1
    columns = measure(OutsideInside(), maps, *samples)
    nan = float("nan")
    expected = {
        "ratio_all": [nan, 1, nan, nan, nan, 0],
        "ratio_positive": [nan, nan, nan, nan, nan, 0],
        "ratio_min_max": [nan, nan, nan, nan, nan, 0],
    }
    for name in RATIOS:
        np.testing.assert_array_equal(columns[name], expected[name], err_msg=name)
    rows = OutsideInside().summarize(table(columns, "abcdef", [0] * 6))
    assert [pick(rows, f"{v},box", "undefined_pairs").value for v in ("all", "positive", "min_max")] == [4, 5, 5]
    assert {row.n for row in rows if row.stat == "undefined_pairs"} == {6}
    assert (pick(rows, "all,box", "mean").value, pick(rows, "all,box", "mean").n) == (0.5, 2)


def test_flat_maps_of_any_level() -> None:
    """A flat map has no min-max whatever its level and the frame's size: float64 sums of it are exact."""
    samples = [sample(f"i{n}", (7 + n, 11), {0: [[1, 1, 6, 5]]}) for n in range(5)]
    maps = torch.tensor([0.1, -0.3, 1e-8, 1e8, -7.7])[:, None, None].expand(5, 3, 3)
    assert measure(OutsideInside(), maps, *samples)["ratio_min_max"].isnan().all()


def test_summary() -> None:
    """Ratios 1, 2, 6: mean 3 with the CLT interval of `harness.stats`, median 2; lower is better; unit ratio."""
    columns = {name: torch.tensor([1.0, 2, 6], dtype=torch.float64) for name in RATIOS}
    rows = OutsideInside("mask").summarize(table(columns, "abc", [0] * 3))
    expected = stats.mean_clt([1, 2, 6])
    row = pick(rows, "min_max,mask", "mean")
    assert (row.value, row.ci_low, row.ci_high, row.n) == (3, expected.ci_low, expected.ci_high, 3)
    assert (row.unit, row.higher_is_better, row.ci_method) == ("ratio", False, "clt")
    assert pick(rows, "all,mask", "median").value == 2
    assert len(rows) == 9
    shared = OutsideInside("mask").summarize(table(columns, "aab", [0, 1, 0]))
    assert pick(shared, "all,mask", "mean").ci_method == "cluster_bootstrap"


def test_all_undefined() -> None:
    """Without any value mean and median are empty and say why; the count says 2."""
    columns = {name: torch.full((2,), torch.nan, dtype=torch.float64) for name in RATIOS}
    rows = OutsideInside().summarize(table(columns, "ab", [0, 0]))
    for stat in ("mean", "median"):
        row = pick(rows, "all,box", stat)
        assert (row.value, row.n, row.status) == (None, 0, "undefined:no pair in subset all has a value")
    assert pick(rows, "all,box", "undefined_pairs").value == 2


def test_scale_order_and_padding() -> None:
    """Scaling a map by 1024 changes nothing (exact), by 3.7 nothing beyond 1e-5; neither does the order of the
    samples (exact) nor a neighbour with a larger frame (1e-12: sums in another order)."""
    samples, maps = random_batch()
    columns = measure(OutsideInside("mask"), maps, *samples)
    scaled, odd = (measure(OutsideInside("mask"), factor * maps, *samples) for factor in (1024, 3.7))
    turned = measure(OutsideInside("mask"), maps[[3, 2, 0, 1]], *[samples[i] for i in (2, 1, 0)])
    larger = sample("z", (40, 30), {0: [[0, 0, 1, 1]]}, mask=torch.ones(40, 30, dtype=torch.bool))
    padded = measure(OutsideInside("mask"), torch.cat([maps, maps[:1]]), *samples, larger)
    for name in RATIOS:
        assert torch.equal(scaled[name], columns[name])
        torch.testing.assert_close(odd[name], columns[name], rtol=1e-5, atol=0)
        assert torch.equal(turned[name], columns[name][[3, 2, 0, 1]])
        torch.testing.assert_close(padded[name][:4], columns[name], rtol=1e-12, atol=0)


def test_ignored_pixels_do_not_matter() -> None:
    """Any value under ignored pixels gives the same ratios with masks; exact."""
    mask, ignore = torch.zeros(4, 4, dtype=torch.bool), torch.zeros(4, 4, dtype=torch.bool)
    mask[:2], ignore[1:3, 1:3] = True, True
    one = replace(sample("a", (4, 4), {0: [[0, 0, 4, 2]]}, mask=mask), ignore=ignore)
    maps = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(0))
    other = maps.clone()
    other[0, ignore] = torch.tensor([50.0, -90, 3, 7])
    first, second = (measure(OutsideInside("mask"), m, one) for m in (maps, other))
    assert all(torch.equal(first[name], second[name]) for name in RATIOS)
    assert (
        measure(OutsideInside("box"), maps, one)["ratio_all"] != measure(OutsideInside("box"), other, one)["ratio_all"]
    )


def test_rows_of_classes_and_subsets() -> None:
    """Classes 3, 3, 5 with ratios 1, 3, 8, the last pair difficult: means 2 and 8 by class, 8 of the difficult."""
    columns = {name: torch.tensor([1.0, 3, 8], dtype=torch.float64) for name in RATIOS}
    frame = table(columns | {"difficult": torch.tensor([False, False, True])}, "abc", [3, 3, 5])
    rows = OutsideInside(subsets=["all", "difficult"], per_class=True).summarize(frame)
    means = {row.subset: row.value for row in rows if (row.variant, row.stat) == ("all,box", "mean")}
    assert means == {"all": 4, "difficult": 8, "class=3": 2, "class=5": 8}
    with pytest.raises(ValueError, match="hard"):
        OutsideInside(subsets=["hard"])
