"""Guided backpropagation and the deconvnet.

Tolerances are relative to each map's largest value: 1e-10 in float64, 1e-5 in float32 (see test_gradient.py).
"""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from assay.harness.heads import Passes, Targets
from assay.harness.network import Network
from assay.harness.types import Attributor
from assay.methods.attribution.gradient import Gradient, Reduce
from assay.methods.attribution.guided import Deconvnet, GuidedBackprop
from captum.attr import Deconvolution
from captum.attr import GuidedBackprop as CaptumGuidedBackprop
from conftest import (
    FEW_TARGETS,
    TOY_TARGETS,
    Known,
    assert_close,
    assert_nothing_left,
    attribute,
    attribute_alone,
    random_images,
    several_targets,
    torchvision_module,
)
from torch import Tensor, nn

pytestmark = [
    pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients"),  # Captum
    pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU activations"),
]
DOUBLE, SINGLE = 1e-10, 1e-5
METHODS: list[Attributor] = [GuidedBackprop(), Deconvnet(), GuidedBackprop("sum"), Deconvnet("sum")]
SUMS: list[Attributor] = [GuidedBackprop("sum"), Deconvnet("sum")]
CAPTUM: dict[type, type] = {GuidedBackprop: CaptumGuidedBackprop, Deconvnet: Deconvolution}


class OneConvolution(nn.Module):
    """A convolution, a rectifier given as a function, and a mean: the same network in many spellings."""

    def __init__(self, rectify: Callable[[Tensor], Tensor], last: nn.Module | None = None) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 3)
        self.rectify, self.last = rectify, last

    def forward(self, x: Tensor) -> Tensor:
        x = self.rectify(self.first(x))
        return (self.last or self.rectify)(self.second(x)).mean((2, 3))


def bounded(module: nn.Module) -> Network:
    """Inputs about [-2,2], float64."""
    return Network(module, (0.5,) * 3, (0.25,) * 3).to(dtype=torch.float64)


# By hand


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (GuidedBackprop("sum"), [[2, 0], [0, 0]]),
        (GuidedBackprop("max_abs"), [[1, 0], [0, 1]]),
        (Deconvnet("sum"), [[2, 4], [0, 2]]),
        (Deconvnet("max_abs"), [[1, 2], [3, 1]]),
    ],
    ids=repr,
)
def test_toy(toy: Network, toy_image: Tensor, method: Attributor, expected: list[list[float]]) -> None:
    """Against ToyModule's rules by hand, exactly (small integers).

    At the ReLU, (A_0a, A_0b, A_1a, A_1b) has gradient (1,2,-1,-2) for class 0, (-1,1,3,1) for class 1; active are
    A_0a and A_1b. Guided keeps positive and active: class 0 A_0a = 1, so (1,1,0) at a; class 1 A_1b = 1, so
    (0,-1,1) at b. The deconvnet keeps positive ones: class 0 A_0a = 1, A_0b = 2, so (1,1,0) at a and (2,2,0) at b;
    class 1 A_0b = 1, A_1a = 3, A_1b = 1, so (0,-3,3) at a and (1,1,0) + (0,-1,1) = (1,0,1) at b.
    """
    values = attribute(method, toy, toy_image, TOY_TARGETS).values
    assert values.tolist() == torch.tensor(expected, dtype=torch.float32).view(2, 1, 2).tolist()


def test_relu6_passes_nothing_where_saturated() -> None:
    """f = sum of relu6(x) at x = (-1, 3, 8), by hand: guided (0, 1, 0), deconvnet (1, 1, 1); exact.

    A gradient of 1 reaches each unit; only x = 3 lies in (0, 6).
    """

    class Sum6(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu6(x).sum((1, 2, 3))[:, None]

    network = Network(Sum6(), (0, 0, 0), (1, 1, 1))
    image = torch.tensor([-1.0, 3, 8]).view(1, 3, 1, 1).expand(1, 3, 1, 1)
    target = Targets(torch.tensor([0]), torch.tensor([0]))
    assert attribute(GuidedBackprop("sum"), network, image, target).values.item() == 1
    assert attribute(Deconvnet("sum"), network, image, target).values.item() == 3


# Against Captum and naive hooks


@pytest.mark.parametrize("reduce", ["sum", "max_abs"])
@pytest.mark.parametrize("method", [GuidedBackprop, Deconvnet])
def test_tiny_networks_equal_captum(tiny64: Known, method: type, reduce: Reduce) -> None:
    """Against captum.attr.GuidedBackprop and Deconvolution, several targets an image; float64, 1e-10."""
    targets = several_targets()
    oracle = CAPTUM[method](copy.deepcopy(tiny64.network.module))
    signed = oracle.attribute(tiny64.images[targets.image], target=targets.label)
    expected = signed.sum(1) if reduce == "sum" else signed.abs().amax(1)
    assert_close(attribute(method(reduce), tiny64.network, tiny64.images, targets).values, expected, DOUBLE)


@pytest.mark.parametrize("method", [GuidedBackprop, Deconvnet])
def test_resnet18_equals_captum(method: type) -> None:
    """Against Captum on torchvision's ResNet-18, whose blocks call one ReLU module twice; float64, 1e-10."""
    network, images = bounded(torchvision_module("resnet18")), random_images(2, 64).double()
    targets = Targets(torch.tensor([1, 0, 1]), torch.tensor([5, 2, 0]))
    signed = CAPTUM[method](copy.deepcopy(network.module)).attribute(
        ((images - 0.5) / 0.25)[targets.image], target=targets.label
    )
    assert_close(attribute(method("sum"), network, images, targets).values, signed.sum(1), DOUBLE)


@pytest.mark.parametrize("method", SUMS, ids=repr)
def test_mobilenet_v2_equals_hooks(method: Attributor) -> None:
    """MobileNetV2's ReLU6, which Captum passes by, against a module backward hook written from the definition:
    clamp the gradient that has passed the unit (guided) or that arrives at it (deconvnet); float64, 1e-10."""
    module = torchvision_module("mobilenet_v2")
    network, images = bounded(copy.deepcopy(module)), random_images(2, 32).double()
    targets = Targets(torch.tensor([0, 1, 1]), torch.tensor([3, 0, 6]))
    module = module.double().requires_grad_(False)

    def hook(layer: nn.Module, passed: tuple[Tensor, ...], arriving: tuple[Tensor, ...]) -> tuple[Tensor]:
        return ((passed if isinstance(method, GuidedBackprop) else arriving)[0].clamp(min=0),)

    for layer in module.modules():
        if isinstance(layer, nn.ReLU6):
            layer.inplace = False
            layer.register_full_backward_hook(hook)
    leaf = ((images - 0.5) / 0.25)[targets.image].requires_grad_()
    module(leaf).gather(1, targets.label[:, None]).sum().backward()
    assert leaf.grad is not None
    assert_close(attribute(method, network, images, targets).values, leaf.grad.sum(1), DOUBLE)


SPELLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "F.relu": F.relu,
    "F.relu inplace": lambda x: F.relu(x, inplace=True),
    "F.relu_": F.relu_,
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "Tensor.relu": lambda x: x.relu(),
    "Tensor.relu_": lambda x: x.relu_(),
}
NOT_REBOUND: dict[str, Callable[[Tensor], Tensor]] = {
    "F.relu inplace, not rebound": lambda x: (F.relu(x, inplace=True), x)[1],
    "Tensor.relu_, not rebound": lambda x: (x.relu_(), x)[1],
    "torch.relu by keyword": lambda x: torch.relu(input=x),
}
SPELLINGS6: dict[str, Callable[[Tensor], Tensor]] = {
    "F.relu6": F.relu6,
    "F.hardtanh": lambda x: F.hardtanh(x, 0, 6),
    "F.hardtanh keywords": lambda x: F.hardtanh(x, min_val=0.0, max_val=6.0),
    "nn.Hardtanh": nn.Hardtanh(0, 6),
}


@pytest.mark.parametrize("method", SUMS, ids=repr)
@pytest.mark.parametrize(
    ("spelling", "module"),
    [*((f, nn.ReLU()) for f in SPELLINGS.values()), *((f, nn.ReLU6()) for f in SPELLINGS6.values())],
    ids=[*SPELLINGS, *SPELLINGS6],
)
def test_every_spelling_of_a_relu(method: Attributor, spelling: Callable[[Tensor], Tensor], module: nn.Module) -> None:
    """Functional, in-place and method calls against the nn.ReLU / nn.ReLU6 module: bit-equal, the same arithmetic."""
    images, targets = 8 * random_images(2, 8).double(), Targets(torch.tensor([0, 1]), torch.tensor([1, 4]))
    maps = [attribute(method, bounded(OneConvolution(r)), images, targets).values for r in (spelling, module)]
    assert maps[0].abs().max() > 0
    assert torch.equal(maps[0], maps[1])


@pytest.mark.parametrize("method", SUMS, ids=repr)
@pytest.mark.parametrize("spelling", NOT_REBOUND.values(), ids=NOT_REBOUND)
def test_in_place_relus_that_are_not_rebound(method: Attributor, spelling: Callable[[Tensor], Tensor]) -> None:
    """The value that later code reads is the rectified one, as without the method: against nn.ReLU, bit-equal."""
    images, targets = 8 * random_images(2, 8).double(), Targets(torch.tensor([0, 1]), torch.tensor([1, 4]))
    maps = [attribute(method, bounded(OneConvolution(r)), images, targets).values for r in (spelling, nn.ReLU())]
    assert torch.equal(maps[0], maps[1])


# Invariants


def test_other_activations_keep_their_gradient() -> None:
    """hardtanh with a lower bound of -1 is no rectifier: before a ReLU, where gradients have both signs, its own
    gradient stays. Against the clamp written as minimum and maximum; float64, 1e-10."""
    targets, images = Targets(torch.tensor([0, 1]), torch.tensor([1, 4])), random_images(2, 8).double()

    def clamp(x: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(x, -torch.ones_like(x)), torch.ones_like(x))

    networks = [bounded(OneConvolution(rectify, nn.ReLU())) for rectify in (nn.Hardtanh(), clamp)]
    maps = [attribute(GuidedBackprop("sum"), network, images, targets).values for network in networks]
    assert_close(maps[0], maps[1], DOUBLE)


@pytest.mark.parametrize(("method", "name"), [(GuidedBackprop(), "guided_backprop"), (Deconvnet(), "deconvnet")])
def test_network_without_relus_is_an_error(method: Attributor, name: str) -> None:
    """A network of GELUs has nothing to guide: ValueError naming the method and the way out."""
    network = bounded(OneConvolution(F.gelu))
    target = Targets(torch.tensor([0]), torch.tensor([0]))
    with pytest.raises(ValueError, match=rf"{name} .* has none: use gradient"):
        attribute(method, network, random_images(1, 8).double(), target)


def test_guided_equals_gradient_where_nothing_is_negative(toy: Network, toy_image: Tensor) -> None:
    """With a head of positive weights no gradient is negative at the ReLU: guided = gradient, exactly; the deconvnet
    differs, since it also passes inactive units."""
    toy.module.get_parameter("fc.weight").abs_()
    gradient = attribute(Gradient("sum"), toy, toy_image, TOY_TARGETS).values
    assert torch.equal(attribute(GuidedBackprop("sum"), toy, toy_image, TOY_TARGETS).values, gradient)
    assert not torch.equal(attribute(Deconvnet("sum"), toy, toy_image, TOY_TARGETS).values, gradient)


@pytest.mark.parametrize("targets", [several_targets(), FEW_TARGETS], ids=["several", "few"])
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_pairs_of_a_batch_equal_one_at_a_time(tiny: Known, method: Attributor, targets: Targets) -> None:
    """Pairs of four images in one call (up to five an image, or none) against calls of one image and one target;
    float32, 1e-5."""
    together = attribute(method, tiny.network, tiny.images, targets).values
    assert_close(together, attribute_alone(method, tiny.network, tiny.images, targets), SINGLE)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_order_of_pairs(tiny64: Known, method: Attributor) -> None:
    """Permuting the pairs permutes the maps; float64, 1e-10."""
    targets, order = several_targets(), torch.randperm(9, generator=torch.Generator().manual_seed(1))
    permuted = attribute(method, tiny64.network, tiny64.images, Targets(*(value[order] for value in targets))).values
    assert_close(permuted, attribute(method, tiny64.network, tiny64.images, targets).values[order], DOUBLE)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_leaves_nothing_behind(tiny: Known, method: Attributor) -> None:
    """No hooks, gradients or graphs remain, images are untouched, the plain gradient is as before (exactly), and a
    pass costs 1F+1B an image."""
    before = attribute(Gradient(), tiny.network, tiny.images, tiny.targets).values
    images, tiny.network.passes = tiny.images.clone(), Passes()
    result = attribute(method, tiny.network, images, tiny.targets)
    assert tiny.network.passes == Passes(4, 4, 0)
    assert_nothing_left(tiny.network)
    assert torch.equal(images, tiny.images)
    assert not result.values.requires_grad
    assert result.values.shape == (4, 16, 16)
    assert torch.equal(attribute(Gradient(), tiny.network, tiny.images, tiny.targets).values, before)
