"""Constant factors and shifts on the way: a batch-norm that follows no layer, `relu(x) + c`, an image's own scaling.

Such an operation y = factor x + shift is merged into the next convolution or linear layer, of which the shift becomes a
bias. On the way there it changes places with what moves or averages values: `mean(factor x + shift)` becomes
`factor' mean(x) + shift'`. That is checked on the values of the batch, and where it does not hold the operation stays
where it is and takes a rule of its own (`RuleTable.shift`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .rules import Affine

JOINING = frozenset({"cat", "concat", "stack", "hstack", "vstack", "dstack", "column_stack"})


class Constants(NamedTuple):
    """y = factor base + shift; both broadcast to the base, which has a graph. shift: None for 0."""

    base: Tensor
    factor: Tensor
    shift: Tensor | None = None

    def then(self, factor: Tensor, shift: Tensor | None) -> "Constants":
        """factor y + shift, as one step from the base."""
        moved = None if self.shift is None else self.shift * factor
        total = moved if shift is None else shift if moved is None else moved + shift
        return Constants(self.base, self.factor * factor, total)

    def __call__(self, x: Tensor) -> Tensor:
        """y of another base."""
        return x * self.factor if self.shift is None else x * self.factor + self.shift

    def merged(self, layer: Affine) -> Affine | None:
        """The layer that gives of the base what this one gives of y; None where no weights do (unequal positions)."""
        factor = along(self.factor, self.base, -1 if layer.is_dense else 1)
        shift = None if self.shift is None else of_any_sample(self.shift, self.base)
        if factor is None or (shift is None and self.shift is not None):
            return None
        return layer.after(factor, shift)


def along(values: Tensor, like: Tensor, dim: int) -> Tensor | None:
    """The values [D] along one dimension, when broadcast to another tensor; None if they differ over others."""
    if values.numel() == 1:
        return values.reshape(1).expand(like.shape[dim])
    if values.ndim < like.ndim:
        values = values.view(*[1] * (like.ndim - values.ndim), *values.shape)
    rows = values.movedim(dim, 0).flatten(1)
    if rows.shape[1] > 1 and not (rows == rows[:, :1]).all():
        return None
    return rows[:, 0].expand(like.shape[dim])


def of_any_sample(values: Tensor, like: Tensor) -> Tensor | None:
    """The values broadcast to one sample [1,...]; None if samples differ."""
    full = values.expand(like.shape)
    if values.ndim == like.ndim and len(values) > 1 and not (full == full[:1]).all():
        return None
    return full[:1]


def channelwise(values: Tensor, ndim: int) -> Tensor:
    """[D] -> [1,D,1,...] with so many dimensions."""
    return values.view(1, -1, *[1] * (ndim - 2))


def replaced(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """Tensors inside nested lists and tuples, changed."""
    if isinstance(value, Tensor):
        return change(value)
    if type(value) in (list, tuple):
        return type(value)(replaced(each, change) for each in value)
    return value


def upright(function: Callable[..., Tensor], factor: Tensor | None) -> Callable[..., Tensor]:
    """A max-pool of y as one of its base: of -base in channels with a negative factor [C], where it is a min-pool."""
    if factor is None or (factor >= 0).all():
        return function
    sign = torch.where(factor < 0, -torch.ones_like(factor), torch.ones_like(factor))

    def pool(x: Tensor, *rest: Any, **options: Any) -> Tensor:
        pooled = function(x * channelwise(sign, x.ndim), *rest, **options)
        return pooled * channelwise(sign, pooled.ndim)

    return pool


class Call(NamedTuple):
    """An operation as it was called, and the constants of its arguments."""

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    options: Mapping[str, Any]
    constants: Callable[[Tensor], Constants | None]
    on_path: Callable[[Any], bool]

    def of(self, change: Callable[[Tensor], Any]) -> Any:
        """The operation on changed tensors, without graph."""
        args, options = (replaced(each, change) for each in (self.args, list(self.options.values())))
        with torch.no_grad():
            return self.function(*args, **dict(zip(self.options, options, strict=True)))

    def deferred(self) -> Constants | None:
        """The constants of the first argument, if those are all."""
        return self.constants(self.args[0]) if self.args and isinstance(self.args[0], Tensor) else None

    def _part(self, value: Tensor, part: int, otherwise: float) -> Tensor:
        known = self.constants(value)
        if known is None:
            is_value = self.on_path(value) or (self.name in JOINING and value.is_floating_point())
            return torch.full_like(value, otherwise) if is_value else value
        constant = known[part]
        return torch.full_like(value, otherwise) if constant is None else constant.to(value).expand(value.shape)

    def moved(self, bases: Sequence[Tensor]) -> list[tuple[Tensor, Constants]] | None:
        """(value, its constants) of each output, of which the bases are given; None where they do not exist."""
        values = _listed(self.of(Tensor.detach))
        shifts = _listed(self.of(lambda value: self._part(value, 2, 0)))
        found = []
        for k, (value, base) in enumerate(zip(values, bases, strict=True)):
            shift = shifts[k] if shifts[k].any() else None
            candidates = (Constants(base, factor.to(base), shift) for factor in self._factors(base, k))
            fitting = next((each for each in candidates if _gives(each, value)), None)
            if fitting is None:
                return None
            found.append((value, fitting))
        return found

    def _factors(self, base: Tensor, k: int) -> Any:
        """Factors that an output may have: those of the channels, or what the operation makes of the factors."""
        known = self.deferred()
        if known is not None and known.base.ndim > 1 and base.ndim > 1 and base.shape[1] == known.base.shape[1]:
            factor = along(known.factor, known.base, 1)
            if factor is not None:
                yield channelwise(factor, base.ndim)
        yield _listed(self.of(lambda value: self._part(value, 1, 1)))[k]


def _listed(output: Any) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else list(output)


def _gives(constants: Constants, value: Tensor) -> bool:
    """Whether factor base + shift is the value, up to rounding."""
    base = constants.base.detach()
    if torch.broadcast_shapes(constants.factor.shape, base.shape) != value.shape:
        return False
    size = (base * constants.factor).abs().amax() + (0 if constants.shift is None else constants.shift.abs().amax())
    difference = (constants(base) - value).abs().amax()
    return bool(difference <= 100 * torch.finfo(value.dtype).eps * size)
