"""Sum laws of relevance methods on torchvision's networks: random weights and batch-norm statistics, float64.

A layer shares the relevance of an output among contributions of one sign; an output without any (a dead denominator:
it is there because of a bias alone, or all its contributions have the other sign) loses its relevance. The laws below
are exact once that loss is counted: at every layer, and from the logits to the input. Tolerance 1e-9 of the sum of
moduli on either side, which is what rounding scales with.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from assay.harness.heads import Targets
from assay.harness.network import Network
from assay.harness.types import Attributor
from assay.methods.attribution.relevance.engine import Tape
from assay.methods.attribution.relevance.excitation import TABLE, ContrastiveEB, ExcitationBackprop
from assay.methods.attribution.relevance.hedge import GradientHedge, balanced, normalised
from assay.methods.attribution.relevance.lrp import LRP, ContrastiveLRP
from assay.methods.attribution.relevance.rap import RAP, Variant
from assay.methods.attribution.relevance.rsp import RSP, over_largest
from assay.methods.attribution.relevance.rules import Affine, AffineRule, AlphaBeta, Epsilon, Flat, ZBox
from assay.methods.attribution.relevance.table import RuleTable
from conftest import attribute, forward_pass, random_images, torchvision_module
from torch import Tensor, nn

pytestmark = pytest.mark.filterwarnings("ignore:The default weight initialization")
TOLERANCE = 1e-9
TARGETS = Targets(torch.tensor([0]), torch.tensor([3]))


class Example(NamedTuple):
    """A network, the layer its hedge starts at, the layer before its last, and the size of its image."""

    name: str
    layer: str
    contrast: str
    side: int = 64


EXAMPLES = [
    Example("alexnet", "features.11", "classifier.5"),
    Example("vgg16", "features.29", "classifier.4", 32),
    Example("resnet18", "layer4", "avgpool"),
    Example("resnet50", "layer4", "avgpool"),
    Example("densenet121", "relu", "adaptive_avg_pool2d"),
    Example("inception_v3", "Mixed_7c", "avgpool", 75),
    Example("googlenet", "inception5b", "avgpool"),
    Example("mobilenet_v2", "features.18", "adaptive_avg_pool2d", 32),
    Example("squeezenet1_1", "features.12", "features.12"),
    Example("efficientnet_b0", "features.8", "avgpool", 32),
]
SLOW = {
    "alexnet",
    "vgg16",
    "resnet50",
    "densenet121",
    "inception_v3",
    "mobilenet_v2",
    "efficientnet_b0",
}  # float64 on one core
PARAMS = [pytest.param(e, id=e.name, marks=[pytest.mark.slow] if e.name in SLOW else []) for e in EXAMPLES]
every_network = pytest.mark.parametrize("example", PARAMS)


def built(example: Example) -> Network:
    return Network(torchvision_module(example.name), (0.5,) * 3, (0.25,) * 3).to(dtype=torch.float64)


def without_biases(example: Example) -> Network:
    """The same with biases and running means of 0 (what the rules leave out), and other batch-norm scales."""
    network = built(example)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for layer in network.module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                assert layer.running_mean is not None
                layer.running_mean.zero_()
                layer.weight.data.uniform_(0.5, 1.5)
            if isinstance(getattr(layer, "bias", None), nn.Parameter):
                layer.get_parameter("bias").data.zero_()
    return network


def image(example: Example) -> Tensor:
    return random_images(1, example.side).double()


class Seen(NamedTuple):
    """One layer of a backward pass."""

    x: Tensor
    layer: Affine
    relevance: Tensor
    result: Tensor


def pulled(
    network: Network,
    method: Attributor,
    table: RuleTable,
    images: Tensor,
    layers: Sequence[str] = (),
    start: Callable[[Tape], tuple[Tensor, Tensor]] | None = None,
) -> tuple[Tensor, list[Seen]]:
    """Relevance at the input, from the logit (or from what `start` says), and every layer on the way."""
    seen: list[Seen] = []

    def recorded(rule: AffineRule) -> AffineRule:
        def apply(x: Tensor, layer: Affine, relevance: Tensor) -> Tensor:
            result = rule(x, layer, relevance)
            seen.append(Seen(x, layer, relevance, result))
            return result

        return apply

    tape = Tape.record(forward_pass(network, images, method), layers, getattr(method, "batch_norm", "pass"))
    one_hot = torch.zeros_like(tape.logits)
    one_hot[0, 3] = 1
    outputs, relevance = (tape.logits, one_hot * tape.logits.detach()) if start is None else start(tape)
    watched = replace(table, affine=recorded(table.affine))
    watched = watched if table.first is None else replace(watched, first=recorded(table.first))
    return tape.pull(watched, outputs, relevance, tape.inputs), seen


def assert_sum(found: Tensor | float, expected: Tensor | float, *scale: Tensor) -> None:
    """Equal up to the tolerance times the moduli that were added."""
    difference = abs(float(found) - float(expected))
    assert difference <= TOLERANCE * (1e-300 + sum(float(each.abs().sum()) for each in scale))


def lost(seen: Seen, denominator: Tensor) -> Tensor:
    """Relevance of outputs without contributions."""
    return seen.relevance[denominator.abs() < torch.finfo(denominator.dtype).tiny].sum()


def excited(seen: Seen, sign: int = 1) -> Tensor:
    """Sum of the contributions of one sign."""
    weight = sign * seen.layer.weight
    parts = ((seen.x.clamp(min=0), weight.clamp(min=0)), (seen.x.clamp(max=0), weight.clamp(max=0)))
    return torch.stack([seen.layer.apply(x, w, None) for x, w in parts]).sum(0)


# LRP


# Layers that no relevance passes: heads that only training uses; what computes the gates of squeeze-and-excitation.
OFF_PATH = {"inception_v3": 3, "googlenet": 6, "efficientnet_b0": 32}


@every_network
@pytest.mark.parametrize(("alpha", "beta"), [(1, 0), (2, 1)], ids=["alpha1beta0", "alpha2beta1"])
def test_lrp_keeps_all_but_dead_relevance(example: Example, alpha: int, beta: int) -> None:
    """Every layer and the whole network: Sum of the map = logit - losses of the alpha part + those of the beta part."""
    method = LRP(AlphaBeta(alpha, beta), stabiliser=0)
    network = built(example)
    relevance, seen = pulled(network, method, method.table(), image(example))
    layers = sum(isinstance(module, nn.Conv2d | nn.Linear) for module in network.module.modules())
    assert len(seen) == layers - OFF_PATH.get(example.name, 0)
    total = torch.zeros(())
    for each in seen:
        gone = alpha * lost(each, excited(each)) - (beta * lost(each, excited(each, -1)) if beta else 0)
        assert_sum(each.result.sum(), each.relevance.sum() - gone, each.relevance, each.result)
        total = total + gone
    logit = network(network.normalise(image(example)))[0, 3]
    assert_sum(relevance.sum(), logit - total, relevance, *(each.relevance for each in seen))


@every_network
def test_lrp_epsilon_conserves_without_biases(example: Example) -> None:
    """epsilon = 0, no biases, batch-norms folded: Sum of the map = logit to 1e-9 of the logit itself, also through
    SiLU and the sigmoid gates of squeeze-and-excitation."""
    network = without_biases(example)
    values = attribute(LRP(Epsilon(0, bias=False), stabiliser=0), network, image(example), TARGETS).values
    logit = network(network.normalise(image(example)))[0, 3]
    assert abs(float(values.sum() / logit) - 1) < 1e-9


@every_network
def test_alpha1beta0_conserves_without_biases(example: Example) -> None:
    """Sum of the map = logit to 1e-9, but in EfficientNet, whose depthwise convolutions have outputs (negative, and
    passed by SiLU) without any positive contribution: there 3 % to all of it is lost, never gained."""
    network = without_biases(example)
    values = attribute(LRP(AlphaBeta(), stabiliser=0), network, image(example), TARGETS).values
    share = float(values.sum() / network(network.normalise(image(example)))[0, 3])
    if example.name == "efficientnet_b0":
        assert 0 < share < 1
    else:
        assert abs(share - 1) < 1e-9


@pytest.mark.parametrize("first", [ZBox(), Flat()], ids=["z^B", "flat"])
@pytest.mark.parametrize("name", ["squeezenet1_1", "resnet18", "googlenet"])
def test_input_rules_conserve(name: str, first: AffineRule) -> None:
    """z^B and flat share all that arrives: the same sum as with alpha1beta0 at the input; 1e-9."""
    example = next(e for e in EXAMPLES if e.name == name)
    network = built(example)
    sums = [
        attribute(LRP(AlphaBeta(), first=rule, stabiliser=0), network, image(example), TARGETS).values.sum()
        for rule in (None, first)
    ]
    assert abs(float(sums[1] / sums[0]) - 1) < 1e-9


@every_network
def test_contrastive_lrp_sums_to_zero(example: Example) -> None:
    """R_t and R_o have the same sum; 1e-9 of the logit, which R_t sums to."""
    network = built(example)
    values = attribute(ContrastiveLRP(), network, image(example), TARGETS).values
    assert values.abs().max() > 0
    assert_sum(values.sum(), 0, network(network.normalise(image(example)))[0, 3])


# Excitation backprop


@every_network
def test_excitation_keeps_all_but_dead_relevance(example: Example) -> None:
    """Every layer: Sum R_in = Sum R_out where the denominator x w+ is not 0."""
    relevance, seen = pulled(built(example), ExcitationBackprop(), TABLE, image(example))
    for each in seen:
        total = each.layer.apply(each.x, each.layer.weight.clamp(min=0), None)
        assert_sum(each.result.sum(), each.relevance.sum() - lost(each, total), each.relevance, each.result)
    assert relevance.isfinite().all()


@every_network
def test_excitation_sums_to_one_and_contrast_to_zero(example: Example) -> None:
    """At the layer where the hedge starts, from a probability of 1, and from p - q: 1e-9.

    (Below it, MobileNetV2 and EfficientNet have signed activations, on which single shares grow without bound.)
    """
    network = built(example)
    values = attribute(ExcitationBackprop(example.layer), network, image(example), TARGETS).values
    assert abs(float(values.sum()) - 1) < 1e-9
    contrasted = attribute(ContrastiveEB(example.contrast, example.layer), network, image(example), TARGETS).values
    assert contrasted.abs().max() > 0
    assert abs(float(contrasted.sum())) < 1e-9


# RAP


@pytest.mark.parametrize("variant", ["official", "paper"])
@pytest.mark.parametrize("example", [p for p in PARAMS if p.id in ("alexnet", "vgg16", "squeezenet1_1")])
def test_rap_sums_to_the_logit(example: Example, variant: Variant) -> None:
    """Networks without batch-norm and with non-negative layer inputs; 1e-9 of the logit."""
    network = built(example)
    values = attribute(RAP(variant), network, image(example), TARGETS).values
    logit = network(network.normalise(image(example)))[0, 3]
    assert (values < 0).any()
    assert abs(float(values.sum() / logit) - 1) < 1e-9


# Gradient Hedge


@every_network
@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_hedge_sums_at_every_layer(example: Example, gamma: float) -> None:
    """gamma - 2 after a k x k convolution, 0 after a 1x1, less what outputs without contributions had: 1e-9."""
    method = GradientHedge(example.layer, gamma)

    def start(tape: Tape) -> tuple[Tensor, Tensor]:
        one_hot = torch.zeros_like(tape.logits)
        one_hot[0, 3] = 1
        activation = tape.at(example.layer)
        return activation, balanced(activation.detach(), tape.pull(None, tape.logits, one_hot, activation))

    relevance, seen = pulled(built(example), method, method.table(), image(example), (example.layer,), start)
    hedged = [each for each in seen if each.x.shape[1] != 3]
    assert len(hedged) > 3
    for each in hedged:
        assert_sum(each.result.sum(), hedge_law(each, gamma), each.result, torch.ones(1))
    assert relevance.isfinite().all()


def hedge_law(each: Seen, gamma: float) -> float:
    """Sum R' by the formula's parts, each without its outputs of denominator 0."""
    p, n = normalised(each.relevance)
    weight, x, pointwise = each.layer.weight.abs(), each.x, each.layer.is_pointwise
    alive = [each.layer.apply(u.to(weight), weight, None) != 0 for u in (x.clamp(min=0), x > 0, x <= 0)]
    contribution = (((1 if pointwise else gamma) * p - n) * alive[0]).sum()
    shift = 0 if pointwise or not alive[0].any() else 1
    return float(contribution - shift + (p * alive[1]).sum() - (n * alive[2]).sum())


@pytest.mark.parametrize("gamma", [1.0, 1.5, 2.0])
def test_hedge_sum_where_nothing_is_dead(gamma: float) -> None:
    """gamma - 2 at the input of VGG-like networks (the tiny VGG has no dead denominator); 1e-9."""
    from conftest import known

    network = known("tiny_vgg", torch.float64)
    values = attribute(GradientHedge("features.8", gamma), network.network, network.images, network.targets).values
    assert (values.sum((1, 2)) - (gamma - 2)).abs().max() < 1e-9


# Relative sectional propagation


@every_network
def test_rsp_sums_at_every_layer(example: Example) -> None:
    """2 (alive P - alive N) - Sum R after a k x k convolution, alive P - alive N after a 1x1, where an output is alive
    that has a positive input: 1e-9."""
    method = RSP(example.layer)

    def start(tape: Tape) -> tuple[Tensor, Tensor]:
        one_hot = torch.zeros_like(tape.logits)
        one_hot[0, 3] = 1
        activation = tape.at(example.layer)
        gradient = tape.pull(None, tape.logits, one_hot, activation)
        return activation, over_largest(activation.detach() * gradient.mean((2, 3), keepdim=True))

    relevance, seen = pulled(built(example), method, method.table(), image(example), (example.layer,), start)
    sections = [each for each in seen if each.x.shape[1] != 3]
    assert len(sections) > 3
    for each in sections:
        alive = each.layer.apply((each.x > 0).to(each.x), torch.ones_like(each.layer.weight), None) > 0
        kept = (each.relevance * alive).sum()
        expected = kept if each.layer.is_pointwise else 2 * kept - each.relevance.sum()
        assert_sum(each.result.sum(), expected, each.relevance, each.result)
    assert relevance.isfinite().all()
