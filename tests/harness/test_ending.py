"""What a network ends in: the linear layer that makes the logits, with what is linear behind it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from assay.harness.detection import LinearHead
from assay.harness.detectors.features import linear_head
from assay.harness.forward import ForwardPass
from assay.harness.network import Network
from conftest import random_images
from torch import Tensor, nn


class Net(nn.Module):
    """Convolution, pool, `fc`; registered later: a projection head that makes no logits, a temperature, a prior."""

    def __init__(self, end: Callable[["Net", Tensor, Tensor], Tensor], classes: int = 3) -> None:
        super().__init__()
        self.conv, self.fc, self.end = nn.Conv2d(3, 6, 3), nn.Linear(6, classes), end
        self.projector, self.tail = nn.Linear(6, 3), nn.Sequential(nn.Dropout(), nn.Identity(), nn.Flatten())
        self.temperature, self.prior = nn.Parameter(torch.tensor(1.7)), nn.Parameter(torch.tensor([0.1, -2, 3]))

    def forward(self, x: Tensor) -> Tensor:
        features = self.conv(x).relu().mean((2, 3))
        return self.end(self, self.fc(features), features)


def network(end: Callable[[Net, Tensor, Tensor], Tensor], classes: int = 3, **more: Any) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Network(Net(end, classes), (0,) * 3, (1,) * 3, **more).to(dtype=torch.float64)


LINEAR: dict[str, Callable[[Net, Tensor, Tensor], Tensor]] = {
    "projector": lambda net, z, a: z,
    "temperature": lambda net, z, a: z / 2.0,
    "learned temperature": lambda net, z, a: z.div(net.temperature.exp()),
    "scale": lambda net, z, a: torch.mul(net.prior, -z),
    "prior": lambda net, z, a: 3 - (z + net.prior),
    "modules": lambda net, z, a: net.tail(z),
    "shapes": lambda net, z, a: F.dropout(z, 0.5, net.training).view(z.size(0), -1).unsqueeze(2).squeeze(2),
    "order": lambda net, z, a: torch.stack([z[:, 2], z[:, 0], z[:, 1]], 1).contiguous(),
    "sums": lambda net, z, a: torch.cat([z[:, :1] - z[:, 1:2], 2 * z], 1),
    "ones": lambda net, z, a: z + torch.ones(3, dtype=torch.float64),
    "again": lambda net, z, a: F.linear(z, net.prior.diag() + 1),
}


@pytest.mark.parametrize("kind", LINEAR)
def test_the_head_is_what_makes_the_logits(kind: str) -> None:
    """Penultimate features are the input of `fc`, and the head's weights with them give a batch's logits; 1e-12."""
    made = network(LINEAR[kind])
    images = random_images(5, 8).double()
    head, forward = linear_head(made, images[0]), ForwardPass(made, images, penultimate=True)
    assert head is not None
    expected = made.module.get_submodule("conv")(images).relu().mean((2, 3))
    assert torch.equal(forward.penultimate, expected)
    assert torch.allclose(head(forward.penultimate), made.module(images), atol=1e-12, rtol=1e-12)


def test_one_logit_as_two_classes() -> None:
    """[-z, z]: the second class has the layer's weights, the first their negatives; float64, 1e-12."""
    made = network(LINEAR["projector"], 1, activation="binary")
    head = linear_head(made, random_images(1, 8).double()[0])
    fc = made.module.get_submodule("fc")
    assert isinstance(head, LinearHead) and isinstance(fc, nn.Linear)
    assert torch.allclose(head.weight, torch.cat([-fc.weight, fc.weight]), atol=1e-12)
    assert torch.allclose(head.bias, torch.cat([-fc.bias, fc.bias]), atol=1e-12)


@pytest.mark.parametrize(
    "end",
    [
        lambda net, z, a: z.softmax(1),
        lambda net, z, a: z * z,
        lambda net, z, a: 1 / z,
        lambda net, z, a: z * a.mean(1, keepdim=True),
        lambda net, z, a: z / z.norm(),
        lambda net, z, a: a[:, :3],
    ],
    ids=["softmax", "square", "inverse", "gate", "norm", "without"],
)
def test_what_is_not_linear_has_no_head(end: Callable[[Net, Tensor, Tensor], Tensor]) -> None:
    """A function of the logits, or of other values of the image beside them."""
    assert linear_head(network(end), random_images(1, 8).double()[0]) is None


def test_without_a_graph_the_layer_registered_last_is_tried() -> None:
    """A module that cannot be traced: the head where that layer makes the logits, none where it does not."""

    def looping(net: Net, z: Tensor, a: Tensor) -> Tensor:
        return net.projector(a) if float(z.sum()) < 1e9 else z

    image = random_images(1, 8).double()[0]
    head = linear_head(network(looping), image)
    assert head is not None and torch.equal(head.weight, network(looping).module.get_parameter("projector.weight"))
    assert linear_head(network(lambda net, z, a: z if float(z.sum()) < 1e9 else a), image) is None


def test_the_head_follows_the_network_to_another_type() -> None:
    """A learned temperature in float32 after float64: weights of that type."""
    made = network(LINEAR["learned temperature"])
    image = random_images(1, 8)[0]
    assert linear_head(made, image.double()) is not None
    head = linear_head(made.to(dtype=torch.float32), image)
    assert head is not None and head.weight.dtype == head.bias.dtype == torch.float32
