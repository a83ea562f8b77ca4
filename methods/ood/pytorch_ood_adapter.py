"""Any detector of pytorch-ood by its name, in pytorch-ood's own code, fed with kept features."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from typing import Any, ClassVar, NamedTuple, get_args

import torch
from assay.harness.choices import check_choice
from assay.harness.detection import DetectorNeeds, Features, LinearHead, State, fitted
from assay.harness.training import TrainingSet
from torch import Tensor, nn

from ..attribution.adapters import check_names, imported, near, parameters
from .ash import Negative, rectified

NUMBERS = 2**24  # that a call may make of its rows: 128 MiB in float64, which GMM holds three times
HELD = 2**31  # bytes that a fit may hold beside its rows


class Kind(NamedTuple):
    """What a class of detectors is called with: the end of its methods' names, and its values [N,...]."""

    word: str
    values: Callable[[Features], Tensor]


KINDS = {
    "LogitsDetector": Kind("logits", lambda features: features.logits.float()),
    "FeaturesDetector": Kind("features", lambda features: features.tap().float()),
    "FeatureMapsDetector": Kind("feature_maps", lambda features: features.tap().float()[:, :, None, None]),
}
# What a constructor takes of the network.
NETWORK: dict[str, Callable[[LinearHead | None], Any]] = {
    **dict.fromkeys(("model", "encoder", "backbone"), lambda head: None),
    "head": lambda head: None if head is None else _module(head),
    "w": lambda head: None if head is None else head.weight.float(),
    "b": lambda head: None if head is None else head.bias.float(),
}
FUNCTION = "detector"  # a constructor's parameter that no config can give: a function of the logits, the energy
REFUSED = {
    "GradNorm": "it needs gradients of the network's weights; gradnorm is its closed form at the last layer",
    "GradUncertainty": "it needs gradients of the network's weights",
    "Gram": "it needs maps of several layers, and of kept layers there is the mean alone",
    "MCD": "it needs passes of the network with dropout; choose mc_dropout",
    "MCM": "it needs embeddings of the classes' names",
    "MahalanobisODIN": "it changes images; choose mahalanobis with noise",
    "MultiMahalanobis": "it needs several layers; choose mahalanobis with layers",
    "NACUE": "it needs gradients at inner layers",
    "ODIN": "it changes images; choose odin",
    "OpenMax": "its score of an image depends on what the other images of the batch are predicted as",
    "RankFeat": "it needs maps, and the mean of one has rank 1, so that nothing is left of it",
    "WeightedEBO": "it needs weights of the classes that VOS trains with the network",
}
RECTIFIED = frozenset({"ASH", "SCALE", "VRA"})  # of which the smallest features are the least active
# Bytes that a fit holds, of C classes and D features, where these are more than a covariance.
LARGE: dict[str, Callable[[int, int], int]] = {
    "fDBD": lambda classes, width: 4 * classes**2 * width,
    "GMM": lambda classes, width: 2 * 8 * classes * width**2,
}


def _module(head: LinearHead) -> nn.Module:
    """The last layer of features [N,D] or [N,D,1,1], with weights of its own."""
    classes, width = head.weight.shape
    layer = nn.utils.skip_init(nn.Linear, width, classes)
    layer.weight.data, layer.bias.data = head.weight.float().clone(), head.bias.float().clone()
    return _Flat(layer)


class _Flat(nn.Module):
    """A linear layer on the channels of pooled features; its weight and bias are found where those of a layer are."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    @property
    def weight(self) -> Tensor:
        """[C,D]."""
        return self.layer.weight

    def forward(self, features: Tensor) -> Tensor:
        """[N,C]."""
        logits: Tensor = self.layer(features.flatten(1))
        return logits


@dataclass(frozen=True)
class Release:
    """pytorch-ood's, which is part of the keys of what its code computes."""

    VERSION: str

    @classmethod
    def installed(cls) -> "Release":
        """ImportError without one."""
        imported("pytorch-ood", "pytorch_ood.detector")
        return cls(metadata.version("pytorch-ood"))


@dataclass(frozen=True)
class PytorchOOD:
    """A detector of pytorch-ood (Kirchheim et al. 2022), which scores kept logits or features; no pass is made.

    Its scores are higher for OOD, as ours. All is given in float32, as most of its classes compute. Classes of feature
    maps are given the pooled features as maps of one cell: ReAct, ASH, SCALE and VRA of the penultimate layer. A class
    is fitted on the labelled rows of the training set's bank; these are what is kept, and whoever scores with them fits
    again. ReAct with a threshold among its options needs none of it.

    detector: a class of `pytorch_ood.detector`, as EnergyBased, GMM, VRA.
    options: of its constructor, but the network's parts (model, encoder, backbone, head, w, b), which it is given.
    negative: what ASH, SCALE and VRA do with features that are not rectified (`rectified`).
    release: of the library, for the keys.

    Needs pytorch-ood (`pip install '.[adapters]'`).
    """

    detector: str = "EnergyBased"
    options: Mapping[str, Any] = field(default_factory=dict)
    negative: Negative = "refuse"
    release: Release = field(init=False, default_factory=Release.installed)
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_choice("negative", self.negative, get_args(Negative))
        taken = {name: each for name, each in parameters(self._class).items() if each.kind != each.VAR_KEYWORD}
        check_names(f"{self.detector}'s options", self.options, taken, (*NETWORK, FUNCTION))

    @property
    def _class(self) -> type:
        known = supported()
        if self.detector in REFUSED:
            raise ValueError(f"pytorch-ood's {self.detector} cannot be used: {REFUSED[self.detector]}")
        if self.detector not in known:
            raise ValueError(near(self.detector, known, "detector of pytorch-ood that can be used"))
        return known[self.detector]

    @property
    def _kind(self) -> Kind:
        return kind_of(self._class)

    def needs(self) -> DetectorNeeds:
        """The logits, or penultimate features; of training images as well, if the class is fitted."""
        learns: bool = self._class.requires_fit  # type: ignore[attr-defined]
        return DetectorNeeds(penultimate=self._kind.word != "logits", training=learns)

    def fit(self, training: TrainingSet) -> State:
        """values: [n,...], what the class is fitted on. labels: int64 [n].

        Raises:
            ValueError: it cannot be fitted on these, or needs more memory than a fit may.
        """
        if self.needs().penultimate:
            self._check_size(*training.head.weight.shape)
        bank = training.bank
        labelled = bank if bool((bank.labels >= 0).all()) else bank.rows(bank.labels >= 0)
        state = {"values": self._kind.values(labelled).contiguous(), "labels": labelled.labels}
        self._made(labelled, state)
        return state

    def _check_size(self, classes: int, width: int) -> None:
        held = LARGE.get(self.detector, lambda *_: 0)(classes, width)
        if held > HELD:
            raise ValueError(
                f"pytorch-ood's {self.detector} holds {held / 2**30:.0f} GiB of {classes} classes, {width} features; "
                f"{HELD / 2**30:.0f} are allowed: choose another detector (fdbd, mahalanobis, rmd)"
            )

    def score(self, features: Features, state: State) -> Tensor:
        """[N]."""
        made = self._made(features, state)
        predict = getattr(made, f"predict_{self._kind.word}")
        values = self._kind.values(features)
        if self.detector in RECTIFIED:
            rectified(self, values, self.negative)
        with torch.no_grad(), _named(self.detector):
            return torch.cat([predict(part).detach() for part in values.split(_rows(features, state))])

    @cached_property
    def _held(self) -> list[tuple[State, Any]]:
        """The state that was last asked for, with its detector; empty before."""
        return []

    def _made(self, features: Features, state: State) -> Any:
        """The detector with the network's head, fitted on what the state holds: once, as long as the state is one."""
        if not self._held or self._held[0][0] is not state:
            self._held[:] = [(state, self._fitted(features, state))]
        return self._held[0][1]

    def _fitted(self, features: Features, state: State) -> Any:
        head = features.linear_head() if self.needs().penultimate else None
        given = {name: make(head) for name, make in NETWORK.items() if name in parameters(self._class)}
        made = _on_one_thread(self._class(**given, **self.options))
        if self.needs().training and not getattr(made, "_is_fitted", False):  # by its options
            values, labels = fitted(self, state, "values", "labels")
            with torch.enable_grad(), _named(self.detector):
                getattr(made, f"fit_{self._kind.word}")(values, labels)
        return made


def _rows(features: Features, state: State) -> int:
    """How many are scored at once, if a call makes a number a row for each weight or each row that it was fitted on."""
    classes, width = features.logits.shape[1], 1 if features.penultimate is None else features.penultimate.shape[1]
    fitted_on = len(state["values"]) if "values" in state else 1
    return max(1, NUMBERS // max(classes * width, fitted_on))


def _on_one_thread(made: Any) -> Any:
    """A detector whose estimators of scikit-learn take no more: the processes of a run share the machine."""
    for each in vars(made).values():
        if "n_jobs" in getattr(each, "get_params", dict)():
            each.set_params(n_jobs=1)
    return made


@contextmanager
def _named(detector: str) -> Iterator[None]:
    """What pytorch-ood says by assertions and errors of others is a ValueError that names the detector."""
    try:
        yield
    except (AssertionError, RuntimeError, ValueError, LookupError) as error:
        why = f"{type(error).__name__}: {str(error)[:200]}"
        raise ValueError(f"pytorch-ood's {detector} does not work with these features or settings ({why})") from error


def kind_of(detector: type) -> Kind:
    """By the first of its bases that says what it consumes.

    Raises:
        ValueError: none does.
    """
    kinds = [KINDS[base.__name__] for base in detector.__mro__ if base.__name__ in KINDS]
    if not kinds:
        raise ValueError(f"pytorch-ood's {detector.__name__} consumes neither logits nor features nor maps")
    return kinds[0]


def supported() -> dict[str, type]:
    """Classes of pytorch_ood.detector that score kept logits or features, by name."""
    library = imported("pytorch-ood", "pytorch_ood.detector")
    found = {name: getattr(library, name) for name in library.__all__ if inspect.isclass(getattr(library, name))}
    return {name: each for name, each in found.items() if name not in REFUSED and _scores_kept(each)}


def _scores_kept(found: type) -> bool:
    return any(base.__name__ in KINDS for base in found.__mro__)
