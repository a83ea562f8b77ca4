"""Recording: each operation on the path from the input becomes a node of the graph of rules as the network calls it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from . import rules
from .constants import Call, Constants, along, of_any_sample, replaced, upright
from .images import behind, moved
from .nodes import Node, State
from .operations import (
    COMMUTING,
    FLATTENING,
    KEEPING,
    LIKE,
    MAXIMA,
    MOVES,
    OVERWRITTEN,
    READERS,
    STRUCTURAL,
    TURNING,
    Made,
    Operation,
    Reading,
    UnsupportedOp,
    flat,
    is_property,
    on_path,
    pure,
    spelling,
)
from .rewriting import REWRITTEN
from .rules import Affine
from .table import Constancy
from .unfused import UNFUSED
from .weighing import WEIGHING, of_softmax


class _Producer(NamedTuple):
    """An affine layer as it was called, and its inputs with their graph."""

    operation: Operation
    inputs: tuple[Tensor, ...]


class _Copy(NamedTuple):
    """What a value is a view or a selection of, and how."""

    original: Tensor
    again: Callable[[Tensor], Tensor]


class _Softmax(NamedTuple):
    """An output of softmax: its number in the pass, and the coarsest precision that it had on the way."""

    number: int
    precision: float


class Attention(NamedTuple):
    """A softmax that a product reads: its values, the product of the two, and what is known of the softmax."""

    weights: Tensor
    values: Tensor
    product: Callable[[Tensor, Tensor], Tensor]
    number: int
    precision: float


class RelevanceMode(TorchFunctionMode):
    """Records each operation on the path from the input; values are those of the network itself.

    In-place operations return new tensors; whoever reads the old one afterwards is given the new one.

    layers: of each parameter, by id, the module path. constants: see `Constancy`.
    """

    def __init__(self, state: State, module: nn.Module, constants: Constancy) -> None:
        super().__init__()
        self.state, self.fold, self.apart = state, constants == "fold", constants == "apart"
        self.layers = {id(value): name.rpartition(".")[0] for name, value in module.named_parameters()}
        self._written: Any = WeakTensorKeyDictionary()  # tensor -> what an in-place operation made of it
        self._overwritten: Any = WeakTensorKeyDictionary()  # tensor whose memory was written into -> the operation
        self._producers: Any = WeakTensorKeyDictionary()  # output of an affine layer -> _Producer
        self._constants: Any = WeakTensorKeyDictionary()  # output of a constant factor and shift -> Constants
        self._copies: Any = WeakTensorKeyDictionary()  # output of an operation that moves values -> _Copy
        self._passed: Any = WeakTensorKeyDictionary()  # values that relevance goes past: merged into a layer -> which
        self._gates: Any = WeakTensorKeyDictionary()  # outputs of sigmoids
        self._weights: Any = WeakTensorKeyDictionary()  # outputs of softmax -> _Softmax
        self._of_softmax: Any = WeakTensorKeyDictionary()  # what is made of these -> see `of_softmax`
        self._kept: Any = WeakTensorKeyDictionary()  # outputs of layers that relevance starts from or stops at
        self._turned: Any = WeakTensorKeyDictionary()  # maps whose axes have changed places
        self._maps: Any = WeakTensorKeyDictionary()  # vectors -> the shape of the map that they were, see `Affine`
        self.attentions: list[Attention] = []  # each output of softmax that a product reads, in the order of calls
        self.softmaxes: list[tuple[int, ...]] = []  # the shape of each
        self.made = Made(module)

    def latest(self, value: Any) -> Any:
        """The value, or what in-place operations have made of it since; tensors inside lists and tuples too."""
        if isinstance(value, Tensor):
            while value in self._written:
                value = self._written[value]
            return value
        if type(value) in (list, tuple):
            return type(value)(self.latest(each) for each in value)
        return value

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args = self.latest(tuple(args))
        kwargs = {name: self.latest(value) for name, value in (kwargs or {}).items()}
        carried = [value for value in flat((*args, *kwargs.values())) if on_path(value)]
        carried = carried[:1] if func.__name__ in LIKE else carried
        if not carried or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        if is_property(func) and not on_path(output := func(*args, **kwargs)):
            return output
        self._check_read(carried)
        name, inplace = spelling(func, kwargs)
        if (unfused := UNFUSED.get(name)) is not None:
            with self:
                return unfused(*args, **kwargs)
        if (other := REWRITTEN.get(name)) is not None and other.applies(*args, **kwargs):
            with self:
                output = other.function(*args, **kwargs)
            return self._in_place(name, args, output) if inplace else output
        called = pure(func, inplace)
        output = self._moved(name, called, args, kwargs, carried)
        if output is None:
            output = self._seen(name, called, args, kwargs, carried)
        return self._in_place(name, args, output) if inplace else output

    def _in_place(self, name: str, args: Sequence[Any], output: Any) -> Any:
        """The output, for whoever reads the first argument from now on; other views of its memory are out of date."""
        if args and isinstance(output, Tensor) and output is not args[0]:  # as dropout in evaluation gives it
            self._overwritten[_memory(args[0])] = name
            self._written[args[0]] = output
        return output

    def _check_read(self, values: Sequence[Tensor]) -> None:
        """Raise UnsupportedOp for values that were made, or written into, unseen."""
        self.made.check(values)
        for value in values:
            if (name := self._overwritten.get(_memory(value))) is not None:
                raise UnsupportedOp(name, OVERWRITTEN)

    def _seen(self, name: str, called: Any, args: Any, kwargs: Any, carried: Sequence[Tensor]) -> Any:
        if (reader := READERS.get(name) or WEIGHING.get(name)) is not None:
            return self._of_original(name, reader(called, *args, **kwargs))
        output = self._ordinary(name, called(*args, **kwargs), carried)
        self._follow_images(name, called, args, kwargs, carried, output)
        if name in MOVES and isinstance(output, Tensor) and args and args[0] is carried[0] and output is not args[0]:
            self._copies[output] = _Copy(args[0], lambda value: called(value, *args[1:], **kwargs))
        return output

    def _of_original(self, name: str, reading: Reading) -> Tensor:
        """A sign or scale of a view or selection of a layer's output is applied to that output, and so to the layer."""
        value = reading.inputs[0]
        copy = None if value in self._kept or not reading.is_scale else self._copies.get(value)
        if copy is None or not (copy.original in self._producers or copy.original in self._copies):
            return self._record(name, reading)
        with self:
            scaled: Tensor = copy.again(reading.function(copy.original))
        return scaled

    def _moved(self, name: str, called: Any, args: Any, kwargs: Any, carried: Sequence[Tensor]) -> Any:
        """The operation on what constants were applied to, and the constants after it; None where they stay put."""
        if name not in COMMUTING or not any(value in self._constants for value in carried):
            return None
        call = Call(name, called, args, kwargs, self._constants.get, on_path)
        before = call.deferred()
        factor = None if before is None else along(before.factor, before.base, 1)
        args, options = (replaced(each, self._base) for each in (args, list(kwargs.values())))
        kwargs = dict(zip(kwargs, options, strict=True))
        output = self._seen(
            name, upright(called, factor) if name in MAXIMA else called, args, kwargs, list(map(self._base, carried))
        )
        moved = call.moved([output] if isinstance(output, Tensor) else output)
        if moved is None:
            return None
        values = [self._put(constants, value) for value, constants in moved]
        return values[0] if isinstance(output, Tensor) else type(output)(values)

    def _base(self, value: Tensor) -> Tensor:
        known = self._constants.get(value)
        return value if known is None else known.base

    def _put(self, constants: Constants, value: Tensor) -> Tensor:
        """The value as an operation on the constants' base."""
        reading = Reading(
            "shift", (constants.base,), constants.__call__, factor=constants.factor, shift=constants.shift
        )
        return self._recorded(*self._operation("constants", reading), value)

    def _ordinary(self, name: str, output: Any, carried: Sequence[Tensor]) -> Any:
        """What autograd does by itself, if that is the flow of relevance."""
        carrying = [value for value in flat((output,)) if on_path(value)]
        if (carrying or name in ("__setitem__", "data")) and name not in STRUCTURAL:
            raise UnsupportedOp(name)
        self.made.add(carrying)
        for value in carrying:
            self.state.set_depth(value, max(self.state.depth_of(each) for each in carried))
            for known in (self._gates, self._weights):
                if all(each in known for each in carried):
                    known[value] = known[carried[0]]
            if value in self._weights:
                self._weights[value] = _cast(self._weights[value], value)
            self._follow_softmax("", value, carried)
            self._follow_map(name, value, carried[0])
        return output

    def _follow_images(
        self, name: str, called: Any, args: Any, kwargs: Any, carried: Sequence[Tensor], output: Any
    ) -> None:
        places = [self.state.place_of(each) for each in carried]
        place = places[0]
        for value in filter(on_path, flat((output,))):
            if place is not None and all(each == place for each in places):
                found = moved(name, called, args, kwargs, carried[0], place, value, self.state.images)
                self.state.set_place(value, found)

    def _follow_softmax(self, kind: str, value: Tensor, inputs: Sequence[Tensor]) -> None:
        share = of_softmax(kind, [self._of_softmax.get(each, False) for each in inputs])
        if share is not False:
            self._of_softmax[value] = share

    def _follow_map(self, name: str, value: Tensor, before: Tensor) -> None:
        """Remember which map a vector was, and where channels may not come first."""
        if before in self._turned or (name in TURNING and before.ndim == 4):
            self._turned[value] = True
        if name in FLATTENING and before.ndim == 4 and value.ndim == 2 and len(value) == len(before):
            self._maps[value] = () if value in self._turned else tuple(before.shape[1:])
        elif name in KEEPING and before in self._maps:
            self._maps[value] = self._maps[before]

    def kept(self, value: Any) -> Any:
        """The latest value, as one that relevance starts from or stops at: constants before it stay there."""
        value = self.latest(value)
        if isinstance(value, Tensor):
            self._constants.pop(value, None)
            self._kept[value] = True
        return value

    def before_constants(self, value: Any) -> Any:
        """The latest value, or what it is a constant factor and shift of."""
        value = self.latest(value)
        return self._base(value) if isinstance(value, Tensor) else value

    def check(self, ends: Sequence[Tensor], layers: Sequence[str]) -> None:
        """Raise for logits that were made unseen, and for layers, the ends after them, that relevance goes past."""
        self.made.check(ends)
        self._check_read(ends[:1])
        for name, value in zip(layers, ends[1:], strict=True):
            if value in self._passed:
                raise ValueError(
                    f"layer {name!r} is merged with the {self._passed[value]}, so its output has no relevance: choose "
                    "the one that it is merged with, a module's path, or batch_norm='pass'"
                )

    def _record(self, name: str, reading: Reading) -> Tensor:
        """Compute the operation, and put its node into the graph."""
        operation, inputs = self._operation(name, reading._replace(name=name))
        if operation.affine is None:
            called = rules.Differentiable.of(operation.function, operation.inputs)
            return self._recorded(replace(operation, function=called), inputs, called.output.detach())
        with torch.no_grad():
            output = reading.function(*(x.detach() for x in reading.inputs))
        return self._recorded(operation, inputs, output)

    def _recorded(self, operation: Operation, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if operation.affine is not None and id(operation.affine.weight) in self.layers:  # nothing merged into it
            operation = replace(operation, affine=operation.affine._replace(output=output.detach()))
        recorded: Tensor = Node.apply(self.state, operation, [output], *inputs)
        self.made.add([recorded])
        self.state.set_place(recorded, operation.images)
        self.state.kinds.add(operation.kind)
        self.state.set_depth(recorded, max(operation.depths) + (operation.kind == "affine"))
        if operation.kind == "affine":
            self._producers[recorded] = _Producer(operation, inputs)
            self.state.signs.add(operation.inputs[0])
        if operation.kind == "gate":
            self._gates[recorded] = True
        if operation.kind == "softmax":
            self._weights[recorded] = _cast(_Softmax(len(self.softmaxes), 0), recorded)
            self._of_softmax[recorded] = True
            self.softmaxes.append(tuple(recorded.shape))
        else:
            self._follow_softmax(operation.kind, recorded, inputs)
        if operation.kind in ("activation", "norm", "shift") and inputs[0] in self._maps:
            self._maps[recorded] = self._maps[inputs[0]]
        if operation.kind == "shift" and not self.apart and recorded.shape == inputs[0].shape:
            self._defer(recorded, inputs[0], operation)
        return recorded

    def _defer(self, value: Tensor, before: Tensor, operation: Operation) -> None:
        """Remember factor and shift for the layer that reads the value."""
        assert operation.factor is not None
        known = self._constants.get(before, Constants(before, torch.ones_like(operation.factor)))
        self._constants[value] = known.then(operation.factor, operation.shift)

    def _operation(self, name: str, reading: Reading) -> tuple[Operation, tuple[Tensor, ...]]:
        """The call as rules see it, and the tensors (with graph) that its relevance goes to."""
        if reading.kind in ("norm", "shift"):
            return self._constant(reading)
        if reading.affine is not None:
            return self._affine(reading, reading.affine)
        if reading.kind == "gated":
            reading = self._signal_first(name, reading)
        if reading.kind == "product":
            return self._product(reading), reading.inputs
        return self._read(reading, reading.inputs), reading.inputs

    def _product(self, reading: Reading) -> Operation:
        """A product of two activations; where one is a softmax, that is kept as an attention."""
        first, second = reading.inputs
        self._attend(first, second, reading.function)
        self._attend(second, first, lambda a, b: reading.function(b, a))
        shares = tuple(self._of_softmax.get(each, False) for each in reading.inputs)
        return replace(self._read(reading, reading.inputs), weights=shares)

    def _attend(self, weights: Tensor, values: Tensor, product: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Keep weights that are a softmax's, once however many products read them."""
        if weights in self._weights and all(weights is not each.weights for each in self.attentions):
            self.attentions.append(Attention(weights, values, product, *self._weights[weights]))

    def unread(self) -> list[tuple[int, ...]]:
        """Shapes of softmaxes of three dimensions or more that no product reads as they are."""
        read = {each.number for each in self.attentions}
        return [shape for number, shape in enumerate(self.softmaxes) if number not in read and len(shape) > 2]

    def _read(self, reading: Reading, inputs: tuple[Tensor, ...]) -> Operation:
        return Operation(
            reading.kind,
            inputs=tuple(x.detach() for x in inputs),
            function=reading.function,
            depths=tuple(self.state.depth_of(x) for x in inputs),
            affine=reading.affine,
            factor=reading.factor,
            shift=reading.shift,
            number=len(self.state.affine_layers),
            name=reading.name,
            frozen=reading.frozen,
            images=behind(reading, inputs, self._places(reading, inputs)),
        )

    def _places(self, reading: Reading, inputs: tuple[Tensor, ...]) -> list[int | None]:
        """Where images lie in each input; of a sum, in what is made of the input: a head's shortcut lies alike."""
        made = [self.state.place_of(x) for x in inputs if not x.is_leaf or self.state.place_of(x) is not None]
        if reading.kind == "add" and made:
            return made
        return [self.state.place_of(x) for x in inputs]

    def _constant(self, reading: Reading) -> tuple[Operation, tuple[Tensor, ...]]:
        """A batch-norm or a constant: merged into the layer before it, or by itself."""
        (value,) = reading.inputs
        if self.apart:
            return self._read(reading, reading.inputs), reading.inputs
        producer = self._producers.get(value)
        # A constant after a layer is its bias, whatever norms do; after a layer that is asked for it stays by itself.
        is_merged = self.fold if reading.kind == "norm" else value not in self._kept
        merged = _folded(producer.operation, reading, value) if producer is not None and is_merged else None
        if producer is not None and merged is not None:
            what = "batch-norm that follows it (batch_norm='fold')" if reading.kind == "norm" else "constant after it"
            self._passed[value] = what
            return merged, producer.inputs
        if producer is None or is_merged:
            reading = reading._replace(kind="shift")  # of a norm, too
        return self._read(reading, reading.inputs), reading.inputs

    def _affine(self, reading: Reading, affine: Affine) -> tuple[Operation, tuple[Tensor, ...]]:
        """A layer, with the constants before it."""
        vector = self._maps.get(reading.inputs[0])
        affine = affine._replace(
            layer=self.layers.get(id(affine.weight), ""), map_shape=vector, has_negative=self.state.signs.has_negative
        )
        self.state.affine_layers.append(affine.layer)
        known = self._constants.get(reading.inputs[0])
        merged = None if known is None else known.merged(affine)
        if known is None or merged is None:
            return self._read(reading._replace(affine=affine), reading.inputs), reading.inputs
        self._passed[reading.inputs[0]] = "layer that reads it, as the batch-norm or constant before it is"
        function = reading.function
        reading = reading._replace(affine=merged, function=lambda x: function(known._replace(base=x)(x)))
        return self._read(reading, (known.base,)), (known.base,)

    def _signal_first(self, name: str, reading: Reading) -> Reading:
        """A product of (signal, gate): squeeze-and-excitation, swish; of kind product where no factor is a gate."""
        gates = [x in self._gates for x in reading.inputs]
        if all(gates):
            raise UnsupportedOp(name, "multiplies two outputs of sigmoids, which take no relevance")
        if not any(gates):
            return reading._replace(kind="product")
        return reading._replace(inputs=reading.inputs[::-1]) if gates[0] else reading


def _cast(softmax: _Softmax, value: Tensor) -> _Softmax:
    """As a value of some type."""
    return softmax._replace(precision=max(softmax.precision, torch.finfo(value.dtype).eps))


def _memory(value: Tensor) -> Tensor:
    """Of which tensor it is a view; itself, if of none."""
    return value if value._base is None else value._base


def _folded(layer: Operation, norm: Reading, output: Tensor) -> Operation | None:
    """A batch-norm or constant merged into the affine layer that it follows: one layer from that layer's input.

    None where its factor is not the same at all positions, or its shift not for all samples.
    """
    assert layer.affine is not None
    assert norm.factor is not None
    dim = -1 if layer.affine.is_dense else 1
    factor = along(norm.factor, output, dim)
    shift = None if norm.shift is None else _along_or_of_positions(norm.shift, output, dim)
    if factor is None or (shift is None and norm.shift is not None):
        return None
    merged = layer.affine.scaled(factor, shift)
    return replace(layer, affine=merged, function=lambda x: norm.function(layer.function(x)))


def _along_or_of_positions(shift: Tensor, output: Tensor, dim: int) -> Tensor | None:
    """[out], or [1,out,...] where positions differ."""
    each = along(shift, output, dim)
    return of_any_sample(shift, output) if each is None else each
