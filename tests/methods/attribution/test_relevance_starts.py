"""RAP's residual sums, and relevance that starts with the logit or with one."""

from typing import Any

import pytest
import torch
from assay.harness.heads import Targets
from assay.harness.network import Network
from assay.harness.types import Attributor
from assay.methods.attribution.relevance import rules
from assay.methods.attribution.relevance.lrp import LRP, ContrastiveLRP
from assay.methods.attribution.relevance.rap import RAP
from assay.methods.attribution.relevance.rules import AlphaBeta, Epsilon, Gamma, ZBox
from conftest import TOY_TARGETS, assert_close, attribute, known, random_images, torchvision_module
from torch import Tensor

CLOSE = 1e-10


def test_positive_parts_by_hand() -> None:
    """(3, -1, -1, 2, 0) + (1, 2, -3, -2, 0), R = 4: 3:1, all to the 2, 1:3 of two negative ones, all to the first 2
    where they cancel, nothing at 0/0; exact. A summand that is broadcast takes the sum of its shares."""
    a, b = torch.tensor([[3.0, -1, -1, 2, 0]]), torch.tensor([[1.0, 2, -3, -2, 0]])
    first, second = rules.positive_parts((a, b), (0, 0), torch.full((1, 5), 4.0))
    assert first is not None
    assert second is not None
    assert first.tolist() == [[3, 0, 1, 4, 0]]
    assert second.tolist() == [[1, 4, 3, 0, 0]]
    wide, narrow = rules.positive_parts((torch.ones(1, 4), torch.ones(1, 1)), (0, 0), torch.ones(1, 4))
    assert wide is not None
    assert narrow is not None
    assert (wide.tolist(), narrow.tolist()) == ([[0.5] * 4], [[2.0]])


def test_residual_is_bounded_and_keeps_the_sum() -> None:
    """On the residual tiny network the setting changes the map; on the one without sums it does not (exactly)."""
    for name, equal in (("tiny_vgg", True), ("tiny_resnet", False)):
        example = known(name, torch.float64)
        maps = [
            attribute(RAP(residual=residual), example.network, example.images, example.targets).values
            for residual in ("positive", "proportional")
        ]
        assert torch.equal(maps[0], maps[1]) == equal


@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_positive_parts_do_not_depend_on_rounding() -> None:
    """ResNet-18 with noise of 1e-7 on the image: the map moves by less than 1e-3 of its maximum."""
    network = Network(torchvision_module("resnet18"), (0.5,) * 3, (0.25,) * 3)
    images, target = random_images(1, 64), Targets(torch.tensor([0]), torch.tensor([3]))
    noise = 1e-7 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    maps = [attribute(RAP(), network, x, target).values for x in (images, images + noise)]
    assert_close(maps[0], maps[1], 1e-3)


def test_rap_stops_at_a_layer(toy: Network, toy_image: Tensor) -> None:
    """Before the toy's last layer, where A = (3, 0, 0, 4) has by class the contributions (3, 0, 0, -8), logit -5, and
    (-3, 0, 0, 4), logit 1: magnitudes over their sum times the logit, summed over channels at pixels a, b; 1e-6. On the
    tiny network each layer's map sums to the logit (float64, 1e-9)."""
    values = attribute(RAP(layer="relu"), toy, toy_image, TOY_TARGETS).values
    assert_close(values, torch.tensor([[[-15 / 11, -40 / 11]], [[3 / 7, 4 / 7]]]), 1e-6)
    example = known("tiny_vgg", torch.float64)
    every = example.network(example.network.normalise(example.images))
    logits = every[example.targets.image, example.targets.label]
    for layer in ("features.1", "features.4", "features.9"):
        values = attribute(RAP(layer=layer), example.network, example.images, example.targets).values
        assert_close(values.flatten(1).sum(1, keepdim=True), logits[:, None], 1e-9)


def test_rap_refuses_to_stop_behind_the_last_layer() -> None:
    """There no rule has been applied. A convolution is the last layer, as in SqueezeNet; before it, sums are logits."""
    first, last = torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 3, 1)
    module = torch.nn.Sequential(first, torch.nn.ReLU(), last, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    network = Network(module.eval(), (0.5,) * 3, (0.25,) * 3).to(dtype=torch.float64)
    images, targets = random_images(2, 8).double(), Targets(torch.tensor([0, 1]), torch.tensor([2, 0]))
    sums = attribute(RAP(layer="1"), network, images, targets).values.flatten(1).sum(1)
    assert_close(sums[:, None], network(network.normalise(images)).gather(1, targets.label[:, None]), 1e-9)
    for layer in ("2", "3"):
        with pytest.raises(ValueError, match=f"layer='{layer}': no convolution or linear layer lies between"):
            attribute(RAP(layer=layer), network, images, targets)


def by_logit(method: Attributor) -> Tensor:
    """The map that starts with the logit, divided by it."""
    example = known("tiny_vgg", torch.float64)
    logits = example.logits[torch.arange(4), example.targets.label].double()
    assert (logits < 0).any()
    values = attribute(method, example.network, example.images, example.targets).values
    return values / logits.view(-1, 1, 1).abs()


def from_one(method: Attributor) -> Tensor:
    example = known("tiny_vgg", torch.float64)
    return attribute(method, example.network, example.images, example.targets).values


def signs() -> Tensor:
    example = known("tiny_vgg")
    return example.logits[torch.arange(4), example.targets.label].sign().view(-1, 1, 1)


LINEAR: list[tuple[Any, dict[str, Any]]] = [
    (LRP, {"rule": Epsilon(1e-9)}),
    (LRP, {"rule": Gamma()}),
    (LRP, {"rule": AlphaBeta()}),
    (LRP, {"rule": AlphaBeta(2, 1), "first": ZBox()}),
    (RAP, {"variant": "paper"}),
]


@pytest.mark.parametrize(("make", "settings"), LINEAR, ids=str)
def test_start_of_one(make: Any, settings: dict[str, Any]) -> None:
    """Linear rules: the map from one is the map from the logit y divided by y, so turned over where y < 0; 1e-6 (the
    golden logits are float32)."""
    assert_close(from_one(make(**settings, start="one")), signs() * by_logit(make(**settings)), 1e-6)


def test_contrastive_start_of_one() -> None:
    """CLRP1 from 1 and 1 / n."""
    one, logit = (ContrastiveLRP(LRP(AlphaBeta(), start=start)) for start in ("one", "logit"))
    assert_close(from_one(one), signs() * by_logit(logit), 1e-6)


def test_official_rap_starts_with_one() -> None:
    """Its convolutions treat the signs of relevance differently: with a positive logit the map from the logit divided
    by it; always the sum 1, and never a negative map as a whole."""
    one, logit, positive = from_one(RAP(start="one")), by_logit(RAP()), signs()[:, 0, 0] > 0
    assert_close(one[positive], logit[positive], 1e-6)
    assert_close(one.sum((1, 2))[:, None], torch.ones(4, 1, dtype=torch.float64), CLOSE)


@pytest.mark.parametrize("make", [lambda: RAP(start="two"), lambda: LRP(AlphaBeta(), start="two")])  # type: ignore[arg-type]
def test_starts_are_checked(make: Any) -> None:
    """ValueError with value and choices."""
    with pytest.raises(ValueError, match=r"start='two': choose logit .* or one"):
        make()
    with pytest.raises(ValueError, match="residual='both': choose one of positive, proportional"):
        RAP(residual="both")  # type: ignore[arg-type]
