"""Relevance methods: their convolutions.

The floor of a method is what no implementation of its rule avoids: the forward pass, and for each layer the
convolutions of the rule (its denominators, and as many transposed convolutions), on tensors of the right shapes and
nothing else: no activation, pool, sum, norm, product or memory for a graph.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.grad
from assay.harness.network import Network
from assay.methods.attribution.fullgrad import FullGrad
from assay.methods.attribution.relevance.agf import AGF
from assay.methods.attribution.relevance.excitation import ContrastiveEB, ExcitationBackprop
from assay.methods.attribution.relevance.hedge import GradientHedge
from assay.methods.attribution.relevance.lrp import LRP, ContrastiveLRP
from assay.methods.attribution.relevance.patterns import PatternAttribution, PatternNet
from assay.methods.attribution.relevance.rap import RAP
from assay.methods.attribution.relevance.relevance_cam import RelevanceCAM
from assay.methods.attribution.relevance.rsp import RSP
from assay.methods.attribution.relevance.rules import AlphaBeta, Epsilon, Gamma, ZBox
from torch import Tensor, nn

from bench.floors.subject import Runs, Subject


class Case(NamedTuple):
    """A network and the layers that methods stop or start at; `above`: the first module behind each of them."""

    architecture: str
    target: str
    saliency: str
    contrast: str
    above: dict[str, str]


RESNET50 = Case("resnet50", "layer4", "layer3", "avgpool", {"layer3": "layer4", "layer4": "fc"})
VGG16 = Case(
    "vgg16",
    "features.29",
    "features.23",
    "classifier.4",
    {"features.23": "features.24", "features.29": "classifier"},
)


def contests(subject: Subject, case: Case) -> dict[str, Runs]:
    """The floor and ours, by method; the subject's network is the case's."""
    floor = LayerFloor(subject.network, subject.inputs)
    above_target, above_saliency = (case.above[layer] for layer in (case.target, case.saliency))
    one = {"floor: 1F + 1 pair a layer": floor(1)}
    two = {"floor: 1F + 2 pairs a layer": floor(2)}
    box = LRP(AlphaBeta(), first=ZBox())
    return {
        "lrp_alpha1beta0": one | {"assay": subject.ours(LRP(AlphaBeta(), dense=Epsilon()))},
        "lrp_alpha2beta1": two | {"assay": subject.ours(LRP(AlphaBeta(2, 1)))},
        "lrp_epsilon": one | {"assay": subject.ours(LRP(Epsilon()))},
        "lrp_gamma": one | {"assay": subject.ours(LRP(Gamma()))},
        "deep_taylor": one | {"assay": subject.ours(box)},
        "contrastive_lrp": {
            "floor: 1F + 1 pair and 1 transposed a layer": floor(1, transposed=1),
            "assay": subject.ours(ContrastiveLRP(box)),
        },
        "excitation_backprop to the input": one | {"assay": subject.ours(ExcitationBackprop())},
        "contrastive_eb": {
            "floor: 1F + 1 pair a layer below the saliency layer": floor(1, above=above_saliency),
            "assay": subject.ours(ContrastiveEB(case.contrast, case.saliency)),
        },
        "rap": two | {"assay": subject.ours(RAP())},
        "gradient_hedge": {
            "floor: 1F + 3 pairs a convolution": floor(3, dense=False),
            "assay": subject.ours(GradientHedge(case.target)),
        },
        "rsp": {
            "floor: 1F + 2 pairs and 2 weight gradients a convolution": floor.of_weights(2),
            "assay": subject.ours(RSP(case.target)),
        },
        "agf": {
            "floor: 1F + 1 pair and 1 transposed a layer, 2 more a k x k": floor.guided(),
            "assay": subject.ours(AGF()),
        },
        "relevance_cam": {
            "floor: 1F + 1 pair a layer above the target layer": floor(1, above=above_target),
            "assay": subject.ours(RelevanceCAM(case.target)),
        },
        "fullgrad": {"floor: 1F+1B": subject.passes(), "assay": subject.ours(FullGrad())},
    }


def patterns(subject: Subject) -> dict[str, Runs]:
    """Methods that are fitted: a gradient with other weights.

    Their patterns are those of inputs that are white noise, w / |w|^2. Those of what an untrained network's layers read
    are nearly orthogonal to its weights: through 50 of them PatternNet's signal grows to 1e86; float32 ends at 3e38.
    """
    layers = {name: m for name, m in subject.network.module.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    white = {name: _over_square(layer.weight) for name, layer in layers.items()}
    made = {"pattern_net": PatternNet(), "pattern_attribution": PatternAttribution()}
    floor: Runs = {"floor: 1F+1B": subject.passes()}
    return {name: floor | {"assay": subject.ours(method.fitted(white))} for name, method in made.items()}


def _over_square(weight: Tensor) -> Tensor:
    """Each unit's weights over the sum of their squares, so that weights x pattern sum to 1."""
    return weight / weight.flatten(1).square().sum(1).view(-1, *[1] * (weight.ndim - 1))


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


class LayerFloor:
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

    def __call__(self, pairs: int, dense: bool = True, above: str = "", transposed: int = 0) -> Callable[[], object]:
        """pairs: per layer, and so many transposed alone. dense: also fully connected layers. above: a module's path;
        only layers from it on."""
        order = list(self.calls)
        first = next((i for i, name in enumerate(order) if above and name.startswith(above)), 0)
        calls = [self.calls[name] for name in order[first:] if dense or self.calls[name].x.ndim > 2]

        def run() -> object:
            with torch.no_grad():
                self.network(self.inputs)
            for call in calls * pairs:
                call.pair()
            for call in calls * transposed:
                call.gradient()
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
