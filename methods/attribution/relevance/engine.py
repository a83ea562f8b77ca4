"""The relevance engine: a network runs as it is, and its backward pass follows rules instead of derivatives.

`Tape.record` runs the module under a `TorchFunctionMode`, which sees each convolution, pool, addition, ... that any
module or function calls, and records it as an autograd node whose backward is a rule (`RuleTable`). Structural
operations keep ordinary autograd, so fan-out, concatenation and slicing need no rules. Relevance is then
`torch.autograd.grad` from wherever a method starts to wherever it stops (`Tape.pull`); the table is chosen at each
pull, and no table at all gives the ordinary gradient. Nothing is patched or hooked that outlives the forward pass.
"""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from assay.harness.forward import ForwardPass, check_rows
from assay.harness.heads import NO_GRADIENT, Targets
from assay.harness.network import Network
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from ..layers import spatial
from ..relevance import rules
from .alarm import Peak, check_size, expected_size, largest, of_images
from .constants import Call, Constants, along, of_any_sample, replaced, upright
from .operations import (
    COMMUTING,
    FLATTENING,
    KEEPING,
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
from .rules import Affine, AffineRule, MapRule, ScaleRule, ShiftRule, SumRule

BatchNorm = Literal["fold", "pass", "pass_nonzero"]
BATCH_NORM: dict[str, ScaleRule] = {
    "fold": rules.through,
    "pass": rules.through,
    "pass_nonzero": rules.through_nonzero,
}
SHIFT: dict[str, ShiftRule] = {  # of methods that leave biases out
    "fold": rules.shift_takes_nothing,
    "pass": rules.shift_takes_nothing,
    "pass_nonzero": rules.shift_takes_nothing_nonzero,
}


def check_batch_norm(choice: str) -> None:
    """Raise ValueError unless it is one of `BATCH_NORM`."""
    if choice not in BATCH_NORM:
        raise ValueError(f"batch_norm={choice!r}: choose one of {', '.join(BATCH_NORM)}")


# Of constants, batch-norms among them, when a tape is recorded: merged into the layers around them; those after a layer
# left by themselves; all by themselves, each with its shift, as no relevance but the ordinary gradient needs them.
Constancy = Literal["fold", "pass", "pass_nonzero", "apart"]


Start = Literal["logit", "one"]


def check_start(choice: str) -> None:
    """Raise ValueError unless it is a known start of relevance."""
    if choice not in ("logit", "one"):
        raise ValueError(f"start={choice!r}: choose logit (the class' own, with its sign) or one")


@dataclass(frozen=True)
class RuleTable:
    """Which rule each operation takes.

    affine: convolutions and fully connected layers. first: those that read the input. last: the last one on the way to
    the logits.
    named: module path patterns (`features.1?`, `layer4.*`) -> rule, before all others. pool: average pools and means.
    joint: logsumexp over positions. maximum: max-pools. activation: ReLU, SiLU, ... norm: batch-norms that follow an
    affine layer. factor: constants that multiply, where they cannot be merged into the next affine layer. shift: those
    that add, and other batch-norms. add: sums of two activations.
    gradient_after_last: what follows the last affine layer (SqueezeNet's ReLU and pool) takes its ordinary gradient.
    gradients: of what is explained with respect to the outputs of operations, for rules that read them from the layer.
    method: whose table it is, for messages. may_grow: relevance that outgrows the logits is said, and never refused.
    adds: the size of what rules add to relevance, which is then expected whatever the logits are.
    by_image: rules that weigh an image's values against one another need its layers to have one row an image.
    """

    affine: AffineRule
    first: AffineRule | None = None
    last: AffineRule | None = None
    named: Mapping[str, AffineRule] = field(default_factory=dict)
    pool: MapRule = rules.share
    joint: MapRule = rules.share
    maximum: MapRule = rules.gradient
    activation: MapRule = rules.identity
    norm: ScaleRule = rules.through
    factor: MapRule = rules.identity
    shift: ShiftRule = rules.shift_keeps
    add: SumRule = rules.proportional
    gradient_after_last: bool = False
    gradients: Mapping[Operation, Tensor] = field(default_factory=dict)
    method: str = "this method"
    may_grow: bool = False
    adds: float = 0
    by_image: bool = False

    def of_affine(self, operation: Operation, is_last: bool) -> AffineRule:
        """The rule of one convolution or fully connected layer."""
        assert operation.affine is not None
        for pattern, rule in self.named.items():
            if fnmatchcase(operation.affine.layer, pattern):
                return rule
        if self.first is not None and operation.depths[0] == 0:
            return self.first
        return self.last if self.last is not None and is_last else self.affine

    def check_names(self, layers: Sequence[str]) -> None:
        """Raise ValueError unless each pattern matches one of the convolutions and linear layers at these paths."""
        for pattern in self.named:
            if not any(fnmatchcase(layer, pattern) for layer in layers):
                near = difflib.get_close_matches(pattern, sorted({*layers} - {""}), n=3, cutoff=0)
                raise ValueError(
                    f"layers: {pattern!r} matches no convolution or linear layer that was called, and only these take "
                    f"rules by name; near names: {', '.join(map(repr, near)) or 'none'}"
                )


Relevances = tuple[Tensor | None, ...]


def _affine(table: RuleTable, op: Operation, relevance: Tensor, is_last: bool) -> Relevances:
    assert op.affine is not None
    layer = op.affine if op not in table.gradients else op.affine._replace(gradient=table.gradients[op])
    return (table.of_affine(op, is_last)(op.inputs[0], layer, relevance),)


def _norm(table: RuleTable, op: Operation, relevance: Tensor, is_last: bool) -> Relevances:
    assert op.factor is not None
    return (table.norm(op.inputs[0], op.factor, relevance),)


def _pool(table: RuleTable, op: Operation, relevance: Tensor, is_last: bool) -> Relevances:
    return (table.pool(op.inputs[0], op.function, relevance),)


def _joint(table: RuleTable, op: Operation, relevance: Tensor, is_last: bool) -> Relevances:
    return (table.joint(op.inputs[0], op.function, relevance),)


def _maximum(table: RuleTable, op: Operation, relevance: Tensor, is_last: bool) -> Relevances:
    return (table.maximum(op.inputs[0], op.function, relevance),)


def _activation(table: RuleTable, op: Operation, relevance: Tensor, is_last: bool) -> Relevances:
    return (table.activation(op.inputs[0], op.function, relevance),)


def _shift(table: RuleTable, op: Operation, relevance: Tensor, is_last: bool) -> Relevances:
    if op.shift is None:
        return (table.factor(op.inputs[0], op.function, relevance),)
    assert op.factor is not None
    return (table.shift(op.inputs[0], op.factor, op.shift, relevance),)


def _winner(table: RuleTable, op: Operation, relevance: Tensor, is_last: bool) -> Relevances:
    return rules.vjp(op.function, op.inputs, relevance)


def _add(table: RuleTable, op: Operation, relevance: Tensor, is_last: bool) -> Relevances:
    return table.add(op.inputs, op.depths, relevance)


def _gated(table: RuleTable, op: Operation, relevance: Tensor, is_last: bool) -> Relevances:
    return (rules.identity(op.inputs[0], op.function, relevance), None)


def _gate(table: RuleTable, op: Operation, relevance: Tensor, is_last: bool) -> Relevances:
    return (None,)  # a gate says how much passes, not what: no relevance


HANDLERS: dict[str, Callable[[RuleTable, Operation, Tensor, bool], Relevances]] = {
    "affine": _affine,
    "norm": _norm,
    "pool": _pool,
    "joint": _joint,
    "maximum": _maximum,
    "activation": _activation,
    "shift": _shift,
    "statistics": _shift,
    "winner": _winner,
    "add": _add,
    "gated": _gated,
    "gate": _gate,
}


class Ends(NamedTuple):
    """Numbers of the affine layers that the logits read without another in between; ids of the operations between."""

    last: frozenset[int]
    after: frozenset[int]


Watch = Callable[[Operation, Tensor], None]  # (operation, the gradient of its output)


def _gradient(op: Operation, gradient: Tensor) -> tuple[Tensor, ...]:
    if op.affine is not None:
        return (op.affine.pull_back(op.inputs[0], gradient),)
    if len(op.inputs) == 1:
        return (rules.gradient(op.inputs[0], op.function, gradient),)
    return rules.vjp(op.function, op.inputs, gradient)


class _State:
    """What a tape and its nodes share: the table of the running pull, the affine layers, and each tensor's depth."""

    def __init__(self) -> None:
        self.table: RuleTable | None = None
        self.watch: Watch | None = None
        self.affine_layers: list[str] = []  # module paths in the order of calls
        self.ends = Ends(frozenset(), frozenset())
        self.peaks: list[Peak] = []  # of the running pull
        self.images = 0
        self._depth: Any = WeakTensorKeyDictionary()  # affine layers between the input and a tensor

    def depth_of(self, value: Tensor) -> int:
        return int(self._depth.get(value, 0))

    def set_depth(self, value: Tensor, depth: int) -> None:
        self._depth[value] = depth

    def backward(self, operation: Operation, relevance: Tensor) -> Relevances:
        table = self.table
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
        "images: parts of images (cells of a grid, windows), each of which would be weighed by itself"
    )


class _Node(torch.autograd.Function):
    """One recorded operation."""

    @staticmethod
    def forward(ctx: Any, state: _State, operation: Operation, made: Sequence[Tensor], *inputs: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.state, ctx.operation = state, operation
        return made[0]  # in a list: an argument that is returned would be a view, which nothing may write into

    @staticmethod
    def backward(ctx: Any, *relevances: Tensor | None) -> tuple[Tensor | None, ...]:
        (relevance,) = relevances
        if relevance is None:
            return (None,) * (3 + len(ctx.operation.inputs))
        return None, None, None, *ctx.state.backward(ctx.operation, relevance)


def _ends(logits: Tensor) -> Ends:
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


class _Producer(NamedTuple):
    """An affine layer as it was called, and its inputs with their graph."""

    operation: Operation
    inputs: tuple[Tensor, ...]


class _Copy(NamedTuple):
    """What a value is a view or a selection of, and how."""

    original: Tensor
    again: Callable[[Tensor], Tensor]


class RelevanceMode(TorchFunctionMode):
    """Records each operation on the path from the input; values are those of the network itself.

    In-place operations return new tensors; whoever reads the old one afterwards is given the new one.

    layers: of each parameter, by id, the module path. constants: see `Constancy`.
    """

    def __init__(self, state: _State, module: nn.Module, constants: Constancy) -> None:
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
        self._kept: Any = WeakTensorKeyDictionary()  # outputs of layers that relevance starts from or stops at
        self._turned: Any = WeakTensorKeyDictionary()  # maps whose axes have changed places
        self._maps: Any = WeakTensorKeyDictionary()  # vectors -> the shape of the map that they were, see `Affine`
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
        if not carried or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        if is_property(func) and not on_path(output := func(*args, **kwargs)):
            return output
        self._check_read(carried)
        name, inplace = spelling(func, kwargs)
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
        if name in READERS:
            return self._of_original(name, READERS[name](called, *args, **kwargs))
        output = self._ordinary(name, called(*args, **kwargs), carried)
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
            if all(each in self._gates for each in carried):
                self._gates[value] = True
            self._follow_map(name, value, carried[0])
        return output

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
        if operation.affine is None and len(inputs) == 1:
            called = rules.Differentiable.of(operation.function, operation.inputs[0])
            return self._recorded(replace(operation, function=called), inputs, called.output.detach())
        with torch.no_grad():
            output = reading.function(*(x.detach() for x in reading.inputs))
        return self._recorded(operation, inputs, output)

    def _recorded(self, operation: Operation, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        recorded: Tensor = _Node.apply(self.state, operation, [output], *inputs)
        self.made.add([recorded])
        self.state.set_depth(recorded, max(operation.depths) + (operation.kind == "affine"))
        if operation.kind == "affine":
            self._producers[recorded] = _Producer(operation, inputs)
        if operation.kind == "gate":
            self._gates[recorded] = True
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
        inputs = self._signal_first(name, reading.inputs) if reading.kind == "gated" else reading.inputs
        return self._read(reading, inputs), inputs

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
        )

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
        affine = affine._replace(layer=self.layers.get(id(affine.weight), ""), map_shape=vector)
        self.state.affine_layers.append(affine.layer)
        known = self._constants.get(reading.inputs[0])
        merged = None if known is None else known.merged(affine)
        if known is None or merged is None:
            return self._read(reading._replace(affine=affine), reading.inputs), reading.inputs
        self._passed[reading.inputs[0]] = "layer that reads it, as the batch-norm or constant before it is"
        function = reading.function
        reading = reading._replace(affine=merged, function=lambda x: function(known._replace(base=x)(x)))
        return self._read(reading, (known.base,)), (known.base,)

    def _signal_first(self, name: str, factors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """(signal, gate) of a product: squeeze-and-excitation, swish."""
        gates = [x in self._gates for x in factors]
        if sum(gates) != 1:
            raise UnsupportedOp(name, "multiplies two activations of which not exactly one is the output of a sigmoid")
        return factors[::-1] if gates[0] else factors


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


class Tape:
    """One recorded forward pass: tensors with a graph of rules.

    inputs: normalised [B,3,H,W], the leaf. logits: [B,C]. layers: the named layers' outputs [B,...].
    """

    def __init__(
        self, network: Network, inputs: Tensor, logits: Tensor, layers: dict[str, Tensor], state: _State
    ) -> None:
        self.network, self.inputs, self.logits, self.layers = network, inputs, logits, layers
        self._state = state

    @classmethod
    def record(
        cls,
        forward: ForwardPass,
        layers: Sequence[str] = (),
        batch_norm: Constancy = "fold",
        before_constants: bool = False,
    ) -> "Tape":
        """Run the network on the batch.

        Args:
            layers: names, as in `Network`, whose outputs relevance shall start from or stop at. Module paths need no
                tracing; names of functional operations do.
            batch_norm: `fold` merges it into the layer before it where there is one; `pass` leaves relevance as it is;
                `apart` merges nothing, constants neither, for the ordinary gradient alone.
            before_constants: of a layer whose output is a constant factor and shift of another value, give that value:
                for methods that pass all relevance there, so that maps are those of the merged network.

        Raises:
            UnsupportedOp: the network calls something without a rule.
            ValueError: no such layer, it was not called, it returns no tensor, or its output was folded away.
        """
        network, state = forward.network, _State()
        leaf = forward.inputs.detach().requires_grad_()
        state.images = len(leaf)
        by_hook = set(layers) <= {name for name, _ in network.module.named_modules()}
        for layer in () if by_hook else layers:
            network.check_layer(layer)
        mode = RelevanceMode(state, network.module, batch_norm)
        end = mode.before_constants if before_constants else mode.kept
        with torch.enable_grad(), mode:
            if by_hook:
                with _outputs(network.module, layers, end) as found:
                    logits = network(leaf)
            else:
                logits, values = network.run(leaf, tuple(layers))
                found = {name: value.activation for name, value in values.items()}
                found = {name: end(value) for name, value in found.items()} if before_constants else found
        if not mode.latest(logits).requires_grad:
            raise ValueError(NO_GRADIENT)
        state.ends = _ends(mode.latest(logits))
        kept = {name: _tensor(name, found) for name in layers}
        mode.check([mode.latest(logits), *kept.values()], list(kept))
        return cls(network, leaf, mode.latest(logits), kept, state)

    def at(self, layer: str | None) -> Tensor:
        """The layer's output, or for None the input."""
        return self.inputs if layer is None else self.layers[layer]

    def feature_map(self, layer: str | None) -> Tensor:
        """The layer's output, or for None the input, checked to be [B,K,h,w]."""
        values = spatial(self.at(layer), layer, self.inputs.shape[2:])
        check_rows(str(layer), values, len(self.inputs))
        if layer is not None and not self.network.has_channels_first(layer):
            raise ValueError(
                f"layer {layer!r} gives {list(values.shape)}, and by the network's graph its channels come last or "
                "that is open: relevance starts from and stops at layers with channels first; choose one of those"
            )
        return values

    def is_after_last(self, layer: str) -> bool:
        """Whether no convolution or linear layer lies between the layer's output and the logits."""
        return self._state.depth_of(self.at(layer)) == self._state.depth_of(self.logits)

    def pull(
        self, table: RuleTable | None, outputs: Tensor, start: Tensor, wrt: Tensor, watch: Watch | None = None
    ) -> Tensor:
        """Relevance of `wrt` [B,...] when `outputs` have the relevance `start`; no table: the ordinary gradient.

        watch: told each operation that is passed, with the relevance (gradient) of its output.

        Raises:
            ValueError: a name pattern of the table matches nothing, or nothing passes from `outputs` to `wrt`.
        """
        if table is not None:
            table.check_names(self._state.affine_layers)
            self._check_last(table)
        self._state.table, self._state.watch, self._state.peaks = table, watch, []
        if table is None:
            self.network.passes.head += len(start)
        else:
            self.network.passes.backward += len(start)
        found: Sequence[Tensor | None] = torch.autograd.grad(outputs, wrt, start, retain_graph=True, allow_unused=True)
        (relevance,) = found
        self._state.watch = None
        if relevance is None:
            later, earlier = self._called(outputs), self._called(wrt)
            raise ValueError(
                f"no relevance passes from {later} to {earlier}: {later} must come later in the network, and not only "
                "by way of a sigmoid, whose output is a gate and takes no relevance (of a network that ends in a "
                "sigmoid, explain the part before it)"
            )
        if table is not None:
            images = len(self.inputs)
            peaks = [*self._state.peaks, Peak(self._called(wrt), largest(relevance))]
            peaks = [peak._replace(size=of_images(peak.size, images)) for peak in peaks]
            expected = of_images(expected_size(outputs.detach(), start, table.gradient_after_last), images)
            check_size(peaks, expected.clamp(min=table.adds), table.method, table.may_grow)
        return relevance

    def _check_last(self, table: RuleTable) -> None:
        """Raise ValueError where a rule of one last layer meets several."""
        last = sorted(self._state.ends.last)
        if table.gradient_after_last and len(last) > 1:
            names = ", ".join(repr(self._state.affine_layers[number - 1]) for number in last)
            raise ValueError(
                f"{table.method} starts at one last layer, and these logits are made of several ({names}): join their "
                "inputs in front of one layer"
            )

    def _called(self, value: Tensor) -> str:
        """What a message calls the input, the logits or a layer's output."""
        known = {"the input": self.inputs, "the logits": self.logits}
        known |= {f"layer {name!r}": output for name, output in self.layers.items()}
        return next(name for name, output in known.items() if output is value)

    def by_pair(self, targets: Targets, relevance: Callable[[Tensor], Tensor]) -> Tensor:
        """Relevance of each pair: [P,...].

        relevance: from one-hot rows [B,C] (zero for images without a pair) to [B,...]; called once a round of
            pairs that hold each image at most once.
        """
        rounds = targets.rounds()
        parts = [relevance(torch.zeros_like(self.logits))[:0]] if not rounds else []
        for pairs in rounds:
            one_hot = torch.zeros_like(self.logits)
            one_hot[targets.image[pairs], targets.label[pairs]] = 1
            parts.append(relevance(one_hot)[targets.image[pairs]])
        result = torch.cat(parts)[torch.argsort(torch.cat(rounds))] if rounds else parts[0]
        is_known = self.logits.isfinite().all(1)[targets.image]  # rules read 0/0 as 0, whatever it came from
        return result.masked_fill_(~is_known.view(-1, *[1] * (result.ndim - 1)), torch.nan)


@contextmanager
def _outputs(module: nn.Module, layers: Sequence[str], latest: Callable[[Any], Any]) -> Iterator[dict[str, Any]]:
    """What the named submodules return, the last call of each, before later modules write into it."""
    found: dict[str, Any] = {}
    handles = [
        module.get_submodule(layer).register_forward_hook(partial(_keep, found, layer, latest))
        for layer in dict.fromkeys(layers)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _keep(
    found: dict[str, Any], layer: str, latest: Callable[[Any], Any], module: nn.Module, inputs: Any, output: Any
) -> None:
    found[layer] = latest(output)


def _tensor(layer: str, found: Mapping[str, Any]) -> Tensor:
    if layer not in found:
        raise ValueError(f"layer {layer!r} was not reached: the forward pass does not call this module")
    value = found[layer]
    if not isinstance(value, Tensor):
        raise ValueError(f"layer {layer!r} returns a {type(value).__name__}, not a tensor: choose one inside it")
    if not value.requires_grad:
        raise ValueError(f"no relevance reaches layer {layer!r}: choose one between the input and the logits")
    return value
