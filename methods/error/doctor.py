"""DOCTOR: the odds of an error, from all class probabilities or from the predicted class alone."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from assay.harness.choices import check_choice
from assay.harness.detection import DetectorNeeds, Features, State
from torch import Tensor

from ..ood.logits import log_doubt

Form = Literal["alpha", "beta"]


@dataclass(frozen=True)
class Doctor:
    """DOCTOR (Granese et al. 2021), in its total black-box form: no input is perturbed.

    form: `alpha` is (1 - g) / g with g = sum_c p_c^2, the odds that a class drawn from the softmax p is not a second
    one; `beta` is (1 - p) / p of the highest probability, whose order is MSP's. temperature: the logits' divisor.
    The softmax is taken where classes do not exclude each other (sigmoid), too. Features do not say that a network is
    binary, whose logits are [-z, z] and their softmax sigmoid(2 z / temperature): temperature=2 gives the network's own
    probability; the order of the scores is the same at any.
    """

    form: Form = "alpha"
    temperature: float = 1.0
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_choice("form", self.form, get_args(Form))
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature}: give a number above 0")

    def needs(self) -> DetectorNeeds:
        """The logits."""
        return DetectorNeeds()

    def score(self, features: Features, state: State) -> Tensor:
        """[N], float64, from 0; sure predictions keep their order: 1 - p is a sum of the others, never a difference."""
        logits = features.logits.double() / self.temperature
        doubt, highest = log_doubt(logits, sigmoid=False).exp(), logits.amax(1) - logits.logsumexp(1)
        if self.form == "beta":
            return doubt / highest.exp()
        others = logits.softmax(1).scatter(1, logits.argmax(1, keepdim=True), 0)
        alike = highest.exp().square() + others.square().sum(1)
        return (highest.exp() * doubt + (others * (1 - others)).sum(1)) / alike
