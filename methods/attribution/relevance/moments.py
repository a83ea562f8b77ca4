"""What a layer's patterns are made of, streamed: means and co-moments of its inputs and outputs, in bounded memory.

For an output unit y = w x and the inputs x that it reads (of a convolution a patch, at every position of every image):
how many there were, their means, and Sum (x - mean x)(y - mean y), over all or over those at which the unit is on.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .rules import Affine

WIDTH = 100  # roundings that a unit may differ by and still be constant


class Moments(NamedTuple):
    """Of one layer: seen [out], how many there were, mean_y [out], mean_x and co like its weight [out,...].

    Made of centred terms alone, part by part (Chan, Golub and LeVeque 1983), so that nothing is lost where the spread
    is small beside the mean, and neither the order nor the size of the parts matters but for rounding.
    """

    seen: Tensor
    mean_y: Tensor
    mean_x: Tensor
    co: Tensor

    @classmethod
    def of(cls, x: Tensor, layer: Affine, only_on: bool) -> "Moments":
        """Of one batch x [B,in,...], mean_x and co in its type; only_on: where the output with its bias is positive.

        The bias itself, a constant, is in none of the moments.
        """
        weight = layer.weight.detach().requires_grad_()
        with torch.enable_grad():
            output = layer.apply(x, weight, None)
        y, dim = output.detach(), -1 if layer.is_dense else 1
        on = (layer.apply(x, layer.weight, layer.bias) > 0).to(y) if only_on else torch.ones_like(y)
        seen = _over_others(on, dim)
        mean_y = _over_others(y * on, dim) / seen.clamp(min=1)
        shape = [-1 if axis == dim % y.ndim else 1 for axis in range(y.ndim)]
        spread = (y - mean_y.to(y).view(shape)) * on
        mean_x, co = (torch.autograd.grad(output, weight, each, retain_graph=True)[0] for each in (on, spread))
        mean_x /= _by_unit(seen.clamp(min=1), mean_x)
        rest = _over_others(spread, dim)  # 0 but for the rounding of the mean
        return cls(seen, mean_y + rest / seen.clamp(min=1), mean_x, co.addcmul_(mean_x, -_by_unit(rest, co)))

    def double(self) -> "Moments":
        """In float64, to add others to."""
        return Moments(*(each.double() for each in self))

    def add(self, other: "Moments") -> None:
        """Become the moments of both together; in place, for a fully connected layer's are as large as its weights."""
        share = other.seen / (self.seen + other.seen).clamp(min=1)
        step_y, step_x = other.mean_y - self.mean_y, other.mean_x - self.mean_x
        self.co.add_(other.co).addcmul_(step_x, _by_unit(step_y * self.seen * share, step_x))
        self.mean_x.addcmul_(step_x, _by_unit(share, step_x))
        self.mean_y.add_(share * step_y)
        self.seen.add_(other.seen)

    def pattern(self, weight: Tensor) -> Tensor:
        """a = Cov(x, y) / Var(y), with Var(y) as w Cov(x, y) (Kindermans et al. 2018, Eq. 6 and 9); like the weight.

        0 for a unit that was never on, or constant: of such a one the data says nothing. Sum w a = 1 for the others.
        """
        variance = (self.co * weight).flatten(1).sum(1)
        rounding = (WIDTH * torch.finfo(weight.dtype).eps * self.mean_y) ** 2 * self.seen
        known = (variance > rounding) & (self.seen > 1)
        return (self.co / _by_unit(variance.where(known, torch.inf), self.co)).to(weight)


def _over_others(values: Tensor, dim: int) -> Tensor:
    """Sums over all dimensions but one, [out] in float64."""
    return values.sum([axis for axis in range(values.ndim) if axis != dim % values.ndim], dtype=torch.float64)


def _by_unit(values: Tensor, like: Tensor) -> Tensor:
    """[out] shaped to broadcast with [out,...], in its type."""
    return values.to(like).view(-1, *[1] * (like.ndim - 1))
