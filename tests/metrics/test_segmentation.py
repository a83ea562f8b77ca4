"""The map as a segmentation, against scikit-learn, NumPy and arithmetic by hand.

Counts are compared exactly; shares of counts and average precisions, in float64 on both sides, to 1e-12.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, cast

import numpy as np
import pandas as pd
import pytest
import torch
from assay.harness import stats
from assay.harness.forward import ForwardPass
from assay.harness.stats import cluster_bootstrap, cluster_ratio
from assay.harness.types import Attribution, Batch, FramedMaps, Metric, ResultRow, Sample
from assay.metrics import sorted_pixels
from assay.metrics.segmentation import THRESHOLDS, MeanAP, MeanIoU, PixelAccuracy, cutoffs
from assay.metrics.sorted_pixels import ranked
from conftest import sample
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, average_precision_score, jaccard_score
from torch import Tensor

NO_FORWARD = cast(ForwardPass, None)  # these metrics look at the map alone
ALL_RULES = [*THRESHOLDS, "p0", "p97.5"]


def measure(metric: Metric, maps: Tensor | Sequence, *samples: Sample) -> dict[str, Tensor]:
    """Columns of maps [P,h,w] at native resolution."""
    batch = Batch.of(samples)
    return metric.measure(batch, FramedMaps.of(Attribution(torch.as_tensor(maps).float()), batch), NO_FORWARD)


def table(columns: dict[str, Tensor], images: Sequence[str], labels: Sequence[int] | None = None) -> pd.DataFrame:
    """A sample table as `summarize` receives it."""
    arrays = {name: column.numpy() for name, column in columns.items()}
    labels = [0] * len(images) if labels is None else list(labels)
    return pd.DataFrame({"image_id": list(images), "label": labels, "predicted": True, **arrays})


def values(rows: list[ResultRow], stat: str, subset: str = "all") -> dict[str, float | None]:
    """Values of one statistic, by variant."""
    return {row.variant: row.value for row in rows if (row.stat, row.subset) == (stat, subset)}


def masked(name: str, mask: Sequence | Tensor, ignore: Tensor | None = None) -> Sample:
    """A sample of class 0 with a mask."""
    pixels = torch.as_tensor(mask).bool()
    height, width = pixels.shape
    return replace(sample(name, (height, width), {0: []}, mask=pixels), ignore=ignore)


class Case(NamedTuple):
    """Samples of unequal frames with masks and ignored pixels, and their maps in those frames."""

    samples: list[Sample]
    maps: Tensor

    def pixels(self) -> Iterator[tuple[NDArray, NDArray]]:
        """Truth and score of each pair's counted pixels (float64: NumPy compares float32 with a number in float32)."""
        batch = Batch.of(self.samples)
        framed = FramedMaps.of(Attribution(self.maps), batch)
        for row, (one, _) in enumerate(batch.pairs):
            assert isinstance(one.mask, Tensor)
            height, width = one.size0
            counted = torch.ones(one.size0, dtype=torch.bool) if one.ignore is None else ~one.ignore
            yield one.mask[counted].numpy(), framed.maps[row, :height, :width][counted].double().numpy()


def random_case(levels: int | None = None, count: int = 6) -> Case:
    """Random maps of mixed signs, the odd ones positive; quantised to a few levels: many ties and plateaus."""
    generator = torch.Generator().manual_seed(0)
    samples = [
        masked(
            f"image{i}",
            torch.rand(9 + 3 * i, 25 - 2 * i, generator=generator) < 0.1 + 0.1 * i,
            torch.rand(9 + 3 * i, 25 - 2 * i, generator=generator) < 0.1 if i % 3 else None,
        )
        for i in range(count)
    ]
    maps = torch.randn(count, 7, 7, generator=generator)
    maps[1::2] = maps[1::2].abs()
    if levels is not None:
        maps = (maps * levels).round() / levels
    return Case(samples, maps)


def plain_cutoff(rule: str, scores: NDArray) -> float:
    """The level of a threshold rule in NumPy."""
    if rule == "signed_or_mean":
        rule = "zero" if (scores < 0).any() else "mean"
    if rule.startswith("p"):
        return float(np.percentile(scores, float(rule[1:])))
    return {"zero": 0.0, "mean": float(scores.mean()), "median": float(np.median(scores))}[rule]


# By hand: docs/metrics/pixel_accuracy.md, miou.md, mean_ap.md

HAND = [[[1.0, 2, -4], [3, 0, 2]], [[1.0, 1, 1], [-1, -1, -1]]]
HAND_SAMPLES = [masked("a", [[1, 1, 1], [0, 0, 0]]), masked("b", [[1, 1, 1], [0, 0, 0]])]


@pytest.fixture(params=["numpy", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How pixels are ranked: on the CPU, and elsewhere."""
    if request.param == "torch":
        monkeypatch.setattr(sorted_pixels, "on_cpu", lambda values: False)


def test_pixel_accuracy_by_hand() -> None:
    """A 2x3 map a (1 2 -4 / 3 0 2), the object is the first row; map b is its mask with values 1 and -1.

    zero and signed_or_mean mark 1, 2, 3, 2: right at 1, 2 and 0, 3/6. mean 4/6 marks the same. median (1 + 2)/2
    marks 2, 3, 2: right at 2, 0, 2/6. p80 = 2 (position 4 of 0..5) marks 3: right at 0 and the last 2: 2/6.
    b: 6/6 by all rules but p80, which is 1 and marks nothing: 3/6. Accumulated: zero 9/12, median 8/12, p80 5/12.
    The frames are of one size, so the mean over pairs is the same.
    """
    columns = measure(PixelAccuracy(), HAND, *HAND_SAMPLES)
    assert columns["accuracy"].tolist() == [0.5, 1]
    assert columns["marked_zero"].tolist() == [4, 3]
    assert columns["both_median"].tolist() == [1, 3]
    rows = PixelAccuracy().summarize(table(columns, "ab"))
    expected = {"signed_or_mean": 9 / 12, "zero": 9 / 12, "mean": 9 / 12, "median": 8 / 12, "p80": 5 / 12}
    expected = {f"{name},mask": value for name, value in expected.items()}
    assert values(rows, "accumulated") == pytest.approx(expected, abs=1e-12)
    assert values(rows, "mean") == pytest.approx(expected, abs=1e-12)
    assert values(rows, "undefined_pairs") == {"mask": 0}
    assert all(row.higher_is_better for row in rows if row.unit == "fraction")


def test_mean_iou_by_hand() -> None:
    """The same maps at zero. a: foreground 2 of 3 + 4 - 2 = 5, background 1 (the 0) of 6 - 2 = 4: (2/5 + 1/4) / 2 =
    .325. b: 1. Mean .6625. Accumulated: foreground (2 + 3) / (5 + 3), background (1 + 3) / (4 + 3): (5/8 + 4/7) / 2 =
    .5982. p80: a has foreground 0 of 4, background 2 of 6; b 0 of 3 and 3 of 6: accumulated (0 + 5/12) / 2.
    """
    columns = measure(MeanIoU(), HAND, *HAND_SAMPLES)
    assert columns["iou"].tolist() == pytest.approx([0.325, 1], abs=1e-12)
    rows = MeanIoU().summarize(table(columns, "ab"))
    assert values(rows, "mean")["zero,mask"] == pytest.approx(0.6625, abs=1e-12)
    assert values(rows, "accumulated")["zero,mask"] == pytest.approx((5 / 8 + 4 / 7) / 2, abs=1e-12)
    assert values(rows, "accumulated")["p80,mask"] == pytest.approx(5 / 24, abs=1e-12)


@pytest.mark.usefixtures("way")
def test_average_precision_by_hand() -> None:
    """Map a from the top: 3 (no), 2 and 2 (one yes; they tie: 1 of 3), 1 (yes: 2 of 4), 0 (no), -4 (yes: 3 of 6):
    (1/3 + 2/4 + 3/6) / 3 = 4/9. Binarised, accuracy 1/2: 1/4 + 1/4 = 1/2. Map b: 1 and 1. Chance 3/6."""
    columns = measure(MeanAP(), HAND, *HAND_SAMPLES)
    assert columns["ap"].tolist() == pytest.approx([4 / 9, 1], abs=1e-12)
    assert columns["ap_binarised"].tolist() == [0.5, 1]
    rows = MeanAP().summarize(table(columns, "ab"))
    assert values(rows, "mean") == pytest.approx(
        {"continuous,mask": 13 / 18, "binarised:signed_or_mean,mask": 0.75}, abs=1e-12
    )
    assert values(rows, "chance") == {"continuous,mask": 0.5}
    assert next(row for row in rows if row.stat == "chance").higher_is_better is None


# Thresholds


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("rule", ALL_RULES)
@pytest.mark.parametrize("levels", [None, 2])
def test_thresholds_equal_numpy(rule: str, levels: int | None) -> None:
    """Against numpy.mean, median and percentile over the counted pixels alone: 1e-12, and every mark exactly."""
    case = random_case(levels)
    batch = Batch.of(case.samples)
    framed = FramedMaps.of(Attribution(case.maps), batch)
    level = cutoffs(ranked(framed.maps, batch.counted, batch.counted), [rule])[rule]
    marked = measure(PixelAccuracy(thresholds=[rule]), case.maps, *case.samples)[f"marked_{rule}"]
    for row, (_, scores) in enumerate(case.pixels()):
        expected = plain_cutoff(rule, scores)
        assert level[row].item() == pytest.approx(expected, abs=1e-12)
        assert marked[row].item() == (scores > expected).sum()


def test_signed_or_mean_is_raps_rule() -> None:
    """(1 -1 3 3): zero. (1 0 3 4): mean 2. A negative value under an ignored pixel or in the padding does not count:
    (2 4 [-9] 6): mean 4."""
    ignore = torch.tensor([[False, False, True, False]])
    samples = [masked("a", [[1, 1, 0, 0]]), masked("b", [[1, 1, 0, 0]]), masked("c", [[1, 1, 0, 0]], ignore)]
    batch = Batch.of([*samples, masked("d", torch.ones(5, 4))])
    maps = torch.zeros(4, 5, 4)
    maps[:3, 0] = torch.tensor([[1.0, -1, 3, 3], [1, 0, 3, 4], [2, 4, -9, 6]])
    levels = cutoffs(ranked(maps, batch.counted, batch.counted), ["signed_or_mean"])["signed_or_mean"]
    assert levels.tolist() == [0, 2, 4, 0]


def test_flat_maps_mark_nothing() -> None:
    """A flat map is nowhere above its own mean, median or percentile, whatever its level and size; zero marks all of
    a positive one; exact."""
    samples = [masked(f"i{n}", torch.eye(7 + n, 11)) for n in range(4)]
    maps = torch.tensor([0.1, 1e-8, 7.7, 1e8])[:, None, None].expand(4, 3, 3)
    columns = measure(PixelAccuracy(thresholds=ALL_RULES), maps, *samples)
    for rule in ALL_RULES:
        assert torch.equal(columns[f"marked_{rule}"], columns["pixels"] if rule == "zero" else torch.zeros(4).long())


@pytest.mark.parametrize("names", [["otsu"], ["p100"], ["p"], ["80"], [], ["zero", "zero"]])
def test_thresholds_are_checked(names: list[str]) -> None:
    """Unknown names, p100 (it would mark nothing), none, twice: ValueError at construction, with the choices."""
    for metric in (PixelAccuracy, MeanIoU):
        with pytest.raises(ValueError, match="signed_or_mean or a percentile"):
            metric(thresholds=names)


# Against scikit-learn


@pytest.mark.parametrize("rule", ALL_RULES)
@pytest.mark.parametrize("levels", [None, 1])
def test_accuracy_and_iou_equal_scikit_learn(rule: str, levels: int | None) -> None:
    """Against accuracy_score and jaccard_score (macro: the mean over both classes), each pair by itself and all
    pixels of the data set in one call; 1e-12."""
    case = random_case(levels)
    both = (PixelAccuracy(thresholds=[rule]), MeanIoU(thresholds=[rule]))
    columns = [measure(metric, case.maps, *case.samples) for metric in both]
    truths: list[NDArray] = []
    marks: list[NDArray] = []
    for row, (truth, scores) in enumerate(case.pixels()):
        mark = scores > plain_cutoff(rule, scores)
        assert columns[0]["accuracy"][row].item() == pytest.approx(accuracy_score(truth, mark), abs=1e-12)
        assert columns[1]["iou"][row].item() == pytest.approx(jaccard_score(truth, mark, average="macro"), abs=1e-12)
        truths, marks = [*truths, truth], [*marks, mark]
    whole = np.concatenate(truths), np.concatenate(marks)
    names = [one.id for one in case.samples]
    accuracy, iou = (
        values(metric.summarize(table(made, names)), "accumulated")[f"{rule},mask"]
        for metric, made in zip(both, columns, strict=True)
    )
    assert accuracy == pytest.approx(accuracy_score(*whole), abs=1e-12)
    assert iou == pytest.approx(jaccard_score(*whole, average="macro"), abs=1e-12)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("levels", [None, 8, 1])
def test_average_precision_equals_scikit_learn(levels: int | None) -> None:
    """Against average_precision_score on the counted pixels of unequal frames; no ties, ties, plateaus; 1e-12."""
    case = random_case(levels)
    columns = measure(MeanAP(), case.maps, *case.samples)
    for row, (truth, scores) in enumerate(case.pixels()):
        assert columns["ap"][row].item() == pytest.approx(average_precision_score(truth, scores), abs=1e-12)
        assert columns["object_share"][row].item() == pytest.approx(truth.mean(), abs=1e-12)


@pytest.mark.parametrize(
    "scores",
    [
        [0.0, 0, 0, 0, 0, 0],
        [-0.0, 0, -0.0, 0, -1, 1],  # both zeros are one value
        [-3.0, -2, -1, -2, -3, -1],
        [1e-40, -1e-40, 0, 2e-40, 1e-45, 0],  # denormal numbers
        [3e38, -3e38, 1, 1, 3e38, -1],
        [1, 1 + 2**-23, 1, 1 - 2**-24, 1, 1],  # neighbours in float32
    ],
)
@pytest.mark.usefixtures("way")
def test_average_precision_of_hard_scores(scores: list[float]) -> None:
    """Flat maps, signed zeros, negative, denormal, huge and neighbouring values, every truth of six pixels but the
    empty one: scikit-learn to 1e-12."""
    truths = ((torch.arange(1, 64)[:, None] >> torch.arange(6)) & 1).bool()[:, None]
    maps = torch.tensor(scores).expand(63, 1, 6)
    ours = ranked(maps, truths, torch.ones_like(truths)).average_precision()
    for truth, value in zip(truths, ours, strict=True):
        expected = average_precision_score(truth[0].numpy(), np.array(scores, np.float32))
        assert value.item() == pytest.approx(expected, abs=1e-12)


def test_binarised_equals_scikit_learn_on_two_channels() -> None:
    """AGF's quantity written out: channels (not marked, marked) against (background, object), flattened; 1e-12."""
    for rule in ("signed_or_mean", "median"):
        case = random_case()
        columns = measure(MeanAP(threshold=rule), case.maps, *case.samples)
        for row, (truth, scores) in enumerate(case.pixels()):
            mark = scores > plain_cutoff(rule, scores)
            channels = np.concatenate([~mark, mark]), np.concatenate([~truth, truth])
            expected = average_precision_score(channels[1], channels[0].astype(float))
            assert columns["ap_binarised"][row].item() == pytest.approx(expected, abs=1e-12)


def test_random_and_perfect_maps() -> None:
    """The anchors: a random map scores its object's share (.234) continuously and about 1/2 (not .234) binarised; a
    perfect mask 1 and 1. 64 x 64 pixels, 20 maps: within .01."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.zeros(64, 64, dtype=torch.bool)
    truth.view(-1)[:958] = True  # .234 of the pixels
    samples = [masked(f"i{n}", truth) for n in range(20)]
    noise = measure(MeanAP(), torch.randn(20, 64, 64, generator=generator), *samples)
    assert noise["ap"].mean().item() == pytest.approx(0.234, abs=0.01)
    assert noise["ap_binarised"].mean().item() == pytest.approx(0.5, abs=0.01)
    perfect = measure(MeanAP(), truth.float()[None], samples[0])
    assert (perfect["ap"].item(), perfect["ap_binarised"].item()) == (1, 1)


# Undefined, invariances


def test_pairs_without_an_object_are_left_out() -> None:
    """An empty mask, and one whose pixels are all to be ignored: nan in every column, counted; the rows are those of
    the third pair alone; exact."""
    mask = torch.tensor([[True, False, False], [False] * 3])
    samples = [masked("a", torch.zeros(2, 3)), masked("b", mask, mask), masked("c", mask)]
    maps = torch.tensor(HAND[0]).expand(3, 2, 3)
    cases: list[tuple[Metric, str]] = [(PixelAccuracy(), "accuracy"), (MeanIoU(), "iou"), (MeanAP(), "ap")]
    for metric, column in cases:
        columns = measure(metric, maps, *samples)
        assert columns[column].isnan().tolist() == [True, True, False]
        rows = metric.summarize(table(columns, "abc"))
        alone = metric.summarize(table(measure(metric, maps[2:], samples[2]), "c"))
        assert set(values(rows, "undefined_pairs").values()) == {2}
        for row, one in zip(rows, alone, strict=True):
            assert row.stat == "undefined_pairs" or (row.value, row.n) == (one.value, 1)


def test_no_pair_with_an_object() -> None:
    """Every row but the count is undefined and says why."""
    for metric in (PixelAccuracy(), MeanIoU(), MeanAP()):
        rows = metric.summarize(table(measure(metric, [HAND[0]], masked("a", torch.zeros(2, 3))), "a"))
        assert {r.status for r in rows if r.unit != "count"} == {"undefined:no pair in subset all has a value"}
        assert all(row.value is None for row in rows if row.unit != "count")


def test_an_object_of_the_whole_frame() -> None:
    """All marked, all object: accuracy and AP 1, and IoU is the foreground's 1: the background is in no union."""
    one, maps = masked("a", torch.ones(2, 3)), torch.ones(1, 2, 3)
    assert measure(PixelAccuracy(thresholds=["zero"]), maps, one)["accuracy"].item() == 1
    columns = measure(MeanIoU(thresholds=["zero"]), maps, one)
    assert columns["iou"].item() == 1
    rows = MeanIoU(thresholds=["zero"]).summarize(table(columns, "a"))
    assert values(rows, "accumulated") == {"zero,mask": 1}
    assert measure(MeanAP(), maps, one)["ap"].item() == 1


METRICS: list[Metric] = [
    PixelAccuracy(thresholds=ALL_RULES),
    MeanIoU(thresholds=ALL_RULES),
    MeanAP(),
    MeanAP("box", "p80"),
]


@pytest.mark.parametrize("metric", METRICS, ids=repr)
def test_scale_order_and_neighbours(metric: Metric) -> None:
    """Scaling a map by 1024, another order of the samples, and a neighbour with a larger frame: all columns are
    equal, counts exactly and shares to 1e-12."""
    case = random_case()
    samples = [replace(one, boxes={0: torch.tensor([[1.0, 2, 5, 9]])}) for one in case.samples]
    columns = measure(metric, case.maps, *samples)
    turned = measure(metric, case.maps.flip(0), *samples[::-1])
    large = replace(masked("z", torch.ones(60, 70)), boxes={0: torch.tensor([[0.0, 0, 5, 9]])})
    padded = measure(metric, torch.cat([case.maps, case.maps[:1]]), *samples, large)
    scaled = measure(metric, 1024 * case.maps, *samples)
    for name, column in columns.items():
        for other in (turned[name].flip(0), padded[name][:-1], scaled[name]):
            torch.testing.assert_close(other, column, rtol=0, atol=1e-12)
    assert set(metric.PAIRED) <= set(columns)
    assert all(column.shape == (6,) for column in columns.values())


def test_ignored_pixels_do_not_matter() -> None:
    """Other values under ignored pixels change nothing with masks; with boxes they count; exact."""
    case = random_case()
    samples = [replace(one, boxes={0: torch.tensor([[1.0, 2, 5, 9]])}) for one in case.samples]
    batch = Batch.of(samples)
    framed = FramedMaps.of(Attribution(case.maps), batch)
    other = FramedMaps(torch.where(batch.counted, framed.maps, -50.0) * batch.valid, batch.valid, framed.attribution)
    for metric in METRICS[:3]:
        first, second = (metric.measure(batch, maps, NO_FORWARD) for maps in (framed, other))
        assert all(torch.equal(first[name], second[name]) for name in first)
    boxes = [METRICS[3].measure(batch, maps, NO_FORWARD)["ap"] for maps in (framed, other)]
    assert not torch.equal(*boxes)


def test_boxes_as_region() -> None:
    """The box of the first row instead of its mask gives the same numbers; exact."""
    boxed = [sample(name, (2, 3), {0: [[0, 0, 3, 1]]}) for name in "ab"]
    for metric in (PixelAccuracy, MeanIoU, MeanAP):
        by_box, by_mask = measure(metric(region="box"), HAND, *boxed), measure(metric(), HAND, *HAND_SAMPLES)
        assert all(torch.equal(by_box[name], by_mask[name]) for name in by_mask)
        assert all(",box" in row.variant for row in metric("box").summarize(table(by_box, "ab")) if row.unit != "count")


# Rows


@pytest.mark.parametrize("metric", [PixelAccuracy, MeanIoU, MeanAP])
def test_rows_of_classes_and_subsets(metric: type) -> None:
    """A class' rows are those of its pairs alone, and so are the difficult pairs'; exact."""
    case = random_case()
    made = metric(subsets=["all", "predicted", "predicted_difficult"], per_class=True)
    flags = torch.tensor([True, False, False, True, True, False])
    columns = measure(made, case.maps, *case.samples) | {"difficult": flags}
    frame = table(columns, [one.id for one in case.samples], [4, 9, 4, 4, 9, 9])
    rows = made.summarize(frame)
    chosen = {"class=4": frame["label"] == 4, "class=9": frame["label"] == 9, "predicted_difficult": frame["difficult"]}
    for subset, mask in chosen.items():
        alone = metric().summarize(frame[mask])
        assert [r for r in rows if r.subset == subset] == [replace(row, subset=subset) for row in alone]
    assert len(rows) == 5 * len(metric().summarize(frame))


def test_intervals_resample_images() -> None:
    """Accumulated rows carry `cluster_ratio`'s interval, means that of `harness.stats.mean`; exact."""
    case = random_case()
    columns = measure(MeanIoU(thresholds=["zero"]), case.maps, *case.samples)
    accumulated, mean, _ = MeanIoU(thresholds=["zero"]).summarize(table(columns, "aabbcc"))
    counts = {name: column.numpy() for name, column in columns.items()}
    objects, both, marked = counts["object_pixels"], counts["both_zero"], counts["marked_zero"]
    above = np.stack([counts["pixels"] - objects - marked + both, both], 1)
    below = np.stack([counts["pixels"] - both, objects + marked - both], 1)
    expected = cluster_ratio(above, below, list("aabbcc"))
    assert (accumulated.value, accumulated.ci_low, accumulated.ci_high) == (
        expected.value,
        expected.ci_low,
        expected.ci_high,
    )
    assert mean.ci_low == cluster_bootstrap(columns["iou"].numpy(), list("aabbcc")).ci_low


# The ratio bootstrap


def ratio_data(n: int = 60, columns: int = 2) -> tuple[NDArray, NDArray, NDArray]:
    """Numerators and denominators [n,K] of 25 images."""
    generator = np.random.default_rng(0)
    below = generator.integers(50, 400, (n, columns)).astype(float)
    above = np.floor(below * generator.beta(3, 2, (n, columns)))
    return above, below, generator.integers(0, 25, n)


def test_ratio_by_hand() -> None:
    """(1 + 2) / (4 + 2) = 1/2; with a second column (3 + 0) / (3 + 1) = 3/4: mean 5/8. A column without any
    denominator and a row with a nan are left out. One cluster: no interval."""
    assert cluster_ratio([1, 2], [4, 2], ["a", "b"])[0] == 0.5
    assert cluster_ratio([[1, 3], [2, 0]], [[4, 3], [2, 1]], ["a", "b"])[0] == 0.625
    assert cluster_ratio([[1, 0], [2, 0]], [[4, 0], [2, 0]], ["a", "b"])[0] == 0.5
    unknown: list[list[float]] = [[1, 3], [2, 0], [np.nan, 1]]
    estimate = cluster_ratio(unknown, [[4, 3], [2, 1], [1, 1]], ["a", "b", "c"])
    assert (estimate.value, estimate.n) == (0.625, 2)
    assert cluster_ratio([1, 2, 3], [4, 2, np.nan], ["a", "b", "c"])[0] == 0.5
    estimate = cluster_ratio([1, 2, np.nan], [4, 2, 5], ["a", "a", "b"])
    assert (estimate.value, estimate.n, estimate.ci_method) == (0.5, 2, "cluster_bootstrap")
    assert np.isnan([estimate.stderr, estimate.ci_low, estimate.ci_high]).all()
    for empty in (
        cluster_ratio([], [], []),
        cluster_ratio([np.nan], [1], ["a"]),
        cluster_ratio(np.zeros((0, 2)), np.zeros((0, 2)), []),
    ):
        assert empty.n == 0
        assert np.isnan(empty.value)


def test_ratio_equals_a_plain_loop() -> None:
    """The same 2000 resamples of images written out as loops over images and pairs; 1e-12."""
    above, below, images = ratio_data()
    names = np.unique(images)
    drawn = np.concatenate(list(stats._resamples(len(names)))).astype(int)
    resampled = []
    for times in drawn:
        rows = [
            row for name, k in zip(names, times, strict=True) for row in np.flatnonzero(images == name).tolist() * k
        ]
        resampled.append((above[rows].sum(0) / below[rows].sum(0)).mean())
    estimate = cluster_ratio(above, below, images)
    assert estimate.value == pytest.approx((above.sum(0) / below.sum(0)).mean(), rel=1e-12)
    expected = (np.std(resampled, ddof=1), *np.quantile(resampled, [0.025, 0.975]))
    assert estimate[1:4] == pytest.approx(expected, rel=1e-12)


def test_ratio_agrees_with_other_draws_and_theory() -> None:
    """An independent bootstrap, drawing images one by one with another generator (5 % of the standard error), and
    the linearised standard error of a ratio, sqrt(sum((x - r y)^2)) / sum(y), each of 400 images (7 %)."""
    above, below, _ = ratio_data(400, 1)
    images, generator = np.arange(400), np.random.default_rng(99)
    estimate = cluster_ratio(above[:, 0], below[:, 0], images)
    rows = generator.integers(0, 400, (2000, 400))
    other = above[rows].sum((1, 2)) / below[rows].sum((1, 2))
    assert estimate.stderr == pytest.approx(other.std(ddof=1), rel=0.05)
    linear = np.sqrt(((above - estimate.value * below) ** 2).sum()) / below.sum()
    assert estimate.stderr == pytest.approx(linear, rel=0.07)


def test_ratio_of_counts_is_the_mean() -> None:
    """Denominators of 1: the cluster bootstrap of the mean, all numbers exactly."""
    above, _, images = ratio_data(60, 1)
    assert cluster_ratio(above[:, 0], np.ones(60), images) == cluster_bootstrap(above[:, 0], images)
