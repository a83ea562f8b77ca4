"""ODIN."""

import math

import pytest
import torch
from assay.harness.detection import Features
from assay.harness.forward import ForwardPass
from assay.harness.heads import Passes
from assay.harness.network import Network
from assay.methods.ood.logits import MSP
from assay.methods.ood.odin import ODIN, Space, stepped
from conftest import Known, assert_nothing_left, known, random_images
from torch import Tensor, nn


def scores(detector: ODIN, network: Network, images: Tensor) -> Tensor:
    forward = ForwardPass(network, images, input_graph=detector.needs().images)
    return detector.score_images(forward, Features(forward.logits, torch.full((len(images),), -1)), {})


class TwoPixels(nn.Module):
    """One pixel, three channels: logits (x_0, x_1 + 0 x_2)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :2] + 0 * x.flatten(1)[:, 2:]


# By hand


@pytest.mark.parametrize(
    ("space", "step"), [("pixel", (0.1 / 0.5, 0.1 / 0.25, 0.1 / 0.125)), ("normalised", (0.1, 0.1, 0.1))]
)
def test_by_hand(space: Space, step: tuple[float, float, float]) -> None:
    """Normalised pixel (2, 1, 0) predicts class 0: the cross-entropy falls with x_0 and rises with x_1, and has no
    slope in x_2, whose sign counts as +1; so x~ = (2 + s_0, 1 - s_1, -s_2), and the score its softmax at T = 2."""
    network = Network(TwoPixels(), (0, 0, 0), (0.5, 0.25, 0.125))
    images = torch.tensor([1, 0.25, 0]).view(1, 3, 1, 1)
    detector = ODIN(temperature=2, eps=0.1, eps_space=space)
    forward = ForwardPass(network, images, input_graph=True)
    gradient = forward.gradient_of(lambda logits, _: detector._loss(logits))
    moved = stepped(forward, gradient, 0.1, space).flatten().tolist()
    assert moved == pytest.approx([2 + step[0], 1 - step[1], -step[2]], abs=1e-6)
    expected = -1 / (1 + math.exp((moved[1] - moved[0]) / 2))
    assert scores(detector, network, images).item() == pytest.approx(expected, abs=1e-7)


# Against autograd and pytorch-ood


def test_naive(tiny64: Known) -> None:
    """Written out with autograd on the module, an image at a time; float64, 1e-12."""
    for image, ours in zip(tiny64.images, scores(ODIN(10, 0.01), tiny64.network, tiny64.images), strict=True):
        x = image[None].clone().requires_grad_()
        logits = tiny64.network.module(x) / 10
        (-logits.log_softmax(1).max()).backward()
        assert x.grad is not None
        moved = tiny64.network.module(x.detach() - 0.01 * torch.where(x.grad >= 0, 1.0, -1.0).double()) / 10
        assert ours.item() == pytest.approx(-float(moved.softmax(1).max()), abs=1e-12)
        tiny64.network.module.zero_grad()


def test_pytorch_ood() -> None:
    """pytorch-ood 0.4 with norm_std, where no gradient is 0 (it leaves such inputs in place); float64, 1e-12."""
    oracle = pytest.importorskip("pytorch_ood.detector").ODIN
    std = (0.5, 0.25, 0.125)
    network = Network(known("tiny_vgg").network.module, (0.4, 0.5, 0.6), std).to(dtype=torch.float64)
    images = random_images(4, 16)
    for temperature, eps in [(1000, 0.0016), (10, 0.01)]:
        theirs = oracle(network.module, eps=eps, temperature=temperature, norm_std=list(std))
        expected = theirs.predict(network.normalise(images))
        assert torch.allclose(scores(ODIN(temperature, eps), network, images), expected, atol=1e-12, rtol=0)


# Invariants


def test_without_a_step_at_temperature_one_it_is_msp(tiny: Known) -> None:
    """From the logits alone, no image needed; float64 against float32: 1e-6."""
    detector = ODIN(temperature=1, eps=0)
    assert not detector.needs().images
    forward = ForwardPass(tiny.network, tiny.images)
    features = Features(forward.logits, torch.full((4,), -1))
    assert torch.allclose(
        detector.score(features, {}).float(), MSP("probability").score(features, {}), atol=1e-6, rtol=0
    )
    assert torch.equal(detector.score(features, {}), scores(detector, tiny.network, tiny.images))


def test_scores_are_double_and_distinct(tiny: Known) -> None:
    """At T = 1000 scores differ in the fifth digit and beyond; none tie."""
    found = scores(ODIN(), tiny.network, tiny.images)
    assert found.dtype == torch.float64
    assert len(found.unique()) == 4


def test_batch_of_four_equals_four_batches(tiny64: Known) -> None:
    """Float64, 1e-12."""
    together = scores(ODIN(), tiny64.network, tiny64.images)
    alone = torch.cat([scores(ODIN(), tiny64.network, image[None]) for image in tiny64.images])
    assert torch.allclose(together, alone, atol=1e-12, rtol=0)


def test_passes(tiny: Known) -> None:
    """Two forwards, of which one is shared, and one backward an image; nothing is left on the network."""
    images = tiny.images.clone()
    found = scores(ODIN(), tiny.network, tiny.images)
    assert tiny.network.passes == Passes(forward=8, backward=4, head=0)
    assert not found.requires_grad
    assert torch.equal(images, tiny.images)
    assert_nothing_left(tiny.network)


def test_each_setting_matters(tiny64: Known) -> None:
    """Another temperature, eps or space gives other scores."""
    network = Network(tiny64.network.module, (0, 0, 0), (0.5, 0.5, 0.5)).to(dtype=torch.float64)
    base = scores(ODIN(), network, tiny64.images)
    for other in (ODIN(temperature=100), ODIN(eps=0.002), ODIN(eps_space="normalised")):
        assert (scores(other, network, tiny64.images) != base).all()


def test_errors() -> None:
    """Settings, and scoring without images, are named."""
    with pytest.raises(ValueError, match="eps_space='raw': choose one of pixel, normalised"):
        ODIN(eps_space="raw")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="temperature=0: choose one above 0"):
        ODIN(temperature=0)
    with pytest.raises(ValueError, match=r"eps=0.0016.* steps from the images: call score_images, or set eps=0"):
        ODIN().score(Features(torch.zeros(1, 2), torch.zeros(1)), {})
