"""The images of no known class."""

import pytest
import torch
from assay.datasets.scenes import Scenes
from assay.datasets.scenes_ood import KINDS, ScenesOOD


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_well_formed_and_repeatable(kind: str) -> None:
    dataset, again = ScenesOOD(kind, "test", 10), ScenesOOD(kind, "test", 20)
    for index in reversed(range(10)):
        sample = dataset[index]
        assert sample.targets == () and sample.size0 == (64, 64) and sample.id == f"test-{index:06d}"
        assert sample.image.shape == (3, 64, 64) and sample.image.min() >= 0 and sample.image.max() <= 1
        assert torch.equal(sample.image, again[index].image)


@pytest.mark.parametrize("kind", KINDS)
def test_splits_and_images_differ(kind: str) -> None:
    images = [ScenesOOD(kind, split, 3)[i].image for split in ("train", "val", "test") for i in range(3)]
    assert len({image.numpy().tobytes() for image in images}) == 9


def test_inverted_scenes_are_brighter() -> None:
    scenes, inverted = Scenes("test", 50, objects=(1, 1)), ScenesOOD("inverted", "test", 50)
    brightness = [torch.stack([d[i].image.mean() for i in range(50)]).mean() for d in (scenes, inverted)]
    assert brightness[0] < 0.4 < 0.6 < brightness[1]


def test_fingerprints_differ() -> None:
    datasets = [ScenesOOD(kind, "test", 10) for kind in KINDS] + [ScenesOOD("noise", "test", 10, seed=1)]
    assert len({dataset.fingerprint() for dataset in datasets}) == len(datasets)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("letters", "test", 10), "kind='letters'.*shapes, textures, noise, inverted, digits"),
        (("noise", "all", 10), "split='all'.*train, val, test"),
        (("noise", "test", -1), "size=-1.*1 or more"),
        (("digits", "test", 600), "size=600.*1 to 599"),
    ],
)
def test_wrong_settings_are_named(settings: tuple[str, str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScenesOOD(*settings)


def test_index_outside_the_split() -> None:
    with pytest.raises(IndexError, match="0 to 2"):
        ScenesOOD("noise", "test", 3)[3]
