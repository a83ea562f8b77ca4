"""Conductance of the predicted class against its floor and captum; ResNet-20 at 32 px, ResNet-18 at 224 px.

Weights are random; floors: bench/floors/conductance.py. captum's LayerConductance, run from the image to the baseline,
is minus the same numbers (its rule is the left one).
"""

from collections.abc import Callable, Iterator

import pandas as pd
import torch
from assay.harness.network import Network
from assay.harness.networks.cifar import CifarResNet
from assay.harness.networks.loading import torchvision_network
from captum.attr import LayerConductance
from torch import Tensor

from bench.floors import conductance as floors
from bench.floors.conductance import STEPS
from bench.floors.subject import Runs
from bench.timing import race


def tasks() -> Iterator[pd.DataFrame]:
    """The last block and an inner layer of each network; captum takes minutes on the larger: one round."""
    torch.manual_seed(0)
    small = Network(CifarResNet(20).eval(), (0.5,) * 3, (0.25,) * 3)
    yield from _of(small, "resnet20", torch.rand(50, 3, 32, 32), torch.rand(50, 3, 32, 32), 3)
    large = torchvision_network("resnet18", weights=None)
    yield from _of(large, "resnet18", torch.rand(32, 3, 224, 224), torch.rand(8, 3, 224, 224), 1)


def _of(network: Network, name: str, many: Tensor, few: Tensor, rounds: int) -> Iterator[pd.DataFrame]:
    *_, inner, last = (each for each, _ in network.module.named_children() if each.startswith("layer"))
    yield _race(f"conductance {name} {last}", floors.closed(network, many, last), network, many, last, rounds)
    task = f"conductance {name} {inner}, n={STEPS}"
    yield _race(task, floors.stepped(network, few, inner), network, few, inner, rounds)


def _race(task: str, contestants: Runs, network: Network, images: Tensor, layer: str, rounds: int) -> pd.DataFrame:
    """At equal numbers."""
    found, peer = floors.ours(network, images, layer)(), _captum(network, images, layer)
    expected = peer()
    assert torch.allclose(found, expected, atol=1e-3 * expected.abs().max().item()), "not the same conductance"
    return race(task, contestants | {"captum": peer}, rounds)


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
