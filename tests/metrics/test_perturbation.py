"""Perturbation, insertion, AOPC: by hand on a network of two pixels, against naive loops and against Quantus.

Float64 throughout where the order of sums may differ: 1e-12. Decisions, counts and orders are compared exactly.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from assay.harness import stats
from assay.harness.forward import ForwardPass
from assay.harness.network import Network
from assay.harness.seeds import SampleRng
from assay.harness.types import Attribution, Batch, FramedMaps, Metric, ResultRow, Sample
from assay.metrics.perturbation import AOPC, Insertion, Perturbation, area
from assay.metrics.pixel_ranks import CANVASES, READS, Blur, Order, ranks, read_clean, region_ranks
from conftest import TOY_INPUT, Known, ToyModule, known
from numpy.typing import NDArray
from sklearn.metrics import auc
from torch import Tensor, nn


def toy(dtype: torch.dtype = torch.float64) -> Network:
    """conftest's network of two pixels, inputs not normalised."""
    return Network(ToyModule(), (0, 0, 0), (1, 1, 1)).to(dtype=dtype)


class Sum(nn.Module):
    """Logits of grey images [B,1,h,w]: the sum of their pixels, and 0."""

    def forward(self, images: Tensor) -> Tensor:
        total = images.flatten(1).sum(1)
        return torch.stack([total, torch.zeros_like(total)], 1)


def batch_of(images: Tensor, *labels: Sequence[int], first: int = 0) -> Batch:
    """Images named image<first>, ... with these targets, in frames of their own size."""
    size = (images.shape[2], images.shape[3])
    return Batch.of([Sample(f"image{first + n}", image, tuple(labels[n]), size) for n, image in enumerate(images)])


def measure(
    metric: Metric, network: Network, batch: Batch, maps: Tensor | Sequence, max_rows: int | None = None
) -> dict[str, Tensor]:
    """Columns of maps [P,h,w] at native resolution."""
    framed = FramedMaps.of(Attribution(torch.as_tensor(maps)), batch)
    return metric.measure(batch, framed, ForwardPass(network, batch.images, max_rows=max_rows))


def table(columns: dict[str, Tensor], images: Sequence[str], predicted: bool | Sequence[bool] = True) -> pd.DataFrame:
    """A sample table as `summarize` receives it: curves as lists."""
    arrays = {name: list(column.numpy()) for name, column in columns.items()}
    return pd.DataFrame({"image_id": list(images), "label": 0, "predicted": predicted, **arrays})


def pick(rows: list[ResultRow], stat: str, subset: str = "all") -> list[ResultRow]:
    """The rows of a statistic and a subset, in order."""
    return [row for row in rows if (row.stat, row.subset) == (stat, subset)]


def rng_of(*names: str, seed: int = 0) -> SampleRng:
    return SampleRng(seed, "test", names, names)


@pytest.fixture
def several(tiny64: Known) -> tuple[Network, Batch, Tensor]:
    """A network, nine pairs of four images (one has five classes) and maps without ties, all float64."""
    batch = batch_of(tiny64.images, [4, 0], [1, 3, 2], [0], [0, 4, 2])
    return tiny64.network, batch, torch.randn(9, 16, 16, generator=torch.Generator().manual_seed(1)).double()


METRICS: list[Metric] = [
    Perturbation(steps=5, step=37, subsets=["all"]),
    Perturbation("morf", 4, 25, "percent", "noise", read="probability"),
    Perturbation("lerf", 3, 30, "percent", "black", read="top1"),
    Insertion(steps=5, step=8),
    Insertion(steps=4, step=20, canvas="mean", blur_pasted=True, read="probability"),
    Insertion("lerf", 3, 60, "px", "noise", read="score"),
    Perturbation("morf", 4, 2, "patch", read="probability", subsets=["all"], patch_px=6),
    Insertion("lerf", 3, 3, "patch", "noise", read="score", patch_px=6),
    AOPC(steps=9, region_px=5, repeats=2),
    AOPC("lerf", steps=16, region_px=4, repeats=1, canvas="blur", read="score"),
]


# By hand (docs/metrics/perturbation.md, insertion.md, aopc.md)
#
# Pixel a = (1,2,-1) gives A_0 = 3, pixel b = (0,-1,3) gives A_1 = 4. Logits of (class 0, class 1): both pixels
# (3-8, -3+4) = (-5, 1); a alone (3, -3); b alone (-8, 4); neither (0, 0), where the arg-max is class 0.


@pytest.mark.parametrize(
    ("order", "read", "expected"),
    [
        ("morf", "score", [1, 4, 0]),
        ("lerf", "score", [1, -3, 0]),
        ("morf", "accuracy", [1, 1, 0]),
        ("lerf", "accuracy", [1, 0, 0]),
        ("morf", "probability", [1 / (1 + np.exp(-6)), 1 / (1 + np.exp(-12)), 0.5]),
        ("lerf", "probability", [1 / (1 + np.exp(-6)), 1 / (1 + np.exp(6)), 0.5]),
    ],
)
def test_perturbation_by_hand(order: Any, read: str, expected: list[float]) -> None:
    """Class 1, map (2, -1): a goes first under morf, b under lerf; area by trapezoids over two steps; 1e-12."""
    columns = measure(
        Perturbation(order, 2, 1, "px", read=read), toy(), batch_of(TOY_INPUT.double(), [1]), [[[2.0, -1]]]
    )
    assert columns["curve"].tolist() == [pytest.approx(expected, abs=1e-12)]
    assert columns["auc"].item() == pytest.approx((expected[0] / 2 + expected[1] + expected[2] / 2) / 2, abs=1e-12)
    assert columns["n_negative"].tolist() == [1]


def test_insertion_by_hand() -> None:
    """Class 1, canvas mean: neither, then a alone or b alone, then both. Percent: 0, 1 and 2 pixels at 0, 50, 100."""
    batch = batch_of(TOY_INPUT.double(), [1])
    cases: list[tuple[Order, list[int], list[int]]] = [
        ("morf", [0, -3, 1], [0, 0, 1]),
        ("lerf", [0, 4, 1], [0, 1, 1]),
    ]
    for order, scores, right in cases:
        for read, expected in [("score", scores), ("accuracy", right)]:
            columns = measure(Insertion(order, 2, 50, canvas="mean", read=read), toy(), batch, [[[2.0, -1]]])
            assert columns["curve"].tolist() == [pytest.approx(expected, abs=1e-12)]
            assert columns["auc"].item() == pytest.approx(expected[0] / 4 + expected[1] / 2 + expected[2] / 4)
            assert columns["clean"].item() == {"score": 1, "accuracy": 1}[read]


def test_patches_by_hand() -> None:
    """Three grey pixels, 1 10 100, under a network that sums them; patches of 2 px from the left, the second cut. The
    map 4 0 3 has the means 2 and 3: the cut patch comes first under morf, though the peak lies in the other. 111 whole,
    11 without the cut patch, 100 without the other."""
    network = Network(Sum(), (0,), (1,)).to(dtype=torch.float64)
    batch = batch_of(torch.tensor([[[[1.0, 10, 100]]]]).double(), [0])
    settings: dict[str, Any] = {"steps": 2, "step": 1, "unit": "patch", "patch_px": 2, "read": "score"}
    cases: list[tuple[Order, list[int], list[int]]] = [
        ("morf", [111, 11, 0], [0, 100, 111]),
        ("lerf", [111, 100, 0], [0, 11, 111]),
    ]
    for order, taken, put in cases:
        removed = measure(Perturbation(order, **settings), network, batch, [[[4.0, 0, 3]]])
        inserted = measure(Insertion(order, canvas="mean", **settings), network, batch, [[[4.0, 0, 3]]])
        assert removed["curve"].tolist() == [taken]
        assert inserted["curve"].tolist() == [put]
        assert removed["auc"].item() == (111 / 2 + taken[1]) / 2


def test_aopc_by_hand() -> None:
    """Regions of one pixel, class 1, scores f0 = 1, f1, f2 = 0: morf (0 + (1-4) + (1-0)) / 3 = -2/3, lerf (0 + (1+3) +
    1) / 3 = 5/3; one step only: (0 + 1 - f1) / 2; 1e-12."""
    batch = batch_of(TOY_INPUT.double(), [1])
    cases: list[tuple[Order, int, float]] = [
        ("morf", 2, -2 / 3),
        ("lerf", 2, 5 / 3),
        ("morf", 1, -3 / 2),
        ("lerf", 1, 2),
    ]
    for order, steps, expected in cases:
        metric = AOPC(order, steps, region_px=1, repeats=1, canvas="mean", read="score")
        assert measure(metric, toy(), batch, [[[2.0, -1]]])["aopc"].item() == pytest.approx(expected, abs=1e-12)


def test_sign_is_not_magnitude() -> None:
    """Values (1, -9): the least relevant pixel is the negative one, however large it is."""
    batch = batch_of(TOY_INPUT.double(), [1])
    columns = measure(Perturbation("lerf", 1, 1, "px", read="score"), toy(), batch, [[[1.0, -9]]])
    assert columns["curve"][0, 1].item() == -3  # b is gone


def test_summary_by_hand() -> None:
    """Curves 1 1 0, 1 0 0 and 0 0 1 (not predicted): means 1, 1/2, 0 and area (1/2 + 1/2) / 2 = 1/2 of the predicted
    ones, which is the default; 2/3, 1/3, 1/3 and area 5/12 of all. x is in pixels; Wilson's intervals; 1e-12."""
    curve = torch.tensor([[1.0, 1, 0], [1, 0, 0], [0, 0, 1]])
    frame = table({"curve": curve, "auc": area(curve)}, "abc", [True, True, False])
    metric = Perturbation(steps=2, step=100)
    (height,) = pick(metric.summarize(frame), "auc", "predicted")
    points = pick(metric.summarize(frame), "accuracy", "predicted")
    assert [(p.x, p.value, p.n) for p in points] == [(0, 1, 2), (100, 0.5, 2), (200, 0, 2)]
    assert (height.value, height.n, height.ci_method, height.x) == (0.5, 2, "clt", None)
    assert (points[1].ci_low, points[1].ci_high) == stats.wilson([1, 0])[2:4]
    assert {p.variant for p in points} == {"lerf,mean,accuracy,2x100px"}
    assert {p.higher_is_better for p in [*points, height]} == {True}
    rows = replace(metric, subsets=["all"], order="morf").summarize(frame)
    assert [p.value for p in pick(rows, "accuracy")] == pytest.approx([2 / 3, 1 / 3, 1 / 3], abs=1e-12)
    assert pick(rows, "auc")[0].value == pytest.approx(5 / 12, abs=1e-12)
    assert pick(rows, "auc")[0].higher_is_better is False


def test_insertion_summary_by_hand() -> None:
    """Accuracies 0, 1/4, 2/4 of four images of which 3 are right when whole: over clean 0, 1/3, 2/3; area (0/2 + 1/4 +
    1/4) / 2 = 1/4, over clean 1/3. Ratios of means as `stats.cluster_ratio` has them; 1e-12."""
    curve = torch.tensor([[0.0, 1, 1], [0, 0, 1], [0, 0, 0], [0, 0, 0]])
    clean = torch.tensor([1.0, 1, 1, 0])
    frame = table({"curve": curve, "auc": area(curve), "clean": clean}, "abcd")
    rows = Insertion(steps=2, step=10).summarize(frame)
    assert [(p.x, p.value) for p in pick(rows, "accuracy")] == [(0, 0), (10, 0.25), (20, 0.5)]
    ratios = pick(rows, "accuracy_over_clean")
    assert [p.value for p in ratios] == pytest.approx([0, 1 / 3, 2 / 3], abs=1e-12)
    expected = stats.cluster_ratio(curve[:, 1].numpy(), clean.numpy(), list("abcd"))
    assert (ratios[1].ci_low, ratios[1].ci_high, ratios[1].ci_method) == expected[2:5]
    assert (pick(rows, "clean")[0].value, pick(rows, "auc")[0].value) == (0.75, 0.25)
    assert pick(rows, "auc_over_clean")[0].value == pytest.approx(1 / 3, abs=1e-12)
    assert pick(rows, "auc_over_clean")[0].x is None
    assert {row.variant for row in rows} == {"morf,blur11/5,accuracy,2x10%"}
    logits = Insertion(steps=2, read="score").summarize(frame)
    assert {(row.stat, row.unit) for row in logits} == {("score", "logit"), ("auc", "logit"), ("clean", "logit")}


def test_nothing_right_and_nothing_there() -> None:
    """No image is right when whole: no ratio, and the reason. No pair in a subset: no value, and the reason."""
    zeros = {"curve": torch.zeros(2, 3), "auc": torch.zeros(2), "clean": torch.zeros(2)}
    rows = Insertion(steps=2, subsets=["all", "predicted"]).summarize(table(zeros, "ab", False))
    assert {row.status for row in pick(rows, "accuracy_over_clean")} == {"undefined:the clean accuracy is zero"}
    assert {(row.value, row.status) for row in pick(rows, "accuracy", "predicted")} == {
        (None, "undefined:no pair in subset predicted has a value")
    }
    assert [row.x for row in pick(rows, "accuracy", "predicted")] == [0, 1, 2]


def test_aopc_summary() -> None:
    """Means of curves (normal theory: means over repeats are no 0/1 outcomes; where both agree, Clopper and Pearson's)
    and of aopc; 1e-12."""
    columns = {"curve": torch.tensor([[1.0, 0.5, 0.5], [1, 1, 0]]), "aopc": torch.tensor([1 / 3, 1 / 3])}
    rows = AOPC(steps=2, read="accuracy").summarize(table(columns, "ab"))
    assert [(p.x, p.value, p.ci_method) for p in pick(rows, "accuracy")] == [
        (0, 1, "clopper_pearson"),
        (1, 0.75, "clt"),
        (2, 0.25, "clt"),
    ]
    (row,) = pick(rows, "mean")
    assert row.value == pytest.approx(1 / 3)
    assert (row.variant, row.higher_is_better, row.unit) == ("morf,noise,accuracy,2x9px", True, "fraction")


# Against naive loops


def naive(
    network: Network,
    image: Tensor,
    canvas: Tensor,
    order: NDArray,
    counts: Sequence[int],
    label: int,
    insert: bool,
) -> list[float]:
    """RISE's CausalMetric: one input after another, its pixels overwritten by index; class probabilities."""
    start, finish = (canvas.clone(), image) if insert else (image.clone(), canvas)
    curve, done = [], 0
    for count in counts:
        for pixel in order[done:count]:
            y, x = divmod(int(pixel), image.shape[2])
            start[:, y, x] = finish[:, y, x]
        done = count
        curve.append(float(network.module(start[None]).softmax(1)[0, label]))
    return curve


@pytest.mark.parametrize("insert", [False, True])
@pytest.mark.parametrize("order", ["morf", "lerf"])
def test_against_a_loop(several: tuple[Network, Batch, Tensor], order: Any, insert: bool) -> None:
    """Nine pairs, 13 px a step: curves to 1e-12, areas as scikit-learn's `auc` and NumPy's trapezoid have them."""
    network, batch, maps = several
    counts = list(range(0, 256, 13))
    steps: dict[str, Any] = {"steps": len(counts) - 1, "step": 13, "unit": "px", "canvas": "mean"}
    metric = (Insertion if insert else Perturbation)(order=order, read="probability", **steps)
    columns = measure(metric, network, batch, maps)
    for row, (image, label) in enumerate(zip(*(each.tolist() for each in batch.targets), strict=True)):
        values = maps[row].flatten().numpy()
        pixels = np.argsort(-values if order == "morf" else values)
        expected = naive(network, batch.images[image], torch.zeros(3, 16, 16).double(), pixels, counts, label, insert)
        assert columns["curve"][row].tolist() == pytest.approx(expected, abs=1e-12)
        share = np.array(counts) / counts[-1]
        assert columns["auc"][row].item() == pytest.approx(auc(share, expected), abs=1e-12)
        assert columns["auc"][row].item() == pytest.approx(np.trapezoid(expected, share), abs=1e-12)


@pytest.mark.parametrize("insert", [False, True])
@pytest.mark.parametrize("order", ["morf", "lerf"])
@pytest.mark.parametrize("side", [5, 4])
def test_patches_against_a_loop(several: tuple[Network, Batch, Tensor], order: Any, insert: bool, side: int) -> None:
    """Patches of 5 px of a 16 px image (the last a pixel wide) and of 4 px (all whole), three a step: boxes cut out one
    after another, ordered by their means as NumPy has them; 1e-12."""
    network, batch, maps = several
    settings: dict[str, Any] = {"steps": 5, "step": 3, "unit": "patch", "canvas": "mean", "patch_px": side}
    columns = measure(
        (Insertion if insert else Perturbation)(order, read="probability", **settings), network, batch, maps
    )
    boxes = [(slice(y, y + side), slice(x, x + side)) for y in range(0, 16, side) for x in range(0, 16, side)]
    assert len(boxes) == 16
    for row, (image, label) in enumerate(zip(*(each.tolist() for each in batch.targets), strict=True)):
        means = np.array([maps[row].numpy()[box].mean() for box in boxes])
        first = [boxes[place] for place in np.argsort(-means if order == "morf" else means)]
        expected = []
        for count in range(0, 16, 3):
            chosen = np.zeros((16, 16), bool)
            for box in first[:count]:
                chosen[box] = True
            kept = torch.as_tensor(chosen if insert else ~chosen)
            expected.append(float(network.module((batch.images[image] * kept)[None]).softmax(1)[0, label]))
        assert columns["curve"][row].tolist() == pytest.approx(expected, abs=1e-12)


def test_aopc_against_a_loop(several: tuple[Network, Batch, Tensor]) -> None:
    """Regions of 5 px of a 16 px image: four by four, the last ones one pixel wide; ordered by their means; 1e-12."""
    network, batch, maps = several
    columns = measure(AOPC("morf", 16, region_px=5, repeats=1, canvas="black"), network, batch, maps)
    boxes = [(slice(y, y + 5), slice(x, x + 5)) for y in range(0, 16, 5) for x in range(0, 16, 5)]
    for row, (image, label) in enumerate(zip(*(each.tolist() for each in batch.targets), strict=True)):
        current, scores = batch.images[image].clone(), []
        for box in [None, *sorted(boxes, key=lambda box: -float(maps[row][box].mean()))]:
            if box is not None:
                current[(slice(None), *box)] = 0  # the network's mean is 0, its deviation 1
            scores.append(float(network.module(current[None]).softmax(1)[0, label]))
        assert columns["curve"][row].tolist() == pytest.approx(scores, abs=1e-12)
        assert columns["aopc"][row].item() == pytest.approx(np.mean([scores[0] - each for each in scores]), abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_against_quantus(channels: int) -> None:
    """Quantus' PixelFlipping on the same maps, 8 pixels a step; 1e-6 (its float32 softmax).

    It orders values of all channels: with a map that it repeats over three channels, every third of its steps has
    flipped whole pixels, and that one is ours.
    """
    quantus = pytest.importorskip("quantus")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(channels, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5)
        )
        images, maps = torch.rand(4, channels, 8, 8), torch.randn(4, 8, 8)
    network = Network(module, (0,) * channels, (1,) * channels)
    labels = [0, 3, 2, 1]
    ours = measure(
        Perturbation("morf", 8, 8, read="probability"), network, batch_of(images, *([n] for n in labels)), maps
    )
    flipping = quantus.PixelFlipping(features_in_step=8, normalise=False, perturb_baseline=0.0, disable_warnings=True)
    theirs = flipping(module, images.numpy(), np.array(labels), maps[:, None].numpy(), device="cpu")
    np.testing.assert_allclose(ours["curve"][:, 1:], np.array(theirs)[:, channels - 1 :: channels], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["morf", "lerf"])
def test_patches_against_quantus(order: Any) -> None:
    """Quantus' RegionPerturbation: the drop after each of nine patches of 4 px of 12 (it pads others and sums over the
    padding, so that only whole patches compare); 1e-6 (its float32 softmax)."""
    quantus = pytest.importorskip("quantus")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5))
        images, maps, labels = torch.rand(4, 3, 12, 12), torch.randn(4, 12, 12), [0, 3, 2, 1]
    network, batch = Network(module, (0,) * 3, (1,) * 3), batch_of(images, *([label] for label in labels))
    ours = measure(Perturbation(order, 9, 1, "patch", read="probability", patch_px=4), network, batch, maps)
    theirs = quantus.RegionPerturbation(
        patch_size=4, regions_evaluation=9, order=order, normalise=False, perturb_baseline=0.0, disable_warnings=True
    )(module, images.numpy(), np.array(labels), maps[:, None].numpy(), device="cpu")
    drops = ours["curve"][:, :1] - ours["curve"][:, 1:]
    np.testing.assert_allclose(drops, np.array(theirs), atol=1e-6)


# What must not change a number


@pytest.mark.parametrize("metric", METRICS, ids=repr)
def test_rows_at_once(several: tuple[Network, Batch, Tensor], metric: Metric) -> None:
    """One by one (four images are the least), seven or all inputs through the network at once: equal to 1e-12."""
    network, batch, maps = several
    columns = [measure(metric, network, batch, maps, rows) for rows in (1, 7, 1000)]
    for name in columns[0]:
        for other in columns[1:]:
            torch.testing.assert_close(other[name], columns[0][name], atol=1e-12, rtol=0)


@pytest.mark.parametrize("metric", METRICS, ids=repr)
def test_alone_or_in_a_batch(tiny64: Known, metric: Metric) -> None:
    """Eight images together and one by one, ties and noise included (maps of three values): equal to 1e-12."""
    images = torch.cat([tiny64.images, tiny64.images.flip(3)])
    maps = torch.randint(-1, 2, (8, 16, 16), generator=torch.Generator().manual_seed(2)).double()
    labels = [[n % 5] for n in range(8)]
    together = measure(metric, tiny64.network, batch_of(images, *labels), maps)
    for row in range(8):
        alone = measure(metric, tiny64.network, batch_of(images[row : row + 1], labels[row], first=row), maps[[row]], 1)
        for name, column in alone.items():
            torch.testing.assert_close(column[0], together[name][row], atol=1e-12, rtol=0)


@pytest.mark.parametrize("metric", METRICS, ids=repr)
def test_forward_passes_and_inputs(several: tuple[Network, Batch, Tensor], metric: Metric) -> None:
    """One pass an input that is not the image itself: the clean one is the shared one. Images and maps stay as they
    are, nothing keeps a graph, and compared columns hold one number a pair."""
    network, batch, maps = several
    kept, images = maps.clone(), batch.images.clone()
    forward = ForwardPass(network, batch.images, input_graph=True)
    forward.logits  # noqa: B018
    before = network.passes.forward
    columns = metric.measure(batch, FramedMaps.of(Attribution(maps), batch), forward)
    each = metric.steps * metric.repeats if isinstance(metric, AOPC) else metric.steps + isinstance(metric, Insertion)  # type: ignore[attr-defined]
    assert network.passes.forward - before == 9 * each
    assert torch.equal(maps, kept)
    assert torch.equal(batch.images, images)
    assert not any(column.requires_grad for column in columns.values())
    assert all(columns[name].shape == (9,) for name in metric.PAIRED)


@pytest.mark.parametrize("metric", METRICS, ids=repr)
def test_a_monotone_transform_changes_nothing(several: tuple[Network, Batch, Tensor], metric: Metric) -> None:
    """Only the order is read. (Regions and patches are ordered by means, which a factor alone leaves in order.)"""
    network, batch, maps = several
    by_means = isinstance(metric, AOPC) or metric.unit == "patch"  # type: ignore[attr-defined]
    changed = 8 * maps if by_means else maps.exp() - 3
    columns = [measure(metric, network, batch, each) for each in (maps, changed)]
    for name in set(columns[0]) - {"n_negative"}:
        assert torch.equal(columns[0][name], columns[1][name]), name


def test_least_first_is_most_first_of_the_negated_map(several: tuple[Network, Batch, Tensor]) -> None:
    """With ties as well: they come in the same order under both."""
    network, batch, maps = several
    for values in (maps, maps.sign()):
        lerf = measure(Perturbation("lerf", 5, 40, read="score"), network, batch, values)
        morf = measure(Perturbation("morf", 5, 40, read="score"), network, batch, -values)
        assert torch.equal(lerf["curve"], morf["curve"])


def test_patches_of_a_pixel_are_pixels(several: tuple[Network, Batch, Tensor]) -> None:
    """A side of 1 px: the curves of unit=px, ties and noise included; exact (values that float32 holds)."""
    network, batch, maps = several
    for values in (maps.float(), maps.sign().float()):
        for metric in (Perturbation("lerf", 5, 40), Insertion("morf", 5, 40, "px", "noise", read="score")):
            curves = [
                measure(each, network, batch, values) for each in (metric, replace(metric, unit="patch", patch_px=1))
            ]
            assert torch.equal(curves[0]["curve"], curves[1]["curve"])


def test_patches_are_the_regions_of_aopc(several: tuple[Network, Batch, Tensor]) -> None:
    """The same curve of the same order: 5 px of 16, the last ones cut; exact."""
    network, batch, maps = several
    common: dict[str, Any] = {"canvas": "black", "read": "score"}
    ours = measure(Perturbation("morf", 9, 1, "patch", patch_px=5, **common), network, batch, maps)
    theirs = measure(AOPC("morf", 9, region_px=5, repeats=1, **common), network, batch, maps)
    assert torch.equal(ours["curve"], theirs["curve"])


# Orders


def test_ranks_by_hand() -> None:
    """The place of each value: 3 2 -1 0 is 0 1 3 2 under morf and 3 2 0 1 under lerf."""
    values = torch.tensor([[[3.0, 2], [-1, 0]]])
    assert ranks(values, "morf", rng_of("a")).tolist() == [[[0, 1], [3, 2]]]
    assert ranks(values, "lerf", rng_of("a")).tolist() == [[[3, 2], [0, 1]]]


def test_a_flat_map_is_a_random_order() -> None:
    """A permutation that the pair's name and the seed decide: not by index, and not the neighbour's. Over 200 names
    a pixel's mean place is that of a uniform order: 31.5 +- 4 standard errors of 18.5 / sqrt(200)."""
    names = [f"image{n}#0" for n in range(200)]
    places = ranks(torch.zeros(200, 8, 8), "morf", rng_of(*names)).flatten(1)
    assert torch.equal(places.sort(1).values, torch.arange(64).expand(200, 64))
    assert len(places.unique(dim=0)) == 200
    assert torch.equal(ranks(torch.ones(1, 8, 8), "lerf", rng_of(names[7]))[0].flatten(), places[7])
    assert not torch.equal(ranks(torch.zeros(1, 8, 8), "morf", rng_of(names[7], seed=1))[0].flatten(), places[7])
    assert float((places.double().mean(0) - 31.5).abs().max()) < 4 * 18.5 / 200**0.5


def test_ties_do_not_cross_values() -> None:
    """A rectified map: its positive pixels come first, in their order; only the zeros are shuffled."""
    values = torch.randn(3, 9, 9, generator=torch.Generator().manual_seed(0)).relu()
    places = ranks(values, "morf", rng_of("a", "b", "c")).flatten(1)
    for value, place in zip(values.flatten(1), places, strict=True):
        assert torch.equal(value[place.argsort()], value.sort(descending=True).values)
    zeros = places[0][values[0].flatten() == 0]
    assert not torch.equal(zeros, zeros.sort().values)


def test_region_ranks_by_hand() -> None:
    """Squares of 2 px of a 3x3 map: means 1, 4, 3 and 5 (the border's are of two and of one pixel)."""
    values = torch.tensor([[[1.0, 1, 5], [1, 1, 3], [2, 4, 5]]])
    assert region_ranks(values, 2, "morf", rng_of("a")).tolist() == [[[3, 3, 1], [3, 3, 1], [2, 2, 0]]]
    assert region_ranks(values, 2, "lerf", rng_of("a")).tolist() == [[[0, 0, 2], [0, 0, 2], [1, 1, 3]]]


def test_regions_of_a_flat_map_are_ties() -> None:
    """.1 is no float32: yet whole and cut regions have equal means, and all orders of four regions occur."""
    names = [f"image{n}" for n in range(300)]
    places = region_ranks(torch.full((300, 10, 10), 0.1), 7, "morf", rng_of(*names))
    assert len(places.flatten(1).unique(dim=0)) == 24


def test_low_resolution_maps_are_resized_to_the_input(several: tuple[Network, Batch, Tensor]) -> None:
    """A 4x4 map is perturbed as its bilinear enlargement to the input's 16x16; exact."""
    network, batch, maps = several
    small = maps[:, :4, :4]
    large = torch.nn.functional.interpolate(small[:, None], (16, 16), mode="bilinear", align_corners=False)[:, 0]
    metric = Perturbation("morf", 4, 30, read="score")
    columns = [measure(metric, network, batch, each)["curve"] for each in (small, large)]
    torch.testing.assert_close(columns[0], columns[1], atol=1e-12, rtol=0)


# Steps


def test_counts() -> None:
    """Percent of 64 x 64 = 4096 pixels, rounded down: 7 % are 286.72; whole numbers stay whole (29 % of 100)."""
    assert Insertion().counts(4096)[:8] == [0, 40, 81, 122, 163, 204, 245, 286]
    assert Insertion(steps=100).counts(100) == list(range(101))
    assert Insertion(steps=1000, step=0.1).counts(1000) == list(range(1001))
    assert Insertion(steps=3, step=0.7).counts(1000) == [0, 7, 14, 21]  # in floating point the last is 20.999...
    assert Perturbation().counts(4096) == list(range(0, 4001, 100))
    with pytest.raises(ValueError, match="40 steps of 100 px are 4000 pixels, and the image has 1024"):
        Perturbation().counts(1024)
    assert Perturbation(steps=4, step=3, unit="patch", patch_px=16).counts(16) == [0, 3, 6, 9, 12]
    told = r"40 steps of 100 patch are 4000 patches of 16 px, and the image has 16: .*or step=1"
    with pytest.raises(ValueError, match=told):
        Perturbation(unit="patch", patch_px=16).counts(16)


def test_patches_are_named_in_the_rows() -> None:
    """Unit, side and step in the variant; x in patches. Pixels are named as they were."""
    frame = table({"curve": torch.ones(1, 3), "auc": torch.ones(1)}, "a")
    rows = Perturbation(steps=2, step=3, unit="patch", patch_px=16, subsets=["all"]).summarize(frame)
    assert {row.variant for row in rows} == {"lerf,mean,accuracy,2x3patch16px"}
    assert [(row.x, row.x_label) for row in pick(rows, "accuracy")] == [(x, "patches changed") for x in (0, 3, 6)]
    assert Perturbation().variant == "lerf,mean,accuracy,40x100px"
    assert (Perturbation().x_label, Insertion().x_label) == ("pixels changed", "pixels changed, %")


# Canvases


def test_canvases() -> None:
    """In normalised space of mean (.5, .25, .75) and deviation .5: `mean` 0, `black` -mean / deviation, `noise` of
    [0,1) normalised, one draw an image whatever the batch, `blur` that of the raw image normalised."""
    network = Network(ToyModule(), (0.5, 0.25, 0.75), (0.5, 0.5, 0.5))
    images = torch.rand(2, 3, 12, 9, generator=torch.Generator().manual_seed(0))
    forward, blur = ForwardPass(network, images), Blur(5, 1.5)
    made = {name: canvas(forward, blur, rng_of("a", "b")) for name, canvas in CANVASES.items()}
    assert {each.shape for each in made.values()} == {images.shape}
    assert not made["mean"].any()
    assert made["black"][0, :, 3, 3].tolist() == [-1, -0.5, -1.5]
    raw = made["noise"] * 0.5 + network.mean
    assert 0 <= float(raw.min()) < 0.05
    assert 0.95 < float(raw.max()) < 1 + 1e-6
    alone = CANVASES["noise"](ForwardPass(network, images[1:]), blur, rng_of("b"))
    assert torch.equal(alone[0], made["noise"][1])
    assert not torch.equal(made["noise"][0], made["noise"][1])
    torch.testing.assert_close(made["blur"], network.normalise(blur(images)))


def test_blur_is_torchvisions() -> None:
    """Kernel 11, sigma 5: torchvision's weights; inside, where the border is not seen, to 1e-6. A flat image stays."""
    from torchvision.transforms.functional import gaussian_blur

    images = torch.rand(2, 3, 30, 24, generator=torch.Generator().manual_seed(0))
    ours, theirs = Blur(11, 5)(images), gaussian_blur(images, [11, 11], [5.0, 5.0])
    torch.testing.assert_close(ours[:, :, 5:-5, 5:-5], theirs[:, :, 5:-5, 5:-5], atol=1e-6, rtol=0)
    torch.testing.assert_close(Blur(11, 5)(torch.full((1, 3, 4, 4), 0.3)), torch.full((1, 3, 4, 4), 0.3))


def test_blur_of_what_was_pasted(several: tuple[Network, Batch, Tensor]) -> None:
    """The whole image pasted and blurred is the blurred image: 100 % of blur_pasted is 0 % of canvas=blur; 1e-12."""
    network, batch, maps = several
    pasted = Insertion(steps=1, step=100, canvas="mean", blur_pasted=True, read="score")
    blurred = Insertion(steps=1, step=100, canvas="blur", read="score")
    ends = [measure(metric, network, batch, maps)["curve"] for metric in (pasted, blurred)]
    torch.testing.assert_close(ends[0][:, 1], ends[1][:, 0], atol=1e-12, rtol=0)
    assert (pasted.variant, blurred.variant) == ("morf,mean+blur11/5,score,1x100%", "morf,blur11/5,score,1x100%")


# Reads


def test_reads_of_grouped_outputs() -> None:
    """Outputs 1 2 | 0, read as the groups {0, 1}, {2} and one without members: the highest member's logit, the
    members' summed probability; the third group is never right."""
    network = Network(ToyModule(), (0, 0, 0), (1, 1, 1), groups=[[0, 1], [2], []])
    logits, labels = torch.tensor([[1.0, 2, 0]]).expand(3, 3), torch.tensor([0, 1, 2])
    each = logits[0].softmax(0)
    read = {name: function(network, logits, labels).tolist() for name, function in READS.items()}
    assert read["accuracy"] == read["top1"] == [1, 0, 0]
    assert read["score"] == [2, 0, -torch.inf]
    assert read["probability"] == pytest.approx([float(each[0] + each[1]), float(each[2]), 0])


def test_reads_of_several_classes_an_image() -> None:
    """Logits 2, 1, -1 under a sigmoid: only the first scores highest, the first two are predicted."""
    network = Network(ToyModule(), (0, 0, 0), (1, 1, 1), activation="sigmoid")
    logits, labels = torch.tensor([[2.0, 1, -1]]).expand(3, 3), torch.arange(3)
    assert READS["top1"](network, logits, labels).tolist() == [1, 0, 0]
    assert READS["accuracy"](network, logits, labels).tolist() == [1, 1, 0]
    assert READS["probability"](network, logits, labels).tolist() == pytest.approx(logits[0].sigmoid().tolist())


@pytest.mark.parametrize(
    ("activation", "groups"), [("softmax", None), ("sigmoid", None), ("softmax", [[0, 3], [2], [1]])]
)
def test_accuracy_is_the_predicted_column(activation: Any, groups: Any) -> None:
    """The clean read is what the harness says in the sample table, so that the subset `predicted` begins at 1."""
    network = Network(known("tiny_vgg").network.module, (0, 0, 0), (1, 1, 1), activation, groups=groups)
    batch = batch_of(3 * known("tiny_vgg").images, *[[0, 1, 2]] * 4)
    forward = ForwardPass(network, batch.images)
    expected = forward.network.predicts(forward.logits)[batch.targets.image, batch.targets.label]
    assert torch.equal(read_clean(forward, batch.targets, "accuracy").bool(), expected)
    assert expected.any()


# Settings


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (Perturbation, {"order": "most"}, "order='most': choose one of morf, lerf"),
        (Perturbation, {"canvas": "grey"}, "canvas='grey': choose one of mean, black, blur, noise"),
        (Insertion, {"read": "top5"}, "read='top5': choose one of accuracy, top1"),
        (Insertion, {"unit": "pixels"}, "unit='pixels': choose one of px, percent"),
        (Insertion, {"unit": "patch"}, "unit=patch, patch_px=None, step=1: give the side of a patch"),
        (Insertion, {"unit": "patch", "patch_px": 0}, "give the side of a patch in pixels, as patch_px=16"),
        (Insertion, {"unit": "patch", "patch_px": 16, "step": 0.5}, "patches change whole"),
        (Perturbation, {"patch_px": 16}, "unit=px, patch_px=16, step=100: .* with unit=patch alone"),
        (Insertion, {"steps": 30, "step": 4}, "at most 100 percent"),
        (Insertion, {"step": 0}, "above 0"),
        (Insertion, {"steps": 0}, "steps=0"),
        (Insertion, {"blur_kernel_px": 10}, "odd and positive"),
        (AOPC, {"blur_sigma_px": 0, "blur_kernel_px": 11}, "odd and positive"),
        (AOPC, {"repeats": 0}, "at least 1 each"),
        (AOPC, {"canvas": "mean"}, "set repeats=1"),
        (AOPC, {"subsets": ["correct"]}, "subsets="),
    ],
)
def test_settings_are_checked(make: Any, settings: dict[str, Any], message: str) -> None:
    """ValueError at construction, with the choices."""
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_more_steps_than_regions() -> None:
    """ValueError with both numbers."""
    tiny = known("tiny_vgg")
    with pytest.raises(ValueError, match="steps=100: the image has 4 regions of 9 px"):
        measure(AOPC(), tiny.network, batch_of(tiny.images[:1], [0]), torch.zeros(1, 16, 16))
