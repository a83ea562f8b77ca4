"""What mutants predict: the layers before the first changed one run once a batch, for all mutants together."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import torch
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


class Shared:
    """A batch of images [B,3,H,W] in [0,1], with what these mutants share of its pass."""

    def __init__(self, network: Network, prefixes: Prefixes, images: Tensor, mutants: Iterable[Mutant]) -> None:
        self._network, self._inputs = network, network.normalise(images)
        self._cuts = [(mutant, prefixes.of(mutant)) for mutant in mutants]
        cuts = tuple(sorted({cut for _, cut in self._cuts if cut is not None}))
        with torch.no_grad():
            self._kept = network.run(self._inputs, cuts)[1] if cuts else {}

    def __len__(self) -> int:
        return len(self._cuts)

    @torch.no_grad()
    def classes(self, number: int, rows: Tensor | None = None) -> Tensor:
        """What a mutant predicts for the images, or some of them: int16 [R]."""
        mutant, cut = self._cuts[number]
        with mutated(self._network.module, mutant):
            logits = self._whole(rows) if cut is None else self._behind(cut, rows)
        return self._network.scores(logits).argmax(1).to("cpu", torch.int16)

    def _whole(self, rows: Tensor | None) -> Tensor:
        return self._network(self._inputs if rows is None else self._inputs[rows])

    def _behind(self, cut: str, rows: Tensor | None) -> Tensor:
        activation, constants = self._kept[cut]
        head = self._network.head(cut, constants)
        return head(activation) if rows is None else head(activation[rows], rows)


def predictions(network: Network, prefixes: Prefixes, images: Tensor, mutants: Iterable[Mutant]) -> Iterator[Tensor]:
    """Each mutant's classes of images [B,3,H,W] in [0,1]: int16 [B], one mutant after the other."""
    shared = Shared(network, prefixes, images, mutants)
    return (shared.classes(number) for number in range(len(shared)))
