"""What failure detectors read and who they are: features, a training set's statistics, detectors, their metrics.

A detector scores images; **higher = more likely out of distribution, or wrong**, always. Most detectors are
functions of what one forward pass leaves behind (`Features`), so one pass over a data set serves all of them;
those that need the image again (ODIN's perturbation) say so in `needs`. What is expensive to find out about an image,
and wanted of training images too, is a `Reading`: kept with the features, and shared. N images, C classes, D features.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import pandas as pd
from torch import Tensor

from .forward import ForwardPass
from .network import Network
from .seeds import SampleRng
from .types import Needs, ResultRow

AVERAGE = "average"  # of the ood sets, in place of a set's name
TOGETHER = "together"  # the test set and all ood sets as one, likewise
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


class ReadingNeeds(NamedTuple):
    """What a reading needs.

    of_pass: what the shared forward pass keeps for it. prepared_on: the set of images that its `prepare` looks at
    (`training.PreparedReading`). draws: whether it draws random numbers; the run's seed is then part of its key.
    of_training: whether detectors that are fitted read it of their training images, too. one_label: whether it says
    nothing of images with several labels, which are then refused.
    """

    of_pass: Needs = Needs()
    prepared_on: Literal["train", "validation"] | None = None
    draws: bool = False
    of_training: bool = True
    one_label: bool = False


class Reading(Hashable, Protocol):
    """What a network says of an image beyond logits and features: computed once an image, kept in the feature store.

    A small frozen dataclass with its settings as fields: readings that are equal are one, whoever asks for them.
    """

    VERSION: ClassVar[int]

    def needs(self) -> ReadingNeeds:
        """What of the shared pass it reads, what it is prepared on, whether it draws."""

    def about(self, network: Network) -> dict[str, Any]:
        """All that its values depend on beside the network's weights, for JSON; what it decides by itself among it.

        Shown with results; the settings of a config's file in it (a `_target_` among them) are known by their content.

        Raises:
            ValueError: it cannot be read of this network.
        """

    def read(self, forward: ForwardPass, rng: SampleRng, state: State) -> Tensor:
        """Values [N,...] of the images of one pass, of any type; an image's may depend on nothing but itself.

        rng: drawn from per image. state: what `prepare` left, on the CPU (empty without). What it sends through the
        network is counted by the network; passes of others are to be added to `forward.network.passes`.
        """


@dataclass(frozen=True, eq=False)
class Features:
    """What one forward pass leaves of N images.

    logits: [N,C]. labels: int64 [N], -1 where there is none. penultimate: [N,D], the input of the last linear
    layer. layers: name -> [N,K], activations averaged over space. head: the last linear layer.
    sigmoid: whether the classes do not exclude each other. readings: values [N,...] of each reading asked for.
    """

    logits: Tensor
    labels: Tensor
    penultimate: Tensor | None = None
    layers: Mapping[str, Tensor] = field(default_factory=dict)
    head: LinearHead | None = None
    sigmoid: bool = False
    readings: Mapping[Reading, Tensor] = field(default_factory=dict)

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

    def reading(self, reading: Reading) -> Tensor:
        """Values of a reading, [N,...].

        Raises:
            ValueError: these features were kept without it.
        """
        if reading not in self.readings:
            raise ValueError(f"{reading} not kept: name it in the detector's needs().readings")
        return self.readings[reading]

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
        return self._each(lambda values: values[index])

    def columns(self) -> list[Tensor]:
        """All that has a row an image."""
        penultimate = [] if self.penultimate is None else [self.penultimate]
        return [self.logits, self.labels, *penultimate, *self.layers.values(), *self.readings.values()]

    def room(self, count: int) -> "Features":
        """Features alike of so many images, with no values yet."""
        return self._each(lambda values: values.new_empty(count, *values.shape[1:]))

    def cpu(self) -> "Features":
        """On the CPU, where detectors fit and score whatever the network runs on."""
        moved = self._each(lambda values: values.cpu())
        return moved if self.head is None else replace(moved, head=self.head.cpu())

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Features":
        return replace(
            self,
            logits=change(self.logits),
            labels=change(self.labels),
            penultimate=None if self.penultimate is None else change(self.penultimate),
            layers={name: change(values) for name, values in self.layers.items()},
            readings={reading: change(values) for reading, values in self.readings.items()},
        )


def pooled(activation: Tensor) -> Tensor:
    """A layer's activation [N,K,...] averaged over space: [N,K].

    Raises:
        ValueError: tokens [N,tokens,K], in which channels come last.
    """
    if activation.ndim == 3:
        raise ValueError(
            f"a layer of tokens {list(activation.shape)} has its channels last: name it LAYER@tokens, or choose another"
        )
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
    readings: what else is read of every image that it scores, and, if `learned`, that it is fitted on
    (`Features.reading`).
    """

    penultimate: bool = False
    layers: tuple[str, ...] = ()
    training: bool = False
    images: bool = False
    readings: tuple[Reading, ...] = ()

    @property
    def learned(self) -> tuple[Reading, ...]:
        """The readings that its fit looks at."""
        return tuple(each for each in self.readings if each.needs().of_training)


class Detector(Protocol):
    """A failure detector: a small frozen class with its settings as fields; higher score = more likely a failure."""

    VERSION: ClassVar[int]

    def needs(self) -> DetectorNeeds:
        """What it reads, and whether it is fitted."""

    def score(self, features: Features, state: State) -> Tensor:
        """Scores [N]; `state` is what `fit` left (empty where nothing is fitted)."""


class DetailedDetector(Detector, Protocol):
    """A detector that says more of an image than its score."""

    def details(self, features: Features, state: State) -> dict[str, Tensor]:
        """Columns [N,...] by name, kept beside the scores: a metric may read them of the score table."""


class ImageDetector(Detector, Protocol):
    """A detector that looks at the images again (`needs().images`)."""

    def score_images(self, forward: ForwardPass, features: Features, state: State) -> Tensor:
        """Scores [N] of the images of one forward pass, which keeps the graph to the input and the needed layers."""


class DetectionMetric(Protocol):
    """Aggregates of score tables: columns image_id, label (-1: none), predicted, is_error (bool), score, known (bool),
    and what a `DetailedDetector` adds.

    known: whether the set's images are of the test set's classes (a set of conf/ood says so by `known: true`).
    PARTNERS: which other sets it reads beside the test set: the `ood` sets, the `validation` set, or, to tell failures
    of all `sources`, the ood sets and the test set alike.
    """

    VERSION: ClassVar[int]
    PARTNERS: ClassVar[Literal["ood", "validation", "sources"]]

    def summarize(self, test: pd.DataFrame, partners: Mapping[str, pd.DataFrame]) -> dict[str, list[ResultRow]]:
        """Rows by the name of the data set that they are about.

        `ood`: a list for each partner, and one named `AVERAGE` over all of them. `validation`: a list named `test`.
        `sources`: a list for each set, the test set among them, and one named `TOGETHER`.
        Beside `AVERAGE`, a list for each of the metric's `averages` (`averages_of`), if it has some; none for the sets
        that it counts as in distribution (`shifted_of`).
        """


def averages_of(metric: object) -> dict[str, tuple[str, ...]]:
    """Rows over some of the ood sets that a metric adds to `AVERAGE`: `average near` -> the names of its sets."""
    return dict(getattr(metric, "averages", {}))


def shifted_of(metric: object) -> tuple[str, ...]:
    """The ood sets whose images a metric counts as in distribution, beside the test set's."""
    return tuple(getattr(metric, "shifted", ()))
