"""What relevance can pass: each supported operation read from its call, whatever its spelling.

Operations are known by name (`relu`, however it is imported or written); in-place forms are made pure. What is not
listed here cannot be explained, and raises `UnsupportedOp` when relevance would have to pass it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor

from .rules import Affine

Kind = Literal["affine", "norm", "pool", "maximum", "activation", "scale", "add", "gated", "gate"]


class UnsupportedOp(ValueError):
    """An operation on the path of relevance has no rule."""

    def __init__(self, name: str, why: str = "has no relevance rule") -> None:
        self.name = name
        super().__init__(
            f"the network calls {name!r}, which {why}: relevance methods explain convolutional networks (docs/methods/"
            "relevance.md lists the operations); methods on the input gradient work with any network"
        )


@dataclass(frozen=True, eq=False)
class Operation:
    """One call as rules see it.

    kind: which rule it takes. inputs: the values that relevance reaches, without graph. function: the call as a pure
    function of them. depths: how many affine layers lie before each input. affine: the layer, for kind affine.
    factor: of each channel, for kind norm. number: how many affine layers were called before, itself included.
    """

    kind: Kind
    inputs: tuple[Tensor, ...]
    function: Callable[..., Tensor]
    depths: tuple[int, ...] = (0,)
    affine: Affine | None = None
    factor: Tensor | None = None
    number: int = 0


class Reading(NamedTuple):
    """What a reader finds in a call: its path inputs (with graph) and the rest of an `Operation`."""

    kind: Kind
    inputs: tuple[Tensor, ...]
    function: Callable[..., Tensor]
    affine: Affine | None = None
    factor: Tensor | None = None
    shift: Tensor | None = None


class Spelling(NamedTuple):
    """A function's plain name, and whether the call writes into its first argument."""

    name: str
    inplace: bool


def spelling(function: Any, kwargs: Mapping[str, Any]) -> Spelling:
    """`Tensor.add_`, `operator.iadd` and `torch.add` are all `add`."""
    name: str = function.__name__
    if name.startswith("__") and name.endswith("__"):
        return Spelling({"__rsub__": "rsub", "__rdiv__": "rdiv"}.get(name, name), name == "__setitem__")
    return Spelling(name.rstrip("_"), name.endswith("_") or bool(kwargs.get("inplace")))


def on_path(value: Any) -> bool:
    """Whether relevance can reach the value: the parameters are frozen, so a graph leads to the input."""
    return isinstance(value, Tensor) and value.requires_grad


def pure(function: Callable[..., Any], inplace: bool) -> Callable[..., Any]:
    """The function with its first argument left as it is."""
    if not inplace:
        return function
    return lambda first, *rest, **options: function(first.clone(), *rest, **options)


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

    return Reading("affine", (input,), lambda x: apply(x, weight, bias), Affine(apply, weight, bias))


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

    return Reading("norm", (input,), apply, factor=scale.view(shape), shift=shift)


def _unary(kind: Kind) -> Callable[..., Reading]:
    """An operation on one tensor: relevance passes to its first argument."""

    def read(function: Callable[..., Any], input: Tensor, *rest: Any, **options: Any) -> Reading:
        if any(map(on_path, (*rest, *options.values()))):
            raise UnsupportedOp(getattr(function, "__name__", kind))
        return Reading(kind, (input,), lambda x: function(x, *rest, **options))

    return read


def _binary(both: Callable[[Callable[..., Tensor], Tensor, Tensor], Reading]) -> Callable[..., Reading]:
    """An operation on two values: identity to the one on the path, or what `both` says."""

    def read(function: Callable[..., Tensor], input: Any, other: Any, **options: Any) -> Reading:
        if options:
            raise UnsupportedOp(getattr(function, "__name__", "add"), f"is called with {', '.join(options)}")
        if not on_path(other):
            return Reading("scale", (input,), lambda x: function(x, other))
        if not on_path(input):
            return Reading("scale", (other,), lambda x: function(input, x))
        return both(function, input, other)

    return read


def _sum(function: Callable[..., Tensor], a: Tensor, b: Tensor) -> Reading:
    return Reading("add", (a, b), function)


def _product(function: Callable[..., Tensor], a: Tensor, b: Tensor) -> Reading:
    return Reading("gated", (a, b), function)


def _neither(function: Callable[..., Tensor], a: Tensor, b: Tensor) -> Reading:
    raise UnsupportedOp(getattr(function, "__name__", "div"), "subtracts or divides one activation by another")


READERS: dict[str, Callable[..., Reading]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "linear"), _affine),
    "batch_norm": _batch_norm,
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d", "mean", "sum", "interpolate"), _unary("pool")),
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"), _unary("pool")),
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d"), _unary("maximum")),
    **dict.fromkeys(("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "amax"), _unary("maximum")),
    **dict.fromkeys(("relu", "relu6", "hardtanh", "leaky_relu", "elu"), _unary("activation")),
    **dict.fromkeys(("silu", "gelu", "hardswish", "mish"), _unary("activation")),
    **dict.fromkeys(("sigmoid", "hardsigmoid"), _unary("gate")),
    "add": _binary(_sum),
    "sub": _binary(_neither),
    "rsub": _binary(_neither),
    "mul": _binary(_product),
    "div": _binary(_neither),
    "rdiv": _binary(_neither),
    "true_divide": _binary(_neither),
}

# Ordinary autograd is the right flow of relevance: values are moved, copied or dropped. `logsumexp` joins the logits of
# several positions: its gradient, a softmax, is how the pointing game starts (TorchRay).
STRUCTURAL = frozenset(
    {
        *("cat", "concat", "stack", "chunk", "split", "unbind", "narrow", "select", "index_select", "__getitem__"),
        *("flatten", "unflatten", "reshape", "view", "view_as", "squeeze", "unsqueeze", "expand", "expand_as"),
        *("permute", "transpose", "movedim", "flip", "roll", "channel_shuffle", "native_channel_shuffle"),
        *("pad", "pixel_shuffle", "pixel_unshuffle", "contiguous", "clone", "to", "type_as", "float", "double"),
        *("dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout", "alpha_dropout", "logsumexp"),
    }
)
