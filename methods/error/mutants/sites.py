"""Where a network can be mutated: the weights of the convolutions that it runs, counted in units."""

from collections import Counter
from contextlib import ExitStack
from math import prod
from typing import Literal, NamedTuple

import torch
from assay.harness.choices import check_choice
from assay.harness.network import Network
from torch import Tensor, nn

Unit = Literal["filter", "slice2d", "scalar"]
DEPTH: dict[str, int] = {"filter": 1, "slice2d": 2, "scalar": 4}  # leading dimensions of a weight that count units


class Site(NamedTuple):
    """A convolution: its module path, its weight [O,I,h,w] (shared with the module), how often a pass calls it."""

    layer: str
    weight: Tensor
    calls: int

    def units(self, unit: Unit) -> int:
        """How many units its weight has."""
        return prod(self.weight.shape[: DEPTH[unit]])


def check_unit(unit: str) -> None:
    """Raise ValueError for no unit."""
    check_choice("unit", unit, DEPTH)


def sites_of(network: Network, image: Tensor) -> tuple[Site, ...]:
    """The convolutions that run for an image [1,3,H,W] in [0,1], in the order of their registration.

    One that is registered and never runs (an auxiliary classifier in eval mode) does not count: changing it makes no
    mutant.

    Raises:
        ValueError: none runs, or the weight of one is computed from other tensors at each call (weight norm).
    """
    convolutions = {name: module for name, module in network.module.named_modules() if isinstance(module, nn.Conv2d)}
    calls = _calls(network, convolutions, image)
    if not calls:
        raise ValueError(f"{type(network.module).__name__} runs no 2-d convolution: there is nothing to mutate")
    return tuple(Site(name, _weight(name, each), calls[name]) for name, each in convolutions.items() if calls[name])


def _weight(name: str, convolution: nn.Conv2d) -> Tensor:
    if "weight" not in dict(convolution.named_parameters(recurse=False)):
        raise ValueError(
            f"layer {name}: its weight is computed anew at each call (a parametrization), so that a change would be "
            "lost: remove the parametrization (torch.nn.utils.parametrize.remove_parametrizations)"
        )
    return convolution.weight.data


@torch.no_grad()
def _calls(network: Network, modules: dict[str, nn.Conv2d], image: Tensor) -> Counter[str]:
    """How often one pass calls each module."""
    calls = Counter[str]()

    def count(name: str) -> None:
        calls[name] += 1

    with ExitStack() as hooks:
        for name, module in modules.items():
            hooks.enter_context(module.register_forward_pre_hook(lambda *_, name=name: count(name)))
        network(network.normalise(image))
    return calls
