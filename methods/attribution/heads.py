"""What a head makes of whole channels: the logits of an image as a function of the channels that are present.

A mask m [K] of zeros and ones multiplies the channels of an activation A [K,h,w]. Pools and ReLUs act on each channel
alone and leave 0 at 0, so masking commutes with them, up to the first affine layer: there W T(m A) + b = m blocks + b
with blocks[k] = W_k T(A_k), computed once. A mask then costs a row of one matrix product, an order of channels a
cumulative sum, and the rest of the head. If nothing but linear operations follows, the logits are linear in m.

Which of this holds is read off the head's graph, operation by operation; heads of any other shape are run.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from assay.harness.forward import ForwardPass
from assay.harness.heads import Head, Targets
from torch import Tensor, fx, nn

Kind = Literal["linear", "fixes_zero", "affine", "other"]

MOST_NUMBERS = 2**26  # of one image's blocks

# Operations on each channel alone, by module class, function or method; those on [B,C,h,w] or [B,C] alike.
LINEAR = frozenset(
    {
        *("AvgPool2d", "AdaptiveAvgPool2d", "avg_pool2d", "adaptive_avg_pool2d", "Identity", "contiguous"),
        *("Dropout", "Dropout1d", "Dropout2d", "dropout", "dropout1d", "dropout2d", "feature_dropout"),
    }
)
FIXES_ZERO = frozenset(
    {
        *("MaxPool2d", "AdaptiveMaxPool2d", "max_pool2d", "adaptive_max_pool2d"),
        *("ReLU", "ReLU6", "LeakyReLU", "ELU", "SiLU", "GELU", "Hardswish", "Mish", "Tanh"),
        *("relu", "relu6", "leaky_relu", "elu", "silu", "gelu", "hardswish", "mish", "tanh"),
    }
)
SPACE = ({2, 3}, {-2, -1})


class Step(NamedTuple):
    """One operation of a head that is a chain: a function of one tensor, and what it does with channels."""

    call: Callable[[Tensor], Tensor]
    kind: Kind
    module: nn.Module | None = None


class Anatomy(NamedTuple):
    """A chain: channels one by one, the first affine layer, anything, the last affine layer, channels one by one.

    first and last may be the same layer; `between` is empty then.
    """

    before: tuple[Step, ...]
    first: nn.Linear | nn.Conv2d
    between: tuple[Step, ...]
    last: nn.Linear | nn.Conv2d
    after: tuple[Step, ...]

    @property
    def is_single(self) -> bool:
        """Whether there is one affine layer alone."""
        return self.first is self.last

    @property
    def is_linear(self) -> bool:
        """Whether logits are linear in masks."""
        return self.is_single and all(step.kind == "linear" for step in self.after)


_READ: "WeakKeyDictionary[fx.GraphModule, Anatomy | None]" = WeakKeyDictionary()


def anatomy(head: fx.GraphModule) -> Anatomy | None:
    """The head's parts, read once; None where it is no such chain."""
    if head not in _READ:
        _READ[head] = _parts(list(_chain(head)))
    return _READ[head]


def _parts(steps: Sequence[Step | None]) -> Anatomy | None:
    chain = [step for step in steps if step is not None]
    affine = [number for number, step in enumerate(chain) if step.kind == "affine"]
    if len(chain) < len(steps) or not affine:
        return None
    before, between, after = chain[: affine[0]], chain[affine[0] + 1 : affine[-1]], chain[affine[-1] + 1 :]
    if any(step.kind == "other" for step in (*before, *after)):
        return None
    first, last = chain[affine[0]].module, chain[affine[-1]].module
    assert isinstance(first, (nn.Linear, nn.Conv2d))
    assert isinstance(last, (nn.Linear, nn.Conv2d))
    return Anatomy(tuple(before), first, tuple(between), last, tuple(after))


def _chain(head: fx.GraphModule) -> Iterator[Step | None]:
    """The operations in order; None where one reads anything but the one before it."""
    previous: fx.Node | None = None
    for node in head.graph.nodes:
        if node.op == "output":
            if node.args[0] is not previous:
                yield None
        elif previous is None:
            previous = node
        else:
            yield _step(head, node) if _reads_alone(node, previous) else None
            previous = node


def _reads_alone(node: fx.Node, previous: fx.Node) -> bool:
    """Whether the operation is a function of the previous value, which it reads once (not h * h)."""
    others: list[fx.Node] = []
    fx.node.map_arg((node.args[1:], node.kwargs), others.append)
    return node.args[:1] == (previous,) and not others


def _step(head: fx.GraphModule, node: fx.Node) -> Step:
    rest, options = node.args[1:], node.kwargs
    if node.op == "call_module":
        module = head.get_submodule(str(node.target))
        return Step(module, _kind_of(module), module)
    if node.op == "call_method":
        name = str(node.target)
        return Step(lambda x: getattr(x, name)(*rest, **options), _kind(name, rest, options))
    function: Any = node.target
    return Step(lambda x: function(x, *rest, **options), _kind(getattr(function, "__name__", ""), rest, options))


def _kind_of(module: nn.Module) -> Kind:
    if isinstance(module, nn.Linear):
        return "affine"
    if isinstance(module, nn.Conv2d):
        return "affine" if module.groups == 1 and module.padding_mode == "zeros" else "other"
    if isinstance(module, nn.Flatten):
        return _kind("flatten", (module.start_dim, module.end_dim), {})
    return _kind(type(module).__name__, (), {})


def _kind(name: str, rest: Sequence[Any], options: dict[str, Any]) -> Kind:
    if name == "flatten":
        ends = [*rest, *options.values()]
        return "linear" if ends in ([1], [1, -1]) else "other"
    if name == "mean":
        dims = options.get("dim", rest[0] if rest else None)
        return "linear" if isinstance(dims, (list, tuple)) and set(dims) in SPACE else "other"
    return "linear" if name in LINEAR else "fixes_zero" if name in FIXES_ZERO else "other"


def _along(steps: Sequence[Step], values: Tensor) -> Tensor:
    for step in steps:
        values = step.call(values)
    return values


# The logits of one image's targets as a function of its channels


@dataclass(frozen=True, eq=False)
class Coalitions:
    """The logits of an image's T targets when only some of its K channels are present.

    channels: K. like: a tensor of the right type and device.
    """

    channels: int
    like: Tensor

    @property
    def additive(self) -> Tensor | None:
        """What each channel adds whoever else is there, [K,T], where that is so."""
        return None

    def logits(self, masks: Tensor) -> Tensor:
        """Masks [S,K] of zeros and ones -> [S,T]."""
        raise NotImplementedError

    def entering(self, orders: Tensor) -> Tensor:
        """Logits after each channel has entered: orders [S,K] of channels -> [S,K,T]."""
        places = orders.argsort(1)
        steps = torch.arange(self.channels, device=orders.device)
        return torch.stack([self.logits((place <= steps[:, None]).to(self.like)) for place in places])

    @property
    def whole(self) -> Tensor:
        """Logits with all channels: [T]."""
        return self.logits(self.like.new_ones(1, self.channels))[0]

    @property
    def empty(self) -> Tensor:
        """Logits without any channel: [T]."""
        return self.logits(self.like.new_zeros(1, self.channels))[0]

    def without_each(self) -> Tensor:
        """Logits without channel k alone: [K,T]."""
        return self.logits(1 - torch.eye(self.channels, dtype=self.like.dtype, device=self.like.device))

    def added(self, orders: Tensor) -> Tensor:
        """What each channel adds when it enters, by channel: orders [S,K] -> [S,K,T]."""
        after = self.entering(orders)
        first = self.empty.expand(len(orders), 1, -1)
        gains = torch.diff(after, dim=1, prepend=first)
        return gains.gather(1, orders.argsort(1)[:, :, None].expand_as(gains))


@dataclass(frozen=True, eq=False)
class Additive(Coalitions):
    """A linear head: masks @ weights + bias, weights [K,T], bias [T]."""

    weights: Tensor
    bias: Tensor

    @property
    def additive(self) -> Tensor:
        """[K,T]."""
        return self.weights

    def logits(self, masks: Tensor) -> Tensor:
        """[S,T]."""
        return masks @ self.weights + self.bias

    def without_each(self) -> Tensor:
        """[K,T]."""
        return self.whole - self.weights


@dataclass(frozen=True, eq=False)
class Blocks(Coalitions):
    """rest(masks @ blocks + bias): blocks [K,D], bias [D], rest [R,D] -> [R,T], at most `rows` rows at once."""

    blocks: Tensor
    bias: Tensor
    rest: Callable[[Tensor], Tensor]
    rows: int

    def _finish(self, sums: Tensor) -> Tensor:
        return torch.cat([self.rest(part) for part in sums.split(self.rows)])

    def logits(self, masks: Tensor) -> Tensor:
        """[S,T]."""
        return torch.cat([self.rest(torch.addmm(self.bias, part, self.blocks)) for part in masks.split(self.rows)])

    def without_each(self) -> Tensor:
        """[K,T]."""
        return self._finish(self.bias + self.blocks.sum(0) - self.blocks)

    def entering(self, orders: Tensor) -> Tensor:
        """[S,K,T]."""
        made = []
        for part in orders.split(max(1, self.rows // self.channels)):
            sums = self.blocks[part].cumsum_(1).add_(self.bias)  # [s,K,D]
            made.append(self._finish(sums.flatten(0, 1)).view(*part.shape, -1))
        return torch.cat(made)


@dataclass(frozen=True, eq=False)
class Runs(Coalitions):
    """Any head: masked activations [K,h,w] of image number `image` through it, at most `rows` at once."""

    head: Head
    activation: Tensor
    image: Tensor
    labels: Tensor
    rows: int

    def logits(self, masks: Tensor) -> Tensor:
        """[S,T]."""
        return torch.cat([self._run(part) for part in masks.split(self.rows)])

    def _run(self, masks: Tensor) -> Tensor:
        masked = masks[:, :, None, None] * self.activation
        return self.head(masked, self.image.expand(len(masks)))[:, self.labels]


def rows_at_once(forward: ForwardPass, numbers: int) -> int:
    """Rows of so many numbers that take no more memory than the images that may go through the network at once."""
    return forward.max_rows * max(1, forward.inputs[0].numel() // numbers)


class Game(NamedTuple):
    """One image's coalitions, and which pairs its T targets are."""

    image: int
    pairs: Tensor
    coalitions: Coalitions


def games(forward: ForwardPass, layer: str, activation: Tensor, targets: Targets) -> Iterator[Game]:
    """The coalitions of each image that has pairs, by the cheapest way that its head admits."""
    head = forward.head(layer)
    parts = anatomy(head.module)
    for image, pairs in targets.by_image().items():
        yield Game(image, pairs, _coalitions(forward, head, parts, activation[image], image, targets.label[pairs]))


def _coalitions(
    forward: ForwardPass, head: Head, parts: Anatomy | None, activation: Tensor, image: int, labels: Tensor
) -> Coalitions:
    number = torch.full((1,), image, device=labels.device)
    rows = rows_at_once(forward, activation.numel())
    anything = Runs(len(activation), activation, head, activation, number, labels, rows)
    made = None if parts is None else _from_blocks(forward, head, parts, activation, labels)
    if made is None:
        return anything
    expected, found = forward.logits[image, labels].detach(), made.whole
    tolerance = 1e-3 * float(forward.logits[image].detach().abs().max())
    is_right = found.shape == expected.shape and torch.allclose(found, expected, rtol=0, atol=tolerance)
    return made if is_right else anything  # a chain may end in what is no logit a class


def _from_blocks(
    forward: ForwardPass, head: Head, parts: Anatomy, activation: Tensor, labels: Tensor
) -> Coalitions | None:
    """Coalitions of a chain; None where channels do not stay apart up to the first affine layer, or are too many."""
    channels = len(activation)
    values = _along(parts.before, activation[None])
    weight, bias = _narrowed(parts.first, labels) if parts.is_single else _parameters(parts.first)
    blocks = _blocks(parts.first, weight, values, channels)  # [K,D,...]
    if blocks is None:
        return None
    shape, size = blocks.shape[1:], blocks[0].numel()
    start = bias.view(-1, *[1] * (len(shape) - 1)).expand(shape).flatten()

    def rest(sums: Tensor) -> Tensor:
        head.passes.head += len(sums)
        found = sums.view(-1, *shape)
        if not parts.is_single:
            found = _apply(parts.last, *_narrowed(parts.last, labels), _along(parts.between, found))
        found = _along(parts.after, found)
        return found.flatten(1)

    if parts.is_linear:
        weights = torch.cat([_along(parts.after, part).flatten(1) for part in blocks.split(channels)])
        return Additive(channels, activation, weights, _along(parts.after, start.view(1, *shape)).flatten())
    return Blocks(channels, activation, blocks.flatten(1), start, rest, rows_at_once(forward, size))


def _parameters(layer: nn.Linear | nn.Conv2d) -> tuple[Tensor, Tensor]:
    bias = layer.bias if layer.bias is not None else layer.weight.new_zeros(len(layer.weight))
    return layer.weight, bias


def _narrowed(layer: nn.Linear | nn.Conv2d, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of the outputs that are asked for."""
    weight, bias = _parameters(layer)
    return weight[labels], bias[labels]


def _apply(layer: nn.Linear | nn.Conv2d, weight: Tensor, bias: Tensor, values: Tensor) -> Tensor:
    if isinstance(layer, nn.Linear):
        return F.linear(values, weight, bias)
    return F.conv2d(values, weight, bias, layer.stride, layer.padding, layer.dilation)


def _blocks(layer: nn.Linear | nn.Conv2d, weight: Tensor, values: Tensor, channels: int) -> Tensor | None:
    """What each channel of values [1,K*s] or [1,K,h,w] contributes to the layer's outputs: [K,D] or [K,D,h,w]."""
    if isinstance(layer, nn.Linear):
        if values.ndim != 2 or values.shape[1] % channels:
            return None
        each = values.view(channels, 1, -1)
        return torch.bmm(each, weight.view(len(weight), channels, -1).permute(1, 2, 0))[:, 0]
    if values.ndim != 4 or values.shape[1] != channels:
        return None
    if channels * len(weight) * values[0, 0].numel() > MOST_NUMBERS:
        return None
    alone = weight.transpose(0, 1).reshape(-1, 1, *weight.shape[2:])
    made = F.conv2d(values, alone, None, layer.stride, layer.padding, layer.dilation, groups=channels)
    return made.view(channels, len(weight), *made.shape[2:])
