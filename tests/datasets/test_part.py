"""Parts of a data set: disjoint, complete, seeded; the shared real subset's halves."""

from pathlib import Path

import pytest
from assay.datasets.part import Part
from assay.datasets.scenes import Scenes
from assay.harness.build import build
from assay.harness.overrides import compose_config

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def ids(part: Part) -> list[str]:
    """Names of all its samples."""
    return [part[i].id for i in range(len(part))]


def test_shares_are_disjoint_and_complete() -> None:
    """Three parts of 11 scenes: 4 + 3 + 4 of them (3.3 and 7.26 rounded), no scene twice, in their order."""
    whole = Scenes("test", 11)
    names = [whole[i].id for i in range(11)]
    parts = [ids(Part(whole, start, stop)) for start, stop in ((0, 0.33), (0.33, 0.66), (0.66, 1))]
    assert [len(part) for part in parts] == [4, 3, 4]
    assert sorted(name for part in parts for name in part) == sorted(names)
    assert all(part == sorted(part) for part in parts)
    assert Part(whole, 0, 0.33).classes == whole.classes


def test_the_seed_decides() -> None:
    """The same seed gives the same half, another one another; null the first half."""
    whole = Scenes("test", 40)
    halves = {seed: ids(Part(whole, 0, 0.5, seed)) for seed in (0, 1, None)}
    assert halves[0] == ids(Part(Scenes("test", 40), 0, 0.5, 0))
    assert halves[0] != halves[1]
    assert halves[None] == [whole[i].id for i in range(20)]
    assert [Part(whole, 0, 0.5, seed).split for seed in (0, None)] == ["test[0:0.5@seed0]", "test[0:0.5]"]


def test_the_fingerprint_covers_the_whole_and_the_part() -> None:
    """Another whole, share or seed is another data set; the same is the same."""
    made = [
        Part(Scenes("test", 40), 0, 0.5),
        Part(Scenes("test", 40), 0.5, 1),
        Part(Scenes("test", 40), 0, 0.5, 1),
        Part(Scenes("val", 40), 0, 0.5),
        Part(Scenes("test", 40), 0, 0.5),
    ]
    prints = [part.fingerprint() for part in made]
    assert len(set(prints)) == 4
    assert prints[0] == prints[-1]


@pytest.mark.parametrize(("start", "stop"), [(0.5, 0.5), (0.6, 0.4), (-0.1, 0.5), (0, 1.1)])
def test_bad_shares(start: float, stop: float) -> None:
    with pytest.raises(ValueError, match="give shares with 0 <= start < stop <= 1"):
        Part(Scenes("test", 10), start, stop)


def test_bad_parts() -> None:
    with pytest.raises(ValueError, match=r"start=0, stop=0\.01 of 10 samples leave none"):
        Part(Scenes("test", 10), 0, 0.01)
    part = Part(Scenes("test", 10), 0, 0.5)
    for index in (5, -1):
        with pytest.raises(IndexError, match="of 5 samples"):
            part[index]


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no data at {SHARED}")
@pytest.mark.realdata
@pytest.mark.parametrize(
    ("first", "second", "count"),
    [("cifar10_jpeg_val", "cifar10_jpeg_test5k", 5000), ("imagenet_sample_fit", "imagenet_sample_test", 250)],
)
def test_shared_halves(first: str, second: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configs' two halves of the shared images: equal in size, without an image in common."""
    monkeypatch.setenv("ASSAY_DATA", str(SHARED))
    halves = [build(compose_config([f"dataset={name}"]).dataset) for name in (first, second)]
    assert [len(half) for half in halves] == [count, count]
    assert not set(halves[0].indices) & set(halves[1].indices)
    assert halves[0].fingerprint() != halves[1].fingerprint()
    assert len(halves[0][0].targets) == 1
