"""Conductance of the predicted class: a reading against its floor and captum; ResNet-20 at 32 px, ResNet-18 at 224 px.

Weights are random. The last block's floor is one forward pass; an inner layer's n + 1 runs as far as the layer without
gradients and n runs of what follows with its gradient, written for the network by hand. captum's LayerConductance, run
from the image to the baseline, is minus the same numbers (its rule is the left one).
"""

from collections.abc import Callable, Iterator

import pandas as pd
import torch
from assay.harness.forward import ForwardPass
from assay.harness.network import Network
from assay.harness.networks.cifar import CifarResNet
from assay.harness.networks.loading import torchvision_network
from assay.harness.seeds import SampleRng
from assay.methods.error.units import Conductance
from captum.attr import LayerConductance
from torch import Tensor, nn

from bench.timing import race

STEPS = 10


def tasks() -> Iterator[pd.DataFrame]:
    """Last block and an inner layer of each network."""
    torch.manual_seed(0)
    small = Network(CifarResNet(20).eval(), (0.5,) * 3, (0.25,) * 3)
    large = torchvision_network("resnet18", weights=None)
    for name, network, images in (("resnet20", small, torch.rand(50, 3, 32, 32)), ("resnet18", large, _large())):
        stages = [each for each, _ in network.module.named_children() if each.startswith("layer")]
        yield _race(f"conductance {name} {stages[-1]}, 1 F", network, images, stages[-1], _forward(network, images))
        floor = _stepped(network, images, stages[-2])
        yield _race(f"conductance {name} {stages[-2]}, n={STEPS}", network, images, stages[-2], floor)


def _large() -> Tensor:
    return torch.rand(16, 3, 224, 224)


def _race(task: str, network: Network, images: Tensor, layer: str, floor: Callable[[], Tensor]) -> pd.DataFrame:
    """At equal numbers."""
    ours, peer = _ours(network, images, layer), _captum(network, images, layer)
    found, expected = ours(), peer()
    assert torch.allclose(found, expected, atol=1e-3 * float(expected.abs().max())), "not the same conductance"
    return race(task, {"floor": floor, "assay": ours, "captum": peer}, 3)


def _ours(network: Network, images: Tensor, layer: str) -> Callable[[], Tensor]:
    """From images to conductance, the forward pass included."""
    reading, rng = Conductance(layer, steps=STEPS), SampleRng(0, "bench", [], [])
    return lambda: reading.read(ForwardPass(network, images, (layer,)), rng, {})


def _captum(network: Network, images: Tensor, layer: str) -> Callable[[], Tensor]:
    """With the pass that says which class is predicted; in parts of as many images as ours."""
    oracle = LayerConductance(network.module, network.module.get_submodule(layer))

    def run() -> Tensor:
        inputs = network.normalise(images)
        with torch.no_grad():
            labels = network.module(inputs).argmax(1)
        values = oracle.attribute(
            torch.zeros_like(inputs), inputs, labels, n_steps=STEPS, method="riemann_trapezoid",
            internal_batch_size=len(inputs),
        )  # fmt: skip
        return -values.flatten(2).sum(2)

    return run


def _forward(network: Network, images: Tensor) -> Callable[[], Tensor]:
    inputs = network.normalise(images)

    def run() -> Tensor:
        with torch.no_grad():
            made: Tensor = network.module(inputs)
        return made

    return run


def _parts(module: nn.Module, layer: str) -> tuple[nn.Sequential, nn.Sequential]:
    """A ResNet up to a stage, and from there to the logits."""
    children = dict(module.named_children())
    names = [each for each in children if each not in ("avgpool", "fc", "linear")]
    cut = names.index(layer) + 1
    last = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), children.get("fc") or children["linear"]]
    return nn.Sequential(*map(children.get, names[:cut])), nn.Sequential(*map(children.get, names[cut:]), *last)


def _stepped(network: Network, images: Tensor, layer: str) -> Callable[[], Tensor]:
    prefix, suffix = _parts(network.module, layer)
    inputs = network.normalise(images)

    def run() -> Tensor:
        with torch.no_grad():
            labels = suffix(prefix(inputs)).argmax(1)
        before, total = prefix(torch.zeros_like(inputs[:1])), torch.zeros(1)
        for step in range(1, STEPS + 1):
            with torch.no_grad():
                after = prefix(step / STEPS * inputs)
            leaf = after.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(suffix(leaf).gather(1, labels[:, None]).sum(), leaf)
            total = total + (gradient * (after - before)).sum((2, 3))
            before = after
        return total

    return run
