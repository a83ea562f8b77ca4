"""The in-distribution training set as detectors see it, in bounded memory; and what is fitted on it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from .detection import Detector, Features, LinearHead, Reading, State
from .network import Network
from .types import Attributor

T = TypeVar("T")


class Moments(NamedTuple):
    """Moments of a training set, in float64: counts [C], sums [C,K] of each class, within [K,K].

    within: the sum of (f - m)(f - m)^T over all images, m being the mean of the image's class. It is made of centred
    rows alone (see `_add`): differences of uncentred sums lose a spread that is small beside the features' distance
    from 0, and have negative eigenvalues. rounding: the step of the features' own type at 1.
    """

    counts: Tensor
    sums: Tensor
    within: Tensor
    rounding: float

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
        return self.within / self.total

    def second_about(self, origin: Tensor) -> Tensor:
        """Mean of (f - o)(f - o)^T over all images: [K,K], a sum of such products, so no eigenvalue is negative."""
        apart = self.class_means - origin
        return (self.within + (apart * self.counts[:, None]).T @ apart) / self.total

    def spectrum(self, moment: Tensor) -> "Spectrum":
        """Eigenvalues of a moment of these features, with those that are nothing but rounding told apart.

        They are what float64 leaves of a zero beside the largest (scikit-learn's and NumPy's cut), and what the
        features' own type can: a unit that is constant but for its last digit has a variance of rounding^2 times its
        mean square.
        """
        values, vectors = torch.linalg.eigh(moment)  # ascending
        width, squares = len(values), float(self.second_about(torch.zeros_like(self.mean)).diagonal().max())
        cut = width * max(torch.finfo(torch.float64).eps * float(values[-1]), self.rounding**2 * squares)
        return Spectrum(values, vectors, int((values > cut).sum()))


class Spectrum(NamedTuple):
    """Eigenvalues [K], ascending, eigenvectors [K,K] in columns; the last `rank` are directions of the data."""

    values: Tensor
    vectors: Tensor
    rank: int

    @property
    def inverse(self) -> Tensor:
        """Pseudo-inverse [K,K]: 0 in the directions that are not the data's."""
        kept = slice(len(self.values) - self.rank, None)
        return (self.vectors[:, kept] / self.values[kept]) @ self.vectors[:, kept].T


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
                    made[name] = _no_moments(part.logits.shape[1], values)
                _add(made[name], values, part.labels)
        return made

    @cached_property
    def bank(self) -> Features:
        """At most BANK rows in order, a uniform sample that depends on the seed and the number of rows alone."""
        chosen = self.draw(self.BANK)
        kept, start, filled = next(iter(self.parts())).room(len(chosen)), 0, 0
        for part in self.parts():  # written where they stay: rows that are joined later are held twice
            inside = chosen[(chosen >= start) & (chosen < start + len(part))] - start
            rows = part.rows(torch.from_numpy(inside))
            for whole, piece in zip(kept.columns(), rows.columns(), strict=True):
                whole[filled : filled + len(rows)] = piece
            start, filled = start + len(part), filled + len(rows)
        return kept

    def draw(self, rows: int) -> np.ndarray:
        """Row numbers of a uniform sample without repetition, ascending; all rows, if there are no more."""
        if rows >= self.count:
            return np.arange(self.count)
        return np.sort(np.random.default_rng([self.seed, self.count]).choice(self.count, rows, replace=False))

    def part(self, rows: np.ndarray) -> "TrainingSet":
        """Rows of the bank, by their places in it, as a training set of their own: a fold."""
        features, places = self.bank.rows(torch.from_numpy(rows)), self.draw(self.BANK)[rows]
        images = lambda chosen: self.images(places[chosen])  # noqa: E731
        return TrainingSet(lambda: iter([features]), len(rows), self._network, images, self._features_of, self.seed)

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


def _no_moments(classes: int, values: Tensor) -> Moments:
    width = values.shape[1]
    return Moments(
        torch.zeros(classes, dtype=torch.float64),
        torch.zeros(classes, width, dtype=torch.float64),
        torch.zeros(width, width, dtype=torch.float64),
        torch.finfo(values.dtype).eps,
    )


def _add(moments: Moments, values: Tensor, labels: Tensor) -> None:
    """Merge a part (Chan, Golub and LeVeque 1983): its rows about its own class means, and these about those before."""
    known = labels >= 0
    values, labels = values[known].double(), labels[known]
    counts = torch.zeros_like(moments.counts).index_add_(0, labels, torch.ones_like(labels, dtype=torch.float64))
    sums = torch.zeros_like(moments.sums).index_add_(0, labels, values)
    means = sums / counts.clamp(min=1)[:, None]
    centred = values - means[labels]
    moments.within.addmm_(centred.T, centred)
    both = (moments.counts > 0) & (counts > 0)
    apart = (moments.class_means - means)[both]
    share = (moments.counts * counts / (moments.counts + counts).clamp(min=1))[both, None]
    moments.within.addmm_((apart * share).T, apart)
    moments.counts.add_(counts)
    moments.sums.add_(sums)


def joined(parts: Sequence[Features]) -> Features:
    """Rows of several parts one behind the other; at least one part."""
    first = parts[0]
    if len(parts) == 1:
        return first
    return replace(
        first,
        logits=torch.cat([part.logits for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        penultimate=None if first.penultimate is None else torch.cat([part.tap() for part in parts]),
        layers={name: torch.cat([part.layers[name] for part in parts]) for name in first.layers},
        readings={each: torch.cat([part.reading(each) for part in parts]) for each in first.readings},
    )


class FittedDetector(Detector, Protocol):
    """A detector that learns from the in-distribution training set (`needs().training`)."""

    def fit(self, training: TrainingSet) -> State:
        """What scoring needs of the training set; tensors of any shape, by name."""


class PreparedReading(Reading, Protocol):
    """A reading that looks at a set of images first (`needs().prepared_on`), as mutants are chosen before they vote."""

    def prepare(self, images: TrainingSet) -> State:
        """What reading needs of these images; tensors of any shape, by name. `images.seed` is the run's."""


class FittedAttributor(Attributor, Protocol):
    """An attribution method that learns from training images (`needs().training`)."""

    def fit_settings(self) -> dict[str, Any]:
        """All that `fit` depends on beside network and images: methods that agree in it share what it leaves."""

    def fit(self, network: Network, batches: Iterable[Tensor]) -> State:
        """What attributing needs of training images; batches [n,3,H,W] in [0,1], to be read once."""

    def fitted(self, state: Mapping[str, Tensor]) -> Attributor:
        """The method with what `fit` left."""
