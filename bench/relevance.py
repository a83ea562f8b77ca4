"""Relevance methods on ResNet-50 and VGG16 at 224 px: floor, ours, Zennit.

The floor of a method is what no implementation of its rule avoids: the forward pass, and for each layer the
convolutions of the rule (its denominators, and as many transposed convolutions), on tensors of the right shapes and
nothing else: no activation, pool, sum, norm, product or memory for a graph.
"""

from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any, NamedTuple

import pandas as pd
import torch
import torch.nn.grad
from assay.harness.heads import Targets
from assay.harness.network import Network
from assay.harness.networks.loading import torchvision_network
from assay.methods.attribution.fullgrad import FullGrad
from assay.methods.attribution.relevance.agf import AGF
from assay.methods.attribution.relevance.excitation import ContrastiveEB, ExcitationBackprop
from assay.methods.attribution.relevance.hedge import GradientHedge
from assay.methods.attribution.relevance.lrp import LRP
from assay.methods.attribution.relevance.rap import RAP
from assay.methods.attribution.relevance.relevance_cam import RelevanceCAM
from assay.methods.attribution.relevance.rsp import RSP
from assay.methods.attribution.relevance.rules import AlphaBeta, Epsilon
from torch import Tensor, nn
from zennit.composites import EpsilonPlus
from zennit.torchvision import ResNetCanonizer, VGGCanonizer

from bench.attribution import BATCH, _no_inplace, _Ours
from bench.timing import race


class Case(NamedTuple):
    """A network, its canonizer for Zennit, and the layers that methods stop or start at."""

    architecture: str
    canonizer: type
    target: str
    saliency: str
    contrast: str


CASES = [
    Case("resnet50", ResNetCanonizer, "layer4", "layer3", "avgpool"),
    Case("vgg16", VGGCanonizer, "features.29", "features.23", "classifier.4"),
]


def tasks() -> Iterator[pd.DataFrame]:
    """One race a method and network."""
    for case in CASES:
        yield from _races(case)


def _races(case: Case) -> Iterator[pd.DataFrame]:
    network = torchvision_network(case.architecture, weights=None)
    torch.manual_seed(0)
    images, labels = torch.rand(BATCH, 3, 224, 224), torch.arange(BATCH)
    inputs = network.normalise(images)
    ours = _Ours(network, images, Targets(torch.arange(BATCH), labels))
    floor = _Floor(network, inputs)
    zennit = _zennit(case, inputs, labels)
    contestants: dict[str, dict[str, Callable[[], object]]] = {
        "lrp_alpha1beta0": {
            "floor: 1F + 1 pair a layer": floor(1),
            "assay": ours(LRP(AlphaBeta(), dense=Epsilon())),
            f"zennit {version('zennit')} EpsilonPlus": zennit,
        },
        "excitation_backprop to the input": {
            "floor: 1F + 1 pair a layer": floor(1),
            "assay": ours(ExcitationBackprop()),
        },
        "contrastive_eb": {
            "floor: 1F + 1 pair a layer below the saliency layer": floor(1, above=case.saliency),
            "assay": ours(ContrastiveEB(case.contrast, case.saliency)),
        },
        "rap": {"floor: 1F + 2 pairs a layer": floor(2), "assay": ours(RAP())},
        "gradient_hedge": {
            "floor: 1F + 3 pairs a convolution": floor(3, dense=False),
            "assay": ours(GradientHedge(case.target)),
        },
        "rsp": {
            "floor: 1F + 2 pairs and 2 weight gradients a convolution": floor.of_weights(2),
            "assay": ours(RSP(case.target)),
        },
        "agf": {
            "floor: 1F + 1 pair and 1 transposed a layer, 2 more a k x k": floor.guided(),
            "assay": ours(AGF()),
        },
        "relevance_cam": {
            "floor: 1F + 1 pair a layer above the target layer": floor(1, above=case.target),
            "assay": ours(RelevanceCAM(case.target)),
        },
        "fullgrad": {"floor: 1F+1B": lambda: _gradient(network, inputs, labels), "assay": ours(FullGrad())},
    }
    for method, runs in contestants.items():
        yield race(f"{method} {case.architecture} batch {BATCH}", runs)


class _Call(NamedTuple):
    """One layer, an input and a relevance of its output."""

    layer: nn.Conv2d | nn.Linear
    x: Tensor
    relevance: Tensor

    def pair(self) -> None:
        """The layer and its transpose."""
        leaf = self.x.requires_grad_()
        torch.autograd.grad(self.layer(leaf), leaf, self.relevance)

    def gradient(self) -> None:
        """Its transpose alone."""
        if isinstance(self.layer, nn.Linear):
            self.relevance @ self.layer.weight
        else:
            size, weight, options = self.x.shape, self.layer.weight, _options(self.layer)
            torch.nn.grad.conv2d_input(size, weight, self.relevance, *options)

    def weight_gradient(self) -> None:
        """Of a convolution."""
        assert isinstance(self.layer, nn.Conv2d)
        size, options = self.layer.weight.shape, _options(self.layer)
        torch.nn.grad.conv2d_weight(self.x.detach(), size, self.relevance, *options)


def _options(layer: nn.Conv2d) -> tuple[Any, ...]:
    return layer.stride, layer.padding, layer.dilation, layer.groups


class _Floor:
    """The network's forward pass, and `pairs` of a convolution and its transpose for each layer."""

    def __init__(self, network: Network, inputs: Tensor) -> None:
        self.network, self.inputs = network, inputs
        self.calls: dict[str, _Call] = {}
        layers = {n: m for n, m in network.module.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
        handles = [layer.register_forward_hook(self._keeper(name)) for name, layer in layers.items()]
        with torch.no_grad():
            network(inputs)
        for handle in handles:
            handle.remove()

    def _keeper(self, name: str) -> Callable[[Any, Any, Tensor], None]:
        def keep(layer: nn.Conv2d | nn.Linear, args: tuple[Tensor, ...], output: Tensor) -> None:
            self.calls[name] = _Call(layer, args[0].detach().clone(), torch.rand_like(output))

        return keep

    def __call__(self, pairs: int, dense: bool = True, above: str = "") -> Callable[[], object]:
        """pairs: per layer. dense: also fully connected layers. above: only layers called after this module."""
        order = list(self.calls)
        first = next((i for i, name in enumerate(order) if above and name.startswith(_after(above))), 0)
        calls = [self.calls[name] for name in order[first:] if dense or self.calls[name].x.ndim > 2]

        def run() -> object:
            with torch.no_grad():
                self.network(self.inputs)
            for call in calls * pairs:
                call.pair()
            return None

        return run

    def of_weights(self, times: int) -> Callable[[], object]:
        """So many pairs and gradients of the weights for each convolution."""
        calls = [call for call in self.calls.values() if call.x.ndim > 2]

        def run() -> object:
            with torch.no_grad():
                self.network(self.inputs)
            for call in calls * times:
                call.pair()
                call.weight_gradient()
            return None

        return run

    def guided(self) -> Callable[[], object]:
        """The gradient and a pair for each layer; two gradients more for each convolution with a kernel."""
        calls = list(self.calls.values())

        def run() -> object:
            with torch.no_grad():
                self.network(self.inputs)
            for call in calls:
                call.pair()
                for _ in range(3 if call.x.ndim > 2 and max(call.layer.kernel_size) > 1 else 1):  # type: ignore[arg-type]
                    call.gradient()
            return None

        return run


def _after(layer: str) -> str:
    """The first module path after the saliency or target layer of ResNet-50 or VGG16."""
    return {"layer3": "layer4", "features.23": "features.24", "layer4": "fc", "features.29": "classifier"}[layer]


def _gradient(network: Network, inputs: Tensor, labels: Tensor) -> None:
    leaf = inputs.clone().requires_grad_()
    torch.autograd.grad(network(leaf).gather(1, labels[:, None]).sum(), leaf)


def _zennit(case: Case, inputs: Tensor, labels: Tensor) -> Callable[[], object]:
    """Registered once, so that hooks and canonizers do not count."""
    module = _no_inplace(case.architecture)
    composite = EpsilonPlus(canonizers=[case.canonizer()], zero_params=["bias"])
    composite.register(module)

    def run() -> object:
        leaf = inputs.clone().requires_grad_()
        output = module(leaf)
        start = torch.zeros_like(output).scatter_(1, labels[:, None], output.detach().gather(1, labels[:, None]))
        return torch.autograd.grad(output, leaf, start)

    return run
