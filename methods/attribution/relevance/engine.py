"""The relevance engine: a network runs as it is, and its backward pass follows rules instead of derivatives.

`Tape.record` runs the module under a `TorchFunctionMode`, which sees each convolution, pool, addition, ... that any
module or function calls, and records it as an autograd node whose backward is a rule (`RuleTable`). Structural
operations keep ordinary autograd, so fan-out, concatenation and slicing need no rules. Relevance is then
`torch.autograd.grad` from wherever a method starts to wherever it stops (`Tape.pull`); the table is chosen at each
pull, and no table at all gives the ordinary gradient. Nothing is patched or hooked that outlives the forward pass.
"""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.network import Network
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from ..layers import spatial
from ..relevance import rules
from .operations import READERS, STRUCTURAL, Operation, Reading, UnsupportedOp, on_path, pure, spelling
from .rules import AffineRule, MapRule, ScaleRule, SumRule

BatchNorm = Literal["fold", "pass", "pass_nonzero"]
BATCH_NORM: dict[str, ScaleRule] = {
    "fold": rules.through,
    "pass": rules.through,
    "pass_nonzero": rules.through_nonzero,
}


def check_batch_norm(choice: str) -> None:
    """Raise ValueError unless it is one of `BATCH_NORM`."""
    if choice not in BATCH_NORM:
        raise ValueError(f"batch_norm={choice!r}: choose one of {', '.join(BATCH_NORM)}")


@dataclass(frozen=True)
class RuleTable:
    """Which rule each operation takes.

    affine: convolutions and fully connected layers. first: those that read the input. last: the last one called.
    named: module path patterns (`features.1?`, `layer4.*`) -> rule, before all others. pool: average pools and means.
    maximum: max-pools. activation: ReLU, SiLU, ... norm: batch-norms. add: sums of two activations.
    gradient_after_last: what follows the last affine layer (SqueezeNet's ReLU and pool) takes its ordinary gradient.
    """

    affine: AffineRule
    first: AffineRule | None = None
    last: AffineRule | None = None
    named: Mapping[str, AffineRule] = field(default_factory=dict)
    pool: MapRule = rules.share
    maximum: MapRule = rules.gradient
    activation: MapRule = rules.identity
    norm: ScaleRule = rules.through
    add: SumRule = rules.proportional
    gradient_after_last: bool = False

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
    return (table.of_affine(op, is_last)(op.inputs[0], op.affine, relevance),)


def _norm(table: RuleTable, op: Operation, relevance: Tensor, is_last: bool) -> Relevances:
    assert op.factor is not None
    return (table.norm(op.inputs[0], op.factor, relevance),)


def _pool(table: RuleTable, op: Operation, relevance: Tensor, is_last: bool) -> Relevances:
    return (table.pool(op.inputs[0], op.function, relevance),)


def _maximum(table: RuleTable, op: Operation, relevance: Tensor, is_last: bool) -> Relevances:
    return (table.maximum(op.inputs[0], op.function, relevance),)


def _activation(table: RuleTable, op: Operation, relevance: Tensor, is_last: bool) -> Relevances:
    return (table.activation(op.inputs[0], op.function, relevance),)


def _scale(table: RuleTable, op: Operation, relevance: Tensor, is_last: bool) -> Relevances:
    return (rules.identity(op.inputs[0], op.function, relevance),)


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
    "maximum": _maximum,
    "activation": _activation,
    "scale": _scale,
    "add": _add,
    "gated": _gated,
    "gate": _gate,
}


class _State:
    """What a tape and its nodes share: the table of the running pull, the affine layers, and each tensor's depth."""

    def __init__(self) -> None:
        self.table: RuleTable | None = None
        self.affine_layers: list[str] = []  # module paths in the order of calls
        self._depth: Any = WeakTensorKeyDictionary()  # affine layers between the input and a tensor

    def depth_of(self, value: Tensor) -> int:
        return int(self._depth.get(value, 0))

    def set_depth(self, value: Tensor, depth: int) -> None:
        self._depth[value] = depth

    def backward(self, operation: Operation, relevance: Tensor) -> Relevances:
        table = self.table
        if table is None or (table.gradient_after_last and self._is_after_last(operation)):
            return rules.vjp(operation.function, operation.inputs, relevance)
        is_last = operation.number == len(self.affine_layers)
        return HANDLERS[operation.kind](table, operation, relevance, is_last)

    def _is_after_last(self, operation: Operation) -> bool:
        return operation.kind != "affine" and operation.number == len(self.affine_layers)


class _Node(torch.autograd.Function):
    """One recorded operation."""

    @staticmethod
    def forward(ctx: Any, state: _State, operation: Operation, output: Tensor, *inputs: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.state, ctx.operation = state, operation
        return output

    @staticmethod
    def backward(ctx: Any, *relevances: Tensor | None) -> tuple[Tensor | None, ...]:
        (relevance,) = relevances
        if relevance is None:
            return (None,) * (3 + len(ctx.operation.inputs))
        return None, None, None, *ctx.state.backward(ctx.operation, relevance)


class _Producer(NamedTuple):
    """An affine layer as it was called, and its inputs with their graph."""

    operation: Operation
    inputs: tuple[Tensor, ...]


class RelevanceMode(TorchFunctionMode):
    """Records each operation on the path from the input; values are those of the network itself.

    In-place operations return new tensors; whoever reads the old one afterwards is given the new one.

    layers: of each parameter, by id, the module path. fold: merge a batch-norm into the layer before it.
    """

    def __init__(self, state: _State, layers: Mapping[int, str], fold: bool) -> None:
        super().__init__()
        self.state, self.layers, self.fold = state, layers, fold
        self._written: Any = WeakTensorKeyDictionary()  # tensor -> what an in-place operation made of it
        self._producers: Any = WeakTensorKeyDictionary()  # output of an affine layer -> _Producer
        self._folded: Any = WeakTensorKeyDictionary()  # outputs of affine layers that a batch-norm was merged into
        self._gates: Any = WeakTensorKeyDictionary()  # outputs of sigmoids

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
        carried = [value for value in _flat((*args, *kwargs.values())) if on_path(value)]
        if not carried or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        name, inplace = spelling(func, kwargs)
        called = pure(func, inplace)
        if name in READERS:
            output = self._record(name, READERS[name](called, *args, **kwargs))
        else:
            output = self._ordinary(name, called(*args, **kwargs), carried)
        if inplace and args and isinstance(output, Tensor):
            self._written[args[0]] = output
        return output

    def _ordinary(self, name: str, output: Any, carried: Sequence[Tensor]) -> Any:
        """What autograd does by itself, if that is the flow of relevance."""
        carrying = [value for value in _flat((output,)) if on_path(value)]
        if (carrying or name == "__setitem__") and name not in STRUCTURAL:
            raise UnsupportedOp(name)
        for value in carrying:
            self.state.set_depth(value, max(self.state.depth_of(each) for each in carried))
            if all(each in self._gates for each in carried):
                self._gates[value] = True
        return output

    def is_folded(self, value: Tensor) -> bool:
        """Whether relevance goes past the value, from the batch-norm that reads it to the input of its layer."""
        return value in self._folded

    def _record(self, name: str, reading: Reading) -> Tensor:
        """Compute the operation, and put its node into the graph."""
        with torch.no_grad():
            output = reading.function(*(x.detach() for x in reading.inputs))
        operation, inputs = self._operation(name, reading)
        recorded: Tensor = _Node.apply(self.state, operation, output, *inputs)
        self.state.set_depth(recorded, max(operation.depths) + (operation.kind == "affine"))
        if operation.kind == "affine":
            self._producers[recorded] = _Producer(operation, inputs)
        if operation.kind == "gate":
            self._gates[recorded] = True
        return recorded

    def _operation(self, name: str, reading: Reading) -> tuple[Operation, tuple[Tensor, ...]]:
        """The call as rules see it, and the tensors (with graph) that its relevance goes to."""
        inputs = self._signal_first(name, reading.inputs) if reading.kind == "gated" else reading.inputs
        producer = self._producers.get(inputs[0]) if self.fold and reading.kind == "norm" else None
        if producer is not None:
            self._folded[inputs[0]] = True
            return _folded(producer.operation, reading), producer.inputs
        affine = reading.affine
        if affine is not None:
            affine = affine._replace(layer=self.layers.get(id(affine.weight), ""))
            self.state.affine_layers.append(affine.layer)
        operation = Operation(
            reading.kind,
            inputs=tuple(x.detach() for x in inputs),
            function=reading.function,
            depths=tuple(self.state.depth_of(x) for x in inputs),
            affine=affine,
            factor=reading.factor,
            number=len(self.state.affine_layers),
        )
        return operation, inputs

    def _signal_first(self, name: str, factors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """(signal, gate) of a product: squeeze-and-excitation, swish."""
        gates = [x in self._gates for x in factors]
        if sum(gates) != 1:
            raise UnsupportedOp(name, "multiplies two activations of which not exactly one is the output of a sigmoid")
        return factors[::-1] if gates[0] else factors


def _folded(layer: Operation, norm: Reading) -> Operation:
    """A batch-norm merged into the affine layer that it follows: one affine layer from that layer's input."""
    assert layer.affine is not None
    assert norm.factor is not None
    assert norm.shift is not None
    merged = layer.affine.scaled(norm.factor.flatten(), norm.shift)
    return replace(layer, affine=merged, function=lambda x: norm.function(layer.function(x)))


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    """The members of nested lists and tuples."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _flat(value)
        else:
            yield value


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
    def record(cls, forward: ForwardPass, layers: Sequence[str] = (), batch_norm: BatchNorm = "fold") -> "Tape":
        """Run the network on the batch.

        Args:
            layers: names, as in `Network`, whose outputs relevance shall start from or stop at. Module paths need no
                tracing; names of functional operations do.
            batch_norm: `fold` merges it into the layer before it where there is one; `pass` leaves relevance as it is.

        Raises:
            UnsupportedOp: the network calls something without a rule.
            ValueError: no such layer, it was not called, it returns no tensor, or its output was folded away.
        """
        network, state = forward.network, _State()
        leaf = forward.inputs.detach().requires_grad_()
        names = {id(value): name.rpartition(".")[0] for name, value in network.module.named_parameters()}
        by_hook = set(layers) <= {name for name, _ in network.module.named_modules()}
        for layer in () if by_hook else layers:
            network.check_layer(layer)
        mode = RelevanceMode(state, names, batch_norm == "fold")
        with torch.enable_grad(), mode:
            if by_hook:
                with _outputs(network.module, layers, mode.latest) as found:
                    logits = network(leaf)
            else:
                logits, values = network.run(leaf, tuple(layers))
                found = {name: value.activation for name, value in values.items()}
            kept = {name: _tensor(name, found) for name in layers}
            for name, value in kept.items():
                if mode.is_folded(value):
                    raise ValueError(
                        f"layer {name!r} is merged with the batch-norm that follows it (batch_norm='fold'), so its "
                        "output has no relevance: choose the batch-norm, or batch_norm='pass'"
                    )
            return cls(network, leaf, mode.latest(logits), kept, state)

    def at(self, layer: str | None) -> Tensor:
        """The layer's output, or for None the input."""
        return self.inputs if layer is None else self.layers[layer]

    def feature_map(self, layer: str | None) -> Tensor:
        """The layer's output, or for None the input, checked to be [B,K,h,w]."""
        return spatial(self.at(layer), layer)

    def is_after_last(self, layer: str) -> bool:
        """Whether no convolution or linear layer lies between the layer's output and the logits."""
        return self._state.depth_of(self.at(layer)) == self._state.depth_of(self.logits)

    def pull(self, table: RuleTable | None, outputs: Tensor, start: Tensor, wrt: Tensor) -> Tensor:
        """Relevance of `wrt` [B,...] when `outputs` have the relevance `start`; no table: the ordinary gradient.

        Raises:
            ValueError: a name pattern of the table matches nothing, or nothing passes from `outputs` to `wrt`.
        """
        if table is not None:
            table.check_names(self._state.affine_layers)
        self._state.table = table
        if table is None:
            self.network.passes.head += len(start)
        else:
            self.network.passes.backward += len(start)
        found: Sequence[Tensor | None] = torch.autograd.grad(outputs, wrt, start, retain_graph=True, allow_unused=True)
        (relevance,) = found
        if relevance is None:
            later, earlier = self._called(outputs), self._called(wrt)
            raise ValueError(
                f"no relevance passes from {later} to {earlier}: {later} must come later in the network, and not only "
                "by way of a sigmoid, whose output is a gate and takes no relevance (of a network that ends in a "
                "sigmoid, explain the part before it)"
            )
        return relevance

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
