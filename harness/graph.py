"""A classifier's traced graph: layers by name, cut in two at any of them.

The module is traced once with `torch.fx`. A layer is the output of a module path's *last* call, or a
functional op by its node's name. The head of a layer is the part of the graph that depends on it; other live
values that cross the cut become inputs of the head. In-place operations are replaced by their pure forms in
the graph (never in the module), so that a kept activation is not overwritten.
"""

import copy
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

_PURE_OPERATORS: dict[Any, Any] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}


_SIZES = (torch.ops.aten.sym_size, torch.ops.aten.sym_size.int)  # in graphs of torch.export
_MAKERS = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.Linear)  # whose outputs are no views


class Traced(NamedTuple):
    """The pure graph with the modules that it calls, its layers by name, and what its pure nodes stand for."""

    module: fx.GraphModule
    layers: dict[str, fx.Node]
    written: dict[str, "Written"]  # node's name -> how the module itself computes it
    by: str = "fx"  # what made the graph: fx, or export (`harness.exporting`)


class Written(NamedTuple):
    """A node that writes into its first argument, as the module has it: its target, its arguments by name."""

    target: Any
    kwargs: dict[str, Any]


class Crossing(NamedTuple):
    """A value that a head reads beside its layer's activation.

    per_image: its rows belong to the images (it depends on the input). is_count: it is the number of images.
    """

    node: fx.Node
    per_image: bool
    is_count: bool


class Cut(NamedTuple):
    """A layer in the graph: its node, what else its head reads, and the head."""

    node: fx.Node
    crossing: tuple[Crossing, ...]
    head: fx.GraphModule


class _LayerTracer(fx.Tracer):
    """Remembers which node is the output of each module path (the last call wins)."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: dict[str, fx.Node] = {}

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        path = self.path_of_module(m)
        result = super().call_module(m, forward, args, kwargs)
        if isinstance(result, fx.Proxy):
            self.outputs[path] = result.node
        return result


def trace(module: nn.Module) -> Traced:
    """Trace a module; raises whatever `torch.fx` raises where it cannot follow."""
    tracer = _LayerTracer()
    graph = tracer.trace(module)
    return traced_of(fx.GraphModule(module, graph), tracer.outputs)


def traced_of(made: fx.GraphModule, outputs: dict[str, fx.Node]) -> Traced:
    """A graph made pure, with its layers: `outputs`, module paths with nodes of the same names, and every operation."""
    written = _remove_mutation(made)
    ops = {node.name: node for node in made.graph.nodes if node.op.startswith("call")}
    copied = {node.name: node for node in made.graph.nodes}
    return Traced(made, ops | {path: copied[node.name] for path, node in outputs.items()}, written)


def _pure_function(target: Any) -> Any:
    """The out-of-place form of a function such as `torch.relu_`, or the function itself."""
    name = getattr(target, "__name__", "")
    if target in _PURE_OPERATORS or not name.endswith("_") or name.endswith("__"):
        return _PURE_OPERATORS.get(target, target)
    return getattr(torch, name[:-1], None) or getattr(nn.functional, name[:-1], target)


def _made_pure(module: fx.GraphModule, node: fx.Node) -> bool:
    """Replace a node that writes into its first argument by its pure form; whether it was one."""
    if node.op == "call_module":
        called = module.get_submodule(str(node.target))
        if not getattr(called, "inplace", False):
            return False
        pure = copy.copy(called)
        pure.inplace = False  # type: ignore[assignment]
        module.set_submodule(str(node.target), pure)  # the traced copy's, not the user's
        return True
    if node.kwargs.get("inplace"):
        node.kwargs = {**node.kwargs, "inplace": False}
        return True
    if node.op == "call_method" and str(node.target).endswith("_") and not str(node.target).endswith("__"):
        node.target = str(node.target)[:-1]
        return True
    if node.op == "call_function" and _pure_function(node.target) is not node.target:
        node.target = _pure_function(node.target)
        return True
    return False


def _remove_mutation(module: fx.GraphModule) -> dict[str, Written]:
    """Replace in-place nodes by pure ones, returned by name; later readers of the written value read the new one."""
    order = {node: position for position, node in enumerate(module.graph.nodes)}
    inplace = {
        str(n.target): called
        for n in order
        if n.op == "call_module" and getattr(called := module.get_submodule(str(n.target)), "inplace", False)
    }
    originals: dict[str, Written] = {}
    for node in order:
        original = Written(inplace.get(str(node.target), node.target), dict(node.kwargs))
        if not (_made_pure(module, node) or (node.op == "call_module" and str(node.target) in inplace)):
            continue
        originals[node.name] = original
        written = node.args[0]
        for user in [u for u in written.users if order[u] > order[node]]:
            user.replace_input_with(written, node)
    module.recompile()
    return originals


def cut_at(traced: Traced, node: fx.Node, layer: str) -> Cut:
    """Split the graph at a layer's node: everything that depends on it becomes the head."""
    after: dict[fx.Node, None] = {node: None}
    for other in traced.module.graph.nodes:
        if any(parent in after for parent in other.all_input_nodes):
            after.setdefault(other)
    inside = [n for n in after if n is not node]
    if not any(n.op == "output" for n in inside):
        raise ValueError(f"layer {layer!r} does not reach the logits")
    outside = {p: None for n in inside for p in n.all_input_nodes if p not in after}
    crossing = tuple(p for p in outside if p.op != "get_attr")
    head = fx.Graph()
    copies = {n: head.placeholder(f"value_{n.name}") for n in (node, *crossing)}
    for n in [*(p for p in outside if p.op == "get_attr"), *inside]:
        if n.op == "output":
            head.output(copies[n.args[0]] if isinstance(n.args[0], fx.Node) else n.args[0])
        else:
            copies[n] = head.node_copy(n, copies.__getitem__)
    module = fx.GraphModule(traced.module, head)
    module.graph.eliminate_dead_code()
    module.recompile()
    fed = fed_by_input(traced.module.graph)
    return Cut(node, tuple(Crossing(n, n in fed, _is_image_count(n)) for n in crossing), module)


def fed_by_input(graph: fx.Graph) -> set[fx.Node]:
    """Nodes whose value depends on the network's input."""
    fed: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or any(parent in fed for parent in node.all_input_nodes):
            fed.add(node)
    return fed


def way_to(node: fx.Node) -> list[fx.Node]:
    """A node and those that it depends on, in the order of the graph."""
    found, open_nodes = set[fx.Node](), [node]
    while open_nodes:
        each = open_nodes.pop()
        if each not in found:
            found.add(each)
            open_nodes += each.all_input_nodes
    return [each for each in node.graph.nodes if each in found]


def _is_image_count(node: fx.Node) -> bool:
    """Whether a node reads the first dimension of a tensor: `x.shape[0]`, `x.size(0)`, `x.size()[0]`."""
    if node.target in _SIZES:
        return bool(node.args[1] == 0)
    if node.op == "call_method" and node.target == "size":
        return bool(node.args[1:] == (0,))
    if node.op != "call_function" or node.target is not operator.getitem or node.args[1] != 0:
        return False
    shape = node.args[0]
    if not isinstance(shape, fx.Node):
        return False
    is_shape = shape.op == "call_function" and shape.target is getattr and shape.args[1] == "shape"
    return bool(is_shape or (shape.op == "call_method" and shape.target == "size" and len(shape.args) == 1))


def with_outputs(traced: Traced, cuts: Sequence[Cut]) -> fx.GraphModule:
    """The whole graph, returning (logits, ((activation, *crossing) of each cut))."""
    tapped = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    logits = tapped.graph_copy(traced.module.graph, copies)
    kept = [(cut.node, *(crossing.node for crossing in cut.crossing)) for cut in cuts]
    tapped.output((logits, tuple(tuple(copies[node] for node in nodes) for nodes in kept)))
    module = fx.GraphModule(traced.module, tapped)
    for node, copied in copies.items():
        if node.name in traced.written and _is_free(module, copied):
            _write_again(module, copied, traced.written[node.name])
    module.recompile()
    return module


def up_to(traced: Traced, cut: Cut) -> fx.GraphModule:
    """The part of the graph that a layer and its head's other values depend on, returning (activation, *crossing)."""
    made = with_outputs(traced, [cut])
    (output,) = [node for node in made.graph.nodes if node.op == "output"]
    output.args = (output.args[0][1][0],)
    made.graph.eliminate_dead_code()
    made.recompile()
    return made


def check_same(
    expected: Tensor, tapped: fx.GraphModule, heads: Sequence[fx.GraphModule], image: Tensor, name: str
) -> None:
    """Raise ValueError unless a tapped graph, and heads on what it keeps, give the logits of one image [1,3,H,W].

    Tracing loses writes through views and other names: better an error than another network's numbers.
    """
    with torch.no_grad():
        logits, values = tapped(image.clone())
        found = [logits, *(head(*kept) for head, kept in zip(heads, values, strict=True))]
    if not all(close(each, expected) for each in found):
        raise ValueError(
            f"{name} gives other logits when traced by torch.fx or torch.export, probably because it writes in place "
            "through a view or a second name: methods that read a layer cannot be used with it"
        )


def close(found: Tensor, expected: Tensor) -> bool:
    """Whether two tensors are the same but for rounding in float32: 1e-4, and 1e-5 of the largest."""
    if not expected.numel():
        return True
    if not expected.is_floating_point():
        return torch.equal(found, expected)
    return torch.allclose(expected, found, rtol=1e-4, atol=1e-5 * float(expected.abs().max()), equal_nan=True)


def _is_free(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node may write into its first argument: a new tensor that nobody else reads (or keeps)."""
    written = node.args[0]
    if not isinstance(written, fx.Node) or list(written.users) != [node]:
        return False
    if written.op == "call_module":
        return isinstance(module.get_submodule(str(written.target)), _MAKERS)
    return written.op == "call_function" and written.target in (operator.add, operator.iadd, torch.add)


def _write_again(module: fx.GraphModule, node: fx.Node, original: Written) -> None:
    target = original.target
    if isinstance(target, nn.Module):
        module.add_submodule(target := f"{node.target}_in_place", original.target)
    node.target, node.kwargs = target, original.kwargs
