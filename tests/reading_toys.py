"""Readings and detectors whose values are known, shared by the tests of readings; importable by helper processes."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from assay.harness.detection import DetectorNeeds, Features, Reading, ReadingNeeds, State
from assay.harness.forward import ForwardPass
from assay.harness.network import Network
from assay.harness.seeds import SampleRng
from assay.harness.training import TrainingSet
from torch import Tensor


@dataclass(frozen=True)
class Powers:
    """Logits and `factor` times their squares, [N,2,C]: by a pass of its own, which is counted."""

    factor: float = 1.0
    VERSION: ClassVar[int] = 1

    def needs(self) -> ReadingNeeds:
        return ReadingNeeds()

    def about(self, network: Network) -> dict[str, Any]:
        if self.factor == 0:
            raise ValueError("factor=0: choose another")
        return {"factor": self.factor, "form": "squares"}

    def read(self, forward: ForwardPass, rng: SampleRng, state: State) -> Tensor:
        with torch.no_grad():
            logits = forward.network(forward.inputs)
        return torch.stack([logits, self.factor * logits**2], 1)


@dataclass(frozen=True)
class Noise:
    """Three normal numbers an image."""

    VERSION: ClassVar[int] = 1

    def needs(self) -> ReadingNeeds:
        return ReadingNeeds(draws=True)

    def about(self, network: Network) -> dict[str, Any]:
        return {}

    def read(self, forward: ForwardPass, rng: SampleRng, state: State) -> Tensor:
        return rng.noise((3,), forward.images.device).normal()[:, 0]


@dataclass(frozen=True)
class Votes:
    """Which logits are above their mean over the validation set: int16 [N,C]. fails: where it raises."""

    fails: str = ""
    VERSION: ClassVar[int] = 1

    def needs(self) -> ReadingNeeds:
        return ReadingNeeds(prepared_on="validation")

    def about(self, network: Network) -> dict[str, Any]:
        return {"fails": self.fails}

    def prepare(self, images: TrainingSet) -> State:
        if self.fails == "prepare":
            raise RuntimeError("no mutant is good enough")
        return {"mean": images.bank.logits.mean(0)}

    def read(self, forward: ForwardPass, rng: SampleRng, state: State) -> Tensor:
        if self.fails == "read":
            raise RuntimeError("no votes")
        return (forward.logits.cpu() > state["mean"]).to(torch.int16)


@dataclass(frozen=True)
class SumOf:
    """The sum of all values of some readings, less its mean over the training set where it is fitted."""

    readings: tuple[Reading, ...] = ()
    training: bool = False
    images: bool = False
    VERSION: ClassVar[int] = 1

    def needs(self) -> DetectorNeeds:
        return DetectorNeeds(training=self.training, images=self.images, readings=self.readings)

    def fit(self, training: TrainingSet) -> State:
        return {"mean": self._sums(training.bank).mean()}

    def score(self, features: Features, state: State) -> Tensor:
        return self._sums(features) - state.get("mean", torch.tensor(0.0))

    def _sums(self, features: Features) -> Tensor:
        values = [features.reading(each).double().flatten(1).sum(1) for each in self.readings]
        return torch.stack(values).sum(0)
