"""A network of grids whose cells cannot see one another: a method that marks another cell has made it up.

DiFull of Rao, Böhle and Schiele 2022: each cell of the image goes through the network by itself and has a head of its
own, so that what a class' logit owes to the other cells is exactly 0.
"""

import hashlib
from collections.abc import Mapping

from torch import Tensor, fx, nn

from ..frames import cells_apart, cells_together
from ..graph import Traced, cut_at, trace
from ..network import Network


class OnGrid(nn.Module):
    """A layer's rows [B n n,K,h,w] as maps of whole grids [B,K,n h,n w]."""

    def __init__(self, cells: int) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, values: Tensor) -> Tensor:
        return cells_together(values, self.cells)


class Disconnected(nn.Module):
    """Logits [B, n n C] of grids [B,3,n h,n w]: class c in cell k is output k C + c, and reads that cell alone.

    network: logits [R,C] of cells [R,3,h,w]; what `OnGrid` shows of it reads as many rows as the batch has cells.
    """

    def __init__(self, network: nn.Module, cells: int) -> None:
        super().__init__()
        self.network, self.cells = network, cells

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(cells_apart(images, self.cells))
        return logits.unflatten(0, (-1, self.cells**2)).flatten(1)


class CellNetwork(Network):
    """A `Disconnected` network: probabilities and predictions are each cell's own."""

    def output_probabilities(self, logits: Tensor) -> Tensor:
        """Of each cell's classes, [R, n n C]."""
        heads = logits.unflatten(1, (self.cells**2, -1))
        return (heads.softmax(2) if self.activation == "softmax" else heads.sigmoid()).flatten(1)

    def predicts(self, logits: Tensor) -> Tensor:
        """The best class of each cell (softmax), those of at least 0.5 (sigmoid): bool [R, n n C]."""
        if self.activation == "sigmoid":
            return self.output_probabilities(logits) >= 0.5
        heads = logits.unflatten(1, (self.cells**2, -1))
        return nn.functional.one_hot(heads.argmax(2), heads.shape[2]).bool().flatten(1)


def disconnected(network: Network, cells: int = 2, shown: Mapping[str, str] | None = None) -> Network:
    """A network of grids of `cells` x `cells` images, with one head a cell.

    Args:
        network: of single images.
        cells: images a side.
        shown: layers for methods that read one, name -> the network's layer: layer `network.NAME` holds its maps side
            by side. All other layers have a row a cell, and methods that read them refuse.

    Raises:
        ValueError: no grid; a network with grouped outputs; no such layer, a layer that another branch passes, a name
            that the network has; or the network cannot be traced.
    """
    if cells < 2:
        raise ValueError(f"cells={cells}: give at least 2 a side")
    if network.groups is not None:
        raise ValueError("a network with grouped outputs cannot be disconnected: choose the network itself")
    module = network.module if not shown else _showing(network, shown, cells)
    identity = hashlib.sha256(f"{network.fingerprint} {cells} {sorted((shown or {}).items())}".encode()).hexdigest()
    mean, std = network.statistics
    size = None if network.input_size is None else (cells * network.input_size[0], cells * network.input_size[1])
    made = CellNetwork(Disconnected(module, cells), mean, std, network.activation, identity, input_size=size)
    made.cells, made.classes = cells, network.classes
    made.notes += network.notes
    return made.to(network.mean.device, network.mean.dtype)


def _showing(network: Network, shown: Mapping[str, str], cells: int) -> nn.Module:
    """The network's graph, in which the layers are put together to maps of grids, and taken apart again."""
    for layer in shown.values():
        network.check_layer(layer)
    traced = trace(network.module)
    for name, layer in shown.items():
        _check_shown(traced, name, layer)
        _put_in(traced.module, traced.layers[layer], name, cells)
    traced.module.recompile()
    return traced.module


def _check_shown(traced: Traced, name: str, layer: str) -> None:
    """Raise ValueError for a name that is taken, and for a layer beside which the images' values take another way."""
    if not name.isidentifier() or hasattr(traced.module, name):
        raise ValueError(f"shown: {name!r} is no name, or the network has a module of that name: choose another")
    if any(other.per_image for other in cut_at(traced, traced.layers[layer], layer).crossing):
        raise ValueError(
            f"shown.{name}={layer!r} lies inside a block that another branch passes by, whose rows are cells: choose "
            "the layer behind the block"
        )


def _put_in(module: fx.GraphModule, layer: fx.Node, name: str, cells: int) -> None:
    """Let all that reads the layer read it through a module of this name."""
    module.add_submodule(name, OnGrid(cells))
    readers = list(layer.users)
    with module.graph.inserting_after(layer):
        together = module.graph.call_module(name, (layer,))
    with module.graph.inserting_after(together):
        apart = module.graph.call_function(cells_apart, (together, cells))
    for reader in readers:
        reader.replace_input_with(layer, apart)
