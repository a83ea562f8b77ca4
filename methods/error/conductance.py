"""Error detectors trained on what the network says of its training images: conductance of units, logits, features."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from assay.harness.detection import DetectorNeeds, Features, Reading, State, fitted
from assay.harness.training import TrainingSet
from torch import Tensor

from .mlp import Training, fit_mlp, score_mlp
from .training_errors import judged
from .units import (
    ActivationXGradient,
    Conductance,
    InternalInfluence,
    Rule,
    check_steps,
    conductance_linear_head,
    predicted_rows,
)


class Input(NamedTuple):
    """What the perceptron may be given of each image.

    of_features: from the features that are kept anyway. of_layer: the reading that takes its place where a layer is
    named, made of layer, rule and steps; None: there is none, and of_features is told the layer.
    """

    of_features: Callable[[Features, State, str | None], Tensor]
    of_layer: Callable[[str, Rule, int], Reading] | None = None


INPUTS = {
    "conductance": Input(lambda kept, state, _: conductance_linear_head(kept, state["baseline"]), Conductance),
    "activation": Input(lambda kept, state, layer: kept.tap(layer)),
    "activation_x_gradient": Input(
        lambda kept, state, _: predicted_rows(kept) * kept.tap(), lambda layer, rule, steps: ActivationXGradient(layer)
    ),
    "internal_influence": Input(lambda kept, state, _: predicted_rows(kept), InternalInfluence),
    "features": Input(lambda kept, state, _: kept.tap()),
    "logits": Input(lambda kept, state, _: kept.logits),
    "sorted_logits": Input(lambda kept, state, _: kept.logits.sort(1, descending=True).values),
}
OF_UNITS = ("conductance", "activation", "activation_x_gradient", "internal_influence")  # of the layer's


@dataclass(frozen=True)
class ErrorMLP:
    """Probability that a prediction is wrong, by a D-200-200-1 perceptron trained on the training images' errors.

    inputs, side by side: of each unit of a layer its `conductance` for the predicted class, from the image that is zero
    after normalisation (the conductance detector's; eq. 5), its `activation` (mean over its map),
    `activation_x_gradient` or `internal_influence`; `features` (penultimate), `logits`, `sorted_logits` (descending).
    On real errors conductance and sorted logits together are best.

    layer: whose units. None: the penultimate features, the paper's last block after pooling, where all four are in
    closed form. Of another layer they are readings, in closed form too where pooling and a linear layer follow, and by
    `steps` of `rule` (`units.conductance_riemann`) where not: `form` in the results' settings says which.

    epochs, batch_size: the paper's code has 20 and 50 on CIFAR (10 and 100 on ImageNet). The last epoch counts.
    learning_rate: Adam's. It is trained on `TrainingSet.bank`, and the state says in n_train_errors on how many errors;
    below 200 it warns.
    """

    inputs: Sequence[str] = ("conductance",)
    layer: str | None = None
    rule: Rule = "right"
    steps: int = 10
    epochs: int = 20
    batch_size: int = 50
    learning_rate: float = 1e-3
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if unknown := [name for name in self.inputs if name not in INPUTS]:
            raise ValueError(f"inputs={list(self.inputs)}: {unknown[0]!r} is not one of {', '.join(INPUTS)}")
        if not self.inputs:
            raise ValueError(f"inputs=[]: choose from {', '.join(INPUTS)}")
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError(f"epochs={self.epochs}, batch_size={self.batch_size}: give at least 1 of each")
        check_steps(self.rule, self.steps)
        if self.layer is not None and not set(OF_UNITS) & set(self.inputs):
            raise ValueError(f"layer={self.layer!r} is read by none of inputs={list(self.inputs)}: leave it null")

    def needs(self) -> DetectorNeeds:
        """The features and readings that the inputs are made of, and those of training images."""
        of_units = set(OF_UNITS) & set(self.inputs)
        penultimate = "features" in self.inputs or bool(of_units and self.layer is None)
        layers = (self.layer,) if self.layer is not None and "activation" in of_units else ()
        return DetectorNeeds(penultimate, layers, training=True, readings=tuple(self._readings.values()))

    @property
    def _readings(self) -> dict[str, Reading]:
        """Those of the inputs that are readings."""
        makers = {name: INPUTS[name].of_layer for name in self.inputs}
        layer = self.layer
        return {name: make(layer, self.rule, self.steps) for name, make in makers.items() if make and layer is not None}

    def fit(self, training: TrainingSet) -> State:
        """The perceptron (see `fit_mlp`). n_train_errors: int64 []. baseline: [1,D], where conductance is an input."""
        made = judged(self, training)
        extra = {"n_train_errors": torch.tensor(made.errors)}
        if self._needs_baseline:
            extra["baseline"] = baseline_features(training)
        settings = Training(epochs=self.epochs, batch_size=self.batch_size, learning_rate=self.learning_rate)
        return fit_mlp(self._read(made.features, extra), made.wrong, settings, training.seed) | extra

    def score(self, features: Features, state: State) -> Tensor:
        """[N] in [0,1], float64."""
        fitted(self, state, "input_mean", *(["baseline"] if self._needs_baseline else []))
        return score_mlp(self._read(features, state), state)

    @property
    def _needs_baseline(self) -> bool:
        return "conductance" in self.inputs and self.layer is None

    def _read(self, features: Features, state: State) -> Tensor:
        columns = [self._column(name, features, state) for name in self.inputs]
        return columns[0] if len(columns) == 1 else torch.cat(columns, 1)

    def _column(self, name: str, features: Features, state: State) -> Tensor:
        reading = self._readings.get(name)
        return INPUTS[name].of_features(features, state, self.layer) if reading is None else features.reading(reading)


def baseline_features(training: TrainingSet) -> Tensor:
    """Penultimate features [1,D] of the image that is zero after normalisation."""
    image = training.images(np.zeros(1, dtype=np.int64))
    zero = training.network.mean.to(image).expand_as(image)
    return training.features_of(zero).tap()
