"""What each unit (feature map) of a layer contributes to a logit: conductance, influence, activation x gradient.

Along the straight line from a baseline to the image, x^k = x' + k/n (x - x'), the network runs without gradients as far
as the layer, once a step, and the head alone is differentiated. Where nothing but average pooling and linear layers
follows, the gradient is constant and one step is exact, whatever the rule: the closed form. Steps and images go in
batches of at most `forward.max_rows`. B images, K units.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from assay.harness.detection import Features, ReadingNeeds, State, pooled
from assay.harness.forward import ForwardPass
from assay.harness.heads import Head, Targets
from assay.harness.network import Network
from assay.harness.seeds import SampleRng
from assay.harness.types import Needs
from torch import Tensor

Rule = Literal["right", "left", "trapezoid"]
ROWS = 4096  # images whose rows of W are held at once

ENDS: dict[Rule, tuple[bool, bool]] = {  # whether a step takes the gradient at its start, and at its end
    "right": (False, True),
    "left": (True, False),
    "trapezoid": (True, True),
}


def check_steps(rule: Rule, steps: int) -> None:
    """Raise ValueError unless the rule is known and there is a step."""
    if rule not in ENDS:
        raise ValueError(f"rule={rule!r}: choose one of {', '.join(get_args(Rule))}")
    if steps < 1:
        raise ValueError(f"steps={steps}: give at least 1")


# Of penultimate features


def predicted_rows(features: Features) -> Tensor:
    """Gradient of the predicted logit with respect to the penultimate features, W[pred]: [N,D]."""
    return features.linear_head().weight[features.predicted]


def conductance_linear_head(features: Features, baseline: Tensor) -> Tensor:
    """W[pred] * (g(x) - g(x')), the conductance of each penultimate feature: [N,D].

    Between the pooled features and the logits lies a linear layer, whose gradient is constant, so that the sum over
    steps of the conductance (eq. 5) telescopes: exact, whatever their number, without a backward pass. It sums to
    f_pred(x) - f_pred(x') (eq. 3).

    baseline: g(x'), [1,D].
    """
    weight, conductance = features.linear_head().weight, features.tap() - baseline
    for rows, predicted in zip(conductance.split(ROWS), features.predicted.split(ROWS), strict=True):
        rows *= weight[predicted]  # not all at once: a row of W an image is as much as the features
    return conductance


# Of any layer


class _Point(NamedTuple):
    """A layer's activation at x^k and, where a rule asks for it, the gradient of each image's logit there."""

    activation: Tensor
    gradient: Tensor | None


class Step(NamedTuple):
    """From x^(k-1) to x^k: the gradient [B,K,...] that the rule takes, and the activation's change [B,K,...]."""

    gradient: Tensor
    change: Tensor


@dataclass(frozen=True, eq=False)
class _Line:
    """The line from a baseline to the images of a pass, as a layer sees it; labels [B]: of the logits explained."""

    forward: ForwardPass
    layer: str
    labels: Tensor
    rule: Rule
    n: int
    start: Tensor  # x', normalised, [1,3,H,W]

    def steps(self) -> Iterator[Step]:
        points = self._points()
        last = next(points)
        for point in points:
            yield Step(self._blended(last.gradient, point.gradient), point.activation - last.activation)
            last = point

    def _blended(self, before: Tensor | None, after: Tensor | None) -> Tensor:
        """The gradient that the rule takes between two points."""
        ends = zip((before, after), ENDS[self.rule], strict=True)
        first, *others = [each for each, is_asked in ends if is_asked and each is not None]
        return (first + others[0]) / 2 if others else first

    def _points(self) -> Iterator[_Point]:
        """x^0 to x^n; the first has one row, which all images share, and the last is the pass' own."""
        yield self._first()
        size = max(1, self.forward.max_rows // len(self.labels))
        for start in range(1, self.n, size):
            yield from self._between(range(start, min(start + size, self.n)))
        own = self.forward.activation(self.layer)
        yield _Point(own, self._gradient(self.n, self.forward.head(self.layer), own))

    def _first(self) -> _Point:
        activation, constants = self.forward.network.prefix(self.start, self.layer)
        head, rows = self.forward.network.head(self.layer, constants), torch.zeros_like(self.labels)
        return _Point(activation, self._gradient(0, head, activation[rows] if self._is_asked(0) else activation, rows))

    def _between(self, numbers: range) -> Iterator[_Point]:
        """Several steps at once."""
        away = self.forward.inputs - self.start
        inputs = torch.cat([self.start + k / self.n * away for k in numbers])
        activation, constants = self.forward.network.prefix(inputs, self.layer)
        gradient = self._gradient(numbers[0], self.forward.network.head(self.layer, constants), activation)
        parts = activation.split(len(away))
        gradients = [None] * len(parts) if gradient is None else gradient.split(len(away))
        yield from map(_Point, parts, gradients)

    def _is_asked(self, k: int) -> bool:
        """Whether the rule takes the gradient at x^k."""
        at_start, at_end = ENDS[self.rule]
        return (at_start and k < self.n) or (at_end and k > 0)

    def _gradient(self, k: int, head: Head, activation: Tensor, rows: Tensor | None = None) -> Tensor | None:
        if not self._is_asked(k):
            return None
        labels = self.labels.repeat(len(activation) // len(self.labels))
        return head.row_gradient(activation, labels, rows)


def _line(
    forward: ForwardPass, layer: str, labels: Tensor, rule: Rule, n: int, baseline: Tensor | None
) -> Iterator[Step]:
    check_steps(rule, n)
    start = torch.zeros_like(forward.inputs[:1]) if baseline is None else baseline
    return _Line(forward, layer, labels, rule, n, start).steps()


def _summed(values: Tensor) -> Tensor:
    """Over each unit's map: [B,K,...] -> [B,K]; ValueError for tokens [B,tokens,K]."""
    return pooled(values) * values[:1].flatten(2).shape[2] if values.ndim > 2 else values


def conductance_riemann(
    forward: ForwardPass,
    layer: str,
    labels: Tensor,
    rule: Rule = "right",
    n: int = 10,
    baseline: Tensor | None = None,
) -> Tensor:
    """Conductance of each unit of any layer by n steps (eq. 5), summed over its map: [B,K].

    Sum over k = 1..n of df_label/dy times y(x^k) - y(x^(k-1)), with the gradient at the end of the step (right, the
    paper's), at its start (left, captum's riemann_trapezoid) or the mean of both (trapezoid).

    Args:
        forward: keeps the layer; of its images.
        labels: int64 [B], of the logit that is explained; the paper's is the predicted class.
        baseline: x', normalised, [1,3,H,W]; zeros, unless given.
    """
    return sum_of(_summed(step.gradient * step.change) for step in _line(forward, layer, labels, rule, n, baseline))


def internal_influence(
    forward: ForwardPass,
    layer: str,
    labels: Tensor,
    rule: Rule = "right",
    n: int = 10,
    baseline: Tensor | None = None,
) -> Tensor:
    """The mean of df_label/dy over the line, summed over each unit's map: [B,K] (Leino et al. 2018).

    Arguments and rules as `conductance_riemann`'s.
    """
    return sum_of(_summed(step.gradient) for step in _line(forward, layer, labels, rule, n, baseline)) / n


def sum_of(parts: Iterator[Tensor]) -> Tensor:
    """Of at least one part, in order, holding one at a time."""
    total = next(parts)
    for part in parts:
        total = total + part
    return total


def activation_x_gradient(forward: ForwardPass, layer: str, labels: Tensor) -> Tensor:
    """The activation times df_label/dy at the image, summed over each unit's map: [B,K]."""
    activation = forward.activation(layer)
    return _summed(activation * forward.head(layer).row_gradient(activation, labels))


# As readings


def predicted_outputs(forward: ForwardPass) -> Tensor:
    """The output that stands for each image's predicted class, int64 [B]."""
    predicted = forward.scores.argmax(1)
    targets = Targets(torch.arange(len(predicted), device=predicted.device), predicted)
    return forward.network.outputs_of(targets, forward.logits).label


@dataclass(frozen=True)
class _AlongLine:
    """What is integrated from the image that is zero after normalisation, for the predicted class.

    In closed form where the gradient is constant; `about` says which. rule, steps: where it is not.
    """

    layer: str
    rule: Rule = "right"
    steps: int = 10
    INTEGRAL: ClassVar[Callable[..., Tensor]]  # conductance_riemann, or what has its arguments

    def __post_init__(self) -> None:
        check_steps(self.rule, self.steps)

    def needs(self) -> ReadingNeeds:
        """The layer."""
        return ReadingNeeds(Needs((self.layer,)))

    def about(self, network: Network) -> dict[str, Any]:
        """The layer and the form: `closed`, or `riemann` with rule and steps."""
        network.check_layer(self.layer)
        if network.is_affine_behind(self.layer):
            return {"layer": self.layer, "form": "closed"}
        return {"layer": self.layer, "form": "riemann", "rule": self.rule, "steps": self.steps}

    def read(self, forward: ForwardPass, rng: SampleRng, state: State) -> Tensor:
        """[B,K]; one step is exact where the gradient is constant."""
        steps = 1 if forward.network.is_affine_behind(self.layer) else self.steps
        return self.INTEGRAL(forward, self.layer, predicted_outputs(forward), self.rule, steps)


@dataclass(frozen=True)
class Conductance(_AlongLine):
    """`conductance_riemann` of the predicted class, [B,K]."""

    VERSION: ClassVar[int] = 1
    INTEGRAL = staticmethod(conductance_riemann)


@dataclass(frozen=True)
class InternalInfluence(_AlongLine):
    """`internal_influence` on the predicted class, [B,K]."""

    VERSION: ClassVar[int] = 1
    INTEGRAL = staticmethod(internal_influence)


@dataclass(frozen=True)
class ActivationXGradient:
    """`activation_x_gradient` of the predicted class: [B,K]."""

    layer: str
    VERSION: ClassVar[int] = 1

    def needs(self) -> ReadingNeeds:
        """The layer."""
        return ReadingNeeds(Needs((self.layer,)))

    def about(self, network: Network) -> dict[str, Any]:
        """The layer."""
        network.check_layer(self.layer)
        return {"layer": self.layer}

    def read(self, forward: ForwardPass, rng: SampleRng, state: State) -> Tensor:
        """[B,K]."""
        return activation_x_gradient(forward, self.layer, predicted_outputs(forward))
