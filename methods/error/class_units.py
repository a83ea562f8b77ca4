"""Units that are specific to a class: a prediction of the class that does not rest on them is likely wrong."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from assay.harness.detection import DetectorNeeds, Features, State, fitted
from assay.harness.training import TrainingSet
from torch import Tensor

from .conductance import baseline_features
from .units import Conductance, Rule, check_steps, conductance_linear_head


@dataclass(frozen=True)
class ClassUnits:
    """Minus the mean conductance, for the predicted class, of the `top` units most specific to it.

    Most specific to a class are those of highest mean conductance over the training images that are rightly predicted
    as it (FM_high of the conductance paper, section 3.2; its Tables 1 and 2 show three a class). Nothing else is
    learned.

    layer, rule, steps: as `conductance.ErrorMLP`'s; None: the penultimate features, in closed form.
    """

    top: int = 3
    layer: str | None = None
    rule: Rule = "right"
    steps: int = 10
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ValueError(f"top={self.top}: give at least 1 unit")
        check_steps(self.rule, self.steps)

    @property
    def _readings(self) -> tuple[Conductance, ...]:
        return () if self.layer is None else (Conductance(self.layer, self.rule, self.steps),)

    def needs(self) -> DetectorNeeds:
        """The conductance of a layer, or penultimate features; those of training images."""
        return DetectorNeeds(penultimate=self.layer is None, training=True, readings=self._readings)

    def fit(self, training: TrainingSet) -> State:
        """order: each class' units, the most specific first, int64 [C,K]. baseline: [1,D], where there is no layer.

        Of a class that no training image is rightly predicted as, the units' order is that of all right predictions.

        Raises:
            ValueError: no training image is rightly predicted, or there are fewer units than `top`.
        """
        state = {"baseline": baseline_features(training)} if self.layer is None else {}
        bank = training.bank
        right = bank.rows(bank.predicted == bank.labels)
        if not len(right):
            raise ValueError(f"none of {len(bank)} training images is rightly predicted: no units of any class")
        values = self._conductance(right, state).double()
        if values.shape[1] < self.top:
            raise ValueError(f"top={self.top}: there are {values.shape[1]} units")
        sums = values.new_zeros(right.logits.shape[1], values.shape[1]).index_add_(0, right.labels, values)
        counts = torch.bincount(right.labels, minlength=len(sums))[:, None]
        means = torch.where(counts > 0, sums / counts.clamp(min=1), values.mean(0))
        return state | {"order": means.argsort(dim=1, descending=True, stable=True)}

    def score(self, features: Features, state: State) -> Tensor:
        """[N] in float64."""
        return -self._ordered(features, state)[:, : self.top].double().mean(1)

    def details(self, features: Features, state: State) -> dict[str, Tensor]:
        """class_conductance: of all units, the predicted class' most specific first, [N,K]. units: the first `top`'s
        numbers, int64 [N,top]."""
        (order,) = fitted(self, state, "order")
        units = order[features.predicted][:, : self.top]
        return {"class_conductance": self._ordered(features, state), "units": units}

    def _ordered(self, features: Features, state: State) -> Tensor:
        (order,) = fitted(self, state, "order")
        return self._conductance(features, state).gather(1, order[features.predicted])

    def _conductance(self, features: Features, state: State) -> Tensor:
        """[N,K]."""
        for reading in self._readings:
            return features.reading(reading)
        return conductance_linear_head(features, *fitted(self, state, "baseline"))
