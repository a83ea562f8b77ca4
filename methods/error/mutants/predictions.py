"""What mutants predict: the layers before the first changed one run once a batch, for all mutants together."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import torch
from assay.harness.heads import LayerValues
from assay.harness.network import Network
from torch import Tensor

from .mutant import Mutant, mutated
from .sites import Site

CUTS = 12  # layers at most whose activations are kept for a batch


class Prefixes:
    """Where a network is cut so that mutants share what runs before their first changed layer.

    A cut is an output that some convolution reads. A layer that is called several times in a pass is in no part behind
    a cut: its mutants run whole. So do all mutants of a network that cannot be traced.
    """

    def __init__(self, network: Network, sites: Sequence[Site], most: int = CUTS) -> None:
        self._network, self._most = network, most
        self._once = [site.layer for site in sites if site.calls == 1]

    @cached_property
    def behind(self) -> dict[str, frozenset[str]]:
        """Cut -> the changeable layers that run behind it alone; the later the cut, the fewer."""
        try:
            layers = set(self._network.layers())
        except ValueError:
            return {}
        readers = [self._network.source(layer) for layer in self._once if layer in layers]
        feeding = [name for name in dict.fromkeys(readers) if name in layers]
        chosen = {feeding[len(feeding) * k // self._most] for k in range(self._most)} if feeding else set()
        found = {name: self._inside(name) for name in feeding if name in chosen}
        return dict(sorted(found.items(), key=lambda each: -len(each[1])))

    def _inside(self, cut: str) -> frozenset[str]:
        graph = self._network.head(cut, ()).module.graph
        called = {str(node.target) for node in graph.nodes if node.op == "call_module"}
        return frozenset(self._once) & called

    def of(self, mutant: Mutant) -> str | None:
        """The latest cut in front of all that the mutant changes; None: nowhere but the input."""
        fitting = [cut for cut, inside in self.behind.items() if mutant.layers <= inside]
        return fitting[-1] if fitting else None


def predictions(network: Network, prefixes: Prefixes, images: Tensor, mutants: Iterable[Mutant]) -> Iterator[Tensor]:
    """Each mutant's classes of images [B,3,H,W] in [0,1]: int16 [B], one mutant after the other."""
    every = [(mutant, prefixes.of(mutant)) for mutant in mutants]
    inputs = network.normalise(images)
    cuts = tuple(sorted({cut for _, cut in every if cut is not None}))
    with torch.no_grad():
        kept = network.run(inputs, cuts)[1] if cuts else {}
        for mutant, cut in every:
            with mutated(network.module, mutant):
                logits = network(inputs) if cut is None else _behind(network, cut, kept[cut])
            yield network.scores(logits).argmax(1).to("cpu", torch.int16)


def _behind(network: Network, cut: str, values: LayerValues) -> Tensor:
    return network.head(cut, values.constants)(values.activation)
