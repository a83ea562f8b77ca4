"""Label change rate: a prediction that mutants of the network do not share is likely wrong."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from assay.harness.detection import DetectorNeeds, Features, State, fitted
from assay.harness.training import TrainingSet
from torch import Tensor

from .mutants.reading import MutantPredictions
from .mutants.sequential import Sprt, Walk

QUANTILE = 2.326  # of the normal distribution at 99 %, one-sided


@dataclass(frozen=True)
class WangTest:
    """The statistical test of Wang et al. 2019 in place of the rate itself: is an image's rate above a threshold?

    The threshold is `mu` times the mean rate of the training set's right predictions (its upper 99 % bound); the test
    (`Sprt`) tells (1 + delta) from (1 - delta) times the threshold. The score is the log-likelihood ratio where it
    ends.
    """

    mu: float = 1.5
    delta: float = 0.3
    alpha: float = 0.05
    beta: float = 0.05

    def __post_init__(self) -> None:
        if self.mu < 1 or not 0 < self.delta < 1:
            raise ValueError(f"mu={self.mu:g}, delta={self.delta:g}: give mu of at least 1, delta between 0 and 1")

    def at(self, rate: float) -> Sprt:
        """The test for a mean rate of right predictions.

        Raises:
            ValueError: no mutant ever changes a right prediction, or the threshold leaves no room below 1.
        """
        low, high = (self.mu * rate * (1 + side * self.delta) for side in (-1, 1))
        if not 0 < low < high < 1:
            raise ValueError(
                f"right predictions change at a rate of {rate:g}: no test between {low:g} and {high:g}; "
                "change the mutants' rate, or mu and delta"
            )
        return Sprt(low, high, self.alpha, self.beta)


@dataclass(frozen=True)
class LabelChangeRate:
    """Share of the mutants that predict another class than the network: Eq. 6 of the conductance paper (after Wang et
    al. 2019).

    mutants: see `MutantPredictions`; detectors with the same ones share what they predict. first: of the mutants so
    many are asked; null: all. test: null for the rate; `WangTest`; or `Sprt`, whose log-likelihood ratio where it ends
    is the score. Mutants that `mutants.stop` ends are scored by that same test alone: a rate where a test ended says
    when it did, and another test would need votes that were never asked for.
    """

    mutants: MutantPredictions = field(default_factory=MutantPredictions)
    first: int | None = None
    test: WangTest | Sprt | None = None
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.first is not None and not 1 <= self.first <= self.mutants.count:
            raise ValueError(f"first={self.first}: there are 1 to {self.mutants.count} mutants (mutants.count)")
        if self.mutants.stop not in (None, self.test):
            raise ValueError(
                f"mutants.stop={self.mutants.stop}, test={self.test}: mutants that a test stops are scored by that "
                "test: give test the same Sprt (method.lcr.test=${method.lcr.mutants.stop}), or mutants.stop=null"
            )

    def needs(self) -> DetectorNeeds:
        """The mutants' predictions; those of training images where a test has a threshold to find."""
        return DetectorNeeds(training=isinstance(self.test, WangTest), readings=(self.mutants,))

    def fit(self, training: TrainingSet) -> State:
        """right_rate: the upper bound of the mean rate of right predictions, []."""
        bank = training.bank
        rates = self._rates(bank)[bank.labels == bank.predicted]
        if len(rates) < 2:
            raise ValueError(f"{len(rates)} right predictions in the training set: a mean rate needs two")
        assert isinstance(self.test, WangTest)  # or there is no fit
        bound = rates.mean() + QUANTILE * rates.std() / len(rates) ** 0.5
        _ = self.test.at(float(bound))
        return {"right_rate": bound}

    def score(self, features: Features, state: State) -> Tensor:
        """Rates in [0,1], or log-likelihood ratios: float64 [N]."""
        return self._rates(features) if self.test is None else self.walk(features, state).ratio

    def walk(self, features: Features, state: State) -> Walk:
        """Where the test of each image ends."""
        return self._sprt(state).walk(self.changed(features))

    def _sprt(self, state: State) -> Sprt:
        assert self.test is not None
        if isinstance(self.test, Sprt):
            return self.test
        (rate,) = fitted(self, state, "right_rate")
        return self.test.at(float(rate))

    def details(self, features: Features, state: State) -> dict[str, Tensor]:
        """changed: see there. asked: how many mutants a test asks, int64 [N]."""
        asked = {} if self.test is None else {"asked": self.walk(features, state).asked}
        return {"changed": self.changed(features)} | asked

    def changed(self, features: Features) -> Tensor:
        """Whether each mutant changes the prediction: int8 [N,M]; -1 where it was not asked."""
        votes = features.reading(self.mutants)[:, : self.first]
        return torch.where(votes < 0, -1, (votes != features.predicted[:, None]).to(torch.int8)).to(torch.int8)

    def _rates(self, features: Features) -> Tensor:
        changed = self.changed(features)
        return changed.clamp(min=0).sum(1).double() / (changed >= 0).sum(1)
