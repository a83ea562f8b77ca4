"""Rules of softmax and of products of two activations, by which relevance passes attention."""

from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor

from .operations import UnsupportedOp
from .rules import Map, ProductRule, SoftmaxRule, called, gradient, ratio, ratio_, stabilised_

Attention = Literal["refused", "attnlrp", "cp_lrp"]
IN_PART = (
    "multiplies what is the output of a softmax in part, added to or joined with another activation, so that cp_lrp "
    "cannot say which factor is constant"
)


def taylor(x: Tensor, function: Map, relevance: Tensor) -> Tensor:
    """x_i (R_i - s_i Sum R) of s = softmax(x) (Achtibat et al. 2024, Prop. 3.1): the rest is its bias'.

    Any function: x times its gradient from R / s. A hidden x, -inf, takes nothing.
    """
    each = ratio(relevance, function(x))
    return x.masked_fill(x.isinf(), 0).mul_(gradient(x, function, each))


def nothing(x: Tensor, function: Map, relevance: Tensor) -> None:
    """Weights are constants (Ali et al. 2022): nothing passes a softmax."""
    return


def halved(
    inputs: Sequence[Tensor],
    function: Callable[..., Tensor],
    weights: Sequence[bool | None],
    relevance: Tensor,
    epsilon: float = 0,
) -> tuple[Tensor | None, ...]:
    """x_k (dy/dx_k) R / 2 y for each of two factors (Achtibat et al. 2024, Prop. 3.2, 3.3); epsilon: `stabilised_`."""
    return tuple(share.mul_(0.5) for share in shares(inputs, function, relevance, epsilon))


def to_values(
    inputs: Sequence[Tensor],
    function: Callable[..., Tensor],
    weights: Sequence[bool | None],
    relevance: Tensor,
    epsilon: float = 0,
) -> tuple[Tensor | None, ...]:
    """All to the factor that is no softmax's, which is a constant (Ali et al. 2022); to both alike where none is.

    Raises:
        UnsupportedOp: a factor is a softmax's in part.
    """
    if None in weights:
        raise UnsupportedOp("product", IN_PART, "attnlrp explains the network, as do methods on the input gradient")
    if weights.count(True) != 1:
        return halved(inputs, function, weights, relevance, epsilon)
    values = weights.index(False)
    constant = inputs[1 - values]
    call = (lambda x: function(x, constant)) if values == 0 else (lambda x: function(constant, x))
    (share,) = shares([inputs[values]], call, relevance, epsilon)
    return (share, None) if values == 0 else (None, share)


def shares(
    inputs: Sequence[Tensor], function: Callable[..., Tensor], relevance: Tensor, epsilon: float
) -> list[Tensor]:
    """x_k (dy/dx_k) R / y of each input, the others as constants."""
    product = called(function, inputs)
    each = ratio_(relevance, stabilised_(product.output.detach().clone(), epsilon))
    return [back.mul(x) for back, x in zip(product.gradients(each), inputs, strict=True)]


ATTENTION: dict[Attention, tuple[SoftmaxRule | None, ProductRule | None]] = {
    "refused": (None, None),
    "attnlrp": (taylor, halved),
    "cp_lrp": (nothing, to_values),
}
