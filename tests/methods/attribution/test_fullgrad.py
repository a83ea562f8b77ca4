"""FullGrad: completeness on every network, by hand, pytorch-grad-cam's map, and what is refused.

Completeness: the parts (x df/dx, and b df/db of every bias, batch-norms' too) sum to the logit, to 1e-9 in float64.
"""

import pytest
import torch
import torch.nn.functional as F
from assay.harness.build import build
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.network import Network
from assay.methods.attribution.fullgrad import FullGrad
from assay.methods.attribution.relevance.engine import Tape
from assay.methods.attribution.relevance.operations import Operation, UnsupportedOp
from conftest import (
    TOY_INPUT,
    TOY_TARGETS,
    Known,
    ToyModule,
    alone,
    assert_close,
    attribute,
    known,
    random_images,
    torchvision_module,
)
from torch import Tensor, nn

pytestmark = pytest.mark.filterwarnings("ignore:The default weight initialization")
COMPLETE = 1e-9
SIGNED = FullGrad(absolute=False, rescale="none")


def sums(network: Network, images: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
    """Sum of all parts and the logit, [B] each; one class an image."""
    tape = Tape.record(ForwardPass(network, images), batch_norm="apart")
    one_hot = torch.zeros_like(tape.logits)
    one_hot[targets.image, targets.label] = 1
    return FullGrad().summed(tape, one_hot).total, (tape.logits.detach() * one_hot).sum(1)


def assert_complete(network: Network, images: Tensor, targets: Targets) -> None:
    total, logits = sums(network, images, targets)
    assert float(((total - logits) / logits).abs().max()) < COMPLETE


# Completeness


def test_completeness_of_the_tiny_networks(tiny64: Known) -> None:
    """Biases of convolutions, linear layers and batch-norms."""
    assert_complete(tiny64.network, tiny64.images, tiny64.targets)


TORCHVISION = [
    *("resnet18", "squeezenet1_1"),
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("densenet121", "mobilenet_v2", "googlenet")),
]


@pytest.mark.parametrize("name", TORCHVISION)
def test_completeness_of_torchvision(name: str) -> None:
    """Random weights; batch-norms after ReLUs and concatenations (DenseNet), ReLU6's implicit biases (MobileNetV2)."""
    network = Network(torchvision_module(name), (0.5,) * 3, (0.25,) * 3).to(dtype=torch.float64)
    assert_complete(network, random_images(2, 64).double(), Targets(torch.arange(2), torch.tensor([1, 3])))


class Spelled(nn.Module):
    """Constants in every spelling, activations with implicit biases, maxima of two."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.c1, self.c2, self.fc = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Linear(6, 5)
            self.norm = nn.BatchNorm2d(6)
            nn.init.uniform_(self.norm.bias, -0.5, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardtanh(self.norm(F.gelu(self.c1(2 * x - 0.3))), -0.4, 0.9) + 0.2
        x = torch.maximum(F.silu(self.c2(x)), 0.5 - F.leaky_relu(self.c2(-x)))
        x = torch.maximum(x, torch.full_like(x, 0.1)) / 3
        return self.fc(F.elu(x.mean((2, 3)), inplace=True)).mul_(2).sub_(0.7)


def test_completeness_of_constants_and_smooth_activations() -> None:
    """Whatever the spelling, in place or not; every kind of operation that has parts is there."""
    network = Network(Spelled(), (0.5,) * 3, (0.25,) * 3).to(dtype=torch.float64)
    images, targets = random_images(3, 9).double(), Targets(torch.arange(3), torch.tensor([0, 4, 2]))
    assert_complete(network, images, targets)
    tape = Tape.record(ForwardPass(network, images), batch_norm="apart")
    kinds: set[str] = set()
    tape.pull(None, tape.logits, torch.eye(5).double()[targets.label], tape.inputs, lambda op, g: kinds.add(op.kind))
    assert kinds == {"affine", "norm", "shift", "activation", "winner", "pool"}


class Positions(nn.Module):
    """Logits of several positions, joined as the pointing game's networks do."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.c1, self.c2 = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c2(self.c1(x).relu()).logsumexp((2, 3))


def test_completeness_of_logits_of_several_positions() -> None:
    """logsumexp adds its weights' entropy, which has no place."""
    network = Network(Positions(), (0.5,) * 3, (0.25,) * 3).to(dtype=torch.float64)
    assert_complete(network, random_images(2, 8).double(), Targets(torch.arange(2), torch.tensor([0, 3])))


def test_gradient_of_a_tape_is_the_gradient(tiny64: Known) -> None:
    """At the input and at every operation, whether constants are merged or apart: autograd's own; 1e-10."""
    image, label = tiny64.images[:1], tiny64.targets.label[:1]
    leaf = image.clone().requires_grad_()
    (expected,) = torch.autograd.grad(tiny64.network(leaf)[0, label], leaf)
    for constants in ("apart", "fold", "pass"):
        tape = Tape.record(ForwardPass(tiny64.network, image), batch_norm=constants)
        start = torch.eye(5).double()[label]
        assert_close(tape.pull(None, tape.logits, start, tape.inputs), expected, 1e-10)


# By hand


@pytest.fixture
def biased() -> Network:
    """The toy with biases (1, -1) in the convolution: A = (4, 0) and (0, 3), so y_0 = 4 - 6."""
    module = ToyModule()
    module.conv.bias = nn.Parameter(torch.tensor([1.0, -1.0]))
    return Network(module, (0.0,) * 3, (1.0,) * 3)


def test_parts_by_hand(biased: Network) -> None:
    """Class 0 at pixels a and b, signed: x df/dx = 1 (1 + 2) and -2 (1 + 3), b df/db = 1 and -2 (-1); exact."""
    values = attribute(SIGNED, biased, TOY_INPUT, TOY_TARGETS).values
    assert values[0].tolist() == [[3 + 1, -8 + 2]]
    assert float(values[0].sum()) == float(biased(TOY_INPUT)[0, 0]) == -2


def test_map_by_hand(biased: Network) -> None:
    """|x df/dx| = (1, 2, 0) and (0, 2, 6) over 6, |b df/db| = (1, 0) and (0, 2) over 2; each channel by itself: over 1,
    2 and 6, and over 1 and 2; exact up to a rounding."""
    image = attribute(FullGrad(), biased, TOY_INPUT, TOY_TARGETS).values[0]
    assert_close(image, torch.tensor([[3 / 6 + 1 / 2, 8 / 6 + 2 / 2]]), 1e-6)
    channel = attribute(FullGrad(rescale="channel"), biased, TOY_INPUT, TOY_TARGETS).values[0]
    assert_close(channel, torch.tensor([[1.0 + 0 + 0 + 1, 0 + 0 + 1 + 1]]), 1e-6)


# An oracle


@pytest.mark.slow
def test_pytorch_grad_cam() -> None:
    """Its FullGrad of the tiny VGG, whose parts are scaled channel by channel and resized by cv2; min-max scaled at the
    end: 1e-5. It explains 1e6 times the logit, beside which the 1e-7 that it adds to each maximum is nothing. (On the
    residual network it pairs biases and gradients in different orders, and stops.)
    """
    peer = pytest.importorskip("pytorch_grad_cam")
    tiny = known("tiny_vgg")
    module = known("tiny_vgg").network.module.requires_grad_(True)
    chosen = [lambda output, label=int(label): 1e6 * output[label] for label in tiny.targets.label]
    with peer.FullGrad(module, []) as theirs:
        expected = torch.from_numpy(theirs(tiny.images.clone(), chosen))
    method = FullGrad(rescale="channel", align_corners=False)
    ours = attribute(method, tiny.network, tiny.images, tiny.targets).values
    low, high = ours.amin((1, 2), keepdim=True), ours.amax((1, 2), keepdim=True)
    assert_close((ours - low) / (high - low), expected.view_as(ours), 1e-5)


# What is refused


class Ended(nn.Module):
    """A convolution, an operation, a mean over positions."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv, self.middle, self.head = nn.Conv2d(3, 4, 3), middle, nn.LazyConv2d(5, 1)
            self.head(self.middle(self.conv(torch.zeros(1, 3, 8, 8))))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.conv(x))).mean((2, 3))


class Gated(nn.Module):
    """x sigmoid(x), a product of two activations."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


class WithConstant(nn.Module):
    """Channels of ones, as coordinates would be."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, 5 * torch.ones_like(x.detach())], 1)


@pytest.mark.parametrize(
    ("middle", "name"),
    [
        (Gated(), "mul"),
        (nn.GroupNorm(2, 4), "group_norm"),
        (nn.LocalResponseNorm(3), "local_response_norm"),
        (nn.Softplus(), "softplus"),
    ],
    ids=["a gate", "group-norm", "local response normalisation", "softplus"],
)
def test_operations_without_a_bias_of_their_own(middle: nn.Module, name: str) -> None:
    """UnsupportedOp names the operation."""
    with pytest.raises(UnsupportedOp, match=f"the network calls '{name}'"):
        attribute(FullGrad(), Network(Ended(middle), (0.5,) * 3, (0.25,) * 3), random_images(1, 8), TOY_TARGETS)


def test_constants_that_are_no_biases() -> None:
    """A concatenation with numbers: the parts do not sum to the logit, ValueError with both."""
    network = Network(Ended(WithConstant()), (0.5,) * 3, (0.25,) * 3)
    with pytest.raises(ValueError, match=r"parts sum to .* and the logit is .*: the network adds constants"):
        attribute(FullGrad(), network, random_images(1, 8), TOY_TARGETS)


def test_settings() -> None:
    """The choice is checked; the config is the published code's."""
    with pytest.raises(ValueError, match="rescale='batch': choose one of image, channel, none"):
        FullGrad(rescale="batch")  # type: ignore[arg-type]
    assert build(alone("method", "fullgrad").method["fullgrad"]) == FullGrad(True, "image", True)


def test_a_network_without_biases() -> None:
    """The map is psi(x df/dx) alone."""
    network = Network(ToyModule(), (0.0,) * 3, (1.0,) * 3)
    seen: list[Operation] = []
    tape = Tape.record(ForwardPass(network, TOY_INPUT), batch_norm="apart")
    tape.pull(None, tape.logits, torch.eye(2)[:1], tape.inputs, lambda op, gradient: seen.append(op))
    assert [op.name for op in seen] == ["linear", "relu", "conv2d"]
    values = attribute(FullGrad(), network, TOY_INPUT, TOY_TARGETS).values[0]
    assert_close(values, torch.tensor([[3 / 6, 8 / 6]]), 1e-6)
