"""Corrupted versions of a data set: each corruption by hand or by another library, seeded by the sample's name."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from assay.datasets.corrupted import CORRUPTIONS, LEVELS, Corrupted
from assay.datasets.scenes import Scenes
from assay.harness.build import build
from assay.harness.overrides import compose_config
from assay.harness.types import Sample
from PIL import Image
from torch import Tensor

ROUNDED = 0.5 / 255 + 1e-6  # what 8 bits may differ by


class Given:
    """Images [N,3,H,W] as a data set."""

    split, classes = "test", ("one",)

    def __init__(self, images: Tensor, names: str = "abcdefgh") -> None:
        self.images, self.names = images, names

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return Sample(self.names[index], self.images[index], (0,), tuple(self.images.shape[2:]))  # type: ignore[arg-type]

    def fingerprint(self) -> str:
        return "given"


def corrupted(image: Tensor, kind: str, **settings: Any) -> Tensor:
    """One image [3,H,W]."""
    return Corrupted(Given(image[None]), kind, **settings)[0].image


def test_contrast_by_hand() -> None:
    """Channels 0 and 1 beside each other have the mean .5; severity 2 halves distances: .25 and .75, of 255 64 and 191
    (63.75, 191.25). A grey channel stays."""
    image = torch.stack([torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]]), torch.full((1, 2), 0.2)])
    expected = torch.tensor([[[64, 191]], [[191, 64]], [[51, 51]]]) / 255
    assert torch.allclose(corrupted(image, "contrast", severity=2), expected, rtol=0, atol=1e-7)


def test_blur_is_a_gaussian() -> None:
    """One bright pixel of 17 x 17, sigma 1: the product of two normal densities at whole pixels, to 8 bits; a flat
    image stays flat up to its border."""
    image = torch.zeros(3, 17, 17)
    image[:, 8, 8] = 1
    bell = torch.exp(-((torch.arange(17) - 8.0) ** 2) / 2)
    bell[(torch.arange(17) - 8).abs() > 4] = 0
    expected = torch.outer(bell, bell) / bell.sum() ** 2
    assert torch.allclose(corrupted(image, "blur", severity=5), expected.expand(3, -1, -1), rtol=0, atol=ROUNDED)
    flat = torch.full((3, 9, 9), 51 / 255)
    assert torch.equal(corrupted(flat, "blur", severity=5), flat)


def test_noise_has_its_spread() -> None:
    """Grey of 128 x 128: standard deviation .1 at severity 5 (1 %), mean unmoved (.002), channels apart (.03)."""
    made = corrupted(torch.full((3, 128, 128), 0.5), "noise", severity=5)
    assert float(made.std()) == pytest.approx(0.1, rel=0.01)
    assert float(made.mean()) == pytest.approx(0.5, abs=0.002)
    assert float(torch.corrcoef(made.flatten(1))[0, 1]) == pytest.approx(0, abs=0.03)


def test_jpeg_is_pillows() -> None:
    """The drawn scene saved at quality 58 and read again; exactly."""
    image = Scenes("test", 1)[0].image
    file = io.BytesIO()
    pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(file, "JPEG", quality=58)
    expected = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float() / 255
    assert torch.equal(corrupted(image, "jpeg", severity=3), expected)


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("levels", LEVELS)
def test_severities_grow(kind: str, levels: str) -> None:
    """A drawn scene moves further from itself at each severity (mean absolute change; JPEG's is not quite monotone:
    the last beyond the first); pixels are 8 bits in [0,1]."""
    image = Scenes("test", 1)[0].image
    made = [corrupted(image, kind, severity=severity, levels=levels) for severity in range(1, 6)]
    moved = [float((each - image).abs().mean()) for each in made]
    assert moved[-1] > moved[0] > 0 and (kind == "jpeg" or all(np.diff(moved) > 0))
    for each in made:
        assert each.dtype == torch.float32 and float(each.min()) >= 0 and float(each.max()) <= 1
        assert torch.allclose(each * 255, (each * 255).round(), rtol=0, atol=1e-4)


def test_noise_depends_on_seed_and_name_alone() -> None:
    """Whatever the place in the data set, and read twice; another name or seed draws other noise."""
    grey = torch.full((3, 3, 8, 8), 0.5)
    first = Corrupted(Given(grey, "abc"), "noise")
    turned = Corrupted(Given(grey, "cba"), "noise")
    assert torch.equal(first[0].image, turned[2].image)
    assert torch.equal(first[0].image, first[0].image)
    assert not torch.equal(first[0].image, first[1].image)
    assert not torch.equal(first[0].image, Corrupted(Given(grey, "abc"), "noise", seed=1)[0].image)


def test_all_but_the_pixels_is_the_samples() -> None:
    """Names, labels, boxes and masks of drawn scenes; the input is not written to."""
    whole = Scenes("test", 3, hard=True, objects=(1, 1))
    before = whole[1].image.clone()
    for kind in CORRUPTIONS:
        sample, ours = whole[1], Corrupted(whole, kind)[1]
        assert (ours.id, ours.targets, ours.size0) == (sample.id, sample.targets, sample.size0)
        assert all(torch.equal(ours.boxes[label], sample.boxes[label]) for label in sample.targets)
    assert torch.equal(whole[1].image, before)
    made = Corrupted(whole, "jpeg", 4)
    assert (len(made), made.classes, made.split) == (3, whole.classes, "test-jpeg4")


def test_the_fingerprint_covers_the_whole_and_how() -> None:
    """Another whole, kind, severity, list of levels or seed is another data set; the same is the same."""
    whole = Scenes("test", 4)
    made = [
        Corrupted(whole, "blur"),
        Corrupted(Scenes("val", 4), "blur"),
        Corrupted(whole, "noise"),
        Corrupted(whole, "blur", 4),
        Corrupted(whole, "blur", levels="imagenet_c"),
        Corrupted(whole, "blur", seed=1),
        Corrupted(Scenes("test", 4), "blur"),
    ]
    prints = [each.fingerprint() for each in made]
    assert len(set(prints)) == 6 and prints[0] == prints[-1]


def test_a_config_corrupts_the_runs_own_test_set() -> None:
    """`ood=[corrupted_noise]` with settings of the data set: the same names, and the settings it shows."""
    words = ["dataset=scenes_hard", "dataset.size=5", "ood=[corrupted_noise,corrupted_blur]", "method=[msp]"]
    config = compose_config([*words, "metric=[failure]", "ood.corrupted_blur.severity=5"])
    test = build(config.dataset)
    for name, each in config.ood.items():
        made = build(each)
        assert [made[i].id for i in range(5)] == [test[i].id for i in range(5)]
        assert each.notes["known"] is True and each.name == name
    assert build(config.ood["corrupted_blur"]).split == "test-blur5"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kind": "fog"}, "kind='fog': choose one of blur, noise, contrast, jpeg"),
        ({"kind": "blur", "severity": 0}, "severity=0: choose 1 to 5"),
        ({"kind": "blur", "levels": "mine"}, "levels='mine': choose one of cifar10_c, imagenet_c"),
    ],
)
def test_bad_settings(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Corrupted(Given(torch.zeros(1, 3, 4, 4)), **settings)
