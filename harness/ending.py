"""What a classifier ends in: the last linear layer on the way to the logits, and what stands behind it.

Behind it may be whatever leaves the logits a linear function of the layer's input: a fixed temperature or scale, an
offset a class, dropout, changes of shape, one logit written as two. A layer that is registered and not on the way (a
projection head of the training) does not count.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from .graph import Traced, way_to

# Operations on what the layer makes, by name.
_SIZES = frozenset({"size", "getattr", "dim", "new_tensor", "new_zeros", "new_ones"})  # read no value of it
_MOVES = frozenset({"getitem", "view", "reshape", "flatten", "squeeze", "unsqueeze", "contiguous", "clone", "detach"})
_SAME = frozenset({"float", "to", "type_as", "dropout", "neg"})
_SUMS = frozenset({"add", "sub", "cat", "concat", "stack"})
_SCALES = frozenset({"mul", "multiply", "div", "truediv", "divide", "true_divide", "linear", "matmul", "conv2d"})
_EITHER = frozenset({"mul", "multiply", "matmul"})  # of these factors, either may be the fixed one; else the second
POOLING = frozenset({"AdaptiveAvgPool2d", "adaptive_avg_pool2d", "AvgPool2d", "avg_pool2d", "mean", "Linear"})
_MODULES = (nn.Identity, nn.Flatten, nn.Unflatten, nn.modules.dropout._DropoutNd)


class Ending(NamedTuple):
    """The last linear layer, and the part of the graph from its output [B,K] to the logits [B,C]; None: it is they."""

    linear: nn.Linear
    behind: fx.GraphModule | None

    def logits(self, features: Tensor) -> Tensor:
        """[B,C] of the layer's input [B,D], by the network's own operations."""
        outputs = self.linear(features)
        return outputs if self.behind is None else self.behind(outputs)

    def affine(self, width: int) -> tuple[Tensor, Tensor]:
        """Weight [C,D] and bias [C] of the whole, for D features."""
        weight = self.linear.weight
        bias = self.linear(weight.new_zeros(width))  # of zeros: the bias, if there is one
        if self.behind is None:
            return weight, bias
        units = torch.eye(len(bias) + 1, len(bias)).to(weight)  # the last row is zero
        steps = self.behind(units)
        return (steps[:-1] - steps[-1]).T @ weight, self.behind(bias[None])[0]


def ending_of(module: nn.Module, traced: Traced) -> Ending | None:
    """What a traced module ends in; None where the last linear layer is followed by something that is not linear."""
    modules = dict(module.named_modules())
    linears = {node: name for name, node in traced.layers.items() if isinstance(modules.get(name), nn.Linear)}
    (output,) = [node for node in traced.module.graph.nodes if node.op == "output"]
    way = way_to(output)
    for node in reversed(way):
        linear = modules[linears[node]] if node in linears else None
        if isinstance(linear, nn.Linear):
            if output.args[0] is node:
                return Ending(linear, None)
            behind = part_behind(traced.module, way, [node])
            return Ending(linear, behind) if behind is not None and is_affine(behind) else None
    return None


def last_linear(module: nn.Module, trace: Callable[[], Traced]) -> Ending | None:
    """What a module ends in; where it cannot be traced, or its graph says nothing, the linear layer registered last."""
    try:
        return ending_of(module, trace()) or _registered_last(module)
    except ValueError:
        return _registered_last(module)


def _registered_last(module: nn.Module) -> Ending | None:
    linears = [each for each in module.modules() if isinstance(each, nn.Linear)]
    return Ending(linears[-1], None) if linears else None


def part_behind(module: fx.GraphModule, way: list[fx.Node], layers: Sequence[fx.Node]) -> fx.GraphModule | None:
    """The part of the graph from layers' outputs on; None where it reads the image by another way as well."""
    graph = fx.Graph()
    copies = {layer: graph.placeholder(f"value_{layer.name}") for layer in layers}
    for node in way:
        known = all(parent in copies for parent in node.all_input_nodes)
        if node.op == "output":
            if not known or not isinstance(node.args[0], fx.Node):
                return None
            graph.output(copies[node.args[0]])
        elif known and node.op != "placeholder" and node not in copies:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    made = fx.GraphModule(module, graph)
    made.graph.eliminate_dead_code()
    made.recompile()
    return made


def is_affine(head: fx.GraphModule, also: frozenset[str] = frozenset(), fixed: Collection[int] = ()) -> bool:
    """Whether a head's output is an affine function of its inputs, as far as its operations are known.

    also: names of operations that are taken for affine beside those of a network's last logits. fixed: numbers of the
    inputs that are the same for all images.
    """
    inputs = [node for node in head.graph.nodes if node.op == "placeholder"]
    moving = {node for number, node in enumerate(inputs) if number not in fixed}  # change with the image, affinely
    for node in head.graph.nodes:
        if node.op == "output":
            return node.args[0] in moving
        if any(each in moving for each in node.all_input_nodes) and operation(head, node) not in _SIZES:
            if not stays_affine(head, node, moving, also):
                return False
            moving.add(node)
    return False


def stays_affine(module: fx.GraphModule, node: fx.Node, moving: set[fx.Node], also: frozenset[str]) -> bool:
    """Whether an operation on values that are affine functions of something is one, or reads their sizes alone."""
    name = operation(module, node)
    known = name in _SIZES | _MOVES | _SAME | _SUMS | also
    return known or (name in _SCALES and _scales_one(node, name, moving))


def _scales_one(node: fx.Node, name: str, moving: set[fx.Node]) -> bool:
    """Whether one factor alone changes with the input: either of a product, else the first."""
    first, *others = [isinstance(each, fx.Node) and each in moving for each in (*node.args, *node.kwargs.values())]
    return not (first and any(others)) and (first or name in _EITHER)


def operation(head: fx.GraphModule, node: fx.Node) -> str:
    """What an operation is called, whether it is written as a function, a method, an operator or a module."""
    if node.op == "call_module":
        called: Any = head.get_submodule(str(node.target))
        return "view" if isinstance(called, _MODULES) else type(called).__name__
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "").strip("_")
