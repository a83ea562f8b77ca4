"""What failure detectors read and who they are: features, a training set's statistics, detectors, their metrics.

A detector scores images; **higher = more likely out of distribution, or wrong**, always. Most detectors are
functions of what one forward pass leaves behind (`Features`), so one pass over a data set serves all of them;
those that need the image again (ODIN's perturbation) say so in `needs`. N images, C classes, D features.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar, Literal, NamedTuple, Protocol

import pandas as pd
from torch import Tensor

from .forward import ForwardPass
from .types import ResultRow

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
