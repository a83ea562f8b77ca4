"""Heads that are no one linear layer at the end: logits that are an affine function of some layer all the same.

A 1x1 convolution before or after the pooling, several layers whose outputs are added, a layer without bias or with a
batch-norm behind it, weights that are normalised (a cosine classifier, linear in the normalised features), weights that
are a parameter alone. The layer is found in the graph; weight and bias are what the head makes of units, in float64.
"""

import copy
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from .ending import POOLING, ending_of, is_affine, operation, stays_affine
from .graph import Traced, cut_at, fed_by_input, way_to
from .heads import Head

_WEIGHTED = frozenset({"Linear", "linear", "Conv2d", "conv2d", "matmul"})
AFFINE = POOLING | {"Conv2d", "BatchNorm1d", "BatchNorm2d", "sum"}
NUMBERS = 2**24  # of maps that go through a head at once: 128 MiB
RELATIVE, ABSOLUTE = 1e-4, 1e-5  # of logits from pooled features beside the network's own, the latter of the largest


class Weights(NamedTuple):
    """Logits = features @ weight.T + bias: [C,D] and [C]."""

    weight: Tensor
    bias: Tensor

    def make(self, logits: Tensor, features: Tensor) -> bool:
        """Whether they make these logits [B,C] of features [B,D]."""
        made = features @ self.weight.T + self.bias
        return torch.allclose(made, logits, rtol=RELATIVE, atol=ABSOLUTE * float(logits.abs().max()))


def end_instead(module: nn.Module, trace: Callable[[], Traced]) -> "AffineEnd | None":
    """Where no linear layer makes the logits of a module, what `affine_layer` finds in its graph, if there is one."""
    try:
        traced = trace()
    except ValueError:
        return None
    layer = affine_layer(traced) if ending_of(module, traced) is None else None
    return None if layer is None else AffineEnd(layer)


def affine_layer(traced: Traced) -> str | None:
    """The last layer of which the logits are an affine function with weights, by its node's name; None without one.

    Nothing else of the image may reach the logits, and one of the operations behind it has weights.
    """
    for node in _back(traced):
        cut = cut_at(traced, node, node.name)
        fixed = [1 + number for number, each in enumerate(cut.crossing) if not each.per_image or each.is_count]
        if not is_affine(cut.head, AFFINE, fixed):
            return None
        if len(fixed) == len(cut.crossing) and _has_weights(cut.head):
            return node.name
    return None


def obstacle(trace: Callable[[], Traced]) -> str | None:
    """The last operation on the way to the logits that is not affine, as it is called: softmax, ReLU; None without, and
    without a graph."""
    try:
        traced = trace()
    except ValueError:
        return None
    fed, module = fed_by_input(traced.module.graph), traced.module
    last = (operation(module, node) for node in _back(traced) if not stays_affine(module, node, fed, AFFINE))
    return next(last, None)


def _back(traced: Traced) -> Iterator[fx.Node]:
    """Operations that depend on the image and reach the logits, last ones first."""
    (output,) = [node for node in traced.module.graph.nodes if node.op == "output"]
    fed = fed_by_input(traced.module.graph)
    return (node for node in reversed(way_to(output)) if node.op.startswith("call") and node in fed)


def _has_weights(head: fx.GraphModule) -> bool:
    return any(operation(head, node) in _WEIGHTED for node in head.graph.nodes if node.op.startswith("call"))


class AffineEnd:
    """A layer of which a network's logits are an affine function, and the weights that were found: once for all maps
    where one place is enough (a mean over them), else once for maps of each shape (a sum, a fixed window).
    """

    def __init__(self, layer: str) -> None:
        self.layer = layer
        self._weights: dict[tuple[int, ...], Weights | None] = {}

    def read(self, head: Head, activation: Tensor, logits: Tensor) -> tuple[Tensor, Weights]:
        """Features [B,D], the layer's activation [B,D,...] averaged over space, and the weights that make the logits.

        Raises:
            ValueError: none do.
        """
        features = activation.flatten(2).mean(2) if activation.ndim > 2 else activation
        for places in _maps_of(activation):
            if places not in self._weights:
                self._weights[places] = weights_of(head, activation, places)
            weights = self._weights[places]
            if weights is not None and weights.make(logits, features):
                return features, weights
        raise ValueError(f"no penultimate features: the mean of {self.layer} over space does not make the logits")


def _maps_of(activation: Tensor) -> list[tuple[int, ...]]:
    """Shapes of maps that may tell the weights: a single place, all of them; of tokens, with channels last, none."""
    space = tuple(activation.shape[2:])
    return [] if activation.ndim == 3 else list(dict.fromkeys(((1,) * len(space), space)))


def weights_of(head: Head, like: Tensor, places: tuple[int, ...]) -> Weights | None:
    """Weight and bias of a head that is affine, from maps that are one unit everywhere, less one of zeros, in float64.

    Args:
        like: an activation [B,D,...], for their type.
        places: height and width of the maps; a head that does not run on such maps has None.
    """
    width = like.shape[1]
    units = torch.eye(width + 1, width, dtype=torch.float64, device=like.device)  # the last row is zero
    parts = units.view(*units.shape, *[1] * len(places)).split(max(1, NUMBERS // (width * math.prod(places))))
    exact = copy.deepcopy(head.module).double()
    try:
        steps = torch.cat([_logits(head, exact, maps.expand(*maps.shape[:2], *places)) for maps in parts])
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, IndexError):  # a window larger than the map, a fixed number of places
        return None
    return Weights((steps[:-1] - steps[-1]).T.contiguous().to(like), steps[-1].to(like))


@torch.no_grad()
def _logits(head: Head, exact: fx.GraphModule, maps: Tensor) -> Tensor:
    """[N,C] of maps [N,D,...] by the head in float64."""
    others = head.others(torch.zeros(len(maps), dtype=torch.long, device=maps.device))
    doubled = [each.double() if isinstance(each, Tensor) and each.is_floating_point() else each for each in others]
    made: Tensor = exact.forward(maps, *doubled)  # a call would print where it stopped
    return made
