"""Samples, batches, targets and their random numbers. Everything is compared exactly unless a test says otherwise."""

import hashlib

import pytest
import torch
from assay.harness import seeds
from assay.harness.heads import Targets
from assay.harness.seeds import SampleRng, derive_seed
from assay.harness.types import Attribution, Batch, FramedMaps, ResultRow
from conftest import sample


@pytest.fixture
def batch() -> Batch:
    """Three images: a (3x5) with classes 4 and 1, b (4x2) without any, c (2x4) with class 4."""
    return Batch.of(
        [
            sample("a", (3, 5), {4: [[0, 0, 2, 1]], 1: [[3, 1, 5, 3], [0, 2, 1, 3]]}, {1: True}),
            sample("b", (4, 2), {}),
            sample("c", (2, 4), {4: [[1, 0, 2, 2]]}, {4: False}),
        ]
    )


# Targets


def test_rounds_hold_an_image_once() -> None:
    """Images 2 1 2 0 2: the first round takes each image's first pair (0, 1, 3), the second pair 2, the third pair
    4."""
    targets = Targets(torch.tensor([2, 1, 2, 0, 2]), torch.tensor([0, 1, 2, 3, 4]))
    assert [pairs.tolist() for pairs in targets.rounds()] == [[0, 1, 3], [2], [4]]


@pytest.mark.parametrize("seed", range(5))
def test_rounds_are_a_partition(seed: int) -> None:
    """20 random pairs of 5 images: every pair once, no image twice in a round, and as many rounds as the most
    frequent image has pairs."""
    image = torch.randint(0, 5, (20,), generator=torch.Generator().manual_seed(seed))
    rounds = Targets(image, torch.zeros_like(image)).rounds()
    assert sorted(torch.cat(rounds).tolist()) == list(range(20))
    assert all(len(image[pairs].unique()) == len(pairs) for pairs in rounds)
    assert len(rounds) == image.bincount().max()


def test_rounds_of_no_targets() -> None:
    """No pairs: no round."""
    empty = torch.zeros(0, dtype=torch.int64)
    assert Targets(empty, empty).rounds() == []


# Batch


def test_batch_by_hand(batch: Batch) -> None:
    """Three pairs in the samples' order, with names, frames and flags."""
    assert batch.images.shape == (3, 3, 4, 4)
    assert batch.targets.image.tolist() == [0, 0, 2]
    assert batch.targets.label.tolist() == [4, 1, 4]
    assert [(s.id, label) for s, label in batch.pairs] == [("a", 4), ("a", 1), ("c", 4)]
    assert batch.image_ids == ["a", "b", "c"]
    assert batch.sample_ids == ["a#4", "a#1", "c#4"]
    assert batch.frames.tolist() == [[3, 5], [3, 5], [2, 4]]
    assert batch.difficult.tolist() == [False, True, False]


def test_padding(batch: Batch) -> None:
    """Frames 3x5, 3x5, 2x4 (b has no pair): padded to 3x5; boxes padded to two a pair with zeros."""
    assert batch.valid.shape == (3, 3, 5)
    assert batch.valid.flatten(1).sum(1).tolist() == [15, 15, 8]
    assert batch.valid[2].tolist() == [[True] * 4 + [False]] * 2 + [[False] * 5]
    nothing = [0.0, 0, 0, 0]
    assert batch.boxes.tolist() == [[[0, 0, 2, 1], nothing], [[3, 1, 5, 3], [0, 2, 1, 3]], [[1, 0, 2, 2], nothing]]


def test_box_regions(batch: Batch) -> None:
    """Each pair's own class, drawn in its frame: row by row."""
    drawings = ["11000 00000 00000", "00000 00011 10011", "01000 01000 00000"]
    expected = [[[pixel == "1" for pixel in row] for row in drawing.split()] for drawing in drawings]
    assert batch.region("box").tolist() == expected
    assert batch.distance(torch.tensor([[4, 0], [1, 2], [3, 1]]), "box").tolist() == [3, 1, 2]


def test_mask_regions() -> None:
    """One mask for every class of a, one a class for b; padded with False to the largest frame."""
    shared = torch.tensor([[True, False], [False, True]])
    own = {0: torch.tensor([[True, False, False]]), 2: torch.tensor([[False, False, True]])}
    batch = Batch.of([sample("a", (2, 2), {0: [], 1: []}, mask=shared), sample("b", (1, 3), {0: [], 2: []}, mask=own)])
    drawings = ["100 010", "100 010", "100 000", "001 000"]
    expected = [[[pixel == "1" for pixel in row] for row in drawing.split()] for drawing in drawings]
    assert batch.region("mask").tolist() == expected


def test_ignored_pixels() -> None:
    """Pixels that count: in the frame (2x2, 1x3, padded to 2x3) and not to be ignored (a's corner)."""
    corner = torch.tensor([[True, False], [False, False]])
    batch = Batch.of([sample("a", (2, 2), {0: [], 1: []}, ignore=corner), sample("b", (1, 3), {0: []})])
    drawings = ["010 110", "010 110", "111 000"]
    expected = [[[pixel == "1" for pixel in row] for row in drawing.split()] for drawing in drawings]
    assert batch.counted.tolist() == expected
    assert batch.valid.flatten(1).sum(1).tolist() == [4, 4, 3]


@pytest.mark.parametrize("mask", [None, {1: torch.ones(2, 2, dtype=torch.bool)}])
def test_missing_mask(mask: dict[int, torch.Tensor] | None) -> None:
    """A pair whose class has no mask: ValueError with the sample, the class and the way out."""
    batch = Batch.of([sample("cat.jpg", (2, 2), {3: [[0, 0, 1, 1]]}, mask=mask)])
    with pytest.raises(ValueError, match=r"'cat\.jpg' has no mask of class 3: use region=box"):
        batch.region("mask")


def test_class_without_boxes() -> None:
    """A target that is not annotated (a predicted class, say): an empty region at distance inf."""
    batch = Batch.of([sample("a", (2, 2), {0: []})])
    assert not batch.region("box").any()
    assert batch.distance(torch.tensor([[0, 0]]), "box").tolist() == [torch.inf]


def test_batch_of_no_targets() -> None:
    """Images without pairs: everything a pair has is empty."""
    batch = Batch.of([sample("a", (2, 2), {}), sample("b", (3, 3), {})])
    assert batch.images.shape == (2, 3, 4, 4)
    assert batch.targets.image.shape == batch.targets.label.shape == (0,)
    assert (batch.pairs, batch.sample_ids, batch.image_ids) == ([], [], ["a", "b"])
    assert batch.frames.shape == (0, 2)
    assert len(batch.boxes) == len(batch.difficult) == 0


# Maps in frames


def test_framed_maps_by_hand() -> None:
    """1x2 maps (0, 4) and (-4, 0) in frames 1x4 and 1x2: 0 1 3 4 and, padded, -4 0; positive part and peak."""
    batch = Batch.of([sample("a", (1, 4), {0: []}), sample("b", (1, 2), {0: []})])
    framed = FramedMaps.of(Attribution(torch.tensor([[[0.0, 4]], [[-4, 0]]])), batch)
    assert framed.maps.tolist() == [[[0, 1, 3, 4]], [[-4, 0, 0, 0]]]
    assert framed.positive.tolist() == [[[0, 1, 3, 4]], [[0, 0, 0, 0]]]
    assert framed.valid.tolist() == [[[True] * 4], [[True, True, False, False]]]
    points, ties = framed.peak
    assert points.tolist() == [[3, 0], [1, 0]]
    assert ties.tolist() == [1, 1]


# Random numbers


def test_seed_by_its_definition() -> None:
    """The first 63 bits of SHA-256 of the parts, joined by the unit separator."""
    digest = hashlib.sha256(b"7\x1fsmoothgrad\x1fimage\x1fcat.jpg").hexdigest()
    assert derive_seed(7, "smoothgrad", "image", "cat.jpg") == int(digest[:16], 16) // 2
    assert 0 <= derive_seed("x") < 2**63


def normal(rng: SampleRng, *shape: int, per: seeds.Per = "image") -> torch.Tensor:
    """One array of noise a row."""
    return rng.noise(shape, torch.device("cpu"), per).normal()[:, 0]


def test_numbers_do_not_depend_on_the_batch() -> None:
    """Of image b and of pair b#1: the same alone, among others, and in another order."""
    many = SampleRng(0, "m", ["a", "b", "c"], ["a#1", "b#1", "b#2"])
    few = SampleRng(0, "m", ["b"], ["b#1"])
    assert torch.equal(normal(many, 2, 20)[1], normal(few, 2, 20)[0])
    assert torch.equal(many.uniform((5,), per="pair")[1], few.uniform((5,), per="pair")[0])
    again = SampleRng(0, "m", ["c", "b", "a"], ["b#2", "b#1", "a#1"])
    afresh = SampleRng(0, "m", ["a", "b", "c"], ["a#1", "b#1", "b#2"])
    assert torch.equal(normal(afresh, 2, 20).flip(0), normal(again, 2, 20))


def test_numbers_depend_on_seed_stream_and_name() -> None:
    """Another seed, stream, image, or an image and a pair of the same name: other numbers; so has a second call."""
    draws = [
        normal(SampleRng(0, "m", ["a"], ["a"]), 3),
        normal(SampleRng(1, "m", ["a"], ["a"]), 3),
        normal(SampleRng(0, "n", ["a"], ["a"]), 3),
        normal(SampleRng(0, "m", ["b"], ["b"]), 3),
        normal(SampleRng(0, "m", ["a"], ["a"]), 3, per="pair"),
    ]
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) == 5
    rng = SampleRng(0, "m", ["a"], ["a"])
    assert torch.equal(normal(rng, 3), draws[0])
    assert not torch.equal(normal(rng, 3), draws[0])


def test_numbers_of_a_batch(batch: Batch) -> None:
    """One draw an image or a pair; uniform to 4 standard errors of 10,000 numbers; drawing leaves PyTorch's own
    generator alone."""
    state = torch.get_rng_state()
    rng = SampleRng.of(3, "m", batch)
    assert normal(rng, 2, 5).shape == (3, 2, 5)
    assert rng.uniform((4,), per="pair").shape == (3, 4)
    uniform = rng.uniform((10_000,))
    assert ((uniform.mean(1) - 0.5).abs() < 0.04 / 12**0.5).all()
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert torch.equal(torch.get_rng_state(), state)


def test_numbers_of_no_sample() -> None:
    """No image, no pair: empty draws of the right shape."""
    rng = SampleRng(0, "m", [], [])
    assert normal(rng, 2, 5).shape == (0, 2, 5)
    assert rng.uniform((4,), per="pair").shape == (0, 4)


# Rows and columns


def test_undefined_row() -> None:
    """The value and its interval go, the labels stay, the status says why."""
    row = ResultRow("tol=2px", "mean", 0.5, 3, stderr=0.1, ci_low=0.3, ci_high=0.7, ci_method="clt").undefined("why")
    assert (row.value, row.stderr, row.ci_low, row.ci_high, row.ci_method) == (None, None, None, None, "")
    assert (row.variant, row.stat, row.n, row.status) == ("tol=2px", "mean", 3, "undefined:why")


def test_threads_change_no_number_that_is_drawn() -> None:
    shape, names = (3, 64, 128), [f"image{n}" for n in range(6)]
    assert len(names) * 3 * 64 * 128 > seeds.MANY
    drawn = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            rng = SampleRng(0, "method", names, names)
            drawn.append(torch.cat([normal(rng, *shape), rng.uniform(shape)]))
    finally:
        torch.set_num_threads(1)
    assert torch.equal(*drawn)


def test_rounds_are_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU the host waits for them."""
    targets = Targets(torch.tensor([0, 0, 1]), torch.tensor([1, 2, 0]))
    first = targets.rounds()
    monkeypatch.setattr(torch, "from_numpy", None)
    assert targets.rounds() is first
    image, label = targets
    assert image is targets.image and label is targets.label


def test_a_series_in_parts_is_the_whole() -> None:
    """Parts begin and end in the middle of a counter's eight words, and cross those that are made at once."""
    rng = SampleRng(0, "method", ["a", "b"], [])
    series = rng.noise((3, 5), torch.device("cpu"))
    for draw in (series.normal, series.uniform):
        whole = draw(0, 7)
        assert whole.shape == (2, 7, 3, 5)
        assert torch.equal(whole, torch.cat([draw(0, 1), draw(1, 5), draw(5, 7)], 1))
    long = series._replace(shape=(seeds.PART // 2 + 3,))
    assert torch.equal(long.normal(0, 5)[:, 2:4], long.normal(2, 4))
