"""Rules of relevance propagation: from the relevance of an operation's output to that of its inputs.

Pure functions of what the operation has seen. Notation: x input, w weight, z = w x the output without its bias,
R relevance of the output; v+ = max(v, 0), v- = min(v, 0). J(u, v, R)_i = Sum_j u_i v_ij / (Sum_i' u_i' v_i'j) R_j
with 0/0 := 0 shares each R_j among the inputs in proportion to u_i v_ij. All reductions are per sample.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from .rows import where_given
from .signs import has_negative

Map = Callable[[Tensor], Tensor]


BLOCK = 2**19  # weights of a fully connected layer that are changed at once: two megabytes
ROWS = 64  # of its inputs, from which on a product takes far longer than a copy of all changed weights
CANCELLED = 64  # how many times less than its terms a difference may be, which is taken for their sum


class Backward(NamedTuple):
    """Gradients of an affine layer that need no forward pass.

    of_input: (x, w, g) -> w^T g, x for its shape alone. of_weight: (x, w, g) -> g x^T summed over samples and
    positions, w for its shape alone. by_position: a convolution without stride, padding and groups, so that one of 1x1
    reads all channels at its own position.
    """

    of_input: Callable[[Tensor, Tensor, Tensor], Tensor]
    of_weight: Callable[[Tensor, Tensor, Tensor], Tensor]
    by_position: bool = False


class Affine(NamedTuple):
    """A convolution or fully connected layer: y = apply(x, weight, bias), linear in x for a bias of None.

    layer: its module path, as in `Network`; empty where its weight is no module's. bias: [out], or where a constant
    beside the layer was merged into it [1,out,...], a value for each position. transposed: a transposed convolution,
    whose weight is [in,out / groups,...]. backward: its gradients, None where torch has no functions for them.
    map_shape: (channels, height, width) of the map that a fully connected layer reads as a vector; empty for one whose
    channels may not come first. gradient: of what is explained with respect to the output, in tables that have them.
    output: y as it was recorded, where nothing was merged into the layer; rules do not write into it. has_negative:
    whether x has negative values.
    """

    apply: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    weight: Tensor  # [out, in / groups, *kernel]
    bias: Tensor | None = None
    layer: str = ""
    transposed: bool = False
    backward: Backward | None = None
    map_shape: tuple[int, ...] | None = None
    gradient: Tensor | None = None
    output: Tensor | None = None
    has_negative: Callable[[Tensor], bool] = has_negative

    def pull_back(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The gradient of x from that of the output, w^T g; x is read for its shape alone."""
        if self.backward is not None:
            return self.backward.of_input(x, self.weight, gradient)
        back: Tensor = torch.func.vjp(lambda leaf: self.apply(leaf, self.weight, None), x)[1](gradient)[0]
        return back

    def weight_gradient(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The gradient of the weight from that of the output; no weight is read but for its shape."""
        if self.backward is not None:
            return self.backward.of_weight(x, self.weight, gradient)
        back: Tensor = torch.func.vjp(lambda weight: self.apply(x, weight, None), self.weight)[1](gradient)[0]
        return back

    def reweighed(self, change: Map) -> "Affine":
        """The layer with a function of each of its weights in their place.

        The weights of a large fully connected layer are changed whenever they are read, some rows at a time: these stay
        in the processor's cache, and a copy of VGG's 100 million would take as long as the layer itself.
        """
        if not self.is_dense or not self.weight.is_cpu or self.weight.numel() <= BLOCK:
            return self._replace(weight=change(self.weight), output=None)
        rows = max(1, BLOCK // self.weight.shape[1])
        backward = Backward(partial(_back_by_rows, change, rows), lambda x, w, g: self.weight_gradient(x, g))
        return self._replace(apply=partial(_by_rows, self.apply, change, rows), backward=backward, output=None)

    @property
    def is_dense(self) -> bool:
        """Fully connected: every input reaches every output."""
        return self.weight.ndim == 2

    @property
    def is_pointwise(self) -> bool:
        """Fully connected, or a convolution that looks at one position alone."""
        return all(size == 1 for size in self.weight.shape[2:])

    def scaled(self, scale: Tensor, shift: Tensor | None) -> "Affine":
        """The same layer with its outputs multiplied by scale and shifted by shift (a batch-norm).

        scale: [out]. shift: [out], or [1,out,...] with a value for each position.
        """
        weight = self._by_second(scale) if self.transposed else self._by_first(scale)
        bias = None if self.bias is None else self.bias * self._wide(scale, self.bias)
        if bias is not None and shift is not None:
            bias = self._wide(bias, shift) + self._wide(shift, bias)
        return self._replace(
            apply=partial(_with_positions, self.apply),
            weight=weight,
            bias=shift if bias is None else bias,
            output=None,
        )

    def after(self, scale: Tensor, shift: Tensor | None) -> "Affine":
        """The layer that gives of x what this one gives of scale x + shift: scale [in], shift [1,in,...]."""
        weight = self._by_first(scale) if self.transposed else self._by_second(scale)
        if shift is None:
            return self._replace(weight=weight, output=None)
        bias = self.apply(shift, self.weight, self.bias)
        return self._replace(apply=partial(_with_positions, self.apply), weight=weight, bias=bias, output=None)

    def _wide(self, values: Tensor, other: Tensor) -> Tensor:
        """Values [out] shaped to broadcast with others that may be of each position [1,out,...]."""
        trailing = 0 if self.is_dense or values.ndim > 1 else max(0, other.ndim - 2)
        return values.view(*values.shape, *[1] * trailing)

    def _by_first(self, scale: Tensor) -> Tensor:
        """The weight times the scale along its first dimension."""
        return self.weight * scale.view(-1, *[1] * (self.weight.ndim - 1))

    def _by_second(self, scale: Tensor) -> Tensor:
        """The weight times the scale along the second dimension of each group."""
        groups = len(scale) // self.weight.shape[1]
        each = scale.view(groups, 1, -1, *[1] * (self.weight.ndim - 2))
        return (self.weight.unflatten(0, (groups, -1)) * each).flatten(0, 1)


def _with_positions(
    apply: Callable[[Tensor, Tensor, Tensor | None], Tensor], x: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """A layer whose bias may have a value for each position."""
    return apply(x, weight, bias) if bias is None or bias.ndim == 1 else apply(x, weight, None) + bias


def _by_rows(
    apply: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    change: Map,
    rows: int,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> Tensor:
    """A fully connected layer with changed weights, so many outputs at a time; for many inputs all at once."""
    if x.numel() >= ROWS * x.shape[-1]:
        return apply(x, change(weight), bias)
    biases = [None] * -(-len(weight) // rows) if bias is None else bias.split(rows, -1)
    return torch.cat([apply(x, change(w), b) for w, b in zip(weight.split(rows), biases, strict=True)], -1)


def _back_by_rows(change: Map, rows: int, x: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
    """The gradient of its input."""
    if x.numel() >= ROWS * x.shape[-1]:
        return gradient @ change(weight)
    total = x.new_zeros(x.shape)
    flat = total.view(-1, x.shape[-1])
    for w, g in zip(weight.split(rows), gradient.flatten(0, -2).split(rows, -1), strict=True):
        flat.addmm_(g, change(w))  # a sum and its new memory less than `+=`, a block
    return total


AffineRule = Callable[[Tensor, Affine, Tensor], Tensor]  # (x, layer, R of its output) -> R of x
MapRule = Callable[[Tensor, Map, Tensor], Tensor]  # (x, the operation, R of its output) -> R of x
ScaleRule = Callable[[Tensor, Tensor, Tensor], Tensor]  # (x, factor of each channel, R) -> R of x
ShiftRule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # (x, factor, shift, R of factor x + shift) -> R of x
SumRule = Callable[[Sequence[Tensor], Sequence[int], Tensor], tuple[Tensor | None, ...]]
SoftmaxRule = Callable[[Tensor, Map, Tensor], Tensor | None]  # the same; None: no relevance passes
# (inputs, the operation, which inputs are a softmax's (None: in part), R of its output, stabiliser) -> R of each input
ProductRule = Callable[
    [Sequence[Tensor], Callable[..., Tensor], Sequence[bool | None], Tensor, float], tuple[Tensor | None, ...]
]


# Arithmetic


def check_not_negative(setting: str, value: float) -> None:
    """Raise ValueError unless 0 <= value < infinity (of a stabiliser or a factor's excess over 1)."""
    if not 0 <= value < math.inf:
        raise ValueError(f"{setting}={value}: choose a finite number that is not negative")


def per_sample(values: Tensor) -> Tensor:
    """Sum over all but the first dimension, shaped to broadcast with `values`: [B,...] -> [B,1,...]."""
    return values.flatten(1).sum(1).view(-1, *[1] * (values.ndim - 1))


def ratio(relevance: Tensor, total: Tensor) -> Tensor:
    """R / z, and 0 where that is not finite: 0/0 := 0 (one pass; comparisons cost more than divisions)."""
    return (relevance / total).nan_to_num_(0, 0, 0)


def ratio_(relevance: Tensor, total: Tensor) -> Tensor:
    """The same, written over z: half the time of new memory."""
    return torch.div(relevance, total, out=total).nan_to_num_(0, 0, 0)


def stabilised_(total: Tensor, epsilon: float) -> Tensor:
    """z + epsilon mean|z| sign(z) with the mean over a sample's outputs, relative to the layer; written over z."""
    if epsilon == 0:
        return total
    size = total.abs()
    margin = epsilon * per_sample(size) / max(1, total[:1].numel())
    return total.add_(torch.copysign(margin, total, out=size))


def indicator(x: Tensor, compare: Callable[..., Tensor]) -> Tensor:
    """1 where compare(x, 0) and 0 elsewhere, as numbers."""
    return compare(x, 0, out=torch.empty_like(x))


def split_signs(x: Tensor, layer: Affine) -> tuple[Tensor, Tensor | None]:
    """x+ and x- of a layer's input, the latter None where no sample has any (after a ReLU): half the work."""
    if not layer.has_negative(x):
        return x, None
    return x.clamp(min=0), x.clamp(max=0)


def of_sign(values: Tensor, sign: int) -> Tensor:
    """v+ for sign 1, v- for sign -1."""
    return values.clamp(min=0) if sign > 0 else values.clamp(max=0)


def magnitude_of_sign(values: Tensor, sign: int) -> Tensor:
    """v+ for sign 1, |v-| for sign -1."""
    return values.clamp(min=0) if sign > 0 else values.neg().clamp_(min=0)


def of_signs(halves: tuple[Tensor, Tensor | None], layer: Affine, sign: int) -> list[tuple[Tensor, Affine]]:
    """The contributions of one sign, for `shares`: x+ w+ and x- w-, or for sign -1 x+ w- and x- w+."""
    positive, negative = halves
    parts = [(positive, layer.reweighed(partial(of_sign, sign=sign)))]
    return parts if negative is None else [*parts, (negative, layer.reweighed(partial(of_sign, sign=-sign)))]


def shares(
    parts: Sequence[tuple[Tensor, Affine]], relevance: Tensor, epsilon: float = 0, bias: Tensor | None = None
) -> Tensor:
    """Each R_j among the inputs in proportion to Sum of u_i v_ij over the parts (u, v), with one denominator for all.

    Args:
        parts: inputs u, shaped as the layer's, each with the layer whose weights are v.
        relevance: R, shaped as the layer's output.
        epsilon: relative stabiliser, see `stabilised_`.
        bias: [out] added to the denominator, which then keeps its share of R to itself.
    """
    outputs = [layer.apply(u, layer.weight, None if k else bias) for k, (u, layer) in enumerate(parts)]
    each = ratio_(relevance, stabilised_(sum_of(outputs), epsilon))
    return sum_of([layer.pull_back(u, each).mul_(u) for u, layer in parts])


def sum_of(terms: Sequence[Tensor]) -> Tensor:
    """t_0 + t_1 + ..., accumulated in t_0."""
    total = terms[0]
    for term in terms[1:]:
        total = total.add_(term)
    return total


def flow(u: Tensor, layer: Affine, relevance: Tensor) -> Tensor:
    """J(u, v, R) with the layer's weights v."""
    return shares([(u, layer)], relevance)


@dataclass(frozen=True, eq=False)
class Differentiable:
    """An operation with the graph of its call on some values: its gradients need no second call."""

    function: Callable[..., Tensor]
    values: tuple[Tensor, ...]
    output: Tensor

    @classmethod
    def of(cls, function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> "Differentiable":
        """Call it."""
        values = tuple(x.detach().requires_grad_() for x in inputs)
        with torch.enable_grad():
            return cls(function, values, function(*values))

    def __call__(self, *values: Tensor) -> Tensor:
        """The operation on any values."""
        return self.function(*values)

    def gradients(self, relevance: Tensor) -> tuple[Tensor, ...]:
        """Of the values that it was called with."""
        return torch.autograd.grad(self.output, self.values, relevance, retain_graph=True)


def called(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> Differentiable:
    """The operation as it was recorded, with these inputs, or called with them now."""
    return function if isinstance(function, Differentiable) else Differentiable.of(function, inputs)


def vjp(function: Callable[..., Tensor], inputs: Sequence[Tensor], relevance: Tensor) -> tuple[Tensor, ...]:
    """Ordinary gradient of the operation: relevance^T d function / d input, for each input."""
    return Differentiable.of(function, inputs).gradients(relevance)


# Convolutions and fully connected layers


@dataclass(frozen=True)
class Epsilon:
    """R_i = Sum_j x_i w_ij / (z_j + epsilon sign(z_j)) R_j (Bach et al. 2015, Eq. 58), z_j with its bias.

    epsilon: relative to the mean |z| of the layer's outputs: 1e-6 stands for 0, 0.25 denoises.
    bias: whether z_j includes the bias (Bach: it does), which then keeps its share of R_j.
    """

    epsilon: float = 1e-6
    bias: bool = True

    def __post_init__(self) -> None:
        check_not_negative("epsilon", self.epsilon)

    def __call__(self, x: Tensor, layer: Affine, relevance: Tensor) -> Tensor:
        """R of x."""
        if layer.output is None or not self.bias:
            return shares([(x, layer)], relevance, self.epsilon, layer.bias if self.bias else None)
        each = ratio_(relevance, stabilised_(layer.output.clone(), self.epsilon))
        return layer.pull_back(x, each).mul_(x)


@dataclass(frozen=True)
class Gamma:
    """Epsilon's rule with the contributions of the output's own sign enlarged by a factor 1 + gamma.

    Where z_j >= 0 and x >= 0 that is the published rule, weights w + gamma w+ (Montavon et al. 2019, section 10.2.3);
    where z_j < 0, w + gamma w-; and x < 0 is treated alike (generalised: Andéol et al. 2021, as in Zennit).

    bias: whether z_j includes the bias, enlarged like a contribution.
    """

    gamma: float = 0.25
    epsilon: float = 1e-6
    bias: bool = True

    def __post_init__(self) -> None:
        check_not_negative("gamma", self.gamma)
        check_not_negative("epsilon", self.epsilon)

    def __call__(self, x: Tensor, layer: Affine, relevance: Tensor) -> Tensor:
        """R of x."""
        bias = layer.bias if self.bias else None
        is_negative, halves = layer.apply(x, layer.weight, bias) < 0, split_signs(x, layer)
        result = self._share(halves, layer, relevance.masked_fill(is_negative, 0), bias, 1)
        rest = relevance.masked_fill(~is_negative, 0)
        # Behind a ReLU there is none: two convolutions less are worth the wait for a device.
        return result + self._share(halves, layer, rest, bias, -1) if rest.any() else result

    def _share(
        self,
        halves: tuple[Tensor, Tensor | None],
        layer: Affine,
        relevance: Tensor,
        bias: Tensor | None,
        sign: int,
    ) -> Tensor:
        """R of x from the outputs of one sign."""
        positive, negative = halves
        parts = [(positive, layer.reweighed(partial(self._enlarged, sign=sign)))]
        if negative is not None:
            parts.append((negative, layer.reweighed(partial(self._enlarged, sign=-sign))))
        return shares(parts, relevance, self.epsilon, None if bias is None else self._enlarged(bias, sign))

    def _enlarged(self, values: Tensor, sign: int) -> Tensor:
        """v + gamma v+, or v + gamma v- for sign -1."""
        return values + self.gamma * of_sign(values, sign)


@dataclass(frozen=True)
class AlphaBeta:
    """alpha x share of the positive contributions - beta x share of the negative ones (Bach et al. 2015, Eq. 60).

    Positive contributions are x+ w+ and x- w-, with one denominator for both; negative ones x+ w- and x- w+.
    Sum R is kept for alpha - beta = 1. Raises ValueError for other values.

    bias: whether b+ (b-) counts in the denominator of the positive (negative) contributions.
    """

    alpha: float = 1
    beta: float = 0
    bias: bool = False

    def __post_init__(self) -> None:
        if self.alpha < 1 or abs(self.alpha - self.beta - 1) > 1e-9:
            raise ValueError(f"alpha={self.alpha}, beta={self.beta}: alpha - beta must be 1 and beta not negative")

    def __call__(self, x: Tensor, layer: Affine, relevance: Tensor) -> Tensor:
        """R of x."""
        if not layer.is_dense:
            return self._of_both(relevance, x, layer=layer)
        known = () if layer.output is None else (layer.output,)
        return where_given(partial(self._of_both, layer=layer), relevance, x, *known)

    def _of_both(self, relevance: Tensor, x: Tensor, output: Tensor | None = None, *, layer: Affine) -> Tensor:
        """R of x from the contributions of both signs; output: of the layer, if that is known."""
        layer, halves = layer._replace(output=output), split_signs(x, layer)
        excited = self._share(x, halves, layer, relevance, 1)
        if self.beta == 0:
            return excited  # alpha is 1
        inhibited = self._share(x, halves, layer, relevance, -1)
        return excited.mul_(self.alpha).sub_(inhibited.mul_(self.beta))

    def _share(
        self, x: Tensor, halves: tuple[Tensor, Tensor | None], layer: Affine, relevance: Tensor, sign: int
    ) -> Tensor:
        """R of x from the contributions of one sign."""
        # Of what lies on a device: the host would wait for whether signs cancel.
        if layer.output is not None and halves[1] is not None and x.is_cpu and not self.bias:
            return _shares_of_sign(x, layer, relevance, sign)
        bias = of_sign(layer.bias, sign) if self.bias and layer.bias is not None else None
        return shares(of_signs(halves, layer, sign), relevance, bias=bias)


def _shares_of_sign(x: Tensor, layer: Affine, relevance: Tensor, sign: int) -> Tensor:
    """R of x from the contributions of one sign in a fully connected layer whose output is known: three products."""
    each = ratio_(relevance, _sums_of_sign(x, layer, sign))
    of_positive, of_negative = (
        layer.reweighed(partial(of_sign, sign=each_sign)).pull_back(x, each) for each_sign in (sign, -sign)
    )
    return torch.where(x > 0, of_positive, of_negative).mul_(x)


def _sums_of_sign(x: Tensor, layer: Affine, sign: int) -> Tensor:
    """x+ w+ + x- w- as (|x| |w| + x w) / 2, or for sign -1 x+ w- + x- w+ as -(|x| |w| - x w) / 2: one product.

    x w: the output without its bias. A row with a sum that is less than 1/64 of what it is the difference of, bias
    included, is summed up by itself.
    """
    assert layer.output is not None
    bias = layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias
    half = layer.reweighed(lambda w: w.abs().mul_(sign / 2))
    total = half.apply(x.abs(), half.weight, bias / -2).add_(layer.output, alpha=0.5)
    # |x| |w| + |b| > 64 |total|, with |x| |w| = 2 |total| - sign (output - b)
    margin = torch.add(layer.output, total, alpha=CANCELLED - 2).mul_(sign)
    rows = (margin < bias.mul(sign) + bias.abs()).any(-1)
    if rows.any():
        parts = of_signs((x[rows].clamp(min=0), x[rows].clamp(max=0)), layer, sign)
        total[rows] = sum_of([part.apply(u, part.weight, None) for u, part in parts])
    return total


@dataclass(frozen=True)
class Excitation:
    """J(x, w+, R): the marginal winning probability of excitation backprop (Zhang et al. 2016, Eq. 5), x as it is."""

    def __call__(self, x: Tensor, layer: Affine, relevance: Tensor) -> Tensor:
        """R of x."""
        return flow(x, layer.reweighed(partial(of_sign, sign=1)), relevance)


@dataclass(frozen=True)
class Inhibition:
    """J(x, |w-|, R): the same rule with the layer's weights negated, for the contrastive variant."""

    def __call__(self, x: Tensor, layer: Affine, relevance: Tensor) -> Tensor:
        """R of x."""
        return flow(x, layer.reweighed(partial(magnitude_of_sign, sign=-1)), relevance)


@dataclass(frozen=True)
class ZBox:
    """z^B rule (Montavon et al. 2017, Table 1) for inputs in a box: (x_i w_ij - l w+_ij - h w-_ij) / Sum_i' R_j.

    l and h are each image's least and largest normalised value over all channels and pixels (as in the code of RAP),
    constant images that a convolution zero-pads as it does x. The terms are computed as (x - l) w+ + (x - h) w-, all
    of one sign.
    """

    def __call__(self, x: Tensor, layer: Affine, relevance: Tensor) -> Tensor:
        """R of x."""
        shape = (-1, *[1] * (x.ndim - 1))
        low, high = x.flatten(1).amin(1).view(shape), x.flatten(1).amax(1).view(shape)
        return shares(of_signs((x - low, x - high), layer, 1), relevance)


@dataclass(frozen=True)
class Flat:
    """Every input of a receptive field receives an equal share (Lapuschkin et al. 2019)."""

    def __call__(self, x: Tensor, layer: Affine, relevance: Tensor) -> Tensor:
        """R of x."""
        return flow(torch.ones_like(x), layer.reweighed(torch.ones_like), relevance)


# Other operations


def share(x: Tensor, function: Map, relevance: Tensor, epsilon: float = 0) -> Tensor:
    """J with an operation in the place of the weights: x_i (dy/dx_i) R / y.

    Of a linear one, as an average pool, a sum's shares. Of logsumexp, y = Sum_i p_i x_i + (a constant, the entropy of
    p), p its gradient: the constant keeps its part, as a bias does in epsilon's rule. epsilon: see `stabilised_`.
    """
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        output = function(leaf)
    (gradient,) = torch.autograd.grad(output, leaf, ratio_(relevance, stabilised_(output.detach().clone(), epsilon)))
    return gradient * x


def gradient(x: Tensor, function: Map, relevance: Tensor) -> Tensor:
    """The operation's own gradient: a max-pool hands R to the largest input."""
    return called(function, [x]).gradients(relevance)[0]


def identity(x: Tensor, function: Map, relevance: Tensor) -> Tensor:
    """R as it is, summed where the operation has spread x by broadcasting."""
    return relevance.sum_to_size(x.shape)


def through(x: Tensor, scale: Tensor, relevance: Tensor) -> Tensor:
    """A batch-norm (or any factor a channel) passes R on."""
    return relevance


def through_nonzero(x: Tensor, scale: Tensor, relevance: Tensor) -> Tensor:
    """A batch-norm passes R on where gamma x is not exactly 0 (the published code of RAP)."""
    return indicator(x * scale, torch.ne).mul_(relevance)


def shift_keeps(x: Tensor, factor: Tensor, shift: Tensor, relevance: Tensor, epsilon: float = 0) -> Tensor:
    """factor x / (factor x + shift) R: a constant keeps its share, as a bias does in epsilon's rule."""
    part = x * factor
    each = ratio_(relevance, stabilised_(part + shift, epsilon))
    return part.mul_(each).sum_to_size(x.shape)


def shift_takes_nothing(x: Tensor, factor: Tensor, shift: Tensor, relevance: Tensor) -> Tensor:
    """R as it is: of methods that leave biases out of their denominators."""
    return relevance.sum_to_size(x.shape)


def shift_takes_nothing_nonzero(x: Tensor, factor: Tensor, shift: Tensor, relevance: Tensor) -> Tensor:
    """R where factor x is not exactly 0."""
    return (indicator(x * factor, torch.ne) * relevance).sum_to_size(x.shape)


def proportional(
    summands: Sequence[Tensor], depths: Sequence[int], relevance: Tensor, epsilon: float = 0
) -> tuple[Tensor | None, ...]:
    """x_k / (x_0 + x_1) R for each summand; epsilon: see `stabilised_`."""
    total = sum_of([summands[0] + summands[1], *summands[2:]])
    return shared_out(ratio_(relevance, stabilised_(total, epsilon)), summands, summands)


def shared_out(each: Tensor, parts: Sequence[Tensor], summands: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Relevance per unit times each summand's part; the last one is written over the relevance per unit."""
    *others, last = parts
    made = [*(each * part for part in others), each.mul_(last)]
    return tuple(values.sum_to_size(x.shape) for values, x in zip(made, summands, strict=True))


def positive_parts(summands: Sequence[Tensor], depths: Sequence[int], relevance: Tensor) -> tuple[Tensor | None, ...]:
    """max(x_k, 0) / (max(x_0, 0) + max(x_1, 0)) R for each summand, a share between 0 and 1 whatever cancels.

    Where no summand is positive x_k / (x_0 + x_1), which is one as well.
    """
    parts = [x.clamp(min=0) for x in torch.broadcast_tensors(*summands)]
    total = sum_of([parts[0] + parts[1], *parts[2:]])
    rest = indicator(total, torch.eq).mul_(relevance)
    shared = shared_out(ratio_(relevance, total), parts, summands)
    if rest.is_cpu and not torch.stack(rest.aminmax()).any():  # `any` takes three times as long; a device is not asked
        return shared
    negative = proportional(summands, depths, rest)
    return tuple(share if other is None else share + other for share, other in zip(shared, negative, strict=True))


def deepest_alone(summands: Sequence[Tensor], depths: Sequence[int], relevance: Tensor) -> tuple[Tensor | None, ...]:
    """All of R to the summand with the most layers before it, the first of equals; nothing to a shortcut."""
    main = max(range(len(summands)), key=lambda k: (depths[k], -k))
    return tuple(relevance.sum_to_size(x.shape) if k == main else None for k, x in enumerate(summands))


def halved(summands: Sequence[Tensor], depths: Sequence[int], relevance: Tensor) -> tuple[Tensor | None, ...]:
    """R / n to each of n summands."""
    return tuple((relevance / len(summands)).sum_to_size(x.shape) for x in summands)
