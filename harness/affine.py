"""Heads that are no one linear layer at the end: logits that are an affine function of some layer all the same.

A 1x1 convolution before or after the pooling, several layers whose outputs are added, a layer without bias or with a
batch-norm behind it, weights that are normalised (a cosine classifier, linear in the normalised features), weights that
are a parameter alone. The layer is found in the graph; weight and bias are what the head makes of units, in float64.
"""

import copy
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from .ending import POOLING, ending_of, is_affine, operation, stays_affine, way_to
from .graph import Traced, cut_at, fed_by_input
from .heads import LayerValues

_WEIGHTED = frozenset({"Linear", "linear", "Conv2d", "conv2d", "matmul"})
AFFINE = POOLING | {"Conv2d", "BatchNorm1d", "BatchNorm2d", "sum"}
ROWS = 64  # units that go through a head at once
RELATIVE, ABSOLUTE = 1e-4, 1e-5  # of logits from pooled features beside the network's own, the latter of the largest


class Weights(NamedTuple):
    """Logits = features @ weight.T + bias: [C,D] and [C]."""

    weight: Tensor
    bias: Tensor


def layer_instead(module: nn.Module, trace: Callable[[], Traced]) -> str | None:
    """Where no linear layer makes the logits of a module, what `affine_layer` finds in its graph, if there is one."""
    try:
        traced = trace()
    except ValueError:
        return None
    return affine_layer(traced) if ending_of(module, traced) is None else None


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


def features_of(values: LayerValues) -> Tensor:
    """The layer's activation [B,D,...] averaged over space: [B,D]."""
    activation = values.activation
    return activation.flatten(2).mean(2) if activation.ndim > 2 else activation


def make_logits(head: fx.GraphModule, values: LayerValues, logits: Tensor) -> bool:
    """Whether the head makes the logits [B,C] of the features alone, each at every place of its map."""
    if values.activation.ndim == 3:
        return False  # tokens, whose channels come last
    with torch.no_grad():
        found = head(_at_every_place(features_of(values), values.activation), *values.constants)
    return torch.allclose(found, logits, rtol=RELATIVE, atol=ABSOLUTE * float(logits.abs().max()))


def weights_of(head: fx.GraphModule, values: LayerValues) -> Weights:
    """Weight and bias of a head that is affine, from the images of one pass: the values of a unit of each feature, less
    those of zero, in float64 and then of the features' type."""
    exact = copy.deepcopy(head).double()
    constants = [each.double() if _is_floating(each) else each for each in values.constants]
    activation, width = values.activation[:1].double(), values.activation.shape[1]
    units = torch.eye(width + 1, width, dtype=torch.float64, device=activation.device)  # the last row is zero
    with torch.no_grad():
        steps = torch.cat([exact(_at_every_place(rows, activation), *constants) for rows in units.split(ROWS)])
    like = values.activation
    return Weights((steps[:-1] - steps[-1]).T.contiguous().to(like), steps[-1].to(like))


def _is_floating(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _at_every_place(rows: Tensor, like: Tensor) -> Tensor:
    """Rows [N,D] as maps [N,D,...] of the shape of an activation [B,D,...]."""
    return rows.view(*rows.shape, *[1] * (like.ndim - 2)).expand(*rows.shape, *like.shape[2:])
