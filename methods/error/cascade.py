"""Cascades: what a detector flags is answered by a second, larger network."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, cast

import torch
from assay.harness.detection import DetailedDetector, Detector, DetectorNeeds, Features, Reading, ReadingNeeds, State
from assay.harness.forward import ForwardPass
from assay.harness.modules import fingerprint
from assay.harness.network import Network
from assay.harness.seeds import SampleRng
from assay.harness.training import FittedDetector, TrainingSet
from torch import Tensor

LARGER = "larger"  # the column of the score table: the second network's class


@dataclass(frozen=True)
class SecondOpinion:
    """The classes that another network predicts for the same images: int64 [N]."""

    larger: Network | None
    VERSION: ClassVar[int] = 1

    def needs(self) -> ReadingNeeds:
        """The images; a detector's fit has no use for it. Of several labels a score table keeps the first network's."""
        return ReadingNeeds(of_training=False, one_label=True)

    def about(self, network: Network) -> dict[str, Any]:
        """The other network: its weights, its normalisation, what of its outputs is read as which classes, and what its
        weights do not say: the settings of a config that made it; of an object, how its module prints itself.

        Raises:
            ValueError: there is none, it is the network itself, or it tells another number of classes apart.
        """
        other = self._other
        if (type(other.module), self._weights) == (type(network.module), _weights(network)):
            raise ValueError(f"larger is the network itself ({_name(other)} with the same weights): choose another")
        _check_classes(network, _classes(network), other, _classes(other))
        mean, std = other.statistics
        about = {"network": _name(other), "fingerprint": self._weights[:20], "mean": mean, "std": std}
        groups = None if other.groups is None else [list(group) for group in other.groups]
        printed = hashlib.sha256(str(other.module).encode()).hexdigest()[:20]
        return about | {"outputs": other.reads, "groups": groups, "made_of": other.made_of or printed}

    def read(self, forward: ForwardPass, rng: SampleRng, state: State) -> Tensor:
        """One pass of the other network, which normalises the images itself.

        Raises:
            ValueError: its logits are not finite, or of another number of classes.
        """
        network, other = forward.network, self._beside(forward.network)
        with torch.no_grad():
            logits = other(other.normalise(forward.images))
        network.passes.forward += len(logits)
        if not logits.isfinite().all():
            raise ValueError(f"larger: {_name(other)} returned logits that are not finite: are its weights damaged?")
        scores = other.scores(logits)
        _check_classes(network, forward.scores.shape[1], other, scores.shape[1])
        return scores.argmax(1)

    @property
    def _other(self) -> Network:
        if self.larger is None:
            raise ValueError(
                "larger=null: a cascade needs a second network, model@method.cascade.larger=NAME (python -m harness ls "
                "model) and its weights, method.cascade.larger.weights=FILE"
            )
        return self.larger

    @cached_property
    def _weights(self) -> str:
        """Once, before a pass in another precision changes them."""
        return _weights(self._other)

    def _beside(self, network: Network) -> Network:
        """The other network where this one is, in the same precision."""
        other, here = self._other, network.mean
        there = (other.mean.device, other.mean.dtype)
        return other if there == (here.device, here.dtype) else other.to(here.device, here.dtype)


def _weights(network: Network) -> str:
    """The network's fingerprint; of one that nobody has given any, of its weights."""
    return network.fingerprint or fingerprint(network.module.state_dict())


def _name(network: Network) -> str:
    return type(network.module).__name__


def _classes(network: Network) -> int | None:
    """How many it tells apart, where groups or its last layer say so."""
    if network.groups is not None:
        return len(network.groups)
    ending = network.ending
    return None if ending is None else len(ending.affine(ending.linear.in_features)[1])


def _check_classes(network: Network, own: int | None, other: Network, its: int | None) -> None:
    if own is not None and its is not None and own != its:
        raise ValueError(
            f"larger: {_name(other)} tells {its} classes apart and {_name(network)} {own}: choose a network of the "
            "same classes"
        )


@dataclass(frozen=True)
class Cascade:
    """A detector as it is, and beside its scores what a second network predicts for each image.

    The metric `error_detection` then says how accurate the two are where the second answers what the detector flags,
    and how many images that are: what section 5 of the conductance paper proposes, a small network for most images and
    a slower, more accurate one behind it.

    detector: whose scores these are; it is fitted and read as by itself. larger: the second network, of the same
    classes in the same order, which is given the same images; each that is scored costs a pass of it, as only then its
    accuracy and every threshold's are known.
    """

    detector: Detector
    larger: Network | None = None
    FILES: ClassVar[frozenset[str]] = frozenset({"larger"})  # which the reading identifies by what is in them
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.detector.needs().images:
            raise ValueError(
                f"detector={type(self.detector).__name__} looks at images again, beside which nothing is read of them: "
                "choose one of features (msp, conductance_mlp, unified_nn)"
            )

    @cached_property
    def _opinion(self) -> SecondOpinion:
        return SecondOpinion(self.larger)

    def needs(self) -> DetectorNeeds:
        """The detector's, and the second network's predictions."""
        needs = self.detector.needs()
        readings: tuple[Reading, ...] = (*needs.readings, self._opinion)
        return needs._replace(readings=readings)

    def fit(self, training: TrainingSet) -> State:
        """The detector's state."""
        return cast(FittedDetector, self.detector).fit(training)

    def score(self, features: Features, state: State) -> Tensor:
        """[N], as the detector scores."""
        return self.detector.score(features, state)

    def details(self, features: Features, state: State) -> dict[str, Tensor]:
        """larger: the second network's class, int64 [N]; and the detector's own."""
        own = getattr(self.detector, "details", None)
        made = {} if own is None else cast(DetailedDetector, self.detector).details(features, state)
        return made | {LARGER: features.reading(self._opinion)}
