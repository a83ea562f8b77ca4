"""LIFT-CAM and LRP-CAM: against Captum on the extracted head, local accuracy, and linear heads.

Tolerances as in test_cam.py: relative to the largest coefficient, 1e-10 in float64 and 1e-5 in float32.
"""

import copy
from collections.abc import Callable

import pytest
import torch
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.network import Network
from assay.harness.types import Attributor
from assay.methods.attribution.cam import GradCAM
from assay.methods.attribution.cam_ablation import AblationCAM
from assay.methods.attribution.lift import LRPCAM, LiftCAM
from assay.methods.attribution.relevance.engine import Tape
from assay.methods.attribution.relevance.rules import Epsilon
from assay.methods.attribution.relevance.table import RuleTable
from assay.methods.attribution.shapley import ShapCAM
from captum.attr import LRP, DeepLift, DeepLiftShap
from captum.attr._utils.lrp_rules import EpsilonRule
from conftest import (
    FEW_TARGETS,
    TOY_TARGETS,
    Known,
    assert_close,
    assert_nothing_left,
    attribute,
    attribute_alone,
    forward_pass,
    known,
    random_images,
    several_targets,
    torchvision_module,
)
from torch import Tensor, nn

DOUBLE, SINGLE = 1e-10, 1e-5


def head_of(tiny: Known) -> nn.Sequential:
    """The golden networks' heads as Captum wants them."""
    module = copy.deepcopy(tiny.network.module)
    if tiny.layer == "features.8":
        pools = module.get_submodule("features.9"), module.get_submodule("avgpool")
        return nn.Sequential(*pools, nn.Flatten(), *module.get_submodule("classifier").children())
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), module.get_submodule("fc"))


def activation_of(tiny: Known, layer: str) -> Tensor:
    """[B,K,h,w]."""
    return forward_pass(tiny.network, tiny.images, GradCAM(layer)).activation(layer)


def coefficients(method: Attributor, tiny: Known, targets: Targets) -> Tensor:
    """alpha [P,K]."""
    found = attribute(method, tiny.network, tiny.images, targets).coefficients
    assert found is not None
    return found


# By hand


def test_toy(toy: Network, toy_image: Tensor) -> None:
    """A linear head: alpha_k = Sum A_k V_ck: class 0 (3, -8), class 1 (-3, 4); exact. LRP the same: no bias."""
    for method in (LiftCAM("relu"), LRPCAM("relu", epsilon=0)):
        found = attribute(method, toy, toy_image, TOY_TARGETS).coefficients
        assert found is not None
        torch.testing.assert_close(found, torch.tensor([[3.0, -8], [-3, 4]]), atol=1e-5, rtol=0)


# Against Captum


def test_lift_cam_equals_captum_deeplift(tiny64: Known) -> None:
    """Captum's DeepLift on the extracted head, reference 0, summed over space; float64, 1e-10."""
    targets = several_targets()
    activation = activation_of(tiny64, tiny64.layer)[targets.image]
    expected = DeepLift(head_of(tiny64)).attribute(activation, torch.zeros_like(activation), target=targets.label)
    assert_close(coefficients(LiftCAM(tiny64.layer), tiny64, targets), expected.sum((2, 3)), DOUBLE)


def test_references_that_are_not_zero_equal_captum() -> None:
    """Convolutions, biases and ReLUs after the layer; float64, 1e-10.

    (Not max-pools: there Captum 0.9 itself misses F(A) - F(0), by .02 at features.3 of tiny_vgg.)
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        last = (nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4 * 9, 7), nn.ReLU(), nn.Linear(7, 3))
        module = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.ReLU(), *last).double()
    images, targets = random_images(3, 8).double(), Targets(torch.tensor([2, 0, 2]), torch.tensor([1, 2, 0]))
    activation = module[:2](images)[targets.image].detach()
    expected = DeepLift(copy.deepcopy(module)[2:]).attribute(
        activation, torch.zeros_like(activation), target=targets.label
    )
    network = Network(module, (0,) * 3, (1,) * 3).to(dtype=torch.float64)
    found = attribute(LiftCAM("1"), network, images, targets).coefficients
    assert found is not None
    assert_close(found, expected.sum((2, 3)), DOUBLE)


def test_deep_shap_is_lift_cam() -> None:
    """Section 5.1 of the supplement: DeepSHAP averages DeepLIFT over references, and here there is one, 0."""
    tiny, targets = known("tiny_vgg", torch.float64), several_targets()
    activation = activation_of(tiny, tiny.layer)[targets.image]
    references = torch.zeros(3, *activation.shape[1:], dtype=torch.float64)
    expected = DeepLiftShap(head_of(tiny)).attribute(activation, references, target=targets.label)
    assert_close(coefficients(LiftCAM(tiny.layer), tiny, targets), expected.sum((2, 3)), DOUBLE)


def test_lrp_cam_equals_captum(tiny64: Known) -> None:
    """Captum's LRP with its epsilon rule (1e-9, absolute) on the extracted head; the stabilisers differ."""
    head, targets = head_of(tiny64), several_targets()
    for module in head:
        module.rule = EpsilonRule()
    activation = activation_of(tiny64, tiny64.layer)[targets.image]
    expected = LRP(head).attribute(activation, target=targets.label).sum((2, 3))
    assert_close(coefficients(LRPCAM(tiny64.layer), tiny64, targets), expected, 1e-3)
    assert_close(coefficients(LRPCAM(tiny64.layer, epsilon=1e-9), tiny64, targets), expected, 1e-6)


# Against relevance through the whole network


@pytest.mark.parametrize(
    ("layer", "tolerance"),
    [("layer1.0", 0.0), ("layer1.1", 0.0), ("layer1.1.relu1", 1e-9), ("layer1.1.bn3", 1e-9)],
)
def test_lrp_cam_is_the_relevance_at_the_layer(layer: str, tolerance: float) -> None:
    """A pull of the same rule through the whole network to the layer, summed over space; float64.

    At relu1 and bn3 the block's shortcut crosses the cut: it takes its share of the sum after it, as in the network;
    1e-9. At the others nothing crosses: exactly.
    """
    tiny, targets = known("tiny_resnet", torch.float64), several_targets()
    tape, table = Tape.record(ForwardPass(tiny.network, tiny.images), (layer,)), RuleTable(Epsilon(1e-6))
    expected = tape.by_pair(
        targets, lambda one_hot: tape.pull(table, tape.logits, one_hot * tape.logits.detach(), tape.at(layer))
    )
    assert_close(coefficients(LRPCAM(layer), tiny, targets), expected.sum((2, 3)), tolerance)


class Shortcut(nn.Module):
    """A shortcut `kept` and what the layer makes of it, joined in one of several ways."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.layer, self.fc, self.join = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(4, 2), join

    def forward(self, x: Tensor) -> Tensor:
        kept = self.conv(x).relu()
        return self.fc(self.join(self.layer(kept), kept).mean((2, 3)))


@pytest.mark.parametrize(
    "join",
    [lambda x, kept: kept + x, lambda x, kept: torch.add(x, kept), lambda x, kept: x.add_(kept) + kept],
    ids=["reversed", "function", "twice"],
)
def test_a_shortcut_takes_its_share_however_it_is_added(
    join: Callable[[Tensor, Tensor], Tensor], toy_image: Tensor
) -> None:
    """Without a bias after it, R of the layer is x w / (h w) summed over space; float64, 1e-9 (epsilon 0)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Shortcut(join).double()
    nn.init.zeros_(module.fc.bias)
    network = Network(module, (0,) * 3, (1,) * 3).to(dtype=torch.float64)
    found = attribute(LRPCAM("layer", epsilon=0), network, toy_image.double(), TOY_TARGETS).coefficients
    expected = module.layer(module.conv(toy_image.double()).relu()).mean((2, 3)) * module.fc.weight
    assert found is not None
    assert_close(found, expected, 1e-9)


def test_a_difference_from_a_shortcut_is_an_error(toy_image: Tensor) -> None:
    """As in the whole network: the engine has no rule for it, and says so."""
    network = Network(Shortcut(torch.sub), (0,) * 3, (1,) * 3)
    with pytest.raises(ValueError, match=r"'sub', which subtracts or divides one activation by another"):
        attribute(LRPCAM("layer"), network, toy_image, TOY_TARGETS)


@pytest.mark.parametrize("epsilon", [-1e-6, float("nan")])
def test_a_stabiliser_below_zero_is_an_error(epsilon: float) -> None:
    """It is named with its value and its range."""
    with pytest.raises(ValueError, match=rf"epsilon={epsilon}: choose a finite number that is not negative"):
        LRPCAM("layer", epsilon=epsilon)


# Local accuracy


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("tiny_vgg", "features.8"),
        ("tiny_vgg", "features.2"),
        ("tiny_resnet", "layer1"),
        ("tiny_resnet", "relu"),  # shortcuts
        ("tiny_resnet", "layer1.1.relu1"),  # a shortcut crosses the cut
    ],
)
def test_coefficients_sum_to_the_difference(name: str, layer: str) -> None:
    """Sum_k alpha_k = F(A) - F(0), what else crosses the cut left as it is; float64, 1e-10 of the largest logit."""
    tiny, targets = known(name, torch.float64), several_targets()
    forward = forward_pass(tiny.network, tiny.images, GradCAM(layer))
    with torch.no_grad():
        empty = forward.head(layer)(torch.zeros_like(forward.activation(layer)))
    expected = (forward.logits - empty)[targets.image, targets.label]
    found = coefficients(LiftCAM(layer), tiny, targets).sum(1)
    assert (found - expected).abs().max() < DOUBLE * forward.logits.abs().max()


@pytest.mark.parametrize(
    ("architecture", "layer"),
    [("efficientnet_b0", "features.7"), ("squeezenet1_1", "features.12"), ("densenet121", "features.denseblock4")],
)
def test_sum_on_torchvision_networks(architecture: str, layer: str) -> None:
    """Gates (a product of two activations), 1x1 classifiers, functional ReLUs; float64, 1e-10."""
    network = Network(torchvision_module(architecture), (0.5,) * 3, (0.25,) * 3).to(dtype=torch.float64)
    forward = ForwardPass(network, random_images(1, 64).double(), (layer,))
    with torch.no_grad():
        empty = forward.head(layer)(torch.zeros_like(forward.activation(layer)))
    targets = Targets(torch.tensor([0, 0]), torch.tensor([3, 1]))
    found = LiftCAM(layer).coefficients(forward, forward.activation(layer), targets, None)  # type: ignore[arg-type]
    expected = (forward.logits - empty)[0, [3, 1]]
    assert (found.sum(1) - expected).abs().max() < DOUBLE * forward.logits.abs().max()


def test_logsumexp_has_local_accuracy() -> None:
    """The pointing game's networks join positions by it: the averaged gradient sums to the difference; 1e-8."""

    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu, self.last = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.relu(self.conv(x))).flatten(2).logsumexp(2)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Network(Positions(), (0.5,) * 3, (0.25,) * 3).to(dtype=torch.float64)
    images, targets = random_images(1, 6).double(), Targets(torch.tensor([0]), torch.tensor([2]))
    found = attribute(LiftCAM("relu"), network, images, targets).coefficients
    assert found is not None
    last = network.module.get_submodule("last")
    whole, empty = network.module(network.normalise(images)), last(torch.zeros(1, 6, 4, 4).double())
    expected = whole - empty.flatten(2).logsumexp(2)
    assert abs(float(found.sum() - expected[0, 2])) < 1e-8


class Joined(nn.Module):
    """Six positive channels, their means x [B,6] joined by any function, and a linear layer."""

    def __init__(self, join: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.relu, self.fc, self.join = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Linear(6, 4), join

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.join(self.relu(self.conv(x)).mean((2, 3))))


def joined(join: Callable[[Tensor], Tensor]) -> Network:
    """With seeded weights, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Network(Joined(join), (0.5,) * 3, (0.25,) * 3).to(dtype=torch.float64)


@pytest.mark.parametrize(
    "join",
    [
        lambda x: x / 3,
        lambda x: x / (x.sum(1, keepdim=True) + 1),
        lambda x: torch.div(1.0, x + 1),
        lambda x: 1 / (x + 1),
        lambda x: torch.true_divide(x, torch.full((6,), 2.0, dtype=torch.float64)),
        lambda x: x * (x.mean(1, keepdim=True) / 2).sigmoid(),
    ],
    ids=["constant", "normalised", "function", "reflected", "tensor", "product"],
)
def test_quotients_have_local_accuracy(join: Callable[[Tensor], Tensor]) -> None:
    """Sum_k alpha_k = F(A) - F(0), whatever stands in the divisor; float64, 1e-10 of the largest logit."""
    network, images, targets = (
        joined(join),
        random_images(2, 8).double(),
        Targets(torch.arange(2), torch.tensor([1, 3])),
    )
    forward = forward_pass(network, images, GradCAM("relu"))
    with torch.no_grad():
        empty = forward.head("relu")(torch.zeros_like(forward.activation("relu")))
    found = attribute(LiftCAM("relu"), network, images, targets).coefficients
    assert found is not None
    expected = (forward.logits - empty)[targets.image, targets.label]
    assert (found.sum(1) - expected).abs().max() < DOUBLE * forward.logits.abs().max()


@pytest.mark.parametrize(
    ("join", "name"),
    [
        (lambda x: torch.div(x, 2, rounding_mode="floor"), "div"),
        (lambda x: nn.functional.linear(x, x[:1].expand(6, 6)), "linear"),  # weights that depend on the activation
    ],
    ids=["rounded", "weights"],
)
def test_what_only_looks_linear_is_an_error(join: Callable[[Tensor], Tensor], name: str) -> None:
    """Neither a rounded quotient nor a product of two activations by `linear` is: the operation is named."""
    targets = Targets(torch.tensor([0]), torch.tensor([1]))
    with pytest.raises(ValueError, match=rf"'{name}', for which DeepLIFT has no rule"):
        attribute(LiftCAM("relu"), joined(join), random_images(1, 8).double(), targets)


def test_an_unknown_operation_is_an_error(toy_image: Tensor) -> None:
    """It is named, and what to do instead."""

    class Sorted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 2, 1), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(torch.cumsum(self.conv(x).flatten(1), 1))

    network = Network(Sorted(), (0,) * 3, (1,) * 3)
    with pytest.raises(ValueError, match="'cumsum', for which DeepLIFT has no rule"):
        attribute(LiftCAM("conv"), network, toy_image, TOY_TARGETS)


# Linear heads


def test_on_a_linear_head_lift_is_ablation_and_shap() -> None:
    """Supplement, section 3.1: LIFT = Ablation x S = SHAP; float32, 1e-5."""
    tiny, targets = known("tiny_resnet"), several_targets()
    logit = tiny.network.module(tiny.images)[targets.image, targets.label]
    lift = coefficients(LiftCAM(tiny.layer), tiny, targets)
    assert_close(coefficients(AblationCAM(tiny.layer), tiny, targets) * logit[:, None], lift, SINGLE)
    assert_close(coefficients(ShapCAM(tiny.layer), tiny, targets), lift, SINGLE)


# Invariants


@pytest.mark.parametrize("targets", [several_targets(), FEW_TARGETS], ids=["several", "few"])
@pytest.mark.parametrize("make", [LiftCAM, LRPCAM])
def test_pairs_of_a_batch_equal_one_at_a_time(tiny64: Known, make: type[LiftCAM | LRPCAM], targets: Targets) -> None:
    """Four images in one call against calls of one image and one target; float64, 1e-10."""
    method = make(tiny64.layer, signed=True)
    together = attribute(method, tiny64.network, tiny64.images, targets).values
    assert_close(together, attribute_alone(method, tiny64.network, tiny64.images, targets), DOUBLE)
    assert_nothing_left(tiny64.network)


def test_passes(tiny: Known) -> None:
    """One forward pass an image; the head: values and references forward, one backward (the floor's 2h + hB)."""
    attribute(LiftCAM(tiny.layer), tiny.network, tiny.images, tiny.targets)
    assert (tiny.network.passes.forward, tiny.network.passes.head) == (4, 12)
