"""Conductance of the predicted class against its floor and captum; ResNet-20 at 32 px, ResNet-18 at 224 px.

Weights are random. The last block's floor is one forward pass; an inner layer's n + 1 runs as far as the layer without
gradients and n runs of what follows with its gradient, written for the network by hand. captum's LayerConductance, run
from the image to the baseline, is minus the same numbers (its rule is the left one).
"""

from collections.abc import Callable, Iterator

import pandas as pd
import torch
from assay.harness.detectors.features import features_of, head_of
from assay.harness.forward import ForwardPass
from assay.harness.network import Network
from assay.harness.networks.cifar import CifarResNet
from assay.harness.networks.loading import torchvision_network
from assay.harness.seeds import SampleRng
from assay.methods.error.units import Conductance, conductance_linear_head
from captum.attr import LayerConductance
from torch import Tensor, nn

from bench.timing import race

STEPS = 10


def tasks() -> Iterator[pd.DataFrame]:
    """The last block and an inner layer of each network; captum takes minutes on the larger: one round."""
    torch.manual_seed(0)
    small = Network(CifarResNet(20).eval(), (0.5,) * 3, (0.25,) * 3)
    yield from _of(small, "resnet20", torch.rand(50, 3, 32, 32), torch.rand(50, 3, 32, 32), 3)
    large = torchvision_network("resnet18", weights=None)
    yield from _of(large, "resnet18", torch.rand(32, 3, 224, 224), torch.rand(8, 3, 224, 224), 1)


def _of(network: Network, name: str, many: Tensor, few: Tensor, rounds: int) -> Iterator[pd.DataFrame]:
    *_, inner, last = (each for each, _ in network.module.named_children() if each.startswith("layer"))
    contestants = {"floor: 1F": _forward(network, many), "assay, layer: null": _pooled(network, many)}
    yield _race(f"conductance {name} {last}", contestants, network, many, last, rounds)
    contestants = {f"floor: {STEPS + 1} prefixes + {STEPS} suffixes F+B": _stepped(network, few, inner)}
    yield _race(f"conductance {name} {inner}, n={STEPS}", contestants, network, few, inner, rounds)


def _race(
    task: str, contestants: dict[str, Callable[[], Tensor]], network: Network, images: Tensor, layer: str, rounds: int
) -> pd.DataFrame:
    """At equal numbers."""
    ours, peer = _ours(network, images, layer), _captum(network, images, layer)
    found, expected = ours(), peer()
    assert torch.allclose(found, expected, atol=1e-3 * expected.abs().max().item()), "not the same conductance"
    return race(task, {**contestants, f"assay, layer: {layer}": ours, "captum": peer}, rounds)


def _pooled(network: Network, images: Tensor) -> Callable[[], Tensor]:
    """From images to the conductance of penultimate features; those of the baseline are made once a fit."""
    zero = network.mean.expand(1, 3, *images.shape[2:])
    baseline = ForwardPass(network, zero, penultimate=True).penultimate

    def run() -> Tensor:
        forward = ForwardPass(network, images, penultimate=True)
        return conductance_linear_head(features_of(forward, head_of(forward), ()), baseline)

    return run


def _ours(network: Network, images: Tensor, layer: str) -> Callable[[], Tensor]:
    """From images to conductance, the forward pass included."""
    reading, rng = Conductance(layer, steps=STEPS), SampleRng(0, "bench", [], [])
    return lambda: reading.read(ForwardPass(network, images, (layer,)), rng, {})


def _captum(network: Network, images: Tensor, layer: str) -> Callable[[], Tensor]:
    """With the pass that says which class is predicted; in parts of twice as many images as ours."""
    oracle = LayerConductance(network.module, network.module.get_submodule(layer))

    def run() -> Tensor:
        inputs = network.normalise(images)
        with torch.no_grad():
            labels = network.module(inputs).argmax(1)
        values = oracle.attribute(
            torch.zeros_like(inputs), inputs, labels, n_steps=STEPS, method="riemann_trapezoid",
            internal_batch_size=2 * len(inputs),  # the least that it takes
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
    before, after = names[: (cut := names.index(layer) + 1)], names[cut:]
    last = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), children["fc" if "fc" in children else "linear"]]
    return nn.Sequential(*(children[name] for name in before)), nn.Sequential(
        *(children[name] for name in after), *last
    )


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
