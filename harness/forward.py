"""One forward pass of a batch, and what the methods that share it read of it."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor

from .affine import Weights
from .heads import Head, LayerValues, Targets, target_gradients
from .network import Network


class ForwardPass:
    """What the methods of one batch share: inputs, logits, activations, heads, the input gradient's graph.

    One forward pass serves all of them; it keeps the layers (and the graph, if asked) declared by
    `Attributor.needs`.

    Args:
        images: [B,3,H,W] in [0,1].
        layers: names whose activations are kept.
        input_graph: whether `input_gradient` will be asked for.
        max_rows: how many images a method may send through the network at once.
        penultimate: whether the input of the last linear layer is kept.
    """

    def __init__(
        self,
        network: Network,
        images: Tensor,
        layers: tuple[str, ...] = (),
        input_graph: bool = False,
        max_rows: int | None = None,
        penultimate: bool = False,
    ) -> None:
        self.network, self.images = network, images
        self._affine = network.affine_end if penultimate else None
        self.layers = layers if self._affine is None else tuple(dict.fromkeys((*layers, *self._affine.layers)))
        self.input_graph, self.keeps_penultimate = input_graph, penultimate
        self.max_rows = max(len(images), max_rows or 0)
        self.inputs = network.normalise(images)  # [B,3,H,W]

    @cached_property
    def _run(self) -> tuple[Tensor, Tensor, dict[str, LayerValues]]:
        leaf = self.inputs.detach().requires_grad_(self.input_graph)
        with torch.set_grad_enabled(self.input_graph), self._catching_penultimate():
            return leaf, *self.network.run(leaf, self.layers)

    @contextmanager
    def _catching_penultimate(self) -> Iterator[None]:
        ending = self.network.ending if self.keeps_penultimate else None
        if ending is None or self._affine is not None:
            yield
            return
        with ending.linear.register_forward_pre_hook(lambda _module, inputs: self._caught.append(inputs[0].detach())):
            yield

    @cached_property
    def _caught(self) -> list[Tensor]:
        return []

    @cached_property
    def penultimate(self) -> Tensor:
        """Input of the last linear layer, [B,D]; or the layer of which the logits are an affine function, pooled, or
        several side by side.

        Raises:
            ValueError: the network does not end in a linear layer, or it was not to be kept.
        """
        if self._affine is not None:
            return self._by_weights[0]
        logits, ending = self.logits, self.network.ending if self.keeps_penultimate else None
        if ending is None or not self._caught:
            raise ValueError("no penultimate features: the network does not end in a linear layer, or see needs()")
        kept = self._caught[-1]
        if kept.ndim != 2 or not torch.equal(ending.logits(kept), logits):
            raise ValueError("no penultimate features: the network's last linear layer does not make the logits")
        return kept

    @cached_property
    def _by_weights(self) -> tuple[Tensor, Weights]:
        assert self._affine is not None  # who asks has seen it
        return self._affine.read(self.head, self.activation, self.logits)

    def last_weights(self) -> tuple[Tensor, Tensor]:
        """Weight [C,D] and bias [C] that make the logits of the penultimate features; raises as these do."""
        features, ending = self.penultimate, self.network.ending
        if self._affine is not None:
            return self._by_weights[1]
        assert ending is not None  # or there were no penultimate features
        return ending.affine(features.shape[1])

    @cached_property
    def _found(self) -> dict[Hashable, Tensor]:
        return {}

    def once(self, what: Hashable, find: Callable[[], Tensor]) -> Tensor:
        """What is found out about these images and is no method's: by the first who asks, kept while the pass is.

        what: its name, with all that it depends on beside the pass.
        """
        if what not in self._found:
            self._found[what] = find()
        return self._found[what]

    @property
    def logits(self) -> Tensor:
        """[B,C]."""
        return self._run[1].detach()

    @cached_property
    def probabilities(self) -> Tensor:
        """[B,C] of classes, softmax or sigmoid as the network says."""
        return self.network.probabilities(self.logits)

    @cached_property
    def scores(self) -> Tensor:
        """[B,C] of classes: the logits, unless the network's outputs are grouped."""
        return self.network.scores(self.logits)

    def activation(self, layer: str) -> Tensor:
        """The layer's output [B,...], without a graph."""
        value = self._values(layer).activation
        if not isinstance(value, Tensor):
            raise ValueError(f"layer {layer!r} returns a {type(value).__name__}, not a tensor: choose one inside it")
        check_rows(layer, value, len(self.images))
        return value.detach()

    def head(self, layer: str) -> Head:
        """The head from the layer, its constants bound to this batch."""
        constants = tuple(v.detach() if isinstance(v, Tensor) else v for v in self._values(layer).constants)
        self.network.fit(self.inputs)  # another pass may have had images of another size since
        return self.network.head(layer, constants)

    def _values(self, layer: str) -> LayerValues:
        if layer not in self.layers:
            raise ValueError(f"layer {layer!r} was not kept: name it in the method's needs(); kept: {self.layers}")
        return self._run[2][layer]

    def input_gradient(self, targets: Targets) -> Tensor:
        """Gradient of each pair's logit with respect to the normalised input: [P,3,H,W]."""
        if not self.input_graph:
            raise ValueError("the graph to the input was not kept: set input_graph in the method's needs()")
        leaf, logits, _ = self._run
        self.network.passes.backward += len(leaf) * len(targets.rounds())
        return target_gradients(logits, leaf, targets, keep_graph=True)[0]

    def gradient_of(self, score: Callable[[Tensor, Mapping[str, Tensor]], Tensor]) -> Tensor:
        """Gradient [B,3,H,W] with respect to the normalised input of any number that each image has.

        score: (logits [B,C], kept activations by layer) -> [B]; a row may depend on its own image alone.
        """
        if not self.input_graph:
            raise ValueError("the graph to the input was not kept: set input_graph in the method's needs()")
        leaf, logits, values = self._run
        self.network.passes.backward += len(leaf)
        with torch.enable_grad():
            total = score(logits, {name: value.activation for name, value in values.items()}).sum()
        (gradient,) = torch.autograd.grad(total, leaf, retain_graph=True)
        return gradient


def check_rows(layer: str, values: Tensor, images: int) -> None:
    """Raise ValueError unless a layer has one row an image: otherwise another image's would be read."""
    if values.ndim == 0 or len(values) != images:
        raise ValueError(
            f"layer {layer!r} gives {list(values.shape)} for {images} images: its rows are parts of images (cells of a "
            "grid, windows), so it has no map of one; choose a layer with one row an image"
        )
