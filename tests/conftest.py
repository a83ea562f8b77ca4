"""Networks with known answers and a few helpers, shared by all tests.

This is the tests' only conftest, so its names can be imported: `from conftest import attribute`.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from assay.harness.config import LIST_GROUPS, RunConfig, groups
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.network import Network
from assay.harness.overrides import compose_config
from assay.harness.seeds import SampleRng
from assay.harness.types import Attribution, Attributor, Sample
from numpy.typing import NDArray
from torch import Tensor, nn

GOLDEN = Path(__file__).parent / "golden"

torch.set_num_threads(1)
torch.manual_seed(0)  # networks of random weights that tests make when they are collected


def golden(name: str) -> dict[str, NDArray]:
    """Arrays of tests/golden/<name>.npz: outputs of the authors' own code."""
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file}


# Networks


class ToyModule(nn.Module):
    """Two pixels, two hidden channels, two classes; every number in the tests' arithmetic is a small integer.

    Input x [B,3,1,2] -> z_k = w_k . x at each pixel, w_0 = (1,1,0), w_1 = (0,-1,1) -> A = relu(z) [B,2,1,2]
    -> logits = V A, over A flattened as (A_0a, A_0b, A_1a, A_1b): V_0 = (1,2,-1,-2), V_1 = (-1,1,3,1).
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1, bias=False)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(4, 2, bias=False)
        self.conv.weight.data = torch.tensor([[1.0, 1, 0], [0, -1, 1]]).view(2, 3, 1, 1)
        self.fc.weight.data = torch.tensor([[1.0, 2, -1, -2], [-1, 1, 3, 1]])

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.relu(self.conv(x)), 1))


TOY_INPUT = torch.tensor([[1.0, 0], [2, -1], [-1, 3]]).view(1, 3, 1, 2)  # pixel a = (1,2,-1), pixel b = (0,-1,3)
TOY_TARGETS = Targets(torch.tensor([0, 0]), torch.tensor([0, 1]))  # both classes of the one image


class TinyVGG(nn.Module):
    """The golden files' VGG: four 3x3 convolutions, two max-pools, average pool to 2x2, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(12, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Sequential(nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions with batch-norm, and a shortcut."""

    def __init__(self, inputs: int, stride: int, project: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, stride, 1, bias=False), nn.BatchNorm2d(4)
        self.conv3, self.bn3 = nn.Conv2d(4, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.relu1, self.relu2, self.relu3 = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.downsample: nn.Module | None = None
        if project:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, 16, 1, stride, bias=False), nn.BatchNorm2d(16))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        return self.relu3(self.bn3(self.conv3(out)) + shortcut)


class TinyResNet(nn.Module):
    """The golden files' ResNet: a stem, two bottlenecks, global average pooling, one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        self.layer1 = nn.Sequential(Bottleneck(8, 2, True), Bottleneck(16, 1, False))
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer1(self.relu(self.bn1(self.conv1(x)))).mean((2, 3)))


class Known(NamedTuple):
    """A network, four images [4,3,16,16] that are already normalised (mean 0, std 1), their logits and targets."""

    network: Network
    images: Tensor
    logits: Tensor
    targets: Targets
    layer: str  # the last convolutional block's output


def known(name: str, dtype: torch.dtype = torch.float32) -> Known:
    """A golden network by its file's name, tiny_vgg or tiny_resnet, in a floating-point type."""
    arrays = {key: torch.from_numpy(value) for key, value in golden(name).items()}
    module = {"tiny_vgg": TinyVGG, "tiny_resnet": TinyResNet}[name]()
    state = {key.removeprefix("sd."): value for key, value in arrays.items() if key.startswith("sd.")}
    unread = module.load_state_dict(state, strict=False)
    assert not unread.unexpected_keys
    assert all(key.endswith("num_batches_tracked") for key in unread.missing_keys)
    network = Network(module, (0, 0, 0), (1, 1, 1)).to(dtype=dtype)
    targets = Targets(torch.arange(4), arrays["targets"])
    layer = {"tiny_vgg": "features.8", "tiny_resnet": "layer1"}[name]
    return Known(network, arrays["x"].to(dtype), arrays["logits"].to(dtype), targets, layer)


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    """What a test draws without a seed of its own is the same in any order, on any worker."""
    torch.manual_seed(0)


@pytest.fixture
def toy() -> Network:
    """ToyModule with mean 0.5 and standard deviation 1/8: exact in binary, so toy results have no rounding."""
    return Network(ToyModule(), (0.5,) * 3, (0.125,) * 3)


@pytest.fixture
def toy_image() -> Tensor:
    """The image in [0,1] whose normalised form is TOY_INPUT."""
    return TOY_INPUT / 8 + 0.5


@pytest.fixture(params=["tiny_vgg", "tiny_resnet"])
def tiny(request: pytest.FixtureRequest) -> Known:
    """Each golden network in float32."""
    return known(request.param)


@pytest.fixture(params=["tiny_vgg", "tiny_resnet"])
def tiny64(request: pytest.FixtureRequest) -> Known:
    """Each golden network in float64."""
    return known(request.param, torch.float64)


@lru_cache(maxsize=2)
def _drawn(name: str, seed: int) -> nn.Module:
    """As `torchvision_module` gives it, kept for tests that follow each other: to draw it takes up to 2 s."""
    from torchvision import models

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = models.get_model(name, weights=None, num_classes=7).eval()
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                assert layer.running_mean is not None
                assert layer.running_var is not None
                layer.running_mean.uniform_(-0.2, 0.2)
                layer.running_var.uniform_(0.5, 2)
    return module


def torchvision_module(name: str, seed: int = 0) -> nn.Module:
    """A torchvision classifier with seeded random weights and batch-norm statistics that are not trivial."""
    return copy.deepcopy(_drawn(name, seed))


def random_images(count: int, side: int, seed: int = 0) -> Tensor:
    """Uniform images in [0,1]: [count,3,side,side]."""
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


# Helpers


@cache
def every_choice(group: str) -> RunConfig:
    """The default config with all choices of a group that takes a list (ood, method, metric, sink)."""
    return compose_config([f"{group}=[{','.join(groups()[group])}]"])


@cache
def alone(group: str, choice: str) -> RunConfig:
    """The default config with one choice; Hydra takes a fifth of a second for each.

    Of a list, taken out of all of them: test_config.py says that no choice refers to another or merges into it.
    """
    if group not in LIST_GROUPS:
        return compose_config([f"{group}={choice}"])
    every = every_choice(group)
    chosen: dict[str, Any] = {group: {choice: getattr(every, group)[choice]}}
    return replace(every, **chosen)


def forward_pass(network: Network, images: Tensor, method: Attributor, max_rows: int | None = None) -> ForwardPass:
    """The shared forward pass with all that one method needs."""
    needs = method.needs()
    return ForwardPass(network, images, needs.layers, needs.input_graph, max_rows)


def sample_rng(targets: Targets, count: int, first: int = 0, seed: int = 0) -> SampleRng:
    """Generators of images named image<first>, image<first+1>, ... and of their pairs."""
    names = [f"image{first + row}" for row in range(count)]
    pairs = zip(targets.image.tolist(), targets.label.tolist(), strict=True)
    return SampleRng(seed, "test", names, [f"{names[row]}#{label}" for row, label in pairs])


def attribute(
    method: Attributor,
    network: Network,
    images: Tensor,
    targets: Targets,
    first: int = 0,
    max_rows: int | None = None,
    seed: int = 0,
) -> Attribution:
    """One method's maps; `first` numbers the images, whose names seed random methods."""
    rng = sample_rng(targets, len(images), first, seed)
    return method.attribute(forward_pass(network, images, method, max_rows), targets, rng)


def attribute_alone(method: Attributor, network: Network, images: Tensor, targets: Targets) -> Tensor:
    """Each pair in a call of its own, with a batch of its own image: [P,h,w]."""
    maps = []
    for row, label in zip(targets.image.tolist(), targets.label.tolist(), strict=True):
        target = Targets(torch.tensor([0]), torch.tensor([label]))
        maps.append(attribute(method, network, images[row : row + 1], target, first=row).values)
    return torch.cat(maps)


def several_targets(classes: int = 5) -> Targets:
    """Nine pairs of four images, in no order: image 0 has one class, image 1 two, image 2 all, image 3 one."""
    image = torch.tensor([2, 1, 2, 0, 2, 3, 2, 1, 2])
    return Targets(image, torch.tensor([4, 0, 1, 3, 0, 2, 3, 1, 2]) % classes)


FEW_TARGETS = Targets(torch.tensor([3, 1]), torch.tensor([0, 2]))  # images 0 and 2 have no pair


def worst_difference(actual: Tensor, expected: Tensor) -> float:
    """max |actual - expected| / max |expected| of each row (map or vector), the worst row."""
    assert actual.shape == expected.shape, f"{list(actual.shape)} != {list(expected.shape)}"
    actual, expected = (value.detach().double().flatten(1) for value in (actual, expected))
    scale = expected.abs().amax(1).clamp(min=1e-30)
    return float(((actual - expected).abs().amax(1) / scale).max())


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """`worst_difference` is at most the tolerance."""
    difference = worst_difference(actual, expected)
    assert difference <= tolerance, f"relative difference {difference:.3g} is above {tolerance:g}"


def assert_nothing_left(network: Network) -> None:
    """No hook, gradient or graph stays on the module after a call."""
    for layer in network.module.modules():
        assert not layer._forward_hooks
        assert not layer._forward_pre_hooks
        assert not layer._backward_hooks
        assert not layer._backward_pre_hooks
    for parameter in network.module.parameters():
        assert parameter.grad is None
        assert not parameter.requires_grad


def sample(
    name: str,
    size: tuple[int, int],
    boxes: Mapping[int, Sequence[Sequence[float]]],
    difficult: dict[int, bool] | None = None,
    mask: Tensor | dict[int, Tensor] | None = None,
    ignore: Tensor | None = None,
) -> Sample:
    """A grey 4x4 image with boxes in a frame of the given (height, width); its targets are the boxes' classes."""
    return Sample(
        name,
        torch.full((3, 4, 4), 0.5),
        tuple(boxes),
        size,
        boxes={label: torch.tensor(rows, dtype=torch.float32).view(-1, 4) for label, rows in boxes.items()},
        mask=mask,
        ignore=ignore,
        difficult=difficult or {},
    )
