"""What relevance can pass: each supported operation read from its call, whatever its spelling.

Operations are known by name (`relu`, however it is imported or written); in-place forms are made pure. What is not
listed here cannot be explained, and raises `UnsupportedOp` when relevance would have to pass it.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from assay.harness.modules import unseen_parts
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from .gradients import backward_of
from .rules import Affine

Kind = Literal[
    "affine",
    "norm",
    "pool",
    "maximum",
    "joint",
    "activation",
    "shift",
    "statistics",
    "winner",
    "add",
    "gated",
    "gate",
    "normalise",
    "softmax",
    "product",
]


UNSEEN = "runs inside an autograd.Function or a scripted, traced or compiled module, where no rule can be given to it"
OVERWRITTEN = "writes in place into a value of which the network reads another view, and that is not followed"


MEND = (
    "attnlrp and cp_lrp explain transformers and ConvNeXts, other relevance methods convolutional networks "
    "(docs/methods/relevance.md lists the operations); methods on the input gradient work with any network"
)


class UnsupportedOp(ValueError):
    """An operation on the path of relevance has no rule."""

    def __init__(self, name: str, why: str = "has no relevance rule", mend: str = MEND) -> None:
        self.name = name
        super().__init__(f"the network calls {name!r}, which {why}: {mend}")


@dataclass(frozen=True, eq=False)
class Operation:
    """One call as rules see it.

    kind: which rule it takes. inputs: the values that relevance reaches, without graph. function: the call as a pure
    function of them. depths: how many affine layers lie before each input. affine: the layer, for kind affine.
    factor, shift: of kinds norm (a batch-norm that follows a layer), statistics (a norm of each image's own, which are
    taken as constant) and shift (any other constant factor x + shift, no shift for None). number: how many affine
    layers were called before, itself included. name: what was called. frozen: of kind normalise, the call with the size
    that it divides by as a constant. weights: of kind product, which inputs are made of
    softmax outputs alone, None for those that are in part. images: along which
    dimension of the output images lie, see `images`.
    """

    kind: Kind
    inputs: tuple[Tensor, ...]
    function: Callable[..., Tensor]
    depths: tuple[int, ...] = (0,)
    affine: Affine | None = None
    factor: Tensor | None = None
    shift: Tensor | None = None
    number: int = 0
    name: str = ""
    frozen: Callable[[Tensor], Tensor] | None = None
    weights: tuple[bool | None, ...] = ()
    images: int | None = None


class Reading(NamedTuple):
    """What a reader finds in a call: its path inputs (with graph) and the rest of an `Operation`."""

    kind: Kind
    inputs: tuple[Tensor, ...]
    function: Callable[..., Tensor]
    affine: Affine | None = None
    factor: Tensor | None = None
    shift: Tensor | None = None
    name: str = ""
    frozen: Callable[[Tensor], Tensor] | None = None
    equation: str = ""  # of an Einstein sum

    @property
    def is_scale(self) -> bool:
        """Whether it multiplies by one number."""
        return self.kind == "shift" and self.shift is None and self.factor is not None and self.factor.ndim == 0


class Spelling(NamedTuple):
    """A function's plain name, and whether the call writes into its first argument."""

    name: str
    inplace: bool


SYNONYMS = {
    **{"__rsub__": "rsub", "__rdiv__": "rdiv"},
    **{"subtract": "sub", "multiply": "mul", "divide": "div", "true_divide": "div", "concatenate": "cat"},
    **{"threshold": "_threshold", "clip": "clamp", "negative": "neg", "absolute": "abs"},
}


def spelling(function: Any, kwargs: Mapping[str, Any]) -> Spelling:
    """`Tensor.add_`, `operator.iadd` and `torch.add` are all `add`; `x.T` is `T`."""
    name: str = function.__name__
    if name in ("__get__", "__set__"):
        return Spelling(getattr(function.__self__, "__name__", name), False)
    if name.startswith("__") and name.endswith("__"):
        return Spelling(SYNONYMS.get(name, name), name == "__setitem__")
    plain = name.partition(".")[0].rstrip("_")  # torch.ops.aten.relu.default
    return Spelling(SYNONYMS.get(plain, plain), name.endswith("_") or bool(kwargs.get("inplace")))


def is_property(function: Any) -> bool:
    """Whether a call reads or sets a property: `x.shape`, `x.requires_grad`, `x.T`; not new values, `x.data = y`."""
    name, owner = function.__name__, getattr(function, "__self__", None)
    return name == "__get__" or (name == "__set__" and getattr(owner, "__name__", "") != "data")


def on_path(value: Any) -> bool:
    """Whether relevance can reach the value: the parameters are frozen, so a graph leads to the input."""
    return isinstance(value, Tensor) and value.requires_grad


def flat(values: Iterable[Any]) -> Iterator[Any]:
    """The members of nested lists and tuples."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from flat(value)
        else:
            yield value


class Made:
    """The values on the path that a mode has seen being made. Others were made out of its sight.

    module: the network that runs, for messages. mend: what to do instead.
    """

    def __init__(self, module: nn.Module, mend: str = MEND) -> None:
        self.module, self.mend = module, mend
        self._nodes: Any = WeakTensorKeyDictionary()  # tensor -> the node of the graph that made it

    def add(self, values: Sequence[Tensor]) -> None:
        """These were seen."""
        for value in values:
            self._nodes[value] = value.grad_fn

    def check(self, values: Sequence[Any]) -> None:
        """Raise UnsupportedOp for a value that an operation made, or wrote into, unseen."""
        for value in values:
            node = value.grad_fn if isinstance(value, Tensor) else None
            if node is not None and self._nodes.get(value) is not node:
                name = re.sub(r"Backward\d*$", "", node.name()).rpartition("::")[2]
                raise UnsupportedOp(name, UNSEEN, self.mend + unseen_parts(self.module))


ELEMENTWISE: dict[str, Callable[..., Tensor]] = {
    "relu_": torch.relu,
    "add_": torch.add,
    "sub_": torch.sub,
    "mul_": torch.mul,
}  # what needs no copy


def pure(function: Callable[..., Any], inplace: bool) -> Callable[..., Any]:
    """The function with its first argument left as it is, and a result of that argument's type."""
    if not inplace:
        return function
    other = ELEMENTWISE.get(function.__name__)

    def call(first: Tensor, *rest: Any, **options: Any) -> Any:
        if options.get("inplace"):
            return function(first, *rest, **{**options, "inplace": False})
        if other is not None:
            return other(first, *rest, **options).to(first.dtype)
        return function(first.clone(), *rest, **options)

    return call


# Readers: (pure function, *arguments of the call) -> Reading


def _affine(
    function: Callable[..., Tensor],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *rest: Any,
    **options: Any,
) -> Reading:
    if on_path(weight):
        raise UnsupportedOp(getattr(function, "__name__", "affine"), "has weights that depend on the input")

    def apply(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return function(x, w, b, *rest, **options)

    name = function.__name__
    layer = Affine(apply, weight, bias, transposed=name.startswith("conv_transpose"))
    layer = layer._replace(backward=backward_of(name, rest, options))
    return Reading("affine", (input,), lambda x: apply(x, weight, bias), layer)


def _batch_norm(
    function: Callable[..., Tensor],
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Reading:
    if training or running_mean is None or running_var is None:
        raise UnsupportedOp("batch_norm", "normalises with the batch's own statistics here")
    scale = (running_var + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -running_mean * scale if bias is None else bias - running_mean * scale
    shape = (1, -1, *[1] * (input.ndim - 2))

    def apply(x: Tensor) -> Tensor:
        return function(x, running_mean, running_var, weight, bias, False, momentum, eps)

    return Reading("norm", (input,), apply, factor=scale.view(shape), shift=shift.view(shape))


def _group_norm(
    function: Callable[..., Tensor],
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Reading:
    def apply(x: Tensor) -> Tensor:
        return function(x, num_groups, weight, bias, eps)

    return _of_statistics(apply, input, num_groups, weight, bias, eps)


def _instance_norm(
    function: Callable[..., Tensor],
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Reading:
    if not use_input_stats:
        assert running_mean is not None
        return _batch_norm(F.batch_norm, input, running_mean, running_var, weight, bias, False, momentum, eps)

    def apply(x: Tensor) -> Tensor:
        return function(x, None, None, weight, bias, True, momentum, eps)

    return _of_statistics(apply, input, input.shape[1], weight, bias, eps)


def _of_statistics(
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Reading:
    """factor x + shift with the image's own mean and variance taken as constants (Ali et al. 2022, section 4)."""
    grouped = x.detach().unflatten(1, (groups, -1)).flatten(2)  # [B,G,values]
    mean, spread = grouped.mean(2), (grouped.var(2, unbiased=False) + eps).rsqrt()
    shape = (-1, x.shape[1], *[1] * (x.ndim - 2))
    mean, factor = (each.repeat_interleave(x.shape[1] // groups, 1) for each in (mean, spread))
    factor = factor if weight is None else factor * weight
    shift = -mean * factor if bias is None else bias - mean * factor
    return Reading("statistics", (x,), function, factor=factor.view(shape), shift=shift.view(shape))


def _clamp(function: Callable[..., Tensor], input: Tensor, min: Any = None, max: Any = None, **options: Any) -> Reading:
    """An activation, if 0 stays 0."""
    if any(map(on_path, (min, max))) or not _holds_zero(min, max):
        raise UnsupportedOp("clamp", f"moves 0 (between {min} and {max})")
    bounds = {name: bound for name, bound in (("min", min), ("max", max)) if bound is not None}
    return Reading("activation", (input,), lambda x: torch.clamp(x, **bounds))


def _holds_zero(low: Any, high: Any) -> bool:
    """Whether low <= 0 <= high."""
    return (low is None or bool((torch.as_tensor(low) <= 0).all())) and (
        high is None or bool((torch.as_tensor(high) >= 0).all())
    )


def _hardtanh(
    function: Callable[..., Tensor], input: Tensor, min_val: float = -1, max_val: float = 1, **options: Any
) -> Reading:
    return _clamp(function, input, min_val, max_val)


def _threshold(
    function: Callable[..., Tensor], input: Tensor, threshold: float, value: float, **options: Any
) -> Reading:
    """x where that is above the threshold, else the value: an activation, if 0 stays 0."""
    if value != 0 and threshold >= 0:
        raise UnsupportedOp("threshold", f"moves 0 to {value}")
    return Reading("activation", (input,), lambda x: function(x, threshold, value))


def _clamp_min(function: Callable[..., Tensor], input: Tensor, min: Any) -> Reading:
    return _clamp(function, input, min)


def _clamp_max(function: Callable[..., Tensor], input: Tensor, max: Any) -> Reading:
    return _clamp(function, input, None, max)


def _maximum(function: Callable[..., Tensor], input: Tensor, other: Tensor) -> Reading:
    """The larger takes all, as in a max-pool; equal ones halve it. A constant's share is lost."""
    if on_path(input) and on_path(other):
        return Reading("winner", (input, other), function)
    x, bound = (input, other) if on_path(input) else (other, input)
    if not bound.any():
        return Reading("activation", (x,), lambda x: torch.relu(x))
    return Reading("winner", (x,), lambda x: function(x, bound))


def _negative(function: Callable[..., Tensor], input: Tensor) -> Reading:
    return Reading("shift", (input,), function, factor=-input.new_ones(()))


def _unary(kind: Kind) -> Callable[..., Reading]:
    """An operation on one tensor: relevance passes to its first argument."""

    def read(function: Callable[..., Any], input: Tensor, *rest: Any, **options: Any) -> Reading:
        if any(map(on_path, (*rest, *options.values()))):
            raise UnsupportedOp(getattr(function, "__name__", kind))
        return Reading(kind, (input,), lambda x: function(x, *rest, **options))

    return read


def _binary(
    both: Callable[[Callable[..., Tensor], Tensor, Tensor], Reading],
    constant: Callable[[Tensor, bool], "Constant"],
) -> Callable[..., Reading]:
    """An operation on two values: `constant` says what it is where one alone is on the path, `both` where two are."""

    def read(function: Callable[..., Tensor], input: Any, other: Any, **options: Any) -> Reading:
        if options:
            raise UnsupportedOp(getattr(function, "__name__", "add"), f"is called with {', '.join(options)}")
        if on_path(input) and on_path(other):
            return both(function, input, other)
        is_first = on_path(input)
        x, value = (input, other) if is_first else (other, input)
        factor, shift = constant(_like(x, value), is_first)
        call = (lambda x: function(x, other)) if is_first else (lambda x: function(input, x))
        return Reading("shift", (x,), call, factor=factor, shift=shift)

    return read


def _like(x: Tensor, value: Any) -> Tensor:
    """A constant of the value's type and device; a number is written there: for sending it the host would wait."""
    if isinstance(value, int | float):
        return x.new_full((), value)
    return torch.as_tensor(value, dtype=x.dtype, device=x.device)


class Constant(NamedTuple):
    """factor x + shift, no shift for None."""

    factor: Tensor
    shift: Tensor | None = None


def _added(c: Tensor, is_first: bool) -> Constant:
    return Constant(torch.ones_like(c), c)


def _subtracted(c: Tensor, is_first: bool) -> Constant:
    return Constant(torch.ones_like(c), -c) if is_first else Constant(-torch.ones_like(c), c)


def _subtracted_from(c: Tensor, is_first: bool) -> Constant:
    return _subtracted(c, not is_first)


def _multiplied(c: Tensor, is_first: bool) -> Constant:
    return Constant(c)


def _divided(c: Tensor, is_first: bool) -> Constant:
    if not is_first:
        raise UnsupportedOp("div", "divides by an activation")
    return Constant(c.reciprocal())


def _divided_from(c: Tensor, is_first: bool) -> Constant:
    return _divided(c, not is_first)


def _sum(function: Callable[..., Tensor], a: Tensor, b: Tensor) -> Reading:
    return Reading("add", (a, b), function)


def _product(function: Callable[..., Tensor], a: Tensor, b: Tensor) -> Reading:
    return Reading("gated", (a, b), function)


def _neither(function: Callable[..., Tensor], a: Tensor, b: Tensor) -> Reading:
    raise UnsupportedOp(getattr(function, "__name__", "div"), "subtracts or divides one activation by another")


POOLS = frozenset(
    {
        *("avg_pool1d", "avg_pool2d", "avg_pool3d", "mean", "sum", "interpolate"),
        *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
    }
)
MAXIMA = frozenset(
    {
        *("max_pool1d", "max_pool2d", "max_pool3d", "amax"),
        *("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"),
    }
)

READERS: dict[str, Callable[..., Reading]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "linear"), _affine),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _affine),
    "batch_norm": _batch_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    **dict.fromkeys(POOLS, _unary("pool")),
    **dict.fromkeys(MAXIMA, _unary("maximum")),
    "logsumexp": _unary("joint"),
    **dict.fromkeys(("relu", "relu6", "leaky_relu", "elu"), _unary("activation")),
    **dict.fromkeys(("silu", "gelu", "hardswish", "mish"), _unary("activation")),
    **dict.fromkeys(("prelu", "selu", "celu", "tanh", "local_response_norm"), _unary("activation")),
    "clamp": _clamp,
    "hardtanh": _hardtanh,
    "_threshold": _threshold,
    "clamp_min": _clamp_min,
    "clamp_max": _clamp_max,
    "maximum": _maximum,
    "neg": _negative,
    **dict.fromkeys(("sigmoid", "hardsigmoid"), _unary("gate")),
    "add": _binary(_sum, _added),
    "sub": _binary(_neither, _subtracted),
    "rsub": _binary(_neither, _subtracted_from),
    "mul": _binary(_product, _multiplied),
    "div": _binary(_neither, _divided),
    "rdiv": _binary(_neither, _divided_from),
}

# Ordinary autograd is the right flow of relevance: values are moved, copied or dropped.
STRUCTURAL = frozenset(
    {
        *("cat", "concat", "stack", "hstack", "vstack", "dstack", "column_stack"),
        *("chunk", "split", "tensor_split", "unbind", "narrow", "select", "index_select", "__getitem__", "gather"),
        *("flatten", "unflatten", "ravel", "reshape", "view", "view_as", "squeeze", "unsqueeze", "expand", "expand_as"),
        *("permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims", "t", "T", "mT", "unfold"),
        *("flip", "fliplr", "flipud", "rot90", "roll", "channel_shuffle", "native_channel_shuffle"),
        *("repeat", "tile", "repeat_interleave", "broadcast_to", "where", "masked_fill"),
        *("pad", "pixel_shuffle", "pixel_unshuffle", "contiguous", "clone", "to", "type_as", "float", "double"),
        *(
            "dropout",
            "dropout1d",
            "dropout2d",
            "dropout3d",
            "feature_dropout",
            "alpha_dropout",
            "feature_alpha_dropout",
        ),
    }
)

MOVES = STRUCTURAL - {"where", "masked_fill", "pad"}  # of one value: what they give are values of it

# Of these: a map becomes a vector; values keep their places; axes change places.
VIEWS = frozenset(
    {
        *("permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims", "t", "T", "mT"),
        *("select", "__getitem__", "unbind", "chunk", "split", "tensor_split", "narrow"),
        *("squeeze", "unsqueeze", "expand", "expand_as", "broadcast_to"),
    }
)
RESHAPING = frozenset({"flatten", "unflatten", "ravel", "reshape", "view", "view_as"})
FLATTENING = frozenset({"flatten", "reshape", "view"})
LIKE = frozenset({"type_as", "view_as", "expand_as"})  # the second argument is read for its type or shape alone
KEEPING = frozenset({"dropout", "alpha_dropout", "contiguous", "clone", "to", "type_as", "float", "double"})
TURNING = frozenset({"permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims"})

# What a constant factor x + shift before it may change places with (see `constants`).
COMMUTING = (STRUCTURAL - {"where", "masked_fill"}) | POOLS | MAXIMA
