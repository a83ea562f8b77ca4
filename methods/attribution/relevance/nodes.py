"""The graph of a recorded forward pass: an autograd node an operation, whose backward is a rule or the derivative."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from . import rules
from .alarm import Peak, largest
from .images import WEIGHED, misplaced
from .operations import Operation
from .signs import Signs
from .table import HANDLERS, Relevances, RuleTable


class Ends(NamedTuple):
    """Numbers of the affine layers that the logits read without another in between; ids of the operations between."""

    last: frozenset[int]
    after: frozenset[int]


Watch = Callable[[Operation, Tensor], None]  # (operation, the gradient of its output)


def _gradient(op: Operation, gradient: Tensor) -> tuple[Tensor, ...]:
    if op.affine is not None:
        return (op.affine.pull_back(op.inputs[0], gradient),)
    return rules.called(op.function, op.inputs).gradients(gradient)


class State:
    """What a tape and its nodes share: the table of the running pull, the affine layers, and each tensor's depth."""

    def __init__(self) -> None:
        self.table: RuleTable | None = None
        self.watch: Watch | None = None
        self.affine_layers: list[str] = []  # module paths in the order of calls
        self.ends = Ends(frozenset(), frozenset())
        self.peaks: list[Peak] = []  # of the running pull
        self.images = 0
        self.kinds: set[str] = set()  # of all recorded operations
        self.signs = Signs()  # of what the affine layers read
        self._places: Any = WeakTensorKeyDictionary()  # along which dimension images lie
        self._depth: Any = WeakTensorKeyDictionary()  # affine layers between the input and a tensor

    def depth_of(self, value: Tensor) -> int:
        """Affine layers between the input and the value."""
        return int(self._depth.get(value, 0))

    def set_depth(self, value: Tensor, depth: int) -> None:
        """Of a new value."""
        self._depth[value] = depth

    def place_of(self, value: Tensor) -> int | None:
        """Along which dimension of the value images lie, counted from the last, -1; None where that is not known."""
        place: int | None = self._places.get(value)
        return place

    def set_place(self, value: Tensor, place: int | None) -> None:
        """Of a new value."""
        self._places[value] = place

    def backward(self, operation: Operation, relevance: Tensor) -> Relevances:
        """What the running pull's table, or without one the derivative, gives each input of the operation."""
        table = self.table
        is_weighed = operation.kind in WEIGHED and not (table is None and self.watch is None)
        if is_weighed and operation.images != -relevance.ndim:
            raise ValueError(misplaced(operation.name, "this method" if table is None else table.method))
        if self.watch is not None:
            self.watch(operation, relevance)
        if table is None or (table.gradient_after_last and self._is_after_last(operation)):
            return _gradient(operation, relevance)
        is_last = operation.number in self.ends.last
        if operation.affine is not None:
            if table.by_image and len(relevance) != self.images:
                raise ValueError(_weighs_rows(table.method, operation.affine.layer, len(relevance), self.images))
            self.peaks.append(Peak(f"the output of layer {operation.affine.layer!r}", largest(relevance)))
        return HANDLERS[operation.kind](table, operation, relevance, is_last)

    def _is_after_last(self, operation: Operation) -> bool:
        return operation.kind != "affine" and id(operation) in self.ends.after


def _weighs_rows(method: str, layer: str, rows: int, images: int) -> str:
    return (
        f"{method} weighs all of an image's relevance at each layer, and layer {layer!r} has {rows} rows for {images} "
        "images: parts of images (cells of a grid, windows), each of which would be weighed by itself: choose attnlrp, "
        "cp_lrp or a method on the input gradient"
    )


class Node(torch.autograd.Function):
    """One recorded operation."""

    @staticmethod
    def forward(ctx: Any, state: State, operation: Operation, made: Sequence[Tensor], *inputs: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.state, ctx.operation = state, operation
        return made[0]  # in a list: an argument that is returned would be a view, which nothing may write into

    @staticmethod
    def backward(ctx: Any, *relevances: Tensor | None) -> tuple[Tensor | None, ...]:
        (relevance,) = relevances
        if relevance is None:
            return (None,) * (3 + len(ctx.operation.inputs))
        return None, None, None, *ctx.state.backward(ctx.operation, relevance)


def ends_of(logits: Tensor) -> Ends:
    """What the logits read: by the graph, as a second head may be called after the one that makes them."""
    waiting, known, last, after = [logits.grad_fn], set[Any](), set[int](), set[int]()
    while waiting:
        node = waiting.pop()
        if node is None or node in known:
            continue
        known.add(node)
        operation = getattr(node, "operation", None)
        if operation is not None and operation.kind == "affine":
            last.add(operation.number)
        else:
            after.add(id(operation))
            waiting += [each for each, _ in node.next_functions]
    return Ends(frozenset(last), frozenset(after))
