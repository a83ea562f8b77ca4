"""LRP against Zennit, whose canonizers merge batch-norms and name residual sums: float64, 1e-6 of the map's maximum.

Zennit's stabilisers are absolute and ours relative; both are made negligible. Biases are left out of every denominator
on both sides, or in on both sides.
"""

import copy

import pytest
import torch
from assay.harness.heads import Targets
from assay.harness.network import Network
from assay.methods.attribution.relevance.lrp import LRP
from assay.methods.attribution.relevance.rules import AffineRule, AlphaBeta, Epsilon, Flat, Gamma
from conftest import assert_close, attribute, random_images, torchvision_module
from torch import nn

zennit = pytest.importorskip("zennit", reason='needs Zennit: pip install ".[bench]"')

from zennit import composites, rules, types  # noqa: E402
from zennit import torchvision as canonize  # noqa: E402

TOLERANCE, TINY = 1e-6, 1e-14
CANONIZERS = {"resnet": canonize.ResNetCanonizer, "vgg": canonize.VGGCanonizer}


def zennit_map(module: nn.Module, composite: composites.Composite, inputs: torch.Tensor) -> torch.Tensor:
    """[1,H,W] of class 3, from its logit."""
    leaf = inputs.clone().requires_grad_()
    with composite.context(module) as prepared:
        output = prepared(leaf)
        start = torch.zeros_like(output)
        start[0, 3] = output[0, 3].detach()
        (relevance,) = torch.autograd.grad(output, leaf, start)
    return relevance.sum(1)


def compare(name: str, rule: AffineRule, composite: composites.Composite, **options: AffineRule) -> None:
    module = torchvision_module(name).double().requires_grad_(False)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 0  # Zennit leaves it in the batch-norm that it has merged: 5e-6 a layer
    network = Network(copy.deepcopy(module), (0.5,) * 3, (0.25,) * 3).to(dtype=torch.float64)
    images = random_images(1, 32 if name.startswith("vgg") else 64).double()
    method = LRP(rule, stabiliser=0, **options)  # type: ignore[arg-type]
    found = attribute(method, network, images, Targets(torch.tensor([0]), torch.tensor([3]))).values
    for layer in module.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = False  # Zennit's hooks
    assert_close(found, zennit_map(module, composite, (images - 0.5) / 0.25), TOLERANCE)


NETWORKS = [
    "resnet18",
    *(pytest.param(n, marks=pytest.mark.slow) for n in ("vgg11_bn", "vgg16", "resnet50")),
]


@pytest.mark.parametrize("bias", [False, True], ids=["without biases", "with biases"])
@pytest.mark.parametrize("name", NETWORKS)
def test_epsilon_plus(name: str, bias: bool) -> None:
    """EpsilonPlus: epsilon in fully connected layers, z+ in convolutions."""
    composite = composites.EpsilonPlus(
        epsilon=TINY,
        stabilizer=TINY,
        zero_params=None if bias else ["bias"],
        canonizers=[CANONIZERS["vgg" if name.startswith("vgg") else "resnet"]()],
    )
    compare(name, AlphaBeta(1, 0, bias), composite, dense=Epsilon(0, bias))


@pytest.mark.parametrize("bias", [False, True], ids=["without biases", "with biases"])
@pytest.mark.parametrize("name", NETWORKS)
def test_epsilon_alpha2_beta1(name: str, bias: bool) -> None:
    """AlphaBeta: epsilon in fully connected layers, alpha 2 and beta 1 in convolutions."""
    composite = composites.EpsilonAlpha2Beta1(
        epsilon=TINY,
        stabilizer=TINY,
        zero_params=None if bias else ["bias"],
        canonizers=[CANONIZERS["vgg" if name.startswith("vgg") else "resnet"]()],
    )
    compare(name, AlphaBeta(2, 1, bias), composite, dense=Epsilon(0, bias))


@pytest.mark.parametrize("name", NETWORKS)
def test_epsilon_plus_flat(name: str) -> None:
    """The flat rule at the input."""
    composite = composites.EpsilonPlusFlat(
        epsilon=TINY,
        stabilizer=TINY,
        zero_params=["bias"],
        canonizers=[CANONIZERS["vgg" if name.startswith("vgg") else "resnet"]()],
    )
    compare(name, AlphaBeta(), composite, dense=Epsilon(0, bias=False), first=Flat())


@pytest.mark.parametrize("name", NETWORKS)
def test_gamma(name: str) -> None:
    """The generalised gamma rule in every layer, biases enlarged as contributions are."""
    layers = [(types.Linear, rules.Gamma(0.25, stabilizer=TINY))]
    base = composites.layer_map_base(TINY)
    merge = [CANONIZERS["vgg" if name.startswith("vgg") else "resnet"]()]
    compare(name, Gamma(0.25, epsilon=0), composites.LayerMapComposite(base + layers, canonizers=merge))
