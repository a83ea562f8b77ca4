"""Relevance methods against the outputs of their authors' code (../shared/golden/README.md, tests/golden).

Tolerances are relative to each image's largest value, in float32: 1e-5, or 1e-4 where the notes say so (RAP on the
residual network in a batch, excitation backprop at the input).
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.network import Network
from assay.harness.networks.loading import torchvision_network
from assay.harness.types import Attributor
from assay.methods.attribution.relevance.agf import AGF, contrasted
from assay.methods.attribution.relevance.engine import Tape
from assay.methods.attribution.relevance.excitation import ContrastiveEB, ExcitationBackprop
from assay.methods.attribution.relevance.hedge import GradientHedge, balanced
from assay.methods.attribution.relevance.lrp import LRP, ContrastiveLRP
from assay.methods.attribution.relevance.operations import Operation
from assay.methods.attribution.relevance.rap import RAP
from assay.methods.attribution.relevance.relevance_cam import RelevanceCAM
from assay.methods.attribution.relevance.rsp import RSP, over_largest, relative_start
from assay.methods.attribution.relevance.rules import AlphaBeta, ZBox
from conftest import Known, assert_close, attribute, attribute_alone, golden, known
from torch import Tensor

SINGLE, BATCHED = 1e-5, 1e-4
SHARED = Path(__file__).resolve().parents[4] / "shared"
REAL, REAL_WEIGHTS = SHARED / "golden" / "resnet50_real.npz", SHARED / "weights" / "imagenet-resnet50.safetensors"

# Relevance at the input of these modules is relevance at the output of the layers before them.
BEFORE_VGG = {
    **{"classifier.2": "classifier.1", "classifier.0": "flatten", "avgpool": "features.9", "features.9": "features.8"},
    **{"features.7": "features.6", "features.5": "features.4", "features.4": "features.3", "features.2": "features.1"},
}
BEFORE_RESNET = {
    **{"fc": "mean", "avgpool": "layer1", "layer1.1": "layer1.0", "layer1.0": "relu", "bn1": "conv1"},
    **{f"layer1.{k}.conv3": f"layer1.{k}.relu2" for k in (0, 1)},
    **{f"layer1.{k}.conv2": f"layer1.{k}.relu1" for k in (0, 1)},
    **{f"layer1.{k}.bn{n}": f"layer1.{k}.conv{n}" for k in (0, 1) for n in (1, 2, 3)},
    **{"layer1.1.add.0": "layer1.1.bn3", "layer1.0.add.0": "layer1.0.bn3", "layer1.0.add.1": "layer1.0.downsample.1"},
    "layer1.0.downsample.1": "layer1.0.downsample.0",
}
# What the code records of the hedge, and how often it counts our relevance: half of it goes into the last block's main
# path, and each block returns its main path's twice.
HEDGED = {
    **dict.fromkeys(("features.7", "features.5", "features.4", "features.2"), 1.0),
    **dict.fromkeys((f"layer1.{k}.{m}" for k in (0, 1) for m in ("conv3", "bn2", "conv2", "bn1")), 1.0),
    **{"layer1.1.bn3": 0.5, "layer1.1": 2.0, "layer1.0.bn3": 1.0, "layer1.0": 2.0, "bn1": 2.0},
}
BEFORE = {"tiny_vgg": BEFORE_VGG, "tiny_resnet": BEFORE_RESNET}


PUBLISHED = RAP(residual="proportional")  # the authors' code


def lrp(alpha: float, beta: float) -> LRP:
    """As the RAP repository has it: z^B at the input, batch-norms passing where their input is not 0."""
    return LRP(AlphaBeta(alpha, beta), first=ZBox(), batch_norm="pass_nonzero", stabiliser=0)


def arrays(file: str) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in golden(file).items()}


def maps(method: Attributor, network: Known) -> Tensor:
    return attribute(method, network.network, network.images, network.targets).values


def one_hot(network: Known) -> Tensor:
    return torch.eye(5)[network.targets.label]


# The tiny networks


@pytest.mark.parametrize("name", ["tiny_vgg", "tiny_resnet"])
def test_rap(name: str) -> None:
    """RAP (official variant): the map; and relevance at the input of every module."""
    network, expected = known(name), arrays("rap")
    assert_close(maps(PUBLISHED, network), expected[f"{name}.map"].sum(1), SINGLE if name == "tiny_vgg" else BATCHED)
    tape = Tape.record(ForwardPass(network.network, network.images), [*BEFORE[name].values()], "pass_nonzero")
    for module, layer in BEFORE[name].items():
        pulled = tape.pull(PUBLISHED.table(), tape.logits, one_hot(network), tape.at(layer))
        assert_close(pulled, expected[f"{name}.R_in.{module}"].view_as(pulled), BATCHED)


@pytest.mark.parametrize("name", ["tiny_vgg", "tiny_resnet"])
@pytest.mark.parametrize(("alpha", "beta"), [(1, 0), (2, 1)])
def test_lrp(name: str, alpha: float, beta: float) -> None:
    """LRP of the RAP repository: the map; and, to 1e-4, relevance at the input of every module."""
    network, expected, method = known(name), arrays(f"lrp_alpha{alpha}beta{beta}"), lrp(alpha, beta)
    assert_close(maps(method, network), expected[f"{name}.map"].sum(1), SINGLE)
    tape = Tape.record(ForwardPass(network.network, network.images), [*BEFORE[name].values()], "pass_nonzero")
    start = one_hot(network) * tape.logits.detach()
    for module, layer in BEFORE[name].items():
        pulled = tape.pull(method.table(), tape.logits, start, tape.at(layer))
        assert_close(pulled, expected[f"{name}.R_in.{module}"].view_as(pulled), BATCHED)


@pytest.mark.parametrize("name", ["tiny_vgg", "tiny_resnet"])
def test_default_lrp_is_within_tolerance(name: str) -> None:
    """With the default stabiliser of residual sums the maps are still those of the published code."""
    method = LRP(AlphaBeta(), first=ZBox(), batch_norm="pass_nonzero")
    assert_close(maps(method, known(name)), arrays("lrp_alpha1beta0")[f"{name}.map"].sum(1), SINGLE)


@pytest.mark.parametrize("name", ["tiny_vgg", "tiny_resnet"])
def test_contrastive_lrp(name: str) -> None:
    """CLRP1 of the AGF repository: the contrasted map, channel by channel summed; Sum = 0."""
    values, expected = maps(ContrastiveLRP(lrp(1, 0)), known(name)), arrays("clrp")
    assert_close(values, expected[f"{name}.map"].sum(1), SINGLE)
    assert_close(values, expected[f"{name}.map_summed"][:, 0], SINGLE)
    assert float(values.sum((1, 2)).abs().max()) < SINGLE * float(values.abs().sum((1, 2)).min())


@pytest.mark.parametrize("gamma", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("name", ["tiny_vgg", "tiny_resnet"])
def test_gradient_hedge(name: str, gamma: float) -> None:
    """The start, the map, and relevance at the input of every module on the main path.

    On the residual network the official code returns the main path's relevance twice: a factor 2 on the map and on
    `R_in` of whole blocks (the next convolution renormalises it away). A map that stops there is its channel sum.
    """
    network, expected = known(name), arrays("gradient_hedge")
    method = GradientHedge(network.layer, gamma)
    twice = 2 if name == "tiny_resnet" else 1
    assert_close(twice * maps(method, network), expected[f"{name}.gamma{gamma}.map"].sum(1), SINGLE)
    layers = {module: layer for module, layer in BEFORE[name].items() if module in HEDGED}
    tape = Tape.record(
        ForwardPass(network.network, network.images), [network.layer, *layers.values()], method.batch_norm
    )
    activation = tape.at(network.layer)
    gradient = tape.pull(None, tape.logits, one_hot(network), activation)
    start = balanced(activation.detach(), gradient)
    assert_close(start, expected[f"{name}.start"], SINGLE)
    assert_close(maps(GradientHedge(network.layer, gamma, stop=network.layer), network), start.sum(1), SINGLE)
    for module, layer in layers.items():
        pulled = tape.pull(method.table(), activation, start, tape.at(layer))
        wanted = expected[f"{name}.gamma{gamma}.R_in.{module}"].view_as(pulled)
        assert_close(HEDGED[module] * pulled, wanted, SINGLE)
        stopped = maps(GradientHedge(network.layer, gamma, stop=layer), network)
        assert_close(HEDGED[module] * stopped, wanted.sum(1), SINGLE)


def test_the_hedge_stops_before_where_it_starts() -> None:
    """A layer after the start has none of its relevance: refused, both named."""
    with pytest.raises(ValueError, match=r"from layer 'features\.4' to layer 'features\.6'"):
        maps(GradientHedge("features.4", stop="features.6"), known("tiny_vgg"))


@pytest.mark.parametrize("name", ["tiny_vgg", "tiny_resnet"])
def test_excitation_backprop(name: str) -> None:
    """TorchRay's map at every recorded layer."""
    network, expected = known(name), arrays("excitation_backprop")
    compared = [key for key in expected if key.startswith(f"{name}.layer_") and key.endswith(".map")]
    assert compared
    for key in compared:
        layer = key.removeprefix(f"{name}.layer_").removesuffix(".map")
        values = maps(ExcitationBackprop(None if layer == "input" else layer), network)
        assert_close(values, expected[key][:, 0], BATCHED if layer == "input" else SINGLE)


@pytest.mark.parametrize("name", ["tiny_vgg", "tiny_resnet"])
def test_contrastive_eb(name: str) -> None:
    """TorchRay's map at every recorded layer, clamped as there and signed."""
    network, expected = known(name), arrays("contrastive_eb")
    contrast = {"tiny_vgg": "classifier.1", "tiny_resnet": "mean"}[name]
    compared = [key for key in expected if key.startswith(f"{name}.layer_") and key.endswith(".map")]
    assert compared
    for key in compared:
        layer = key.removeprefix(f"{name}.layer_").removesuffix(".map")
        assert_close(maps(ContrastiveEB(contrast, layer, signed=False), network), expected[key][:, 0], SINGLE)
        channels = expected[f"{name}.layer_{layer}.channels"]
        assert_close(maps(ContrastiveEB(contrast, layer), network), channels.sum(1), SINGLE)


RSP_MODULES = ("features.7", "features.5", "features.4", "features.2")  # below where it starts


def rsp_starts(network: Known, classes: Tensor) -> tuple[Tape, dict[str, Tensor]]:
    """A tape with every module's input, and both starts at features.8; classes [4,3], the target first."""
    layers = [BEFORE_VGG[module] for module in RSP_MODULES]
    tape = Tape.record(ForwardPass(network.network, network.images), [network.layer, *layers], "pass_nonzero")
    activation = tape.at(network.layer)

    def cam(label: Tensor) -> Tensor:
        gradient = tape.pull(None, tape.logits, torch.eye(5)[label], activation)
        return activation.detach() * gradient.mean((2, 3), keepdim=True)

    own, *others = (cam(label) for label in classes.unbind(1))
    present = torch.ones(4)
    return tape, {"single": over_largest(own), "relative": relative_start(own, [(each, present) for each in others])}


def test_rsp() -> None:
    """Both starts, relevance at the input of every module, and the map, of the RSP repository's VGG."""
    network, expected = known("tiny_vgg"), arrays("rsp")
    tape, starts = rsp_starts(network, expected["tiny_vgg.relative.classes"].long())
    table = RSP(network.layer).table()
    for name, start in starts.items():
        assert_close(start, expected[f"tiny_vgg.{name}.start"], SINGLE)
        for module in RSP_MODULES:
            pulled = tape.pull(table, tape.at(network.layer), start, tape.at(BEFORE_VGG[module]))
            assert_close(pulled, expected[f"tiny_vgg.{name}.R_in.{module}"], SINGLE)
        pulled = tape.pull(table, tape.at(network.layer), start, tape.inputs)
        assert_close(pulled, expected[f"tiny_vgg.{name}.map"], SINGLE)
    assert_close(maps(RSP(network.layer), network), expected["tiny_vgg.single.map"].sum(1), SINGLE)


@pytest.mark.parametrize("name", ["tiny_vgg", "tiny_resnet"])
def test_agf(name: str) -> None:
    """The map over its largest value of all channels, as the AGF repository has it; relevance at every module's input
    (2e-5: it is divided by residual sums there)."""
    network, expected, method = known(name), arrays("agf"), AGF(residual="proportional")
    tape = Tape.record(ForwardPass(network.network, network.images), [*BEFORE[name].values()], method.batch_norm)
    start = contrasted(tape.logits, one_hot(network))
    gradients: dict[Operation, Tensor] = {}
    tape.pull(None, tape.logits, start, tape.inputs, gradients.__setitem__)
    table = method.table(gradients)
    for module, layer in BEFORE[name].items():
        pulled = tape.pull(table, tape.logits, start, tape.at(layer))
        assert_close(pulled, expected[f"{name}.R_in.{module}"].view_as(pulled), 2 * SINGLE)
    relevance = tape.pull(table, tape.logits, start, tape.inputs)
    scaled = (relevance / relevance.flatten(1).amax(1).view(-1, 1, 1, 1)).sum(1, keepdim=True)
    assert_close(scaled, expected[f"{name}.map"], SINGLE)
    assert torch.equal(maps(method, network), relevance.sum(1))


@pytest.mark.parametrize("name", ["tiny_vgg", "tiny_resnet"])
def test_relevance_cam(name: str) -> None:
    """The map at every recorded layer, and relevance at the input of every module (1e-4, as LRP's)."""
    network, expected = known(name), arrays("relevance_cam")
    compared = [key for key in expected if key.startswith(f"{name}.layer_")]
    assert len(compared) == {"tiny_vgg": 5, "tiny_resnet": 2}[name]
    for key in compared:
        layer = key.removeprefix(f"{name}.layer_").removesuffix(".map")
        assert_close(maps(RelevanceCAM(layer), network), expected[key][:, 0], SINGLE)
    tape = Tape.record(ForwardPass(network.network, network.images), [*BEFORE[name].values()], "pass_nonzero")
    start = 1.2 * one_hot(network) - 0.2
    for module in (each for each in BEFORE[name] if f"{name}.R_in.{each}" in expected):
        pulled = tape.pull(RelevanceCAM("").table(), tape.logits, start, tape.at(BEFORE[name][module]))
        assert_close(pulled, expected[f"{name}.R_in.{module}"].view_as(pulled), BATCHED)


# The real ResNet-50


REAL_MAPS: dict[str, tuple[Attributor, float]] = {
    "rap.map": (PUBLISHED, 1),
    "gradient_hedge.gamma1.0.map": (GradientHedge("layer4", 1.0), 2),
    "gradient_hedge.gamma2.0.map": (GradientHedge("layer4", 2.0), 2),
    "excitation_backprop.layer3.map": (ExcitationBackprop("layer3"), 1),
    "contrastive_eb.layer3.map": (ContrastiveEB("avgpool", "layer3", signed=False), 1),
    "contrastive_eb.layer3.signed_map": (ContrastiveEB("avgpool", "layer3"), 1),
}


@pytest.fixture
def two_threads() -> Iterator[None]:
    """As the files were made: the order of float32 sums depends on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.skipif(not (REAL.is_file() and REAL_WEIGHTS.is_file()), reason=f"no {REAL} or {REAL_WEIGHTS}")
@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("name", REAL_MAPS)
def test_real_resnet50(name: str) -> None:
    """Two ImageNet images on the trained ResNet-50, each alone as in the file; float32, 1e-5 of each image's maximum.

    RAP is ill-conditioned here, whatever the implementation: residual sums that nearly cancel divide relevance, so
    noise of 1e-7 on the input changes its map by up to its maximum. It equals the file only with the same order of
    float32 sums in the forward pass (two threads; 2e-6), and no float64 run equals it.
    """
    with np.load(REAL, allow_pickle=False) as file:
        inputs, label, expected = (torch.from_numpy(file[key]) for key in ("x", "predicted_class", name))
    trained = torchvision_network("resnet50", str(REAL_WEIGHTS))
    network = Network(trained.module, (0, 0, 0), (1, 1, 1))  # the inputs are normalised already
    method, factor = REAL_MAPS[name]
    values = attribute_alone(method, network, inputs, Targets(torch.arange(2), label.long()))
    assert_close(factor * values, expected[:, 0], SINGLE)
