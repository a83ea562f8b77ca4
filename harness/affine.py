"""Heads that are no one linear layer at the end: logits that are an affine function of some layer all the same.

A 1x1 convolution before or after the pooling, several layers whose outputs are added, a layer without bias or with a
batch-norm behind it, weights that are normalised (a cosine classifier, linear in the normalised features), weights that
are a parameter alone. The layer is found in the graph; weight and bias are what the head makes of units, in float64.

Or of several layers, each with weights of its own: a class and a distillation token whose two heads are averaged (DeiT,
Touvron et al. 2021, section 4), two networks whose logits are. Their values side by side are the features of one head.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from .ending import POOLING, ending_of, is_affine, operation, part_behind, stays_affine
from .graph import Traced, cut_at, fed_by_input, way_to
from .heads import Head
from .layouts import channels_first, channels_last, map_to_tokens, tokens_to_map

_WEIGHTED = frozenset({"Linear", "linear", "Conv2d", "conv2d", "matmul"})
AFFINE = POOLING | {"Conv2d", "BatchNorm1d", "BatchNorm2d", "sum"}
_SEEN = frozenset(each.__name__ for each in (channels_first, channels_last, tokens_to_map, map_to_tokens))
NUMBERS = 2**24  # of maps that go through a head at once: 128 MiB
RELATIVE, ABSOLUTE = 1e-4, 1e-5  # of logits from pooled features beside the network's own, the latter of the largest


class Weights(NamedTuple):
    """Logits = features @ weight.T + bias: [C,D] and [C]."""

    weight: Tensor
    bias: Tensor

    def make(self, logits: Tensor, features: Tensor) -> bool:
        """Whether they make these logits [B,C] of features [B,D]."""
        made = features @ self.weight.T + self.bias
        return torch.allclose(made, logits, rtol=RELATIVE, atol=ABSOLUTE * float(logits.abs().max()))


def end_instead(module: nn.Module, trace: Callable[[], Traced]) -> "AffineEnd | None":
    """Where no linear layer makes the logits of a module, what its graph says they are an affine function of."""
    try:
        traced = trace()
    except ValueError:
        return None
    if ending_of(module, traced) is not None:
        return None
    layer, joint = affine_layer(traced), joint_of(traced)
    return None if layer is None and joint is None else AffineEnd(layer, joint)


def affine_layer(traced: Traced) -> str | None:
    """The last layer of which the logits are an affine function with weights, by its node's name; None without one.

    Nothing else of the image may reach the logits, and one of the operations behind it has weights.
    """
    for node in _back(traced):
        cut = cut_at(traced, node, node.name)
        fixed = [1 + number for number, each in enumerate(cut.crossing) if not each.per_image or each.is_count]
        if not is_affine(cut.head, AFFINE, fixed):
            return None
        if len(fixed) == len(cut.crossing) and _has_weights(cut.head) and _is_named(traced, node):
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
    last = (operation(module, node) for node in _back(traced) if not stays_affine(module, node, fed, AFFINE | _SEEN))
    return next(last, None)


def _back(traced: Traced) -> Iterator[fx.Node]:
    """Operations that depend on the image and reach the logits, last ones first."""
    (output,) = [node for node in traced.module.graph.nodes if node.op == "output"]
    fed = fed_by_input(traced.module.graph)
    return (node for node in reversed(way_to(output)) if node.op.startswith("call") and node in fed)


def _is_named(traced: Traced, node: fx.Node) -> bool:
    """Whether its name is that of its layer: a module's path is that of its last call alone."""
    return traced.layers.get(node.name) is node


def _has_weights(head: fx.GraphModule) -> bool:
    return any(operation(head, node) in _WEIGHTED for node in head.graph.nodes if node.op.startswith("call"))


class Joint(NamedTuple):
    """Layers by their nodes' names, and the part of the graph from their values to the logits, which is affine."""

    layers: tuple[str, ...]
    head: fx.GraphModule

    def weights(self, values: Sequence[Tensor]) -> Weights | None:
        """Of values [B,D] each, side by side; in float64, then of their type. None where a part has its own type."""
        widths = [each.shape[1] for each in values]
        units = _units(sum(widths), values[0].device)
        exact = copy.deepcopy(self.head).double()
        try:
            with torch.no_grad():
                made = exact.forward(*units.split(widths, 1))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # a cast to float32 before more weights
            return None
        return _weights(made, values[0])


def joint_of(traced: Traced) -> Joint | None:
    """Of the values that reach the logits through weights of their own, in the graph's order; None of fewer than two.

    None, too, where anything else of the image reaches the logits, the number of images among it.
    """
    (output,) = [node for node in traced.module.graph.nodes if node.op == "output"]
    way, found = way_to(output), _weighed(traced, output)
    layers = [node for node in way if node in found]
    head = part_behind(traced.module, way, layers) if len(layers) > 1 else None
    return None if head is None else Joint(tuple(node.name for node in layers), head)


def _weighed(traced: Traced, output: fx.Node) -> set[fx.Node]:
    """What the last operations with weights read, or the value with a name from which that was made affinely."""
    fed, module = fed_by_input(traced.module.graph), traced.module
    waiting, weighed, found = set(output.all_input_nodes), set[fx.Node](), set[fx.Node]()
    for node in _back(traced):
        if node in waiting and node not in found:
            if not stays_affine(module, node, fed, AFFINE):
                return set()
            is_weighed = node in weighed or operation(module, node) in _WEIGHTED
            read = fed.intersection(node.all_input_nodes)
            named = {each for each in read if is_weighed and _is_named(traced, each)}
            found |= named
            waiting |= read - named
            weighed |= read - named if is_weighed else set()
    return found


class AffineEnd:
    """What a network's logits are an affine function of, and the weights that were found: of a layer once for all maps
    where one place is enough (a mean over them), else once for maps of each shape (a sum, a fixed window); of a joint.

    layer: by its node's name; its features are its mean over space. joint: where that does not make the logits.
    """

    def __init__(self, layer: str | None, joint: Joint | None) -> None:
        self._layer, self.joint = layer, joint
        self._weights: dict[tuple[int, ...], Weights | None] = {}
        self._of_joint: Weights | None = None

    @property
    def layers(self) -> tuple[str, ...]:
        """All whose activations are read."""
        return (*([] if self._layer is None else [self._layer]), *(() if self.joint is None else self.joint.layers))

    def read(
        self, head: Callable[[str], Head], activation: Callable[[str], Tensor], logits: Tensor
    ) -> tuple[Tensor, Weights]:
        """Features [B,D] and the weights that make the logits of them; heads and activations by layer.

        Raises:
            ValueError: none do.
        """
        for features, weights in self._candidates(head, activation):
            if weights is not None and weights.make(logits, features):
                return features, weights
        tried = [] if self._layer is None else [f"the mean of {self._layer} over space"]
        tried += [] if self.joint is None else [" and ".join(self.joint.layers)]
        raise ValueError(f"no penultimate features: {', or '.join(tried)} does not make the logits")

    def _candidates(
        self, head: Callable[[str], Head], activation: Callable[[str], Tensor]
    ) -> Iterator[tuple[Tensor, Weights | None]]:
        if self._layer is not None:
            values = activation(self._layer)
            features = values.flatten(2).mean(2) if values.ndim > 2 else values
            for places in _maps_of(values):
                if places not in self._weights:
                    self._weights[places] = weights_of(head(self._layer), values, places)
                yield features, self._weights[places]
        if self.joint is not None:
            parts = [activation(each) for each in self.joint.layers]
            if all(each.ndim == 2 for each in parts):
                yield torch.cat(parts, 1), self._joint_weights(self.joint, parts)

    def _joint_weights(self, joint: Joint, parts: Sequence[Tensor]) -> Weights | None:
        if self._of_joint is None:
            self._of_joint = joint.weights(parts)
        return self._of_joint


def _maps_of(activation: Tensor) -> list[tuple[int, ...]]:
    """Shapes of maps that may tell the weights: a single place, all of them; of tokens, with channels last, none."""
    space = tuple(activation.shape[2:])
    return [] if activation.ndim == 3 else list(dict.fromkeys(((1,) * len(space), space)))


def weights_of(head: Head, like: Tensor, places: tuple[int, ...]) -> Weights | None:
    """Weight and bias of a head that is affine, from maps that are one unit everywhere, less one of zeros, in float64.

    Args:
        like: an activation [B,D,...], for their type.
        places: height and width of the maps; a head that does not run on such maps has None.
    """
    width = like.shape[1]
    units = _units(width, like.device)
    parts = units.view(*units.shape, *[1] * len(places)).split(max(1, NUMBERS // (width * math.prod(places))))
    exact = copy.deepcopy(head.module).double()
    try:
        steps = torch.cat([_logits(head, exact, maps.expand(*maps.shape[:2], *places)) for maps in parts])
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, IndexError):  # a window larger than the map, a fixed number of places
        return None
    return _weights(steps, like)


def _units(width: int, device: torch.device) -> Tensor:
    """[D+1,D], the last row of zeros."""
    return torch.eye(width + 1, width, dtype=torch.float64, device=device)


def _weights(steps: Tensor, like: Tensor) -> Weights:
    """Of what a head makes [D+1,C] of units."""
    return Weights((steps[:-1] - steps[-1]).T.contiguous().to(like), steps[-1].to(like))


@torch.no_grad()
def _logits(head: Head, exact: fx.GraphModule, maps: Tensor) -> Tensor:
    """[N,C] of maps [N,D,...] by the head in float64; other values of an image (tokens beside the map) are zero."""
    others = head.others(torch.zeros(len(maps), dtype=torch.long, device=maps.device))
    pairs = zip(others, head.crossing, strict=True)
    doubled = [_doubled(each, crossing.per_image) if isinstance(each, Tensor) else each for each, crossing in pairs]
    made: Tensor = exact.forward(maps, *doubled)  # a call would print where it stopped
    return made


def _doubled(value: Tensor, per_image: bool) -> Tensor:
    exact = value.double() if value.is_floating_point() else value
    return torch.zeros_like(exact) if per_image else exact
