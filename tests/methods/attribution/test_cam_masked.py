"""Score-CAM and RISE: the network on masked images.

Tolerances as in test_cam.py: relative to the largest value, 1e-10 in float64 and 1e-5 in float32.
"""

import pytest
import torch
import torch.nn.functional as F
from assay.harness.heads import Targets
from assay.harness.network import Network
from assay.harness.types import Attributor
from assay.methods.attribution.rise import RISE
from assay.methods.attribution.score_cam import ScoreCAM
from conftest import (
    FEW_TARGETS,
    Known,
    assert_close,
    assert_nothing_left,
    attribute,
    attribute_alone,
    forward_pass,
    golden,
    known,
    sample_rng,
    several_targets,
)

DOUBLE, SINGLE = 1e-10, 1e-5


# Score-CAM


@pytest.mark.parametrize("name", ["tiny_vgg", "tiny_resnet"])
def test_golden_score_cam(name: str) -> None:
    """pytorch-grad-cam 1.5.7 (tests/golden/cams.npz): softmax of logits, aligned corners; float32, 1e-5."""
    tiny, arrays = known(name), {key: torch.from_numpy(value) for key, value in golden("cams").items()}
    result = attribute(ScoreCAM(tiny.layer, True, "paper", True), tiny.network, tiny.images, tiny.targets)
    assert result.coefficients is not None
    assert_close(result.coefficients, arrays[f"{name}.scorecam.weights"], SINGLE)
    assert_close(result.values, arrays[f"{name}.scorecam.raw"], SINGLE)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_official_variant_channel_by_channel(activation: str) -> None:
    """The authors' loop, written out: probability on x * minmax(up(A_k)), nothing for a flat map; float64, 1e-10."""
    tiny, targets = known("tiny_vgg", torch.float64), several_targets()
    network = Network(tiny.network.module, (0,) * 3, (1,) * 3, activation).to(dtype=torch.float64)  # type: ignore[arg-type]
    network.module.features[7].bias[3] = -100  # type: ignore[union-attr,index]  # a dead channel
    result = attribute(ScoreCAM(tiny.layer), network, tiny.images, targets).coefficients
    assert result is not None
    maps = forward_pass(network, tiny.images, ScoreCAM(tiny.layer)).activation(tiny.layer)
    for pair, (image, label) in enumerate(zip(targets.image.tolist(), targets.label.tolist(), strict=True)):
        for channel in range(16):
            large = F.interpolate(maps[image : image + 1, channel : channel + 1], (16, 16), mode="bilinear")
            expected = torch.zeros(())
            if large.max() > large.min():
                mask = (large - large.min()) / (large.max() - large.min())
                logits = network.module(tiny.images[image : image + 1] * mask)
                expected = (logits.softmax(1) if activation == "softmax" else logits.sigmoid())[0, label]
            assert float(result[pair, channel]) == pytest.approx(float(expected), rel=1e-9)
    assert not result[:, 3].any()


def test_masked_images_are_shared_by_classes() -> None:
    """One forward pass an image and one a map that is not flat, however many classes; images without pairs none."""
    tiny = known("tiny_vgg")
    maps = forward_pass(tiny.network, tiny.images, ScoreCAM(tiny.layer)).activation(tiny.layer)
    live = (maps.amax((2, 3)) > maps.amin((2, 3))).sum(1)
    for targets in (several_targets(), FEW_TARGETS):
        before = tiny.network.passes.forward
        attribute(ScoreCAM(tiny.layer), tiny.network, tiny.images, targets)
        assert tiny.network.passes.forward - before == 4 + int(live[targets.image.unique()].sum())


# RISE


def test_rise_is_the_weighted_mean_of_its_masks() -> None:
    """Two images, three pairs, 70 masks drawn again from the same generator; float64, 1e-10."""
    tiny, method = known("tiny_resnet", torch.float64), RISE(masks=70, cells=3, keep=0.4)
    targets = Targets(torch.tensor([1, 0, 1]), torch.tensor([2, 0, 4]))
    found = attribute(method, tiny.network, tiny.images[:2], targets).values
    rng = sample_rng(targets, 2)
    drawn = torch.cat([rng.uniform((64, 11)), rng.uniform((6, 11))], 1).double()
    for pair, (image, label) in enumerate(zip(targets.image.tolist(), targets.label.tolist(), strict=True)):
        masks = method.grown(drawn[image], 16, 16)
        scores = tiny.network.module(tiny.images[image] * masks[:, None]).softmax(1)[:, label]
        assert_close(found[pair][None], ((scores[:, None, None] * masks).sum(0) / (70 * 0.4))[None], DOUBLE)


def test_masks_of_rise() -> None:
    """In [0,1], of mean p, of the image's size where cells do not divide it, too, and shifted by less than a cell."""
    method = RISE(cells=4, keep=0.3)
    uniform = torch.rand(4000, 18, generator=torch.Generator().manual_seed(0))
    masks = method.grown(uniform, 18, 13)
    assert masks.shape == (4000, 18, 13)
    assert masks.min() >= 0
    assert masks.max() <= 1 + 1e-6
    assert (masks.mean(0) - 0.3).abs().max() < 0.04  # four standard errors
    uniform[:, -2:] = 0
    grid = (uniform[:1, :16] < 0.3).float().view(1, 1, 4, 4)
    large = F.interpolate(grid, (25, 20), mode="bilinear")
    assert torch.equal(method.grown(uniform[:1], 18, 13), large[0, :, :18, :13])


@pytest.mark.parametrize(("options", "message"), [({"masks": 0}, "masks=0"), ({"keep": 1.0}, "keep=1")])
def test_settings_without_meaning(options: dict[str, float], message: str) -> None:
    """ValueError names the setting and its value."""
    with pytest.raises(ValueError, match=message):
        RISE(**options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="variant='other': choose official or paper"):
        ScoreCAM("layer", variant="other")  # type: ignore[arg-type]


# Invariants


@pytest.mark.parametrize("targets", [several_targets(), FEW_TARGETS], ids=["several", "few"])
@pytest.mark.parametrize("variant", ["official", "paper", "rise"])
def test_pairs_of_a_batch_equal_one_at_a_time(tiny64: Known, variant: str, targets: Targets) -> None:
    """Draws are the image's: batch, order of pairs and max_rows change nothing; float64, 1e-10."""
    layer = tiny64.layer
    method: Attributor = RISE(masks=70) if variant == "rise" else ScoreCAM(layer, True, variant)  # type: ignore[arg-type]
    together = attribute(method, tiny64.network, tiny64.images, targets, max_rows=11).values
    assert_close(together, attribute_alone(method, tiny64.network, tiny64.images, targets), DOUBLE)
    assert_nothing_left(tiny64.network)
