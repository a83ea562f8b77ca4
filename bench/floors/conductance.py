"""Conductance of the predicted class. The last block's floor is one forward pass; an inner layer's, n + 1 runs as far
as the layer without gradients and n runs of what follows with its gradient, written for the network by hand."""

from collections.abc import Callable

import torch
from assay.harness.detectors.features import features_of, head_of
from assay.harness.forward import ForwardPass
from assay.harness.network import Network
from assay.harness.seeds import SampleRng
from assay.methods.error.units import Conductance, conductance_linear_head
from torch import Tensor, nn

from bench.floors.subject import Runs

STEPS = 10


def closed(network: Network, images: Tensor, layer: str) -> Runs:
    """Of a layer behind which the network is linear, by its name and as what the last layer reads."""
    made: Runs = {"floor: 1F": _forward(network, images), "assay, layer: null": _pooled(network, images)}
    return made | {f"assay, layer: {layer}": ours(network, images, layer)}


def stepped(network: Network, images: Tensor, layer: str) -> Runs:
    """Of an inner layer of a ResNet."""
    floor: Runs = {f"floor: {STEPS + 1} prefixes + {STEPS} suffixes F+B": _stepped(network, images, layer)}
    return floor | {f"assay, layer: {layer}": ours(network, images, layer)}


def ours(network: Network, images: Tensor, layer: str) -> Callable[[], Tensor]:
    """From images to conductance, the forward pass included."""
    reading, rng = Conductance(layer, steps=STEPS), SampleRng(0, "bench", [], [])
    return lambda: reading.read(ForwardPass(network, images, (layer,)), rng, {})


def _pooled(network: Network, images: Tensor) -> Callable[[], Tensor]:
    """From images to the conductance of penultimate features; those of the baseline are made once a fit."""
    zero = network.mean.expand(1, 3, *images.shape[2:])
    baseline = ForwardPass(network, zero, penultimate=True).penultimate

    def run() -> Tensor:
        forward = ForwardPass(network, images, penultimate=True)
        return conductance_linear_head(features_of(forward, head_of(forward), ()), baseline)

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
        before, total = prefix(torch.zeros_like(inputs[:1])), inputs.new_zeros(1)
        for step in range(1, STEPS + 1):
            with torch.no_grad():
                after = prefix(step / STEPS * inputs)
            leaf = after.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(suffix(leaf).gather(1, labels[:, None]).sum(), leaf)
            total = total + (gradient * (after - before)).sum((2, 3))
            before = after
        return total

    return run
