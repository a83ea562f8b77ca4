"""Methods that average the gradient of a logit with respect to the normalised input."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from assay.harness.choices import check_choice
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.seeds import SampleRng
from assay.harness.transfer import sent
from assay.harness.types import Attribution, Needs
from torch import Tensor

Reduce = Literal["sum", "sum_abs", "max_abs", "l2"]

REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda values: values.sum(1),
    "sum_abs": lambda values: values.abs().sum(1),
    "max_abs": lambda values: values.abs().amax(1),
    "l2": lambda values: values.square().sum(1).sqrt(),
}


def reduce_channels(values: Tensor, how: str) -> Tensor:
    """[P,C,H,W] -> [P,H,W]."""
    check_choice("reduce", how, REDUCTIONS)
    return REDUCTIONS[how](values)


@dataclass(frozen=True)
class Gradient:
    """df_c/dx (Simonyan, Vedaldi, Zisserman 2014), at the resolution of the input.

    reduce: how colour channels become one map; `max_abs` is that paper's and the pointing game's choice.
    """

    reduce: Reduce = "max_abs"
    VERSION: ClassVar[int] = 1

    def needs(self) -> Needs:
        """The graph of the shared forward pass: one backward pass is all that is added."""
        return Needs(input_graph=True, by_rounds=True)

    def attribute(self, forward: ForwardPass, targets: Targets, rng: SampleRng) -> Attribution:
        """[P,H,W]."""
        return Attribution(reduce_channels(forward.input_gradient(targets), self.reduce))


@dataclass(frozen=True)
class InputXGradient:
    """x * df_c/dx with x the normalised input (Shrikumar et al. 2016)."""

    reduce: Reduce = "sum"
    VERSION: ClassVar[int] = 1

    def needs(self) -> Needs:
        """The graph of the shared forward pass."""
        return Needs(input_graph=True, by_rounds=True)

    def attribute(self, forward: ForwardPass, targets: Targets, rng: SampleRng) -> Attribution:
        """[P,H,W]."""
        product = forward.inputs.detach()[targets.image] * forward.input_gradient(targets)
        return Attribution(reduce_channels(product, self.reduce))


def _gauss_legendre(steps: int) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return (nodes + 1) / 2, weights / 2


def _midpoint(steps: int) -> tuple[np.ndarray, np.ndarray]:
    return (np.arange(steps) + 0.5) / steps, np.full(steps, 1 / steps)


def _trapezoid(steps: int) -> tuple[np.ndarray, np.ndarray]:
    weights = np.full(steps, 1 / (steps - 1))
    weights[[0, -1]] /= 2
    return np.linspace(0, 1, steps), weights


RULES = {"gauss_legendre": _gauss_legendre, "midpoint": _midpoint, "trapezoid": _trapezoid}
BASELINES: dict[str, Callable[[ForwardPass], Tensor]] = {
    "mean": lambda forward: torch.zeros_like(forward.inputs[:1]),
    "black": lambda forward: forward.network.normalise(torch.zeros_like(forward.images[:1])),
    "white": lambda forward: forward.network.normalise(torch.ones_like(forward.images[:1])),
}


def average_gradient(
    forward: ForwardPass, targets: Targets, points: Callable[[slice], Tensor], weights: Tensor
) -> Tensor:
    """Weighted mean of the gradients at n points an image: [P,3,H,W].

    Args:
        points: a slice of 0..n-1 -> normalised inputs [S,B,3,H,W].
        weights: [n].

    As many points as `forward.max_rows` admits go through the network together.
    """
    total = torch.zeros_like(forward.inputs)[targets.image]
    for part in _chunks(len(weights), max(1, forward.max_rows // len(forward.inputs))):
        inputs = points(part)
        gradients = forward.network.gradient(inputs.flatten(0, 1), targets, copies=len(inputs))  # [S,P,3,H,W]
        total += torch.tensordot(weights[part], gradients, dims=1)
    return total


def _chunks(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


@dataclass(frozen=True)
class IntegratedGradients:
    """(x - x') times the gradient averaged over the straight line from x' to x (Sundararajan et al. 2017, Eq. 1).

    Completeness: the map sums to f_c(x) - f_c(x') (with reduce=sum), up to the quadrature's error.

    steps: quadrature points. rule: gauss_legendre, midpoint or trapezoid. baseline x': `mean` (zero in
    normalised space), black or white.
    """

    steps: int = 32
    rule: str = "gauss_legendre"
    baseline: str = "mean"
    reduce: Reduce = "sum"
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_choice("rule", self.rule, RULES)
        check_choice("baseline", self.baseline, BASELINES)
        _check_steps(self.steps, 2 if self.rule == "trapezoid" else 1)

    def needs(self) -> Needs:
        """Nothing shared: every step is a pass of its own."""
        return Needs(by_rounds=True)

    def attribute(self, forward: ForwardPass, targets: Targets, rng: SampleRng) -> Attribution:
        """[P,H,W]."""
        baseline = BASELINES[self.baseline](forward)
        difference = forward.inputs.detach() - baseline
        rule = (torch.from_numpy(values).to(difference.dtype) for values in RULES[self.rule](self.steps))
        nodes, weights = (sent(values, difference.device) for values in rule)

        def points(part: slice) -> Tensor:
            return baseline + nodes[part].view(-1, 1, 1, 1, 1) * difference

        mean = average_gradient(forward, targets, points, weights)
        return Attribution(reduce_channels(difference[targets.image] * mean, self.reduce))


@dataclass(frozen=True)
class SmoothGrad:
    """The gradient averaged over noisy copies of the input (Smilkov et al. 2017).

    samples: copies. noise: standard deviation as a share of the input's range (max - min) in normalised space.
    """

    samples: int = 32
    noise: float = 0.15
    reduce: Reduce = "max_abs"
    VERSION: ClassVar[int] = 2

    def __post_init__(self) -> None:
        _check_steps(self.samples, 1)
        if self.noise < 0:
            raise ValueError(f"noise={self.noise}: give a share of the input's range, 0 or more")

    def needs(self) -> Needs:
        """Nothing shared: every copy is a pass of its own."""
        return Needs(by_rounds=True)

    def attribute(self, forward: ForwardPass, targets: Targets, rng: SampleRng) -> Attribution:
        """[P,H,W]."""
        inputs = forward.inputs.detach()
        sigma = self.noise * (inputs.amax((1, 2, 3)) - inputs.amin((1, 2, 3)))
        noise = rng.noise(inputs.shape[1:], inputs.device)
        weights = inputs.new_full((self.samples,), 1 / self.samples)

        def points(part: slice) -> Tensor:
            drawn = noise.normal(part.start, part.stop).to(inputs).transpose(0, 1)  # [S,B,3,H,W]
            return inputs + sigma.view(-1, 1, 1, 1) * drawn

        return Attribution(reduce_channels(average_gradient(forward, targets, points, weights), self.reduce))


def _check_steps(steps: int, least: int) -> None:
    if steps < least:
        raise ValueError(f"{steps} steps or samples: give at least {least}")
