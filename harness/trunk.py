"""The trunk of a network of attentions: behind each of them the layer that all it knows of the image passes.

Read in the traced graph: a layer after which no other value that depends on the image is read any more. In a vision
transformer that is the sum at the end of each block.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor, fx, nn

from .graph import Traced, cut_at
from .layouts import called, moving

ATTENDING = frozenset(  # what holds one softmax over tokens, by module class, function or method
    {
        *("MultiheadAttention", "TransformerEncoderLayer", "multi_head_attention_forward", "Softmax", "softmax"),
        "scaled_dot_product_attention",
    }
)
IN_A_BLOCK = 2  # sums behind an attention: with what it read, and with what the layers after it read
SUMS = ("add", "iadd", "__add__", "add_", "__iadd__")


class Trunk(NamedTuple):
    """Module paths of the layers, one behind each attention, and the head from the last one to the logits."""

    layers: tuple[str, ...]
    head: fx.GraphModule

    def logits(self, values: Tensor) -> Tensor:
        """[B,C] of what any of the layers gives."""
        found: Tensor = self.head(values)
        return found


def trunk_of(traced: Traced, root: nn.Module) -> Trunk:
    """The trunk in a graph that was made of `root`.

    Raises:
        ValueError: there is no attention in the graph, no such layer behind one of them or none that is a module's
            output, or the last one's head reads something else as well.
    """
    stages = _stages(traced.module)
    last = _last(stages[:-1], stages[-1], traced.module)
    nodes = [*(stage[-1] for stage in stages[:-1]), last]
    cut = cut_at(traced, last, last.name)
    if cut.crossing:
        raise ValueError(f"what follows layer {last.name!r} reads {cut.crossing[0].node.name!r} as well")
    paths = {path for path, _ in root.named_modules()}
    return Trunk(tuple(_named(traced, node, paths) for node in nodes), cut.head)


def _stages(module: fx.GraphModule) -> list[list[fx.Node]]:
    """Behind each attention, and before the next one, the nodes that all passes."""
    stages: list[list[fx.Node]] = []
    all_pass = set(passages(module))
    for node in module.graph.nodes:
        if called(module, node) in ATTENDING:
            stages.append([])
        if stages and node in all_pass:
            stages[-1].append(node)
    if not stages:
        raise ValueError("its graph shows no attention")
    for number, stage in enumerate(stages, 1):
        if not stage:
            raise ValueError(f"all along attention number {number} several values that depend on the image are alive")
    return stages


def passages(module: fx.GraphModule) -> Iterator[fx.Node]:
    """Nodes after which nothing else that depends on the image is read."""
    nodes = list(module.graph.nodes)
    place = {node: number for number, node in enumerate(nodes)}
    image, alive = moving(module), set[fx.Node]()
    for node in filter(image.__contains__, nodes):
        alive = {each for each in alive | {node} if max(map(place.__getitem__, each.users), default=-1) > place[node]}
        if alive == {node}:
            yield node


def _last(others: Sequence[Sequence[fx.Node]], stage: Sequence[fx.Node], module: fx.GraphModule) -> fx.Node:
    """Of the last attention's stage, in which the norm and head follow: the last that is made as theirs is."""
    kinds = {called(module, other[-1]) for other in others} or set(SUMS)

    def alike(nodes: Sequence[fx.Node]) -> list[fx.Node]:
        return [node for node in nodes if called(module, node) in kinds]

    found, most = alike(stage), max((len(alike(other)) for other in others), default=IN_A_BLOCK)
    if not found:
        raise ValueError(f"nothing behind its last attention is made as what is behind the others: {sorted(kinds)}")
    if len(found) > most:
        raise ValueError(
            f"behind its last attention are {len(found)} of {sorted(kinds)}, behind others {most}: its end is unclear"
        )
    return found[-1]


def _named(traced: Traced, node: fx.Node, paths: set[str]) -> str:
    """The module path whose output the node is, the innermost of several."""
    found = [name for name, each in traced.layers.items() if each is node and name in paths]
    if not found:
        raise ValueError(f"what all passes behind one of them, {node.name!r} of its graph, is no module's output")
    return max(found, key=lambda name: name.count("."))
