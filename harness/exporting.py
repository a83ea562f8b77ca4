"""Networks that torch.fx cannot trace, through torch.export: their graph of ATen operations, with the modules' names.

Most Hugging Face networks are such. The graph is made for one height and width of images and any number of them. A
layer is the operation that gives what the module itself gives, found by comparing the two on an image; a module of
torch.nn that is a single operation is called as a whole again, so that it reads as in a graph of torch.fx. What reads
neither image nor parameters (an index of relative positions) is computed once: it is often made by writing in place.
"""

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from .graph import Traced, close, trace, traced_of
from .modules import unseen_parts

LIFTED = "lifted_tensor_"  # how torch.export names a number that the code itself makes a tensor of
STACK = "nn_module_stack"  # where torch.export writes which modules an operation was called in


def trace_or_export(module: nn.Module, image: Callable[[], Tensor]) -> Traced:
    """The graph by torch.fx, or by torch.export where torch.fx cannot follow.

    image: makes an input [1,3,H,W].

    Raises:
        ValueError: neither can.
    """
    try:
        return trace(module)
    except Exception as by_fx:  # whatever the module's own code raises of a proxy
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(_refused(module, by_fx, "it is a scripted module")) from by_fx
        try:
            return export(module, image())
        except Exception as by_export:
            raise ValueError(_refused(module, by_fx, by_export)) from by_export


def example(like: Tensor, size: tuple[int, int]) -> Tensor:
    """An input [1,C,H,W] of noise, always the same, of the type and channels of `like` [1,C,1,1]."""
    noise = torch.randn(1, like.shape[1], *size, generator=torch.Generator().manual_seed(0))
    return noise.to(like)


def _refused(module: nn.Module, by_fx: Any, by_export: Any) -> str:
    why = " ".join(str(by_export).split("\n", 1)[0].split())
    return (
        f"{type(module).__name__} cannot be traced by torch.fx ({by_fx}), nor exported by torch.export ({why}): "
        "methods that read a layer (gradcam, ...) need one of them; methods on the input gradient work without"
        f"{unseen_parts(module)}"
    )


def export(module: nn.Module, image: Tensor) -> Traced:
    """The graph of a module for images like this one [1,3,H,W]; raises whatever `torch.export` raises."""
    images = image.repeat(2, *[1] * (image.ndim - 1))
    shapes = ({0: torch.export.Dim("images")},)
    with torch.no_grad():
        program = torch.export.export(module, (images,), dynamic_shapes=shapes, strict=False)
    exported: Any = program.module()
    known = dict(module.named_modules())
    stacks = {node.name: [path for path in _paths(node) if path in known] for node in exported.graph.nodes}
    made = _plain(module, exported, stacks)
    traced = traced_of(made, {})
    layers = {node.name: node for node in made.graph.nodes if node.op.startswith("call")}
    return traced._replace(layers=layers | _layers(module, made, stacks, image), by="export")


def _paths(node: fx.Node) -> list[str]:
    """Paths of the modules that an operation was called in, the innermost last."""
    return [path.partition("@")[0] for path, _ in (node.meta.get(STACK) or {}).values()]


def _plain(module: nn.Module, exported: fx.GraphModule, stacks: dict[str, list[str]]) -> fx.GraphModule:
    """The exported graph as torch.fx would write it: one output, packets of operations, modules of torch.nn whole."""
    graph, single, constants = fx.Graph(), _single(exported, stacks), _constants(exported)
    copies: dict[fx.Node, fx.Node] = {}
    for node in exported.graph.nodes:
        if node in constants:
            exported.register_buffer(f"constant_{node.name}", constants[node], persistent=False)
            copies[node] = graph.get_attr(f"constant_{node.name}")
        elif node.op == "output":
            graph.output(copies[node.args[0][0]])
        elif node.target != "_guards_fn":
            copies[node] = graph.node_copy(node, copies.__getitem__)
            if (path := single.get(node)) is not None and _is_whole(module, node, path):
                exported.set_submodule(path, module.get_submodule(path))
                _call(copies[node], path)
            elif isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "aten":
                copies[node].target = node.target.overloadpacket
    made = fx.GraphModule(exported, graph, type(module).__name__)
    made.graph.eliminate_dead_code()
    made.recompile()
    return made


@torch.no_grad()
def _constants(exported: fx.GraphModule) -> dict[fx.Node, Tensor]:
    """Tensors made of no image and no parameter, nor drawn, with what was written into them in place.

    Left out is what something else is written into: it has to be made anew in each call.
    """
    known: dict[fx.Node, Any] = {}
    for node in exported.graph.nodes:
        if node.op == "get_attr" and LIFTED in str(node.target):
            known[node] = operator.attrgetter(str(node.target))(exported).clone()
        elif _is_fixed(node) and all(each in known for each in node.all_input_nodes):
            args, kwargs = fx.map_arg((node.args, node.kwargs), known.__getitem__)
            known[node] = node.target(*args, **kwargs)
    tensors = {node: value for node, value in known.items() if isinstance(value, Tensor)}
    writing = [node for node in exported.graph.nodes if node not in known and _writes(node)]
    written = {_memory(tensors[each]) for node in writing for each in node.all_input_nodes if each in tensors}
    return {node: value for node, value in tensors.items() if _memory(value) not in written}


def _memory(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()


def _writes(node: fx.Node) -> bool:
    """Whether an operation of ATen changes one of its inputs."""
    return isinstance(node.target, torch._ops.OpOverload) and bool(node.target._schema.is_mutable)


def _is_fixed(node: fx.Node) -> bool:
    """Whether an operation of ATen gives the same whenever its inputs are the same."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return torch.Tag.nondeterministic_seeded not in target.tags
    return target is operator.getitem


def _single(exported: fx.GraphModule, stacks: dict[str, list[str]]) -> dict[fx.Node, str]:
    """Operations that are all that a module does, in its one call, with the module's path."""
    inside: dict[str, list[fx.Node]] = {}
    for node in exported.graph.nodes:
        if node.op == "call_function":
            for path in stacks[node.name]:
                inside.setdefault(path, []).append(node)
    innermost = {nodes[0]: path for path, nodes in inside.items() if len(nodes) == 1}
    return {node: path for node, path in innermost.items() if path == stacks[node.name][-1]}


def _is_whole(module: nn.Module, node: fx.Node, path: str) -> bool:
    """Whether a module of torch.nn reads one value beside its own parameters, which is the operation's first."""
    own = type(module.get_submodule(path)).__module__.startswith("torch.nn.modules.")
    values = [each for each in node.all_input_nodes if each.op != "get_attr"]
    weights = [str(each.target) for each in node.all_input_nodes if each.op == "get_attr"]
    return own and values == [node.args[0]] and all(name.startswith(f"{path}.") for name in weights)


def _call(node: fx.Node, path: str) -> None:
    node.op, node.target = "call_module", path
    node.args, node.kwargs = node.args[:1], {}


def _layers(module: nn.Module, made: fx.GraphModule, stacks: dict[str, list[str]], image: Tensor) -> dict[str, fx.Node]:
    """Module paths with the last of their operations that gives what the module gave when it was last called."""
    found, values = {}, Values(made).of(image)
    outputs = _outputs(module, image)
    for path, node in _last_first(made, stacks):
        if path in outputs and path not in found and node in values and _is_same(values[node], outputs[path]):
            found[path] = node
    return found


def _last_first(made: fx.GraphModule, stacks: dict[str, list[str]]) -> Iterator[tuple[str, fx.Node]]:
    for node in reversed(made.graph.nodes):
        for path in stacks.get(node.name, []):
            if path:
                yield path, node


def _is_same(value: Tensor, output: Tensor) -> bool:
    return value.shape == output.shape and close(value, output)


@torch.no_grad()
def _outputs(module: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """What each module gives in its last call; the first of several."""
    kept: dict[str, Tensor] = {}

    def keep(path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            members = output.values() if isinstance(output, Mapping) else output
            first = next(iter(members), None) if isinstance(output, (tuple, Mapping)) else output
            if isinstance(first, Tensor):
                kept[path] = first.clone()

        return hook

    handles = [each.register_forward_hook(keep(path)) for path, each in module.named_modules() if path]
    try:
        module(image.clone())
    finally:
        for handle in handles:
            handle.remove()
    return kept


class Values(fx.Interpreter):
    """Runs a graph and keeps the values of its operations."""

    @torch.no_grad()
    def of(self, image: Tensor) -> dict[fx.Node, Tensor]:
        """Each operation's, for an image [1,3,H,W]."""
        self.kept: dict[fx.Node, Tensor] = {}
        self.run(image.clone())
        return self.kept

    def run_node(self, n: fx.Node) -> Any:
        """Run an operation and keep its value."""
        value = super().run_node(n)
        if n.op.startswith("call") and isinstance(value, Tensor):
            self.kept[n] = value
        return value
