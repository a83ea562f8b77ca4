"""PatternNet and PatternAttribution (Kindermans et al. 2018): backward passes by patterns that training images show."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from assay.harness.choices import check_choice
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.network import Network
from assay.harness.seeds import SampleRng
from assay.harness.types import Attribution, Needs
from torch import Tensor

from ..gradient import Reduce, reduce_channels
from ..relevance import rules
from .engine import Tape
from .moments import Moments
from .rules import Affine, Map, SumRule
from .table import RuleTable, Start, check_start

Estimator = Literal["relu", "linear"]
ESTIMATORS = ("relu", "linear")
PATTERNS_VERSION = 1  # of the fit, which both methods share


def _each(summands: Sequence[Tensor], depths: Sequence[int], relevance: Tensor) -> tuple[Tensor | None, ...]:
    """The gradient of a sum: all of R to each summand."""
    return tuple(relevance.sum_to_size(x.shape) for x in summands)


RESIDUALS: dict[str, SumRule] = {"gradient": _each, "positive": rules.positive_parts, "halved": rules.halved}


class _Rectifiers:
    """The gradient of ReLUs (or ReLU6), and whether all activations of one pass are of these."""

    def __init__(self) -> None:
        self._others: list[Tensor] = []  # of each activation, whether it is another: of a device all are asked at once

    def __call__(self, x: Tensor, function: Map, relevance: Tensor) -> Tensor:
        """R of x."""
        self.look(x, function)
        return rules.gradient(x, function, relevance)

    def look(self, x: Tensor, function: Map) -> None:
        """At one activation."""
        output = function(x)
        self._others.append((((output != 0) & (x <= 0)) | (output < 0)).any())

    def check(self) -> None:
        """Raise ValueError for another activation: patterns tell a unit's two regimes apart, on and off."""
        if self._others and torch.stack(self._others).any():
            raise ValueError(
                "the network has an activation that is no ReLU, and patterns are those of a ReLU's two regimes "
                "(Kindermans et al. 2018): use another method (lrp_gamma, deeplift)"
            )


# The fit


def _nothing(x: Tensor, *rest: object) -> Tensor:
    return torch.zeros_like(x)


def _unmarked(summands: Sequence[Tensor], depths: Sequence[int], relevance: Tensor) -> tuple[Tensor | None, ...]:
    return tuple(map(torch.zeros_like, summands))


class _Collector:
    """A rule of affine layers that adds up their moments, in place of relevance.

    In the backward pass of a fit a ReLU marks what it reads by ones, and nothing else does: a layer that is handed ones
    is read by a ReLU (a max-pool between the two changes nothing), and has the regimes on and off.
    """

    def __init__(self, estimator: str) -> None:
        self.estimator = estimator
        self.moments: dict[str, Moments] = {}
        self.layers: dict[str, Affine] = {}
        self.in_batch: set[str] = set()
        self.rectifiers = _Rectifiers()

    def begin(self) -> None:
        """Of a batch: no layer was called, and no activation is to be asked about."""
        self.in_batch.clear()
        self.rectifiers = _Rectifiers()

    def marked(self, x: Tensor, function: Map, relevance: Tensor) -> Tensor:
        """The rule of ReLUs."""
        self.rectifiers.look(x, function)
        return torch.ones_like(x)

    def __call__(self, x: Tensor, layer: Affine, marks: Tensor) -> Tensor:
        _check_layer(layer)
        if layer.layer in self.in_batch:
            raise ValueError(f"layer {layer.layer!r} is called twice: it has no one pattern; use another method")
        self.in_batch.add(layer.layer)
        made = Moments.of(x, layer, self.estimator == "relu" and bool((marks > 0).any()))
        if layer.layer in self.moments:
            self.moments[layer.layer].add(made)
        else:
            self.moments[layer.layer], self.layers[layer.layer] = made.double(), layer
        return torch.zeros_like(x)

    def patterns(self) -> dict[str, Tensor]:
        """By layer."""
        return {name: made.pattern(self.layers[name].weight).cpu() for name, made in self.moments.items()}


def _check_layer(layer: Affine) -> None:
    if not layer.layer or layer.transposed:
        what = "a transposed convolution" if layer.transposed else "a layer whose weight is no module's"
        raise ValueError(f"the network has {what} {layer.layer!r}, of which no pattern is kept: use another method")


def fit_patterns(network: Network, batches: Iterable[Tensor], estimator: str) -> dict[str, Tensor]:
    """A pattern for each convolution and linear layer on the way to the logits, by module path, like its weight.

    Args:
        batches: images [n,3,H,W] in [0,1]; one at a time is held.
        estimator: see `PatternNet`.

    Raises:
        ValueError: no images, a layer that is called twice, or an activation that is no ReLU.
    """
    collector = _Collector(estimator)
    table = RuleTable(
        collector,
        pool=_nothing,
        joint=_nothing,
        shift=_nothing,
        norm=_nothing,
        activation=collector.marked,
        add=_unmarked,
        method="a fit of patterns",
    )
    for images in batches:
        collector.begin()
        tape = Tape.record(ForwardPass(network, images))
        tape.pull(table, tape.logits, -torch.ones_like(tape.logits), tape.inputs)
        collector.rectifiers.check()
    if not collector.moments:
        raise ValueError("no training images to fit patterns on")
    return collector.patterns()


# The methods


class _Backward:
    """The gradient of a layer with its pattern in the place of its weights, or (weighed) with weight x pattern."""

    def __init__(self, patterns: Mapping[str, Tensor], weighed: bool) -> None:
        self.patterns, self.weighed = patterns, weighed

    def __call__(self, x: Tensor, layer: Affine, relevance: Tensor) -> Tensor:
        pattern = self.patterns.get(layer.layer)
        if pattern is None or pattern.shape != layer.weight.shape:
            raise ValueError(f"no pattern of layer {layer.layer!r}: the fit is of another network")
        weight = pattern * layer.weight if self.weighed else pattern
        return rules.vjp(lambda leaf: layer.apply(leaf, weight, None), [x], relevance)[0]


def _inverse_scale(x: Tensor, factor: Tensor, relevance: Tensor) -> Tensor:
    """The pattern of y = factor x: 1 / factor."""
    return rules.ratio(relevance, factor)


def _inverse_factor(x: Tensor, function: Map, relevance: Tensor) -> Tensor:
    return rules.ratio(relevance, function(torch.ones_like(x))).sum_to_size(x.shape)


def _inverse(x: Tensor, factor: Tensor, shift: Tensor, relevance: Tensor) -> Tensor:
    return rules.ratio(relevance, factor).sum_to_size(x.shape)


@dataclass(frozen=True)
class _Fitted:
    """A method with its patterns; table: its rules, but for that of ReLUs."""

    method: "PatternNet"
    table: RuleTable
    VERSION: ClassVar[int] = 1

    def needs(self) -> Needs:
        """As the method."""
        return self.method.needs()

    def attribute(self, forward: ForwardPass, targets: Targets, rng: SampleRng) -> Attribution:
        """[P,H,W]."""
        tape, rectifiers = Tape.record(forward), _Rectifiers()
        table = replace(self.table, activation=rectifiers)

        def signal(one_hot: Tensor) -> Tensor:
            start = one_hot if self.method.start == "one" else one_hot * tape.logits.detach()
            return tape.pull(table, tape.logits, start, tape.inputs)

        maps = tape.by_pair(targets, signal)
        rectifiers.check()
        return Attribution(reduce_channels(maps, self.method.reduce))


@dataclass(frozen=True)
class PatternNet:
    """The signal in the image (Kindermans et al. 2018, section 4): the gradient with patterns in the place of weights.

    A unit's pattern a = Cov(x, y) / Var(y) over training images, y = w x: the direction in which its input carries what
    it detects. Sum w a = 1.

    estimator: `relu` over the positions at which the unit is on, where a ReLU reads the layer (Eq. 9, S_a+-), and over
    all elsewhere; `linear` over all everywhere (Eq. 6, S_a). residual: what a sum of two activations hands to each:
    `gradient` all, `positive` in proportion to max(x, 0), `halved`. start: the class' logit, or `one`. reduce: how
    colour channels become one map.
    """

    estimator: Estimator = "relu"
    residual: str = "gradient"
    start: Start = "logit"
    reduce: Reduce = "sum_abs"
    VERSION: ClassVar[int] = 1
    WEIGHED: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice("estimator", self.estimator, dict.fromkeys(ESTIMATORS))
        check_choice("residual", self.residual, RESIDUALS)
        check_start(self.start)

    def needs(self) -> Needs:
        """A fit, and nothing shared: the graph has rules in the place of derivatives."""
        return Needs(training=True, by_rounds=True)

    def fit_settings(self) -> dict[str, object]:
        """The estimator, and the version of what estimates."""
        return {"patterns": PATTERNS_VERSION, "estimator": self.estimator}

    def fit(self, network: Network, batches: Iterable[Tensor]) -> dict[str, Tensor]:
        """Patterns by layer, see `fit_patterns`."""
        return fit_patterns(network, batches, self.estimator)

    def fitted(self, state: Mapping[str, Tensor]) -> _Fitted:
        """The method with what `fit` left."""
        table = RuleTable(
            _Backward(state, self.WEIGHED),
            pool=rules.gradient,
            joint=rules.gradient,
            norm=rules.through if self.WEIGHED else _inverse_scale,
            factor=rules.identity if self.WEIGHED else _inverse_factor,
            shift=rules.shift_takes_nothing if self.WEIGHED else _inverse,
            add=RESIDUALS[self.residual],
            method=type(self).__name__,
            may_grow=True,
        )
        return _Fitted(self, table)

    def attribute(self, forward: ForwardPass, targets: Targets, rng: SampleRng) -> Attribution:
        """ValueError: it is `fitted` that attributes."""
        raise ValueError(f"{type(self).__name__} requires fit: attribute with .fitted(state) of what fit(...) returned")


@dataclass(frozen=True)
class PatternAttribution(PatternNet):
    """The relevance of the signal (Kindermans et al. 2018, section 4): the same backward pass with w a for weights.

    A layer keeps the relevance that it hands on, as Sum w a = 1 (but of units without a pattern); a ReLU that is off
    drops what it is handed.
    """

    residual: str = "positive"
    reduce: Reduce = "sum"
    WEIGHED: ClassVar[bool] = True
