"""What failure detectors read and who they are: features, a training set's statistics, detectors, their metrics.

A detector scores images; **higher = more likely out of distribution, or wrong**, always. Most detectors are
functions of what one forward pass leaves behind (`Features`), so one pass over a data set serves all of them;
those that need the image again (ODIN's perturbation) say so in `needs`. N images, C classes, D features.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from harness.network import ForwardPass, Network
from harness.types import ResultRow

T = TypeVar("T")
AVERAGE = "average"  # of the ood sets, in place of a set's name
State = dict[str, Tensor]  # what a fit leaves; stored as safetensors


class LinearHead(NamedTuple):
    """The network's last layer: logits = features @ weight.T + bias; weight [C,D], bias [C]."""

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Logits [N,C] of features [N,D]."""
        return features @ self.weight.T + self.bias

    def cpu(self) -> "LinearHead":
        """On the CPU."""
        return LinearHead(self.weight.cpu(), self.bias.cpu())


@dataclass(frozen=True, eq=False)
class Features:
    """What one forward pass leaves of N images.

    logits: [N,C]. labels: int64 [N], -1 where there is none. penultimate: [N,D], the input of the last linear
    layer. layers: name -> [N,K], activations averaged over space. head: the last linear layer.
    sigmoid: whether the classes do not exclude each other.
    """

    logits: Tensor
    labels: Tensor
    penultimate: Tensor | None = None
    layers: Mapping[str, Tensor] = field(default_factory=dict)
    head: LinearHead | None = None
    sigmoid: bool = False

    def __len__(self) -> int:
        return len(self.logits)

    @cached_property
    def predicted(self) -> Tensor:
        """Arg-max class, int64 [N]."""
        return self.logits.argmax(1)

    @cached_property
    def probabilities(self) -> Tensor:
        """[N,C], softmax or sigmoid as the network says."""
        return self.logits.sigmoid() if self.sigmoid else self.logits.softmax(1)

    def tap(self, layer: str | None = None) -> Tensor:
        """The pooled activation of a layer, [N,K]; None: the penultimate features.

        Raises:
            ValueError: these features were kept without it.
        """
        kept = self.penultimate if layer is None else self.layers.get(layer)
        if kept is None:
            raise ValueError(f"{layer or 'penultimate features'} not kept: name it in the detector's needs()")
        return kept

    def linear_head(self) -> LinearHead:
        """The last layer.

        Raises:
            ValueError: the network does not end in a linear layer on pooled features.
        """
        if self.head is None:
            raise ValueError(
                "the network does not end in a linear layer, which this detector prunes, clips or weighs: "
                "choose one that reads the logits (msp, max_logit, entropy, margin, energy, gen)"
            )
        return self.head

    def rows(self, index: Tensor | slice) -> "Features":
        """The features of some images."""
        return replace(
            self,
            logits=self.logits[index],
            labels=self.labels[index],
            penultimate=None if self.penultimate is None else self.penultimate[index],
            layers={name: values[index] for name, values in self.layers.items()},
        )

    def cpu(self) -> "Features":
        """On the CPU, where detectors fit and score whatever the network runs on."""
        return replace(
            self,
            logits=self.logits.cpu(),
            labels=self.labels.cpu(),
            penultimate=None if self.penultimate is None else self.penultimate.cpu(),
            layers={name: values.cpu() for name, values in self.layers.items()},
            head=None if self.head is None else self.head.cpu(),
        )


class Moments(NamedTuple):
    """Sums over a training set, in float64: counts [C], sums [C,K] of each class, second [K,K] = sum of f f^T."""

    counts: Tensor
    sums: Tensor
    second: Tensor

    @property
    def total(self) -> float:
        """Number of images."""
        return float(self.counts.sum())

    @property
    def class_means(self) -> Tensor:
        """[C,K]; zero for a class without images."""
        return self.sums / self.counts.clamp(min=1)[:, None]

    @property
    def mean(self) -> Tensor:
        """[K]."""
        return self.sums.sum(0) / self.total

    @property
    def tied_covariance(self) -> Tensor:
        """[K,K] of the features centred on their class' mean (divided by the number of images)."""
        means = self.class_means
        return (self.second - (means * self.counts[:, None]).T @ means) / self.total


class TrainingSet:
    """The in-distribution training set as detectors see it, in bounded memory.

    Rows are read in order, in parts; sums over all of them are made in one reading and kept. At most `BANK`
    rows are ever held: percentiles, neighbours and classifiers use that uniform sample (all rows, if they fit).

    Args:
        parts: starts a reading of the whole set, part by part.
        count: number of images.
        network: the network whose features these are.
        images: (rows) -> images [n,3,H,W] in [0,1] of these row numbers.
        features_of: (images [n,3,H,W]) -> their features, by a forward pass.
        seed: of all that is drawn.
    """

    BANK: ClassVar[int] = 50_000

    def __init__(
        self,
        parts: Callable[[], Iterator[Features]],
        count: int,
        network: Network | None = None,
        images: Callable[[np.ndarray], Tensor] | None = None,
        features_of: Callable[[Tensor], Features] | None = None,
        seed: int = 0,
    ) -> None:
        self.parts, self.count, self.seed = parts, count, seed
        self._network, self._images, self._features_of = network, images, features_of
        self._moments: dict[str | None, Moments] = {}

    def moments(self, layer: str | None = None) -> Moments:
        """Class sums and second moments of the penultimate features, or of a layer's pooled activations.

        The first call makes those of every kept layer, so that the set is read once.
        """
        if layer not in self._moments:
            self._moments |= self._summed()
        return self._moments[layer]

    def _summed(self) -> dict[str | None, Moments]:
        made: dict[str | None, Moments] = {}
        for part in self.parts():
            taps: dict[str | None, Tensor] = {name: values for name, values in part.layers.items()}
            if part.penultimate is not None:
                taps[None] = part.penultimate
            for name, values in taps.items():
                if name not in made:
                    made[name] = _no_moments(part.logits.shape[1], values.shape[1])
                _add(made[name], values, part.labels)
        return made

    @cached_property
    def bank(self) -> Features:
        """At most BANK rows in order, a uniform sample that depends on the seed and the number of rows alone."""
        chosen = self.draw(self.BANK)
        kept: list[Features] = []
        start = 0
        for part in self.parts():
            inside = chosen[(chosen >= start) & (chosen < start + len(part))] - start
            kept.append(part.rows(torch.from_numpy(inside)))
            start += len(part)
        return _joined(kept)

    def draw(self, rows: int) -> np.ndarray:
        """Row numbers of a uniform sample without repetition, ascending; all rows, if there are no more."""
        if rows >= self.count:
            return np.arange(self.count)
        return np.sort(np.random.default_rng([self.seed, self.count]).choice(self.count, rows, replace=False))

    @cached_property
    def head(self) -> LinearHead:
        """The network's last layer, as the first part carries it."""
        return next(iter(self.parts())).linear_head()

    @property
    def network(self) -> Network:
        """For detectors that look at images."""
        return _given(self._network, "network")

    def images(self, rows: np.ndarray) -> Tensor:
        """Images [n,3,H,W] in [0,1]."""
        return _given(self._images, "images")(rows)

    def features_of(self, images: Tensor) -> Features:
        """Features of any images [n,3,H,W] in [0,1] under the same network."""
        return _given(self._features_of, "network")(images)


def _given(value: T | None, what: str) -> T:
    if value is None:
        raise ValueError(f"this training set has features only: its {what} is needed")
    return value


def _no_moments(classes: int, width: int) -> Moments:
    return Moments(
        torch.zeros(classes, dtype=torch.float64),
        torch.zeros(classes, width, dtype=torch.float64),
        torch.zeros(width, width, dtype=torch.float64),
    )


def _add(moments: Moments, values: Tensor, labels: Tensor) -> None:
    """Add a part's rows, in float64: a covariance is a small difference of these sums."""
    known = labels >= 0
    values, labels = values[known].double(), labels[known]
    moments.counts.index_add_(0, labels, torch.ones(len(labels), dtype=torch.float64))
    moments.sums.index_add_(0, labels, values)
    moments.second.addmm_(values.T, values)


def _joined(parts: list[Features]) -> Features:
    first = parts[0]
    if len(parts) == 1:
        return first
    return replace(
        first,
        logits=torch.cat([part.logits for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        penultimate=None if first.penultimate is None else torch.cat([part.tap() for part in parts]),
        layers={name: torch.cat([part.layers[name] for part in parts]) for name in first.layers},
    )


def pooled(activation: Tensor) -> Tensor:
    """A layer's activation [N,K,...] averaged over space: [N,K]."""
    return activation.flatten(2).mean(2) if activation.ndim > 2 else activation


def fitted(detector: object, state: State, *names: str) -> list[Tensor]:
    """Entries of a detector's state, in the order of their names.

    Raises:
        ValueError: the detector was not fitted, or by other settings.
    """
    if missing := [name for name in names if name not in state]:
        raise ValueError(
            f"{detector} requires fit: its state has no {', '.join(missing)} (it has {', '.join(state) or 'nothing'}); "
            "score with what fit(training) returned"
        )
    return [state[name] for name in names]


class DetectorNeeds(NamedTuple):
    """What a detector reads.

    penultimate, layers: features beside the logits; layers by name, averaged over space. training: it is fitted.
    images: it looks at the images again; `score_images` is called instead of `score`, within the shared pass.
    """

    penultimate: bool = False
    layers: tuple[str, ...] = ()
    training: bool = False
    images: bool = False


class Detector(Protocol):
    """A failure detector: a small frozen class with its settings as fields; higher score = more likely a failure."""

    VERSION: ClassVar[int]

    def needs(self) -> DetectorNeeds:
        """What it reads, and whether it is fitted."""

    def score(self, features: Features, state: State) -> Tensor:
        """Scores [N]; `state` is what `fit` left (empty where nothing is fitted)."""


class FittedDetector(Detector, Protocol):
    """A detector that learns from the in-distribution training set (`needs().training`)."""

    def fit(self, training: TrainingSet) -> State:
        """What scoring needs of the training set; tensors of any shape, by name."""


class ImageDetector(Detector, Protocol):
    """A detector that looks at the images again (`needs().images`)."""

    def score_images(self, forward: ForwardPass, features: Features, state: State) -> Tensor:
        """Scores [N] of the images of one forward pass, which keeps the graph to the input and the needed layers."""


class DetectionMetric(Protocol):
    """Aggregates of score tables: columns image_id, label (-1: none), predicted, is_error (bool), score.

    PARTNERS: which other sets it reads beside the test set: the `ood` sets, or the `validation` set.
    """

    VERSION: ClassVar[int]
    PARTNERS: ClassVar[Literal["ood", "validation"]]

    def summarize(self, test: pd.DataFrame, partners: Mapping[str, pd.DataFrame]) -> dict[str, list[ResultRow]]:
        """Rows by the name of the data set that they are about.

        `ood`: a list for each partner, and one named `AVERAGE` over all of them. `validation`: a list named `test`.
        """
