"""Layers whose channels come last, or that are tokens, as maps [B,K,h,w]: seen through two nodes in the traced graph.

What reads the layer reads it as before, through the inverse; a head from the map to the logits is cut between the two.
"""

from collections.abc import Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor, fx

from .graph import Traced, way_to

Layout = Literal["nchw", "nhwc", "tokens"]
Found = Literal["nchw", "nhwc", "unsure"]

MARK = "@"  # between a layer's name and its layout; in no module path and no node's name
MOST_PREFIXES = 8  # tokens that are no part of the grid: class, distillation, registers

_SAME = frozenset(  # operations that leave the order of dimensions as it is, by module class, function or method
    {
        *("add", "iadd", "sub", "mul", "imul", "div", "truediv", "clone", "contiguous", "detach", "Identity"),
        *("Dropout", "Dropout1d", "Dropout2d", "dropout", "StochasticDepth", "stochastic_depth"),
        *("ReLU", "ReLU6", "GELU", "SiLU", "ELU", "LeakyReLU", "Hardswish", "Mish", "Sigmoid", "Tanh"),
        *("relu", "relu6", "gelu", "silu", "elu", "leaky_relu", "hardswish", "mish", "sigmoid", "tanh"),
        *("shifted_window_attention", "_patch_merging_pad"),  # torchvision's, which torch.fx does not look into
    }
)
_FIRST = frozenset(  # they read [B,K,h,w]
    {
        *("Conv2d", "ConvTranspose2d", "BatchNorm2d", "InstanceNorm2d", "GroupNorm", "conv2d", "batch_norm"),
        *("MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d", "AdaptiveMaxPool2d", "max_pool2d", "avg_pool2d"),
        *("adaptive_avg_pool2d", "adaptive_max_pool2d", "PixelShuffle", "Upsample", "interpolate"),
    }
)
_SIZES = frozenset({"size", "getattr", "sym_size", "dim", "ndim"})  # they read no value
_REDUCTIONS = frozenset({"mean", "sum", "amax"})
_JOINS = frozenset({"cat", "concat"})
_REORDERS = frozenset(  # what they give may have any order of dimensions
    {
        *("permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims", "einsum"),
        *("view", "reshape", "unflatten", "Unflatten"),
    }
)
_PERMUTED: dict[tuple[Any, ...], Found] = {(0, 3, 1, 2): "nhwc", (0, 2, 3, 1): "nchw"}  # what such a permutation reads
_GIVEN: dict[tuple[Any, ...], Found] = {(0, 3, 1, 2): "nchw", (0, 2, 3, 1): "nhwc"}  # and what it gives
_REDUCED: dict[frozenset[Any], Found] = {frozenset({1, 2}): "nhwc", frozenset({2, 3}): "nchw"}


def seen_as(layer: str, layout: Layout | None) -> str:
    """The name under which a network shows a layer as a map; None: in the layout that its graph says.

    Raises:
        ValueError: no such layout.
    """
    if layout is None:
        return layer
    if layout not in get_args(Layout):
        raise ValueError(f"layout={layout!r}: choose {', '.join(get_args(Layout))}, or null for what the graph says")
    return f"{layer}{MARK}{layout}"


def as_map(traced: Traced, layer: str) -> fx.Node:
    """The node that is the layer as a map, put into the graph where there is none.

    layer: as `seen_as` names it. Without a layout, a layer that the graph certainly gives channels last is turned, and
    every other one is left as it is.
    """
    name, _, layout = layer.partition(MARK)
    node = traced.layers[name]
    if layout == "tokens":
        check_order(traced.module, node)
        image = next(each for each in traced.module.graph.nodes if each.op == "placeholder")
        return _through(traced, node, tokens_to_map, (image,), map_to_tokens, (node,))
    if (layout or layout_of(traced.module, node)) == "nhwc":
        return _through(traced, node, channels_first, (), channels_last, ())
    return node


def _through(traced: Traced, node: fx.Node, there: Any, more: Any, back: Any, other: Any) -> fx.Node:
    """Let all that reads `node` read back(there(node, *more), *other); returns the node in between."""
    graph = traced.module.graph
    readers = list(node.users)
    with graph.inserting_after(node):
        seen = graph.call_function(there, (node, *more))
    with graph.inserting_after(seen):
        again = graph.call_function(back, (seen, *other))
    for reader in readers:
        reader.replace_input_with(node, again)
    traced.module.recompile()
    return seen


def channels_first(values: Tensor) -> Tensor:
    """[B,h,w,K] -> [B,K,h,w]."""
    if values.ndim != 4:
        raise ValueError(f"layout nhwc: the layer gives {list(values.shape)}, not [batch, height, width, channels]")
    return values.permute(0, 3, 1, 2)


def channels_last(values: Tensor) -> Tensor:
    """[B,K,h,w] -> [B,h,w,K]."""
    return values.permute(0, 2, 3, 1)


def tokens_to_map(tokens: Tensor, images: Tensor) -> Tensor:
    """Tokens [B,N,K] of patches, row by row, after those that are no patches -> [B,K,h,w].

    The grid is that of the smallest square patches of the images [B,C,H,W] which are no more than the tokens.
    """
    if tokens.ndim != 3:
        raise ValueError(f"layout tokens: the layer gives {list(tokens.shape)}, not [batch, tokens, channels]")
    rows, columns = grid_of(tokens.shape[1], images.shape[2], images.shape[3])
    return tokens[:, tokens.shape[1] - rows * columns :].transpose(1, 2).unflatten(2, (rows, columns))


def map_to_tokens(values: Tensor, tokens: Tensor) -> Tensor:
    """The map [B,K,h,w] as the last of the tokens [B,N,K]."""
    patches = values.flatten(2).transpose(1, 2)
    return torch.cat([tokens[:, : tokens.shape[1] - patches.shape[1]], patches], 1)


def grid_of(tokens: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the smallest square patches of images that are no more than the tokens.

    Raises:
        ValueError: more than `MOST_PREFIXES` tokens would be no patches.
    """
    sizes = ((height // patch, width // patch) for patch in range(1, min(height, width) + 1))
    rows, columns = next((size for size in sizes if size[0] * size[1] <= tokens), (0, 0))
    if not 0 <= tokens - rows * columns <= MOST_PREFIXES:
        raise ValueError(
            f"layout tokens: {tokens} tokens are no grid of square patches of {height} x {width} pixels after at most "
            f"{MOST_PREFIXES} others: choose a layer with one token a patch"
        )
    return rows, columns


def layout_of(module: fx.GraphModule, node: fx.Node) -> Found | None:
    """In which dimension a layer has its channels, by what reads it and what makes it; None: nothing says.

    Certain is what takes four dimensions: a convolution, a pool, a mean over space, a permutation. A linear layer or a
    layer-norm reads the last dimension, of tokens or vectors too: `unsure`, as where readers contradict each other or
    what made the layer. Where no reader says anything, what made it does.
    """
    certain, is_hinted = _readers(module, node)
    made = _made_as(module, node)
    if len(certain) == 1:
        said = certain.pop()
        return said if made in (None, "unsure", said) else "unsure"
    return "unsure" if certain or is_hinted else made


def reads_last(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a layer is made or read by what takes its last dimension for channels, and nothing takes another."""
    if layout_of(module, node) == "nchw":
        return False
    return _reads_last(module, node, called(module, node)) or _readers(module, node)[1] or _is_made_last(module, node)


def _is_made_last(module: fx.GraphModule, node: fx.Node) -> bool:
    waiting, known = [node], set[fx.Node]()
    while waiting:
        maker = waiting.pop()
        if maker not in known:
            known.add(maker)
            name = called(module, maker)
            if _reads_last(module, maker, name):
                return True
            waiting += maker.all_input_nodes if name in _SAME else []
    return False


def are_tokens(module: fx.GraphModule, node: fx.Node, values: Tensor, images: Tensor) -> bool:
    """Whether a layer [1,N,K] whose channels come last is a grid of patches of images [1,C,H,W] after others."""
    if values.ndim != 3 or len(values) != len(images[:1]):
        return False
    try:
        check_order(module, node)
        grid_of(values.shape[1], images.shape[2], images.shape[3])
    except ValueError:
        return False
    return True


def check_order(module: fx.GraphModule, node: fx.Node) -> None:
    """Raise ValueError where tokens that do not depend on the image are put behind those that do."""
    of_image = moving(module)
    for each in way_to(node):
        if called(module, each) in _JOINS and isinstance(each.args[0], (tuple, list)):
            parts = [part in of_image for part in each.args[0]]
            if any(parts) and not parts[-1]:
                raise ValueError(
                    f"layout tokens: {each.name} puts other tokens behind the patches, which are read as the "
                    "last ones: choose a layer before it"
                )


def moving(module: fx.GraphModule) -> set[fx.Node]:
    """Nodes whose values, and not only their sizes, depend on the image."""
    found = set[fx.Node]()
    for node in module.graph.nodes:
        if node.op == "placeholder" or (
            called(module, node) not in _SIZES and any(each in found for each in node.all_input_nodes)
        ):
            found.add(node)
    return found


def _made_as(module: fx.GraphModule, node: fx.Node) -> Found | None:
    """What made a layer, or what it is computed from without a change of dimensions, says of them."""
    found, waiting, known = set[Found](), [node], set[fx.Node]()
    while waiting:
        maker = waiting.pop()
        if maker in known:
            continue
        known.add(maker)
        name = called(module, maker)
        if name in _FIRST or name in _REORDERS:
            found.add("nchw" if name in _FIRST else _given(maker, name))
        elif name in _SAME | _JOINS or _reads_last(module, maker, name):
            waiting += maker.all_input_nodes
    if len(found) == 1:
        return found.pop()
    return "unsure" if found else None


def _given(node: fx.Node, name: str) -> Found:
    return _GIVEN.get(tuple(_dimensions(node, "dims")), "unsure") if name == "permute" else "unsure"


def _readers(module: fx.GraphModule, node: fx.Node) -> tuple[set[Found], bool]:
    """What readers say for certain, and whether another reads the last dimension."""
    certain, hints = set[Found](), set[str]()
    waiting, known = list(node.users), {node}
    while waiting:
        reader = waiting.pop()
        if reader in known:
            continue
        known.add(reader)
        name = called(module, reader)
        if said := _said(reader, name):
            certain.add(said)
        elif name in _SAME or _reads_last(module, reader, name):
            hints |= {name} - _SAME
            waiting += reader.users
    return certain, bool(hints)


def called(module: fx.GraphModule, node: fx.Node) -> str:
    """Of the module's class, the function or the method that a node calls."""
    if node.op == "call_module":
        return type(module.get_submodule(str(node.target))).__name__
    return str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")


def _reads_last(module: fx.GraphModule, node: fx.Node, name: str) -> bool:
    """Whether a node reads the last dimension, whatever it is."""
    if name == "LayerNorm":
        return len(module.get_submodule(str(node.target)).normalized_shape) == 1  # type: ignore[arg-type]
    if name == "layer_norm":
        shape = node.kwargs.get("normalized_shape", node.args[1] if len(node.args) > 1 else ())
        return isinstance(shape, (tuple, list)) and len(shape) == 1
    return name in ("Linear", "linear")


def _said(node: fx.Node, name: str) -> Found | None:
    """What a node that reads a layer says for certain of the layer."""
    if name in _FIRST:
        return "nchw"
    if name == "channels_first":
        return "nhwc"
    if name == "permute":
        return _PERMUTED.get(tuple(_dimensions(node, "dims")))
    if name in _REDUCTIONS:
        return _REDUCED.get(frozenset(_dimensions(node, "dim")))
    return None


def _dimensions(node: fx.Node, keyword: str) -> Iterator[Any]:
    """Dimensions of four that a call names, as one sequence or one by one."""
    given = node.kwargs.get(keyword, node.kwargs.get("axis", node.args[1:]))
    for each in given if isinstance(given, (tuple, list)) else [given]:
        for one in each if isinstance(each, (tuple, list)) else [each]:
            yield one % 4 if isinstance(one, int) else one
