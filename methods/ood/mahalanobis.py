"""Mahalanobis distance to the nearest class, at one layer or several, with or without a step in the input."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from assay.harness.curves import no_rate, recalls, roc_statistics
from assay.harness.detection import DetectorNeeds, Features, State, fitted, pooled
from assay.harness.forward import ForwardPass
from assay.harness.network import Network
from assay.harness.training import Moments, TrainingSet
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from .odin import stepped

ROWS = 16  # images that calibration sends through the network at once
FOLDS = 5  # of the logistic regression's cross-validation
ROUNDING = 1e-12  # of a squared distance, relative to the largest that a difference of its length can have


class Gaussian(NamedTuple):
    """Classes with one covariance: means [C,K] of the classes that have images, precision [K,K]; float64."""

    means: Tensor
    precision: Tensor

    @classmethod
    def of(cls, moments: Moments) -> "Gaussian":
        """Class means and the pseudo-inverse of the tied covariance (scikit-learn's, of class-centred features).

        Directions in which the training set has no spread but rounding (`Moments.spectrum`) do not count.

        Raises:
            ValueError: no class has two images, or all features are constant within classes, so that nothing is known
                of the spread around a mean.
        """
        if float(moments.counts.max()) < 2:
            raise ValueError("no class has two training images: a covariance within classes needs a larger train set")
        spectrum = moments.spectrum(moments.tied_covariance)
        if not spectrum.rank:
            raise ValueError("the training features are constant within each class: they have no covariance")
        return cls(moments.class_means[moments.counts > 0], spectrum.inverse)

    def distance(self, values: Tensor) -> Tensor:
        """Half the squared distance to the nearest class: [N,K] -> float64 [N], differentiable.

        Raises:
            ValueError: a square is negative, beyond rounding: the precision is none.
        """
        values, means, precision = values.double(), self.means.to(values.device), self.precision.to(values.device)
        with torch.no_grad():  # up to a term that the classes share, about a mean: squares of large numbers are rough
            near = means - means.mean(0)
            squares = ((near @ precision) * near).sum(1) - 2 * (values - means.mean(0)) @ precision @ near.T
        difference = values - means[squares.argmin(1)]
        squared = ((difference @ precision) * difference).sum(1)
        if bool((squared < -ROUNDING * difference.detach().square().sum(1) * precision.norm()).any()):
            raise ValueError(f"a squared distance of {float(squared.min()):g}: the precision has negative eigenvalues")
        return squared.clamp(min=0) / 2


class Calibration(NamedTuple):
    """Log-odds of being out: weight [L] times the layers' distances, plus bias; found at one size of step."""

    weight: Tensor
    bias: Tensor
    noise: Tensor


def _double(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


NOT_CALIBRATED = Calibration(torch.ones(1, dtype=torch.float64), _double(0), _double(0))


@dataclass(frozen=True)
class Mahalanobis:
    """Distance to the nearest class under one Gaussian a class with a tied covariance (Lee et al. 2018, Eq. 1-3).

    layers: names, averaged over space; null is the penultimate layer alone, as features already kept. DenseNet in the
    paper and its successors: conv1, trans1, trans2 and the last ReLU. noise: sizes m of a step that brings the input
    nearer to its nearest class, one tried after the other, in pixels in [0,1]: the step of a layer goes against the
    sign of the gradient of that layer's distance. calibration: `fgsm`, a logistic regression of the layers' distances
    on training images against FGSM images of them (true labels, fgsm_eps in pixels, clamped to [0,1]), which sees no
    OOD image; then the score is the log-odds of `out`, which orders as the probability does and never saturates.
    `none` is for one layer and one size of step. images: training images to fit the regression, and as many others to
    choose the size of the step by FPR95.

    Without a step nothing but the kept features is read. With one, an image costs its shared forward pass and, for
    each layer, one backward pass and one more forward pass.
    """

    layers: Sequence[str] | None = None
    noise: Sequence[float] = (0.0,)
    calibration: Literal["none", "fgsm"] = "none"
    fgsm_eps: float = 0.05
    images: int = 500
    VERSION: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if self.calibration not in ("none", "fgsm"):
            raise ValueError(f"calibration={self.calibration!r}: choose none or fgsm")
        if not self.noise or (self.layers is not None and not self.layers):
            raise ValueError(f"layers={self.layers}, noise={self.noise}: name at least one of each (noise: [0])")
        if self.layers is None and (any(self.noise) or self.calibration != "none"):
            raise ValueError(
                f"noise={list(self.noise)}, calibration={self.calibration} run the network again: name the layers "
                "(layers=[...]); null is the kept penultimate features"
            )
        if self.calibration == "none" and (len(self.noise) > 1 or len(self._names) > 1):
            raise ValueError(
                f"layers={self.layers}, noise={list(self.noise)}: several are combined and chosen by calibration=fgsm"
            )
        if self.images < 2 * FOLDS:
            raise ValueError(f"images={self.images}: give at least {2 * FOLDS}")

    @property
    def _names(self) -> tuple[str | None, ...]:
        return (None,) if self.layers is None else tuple(self.layers)

    def needs(self) -> DetectorNeeds:
        """The layers, or the penultimate features; the images where a step is tried."""
        layers = tuple(self.layers or ())
        return DetectorNeeds(self.layers is None, layers, training=True, images=any(self.noise))

    def fit(self, training: TrainingSet) -> State:
        """means.<layer>: [C,K]. precision.<layer>: [K,K]. weight: [L]. bias, noise: []. In float64."""
        gaussians = {name: Gaussian.of(training.moments(name)) for name in self._names}
        found = NOT_CALIBRATED._replace(noise=_double(self.noise[0]))
        if self.calibration == "fgsm":
            found = self._calibrated(training, gaussians)
        state = found._asdict()
        for name, gaussian in gaussians.items():
            state |= {f"{key}.{name or 'penultimate'}": value for key, value in gaussian._asdict().items()}
        return state

    def score(self, features: Features, state: State) -> Tensor:
        """[N] in float64, without a step."""
        if any(self.noise):
            raise ValueError(f"{self} steps from the images: call score_images, or set noise=[0]")
        return self._combined(self._plain(features, self._gaussians(state)), state)

    def score_images(self, forward: ForwardPass, features: Features, state: State) -> Tensor:
        """[N] in float64."""
        gaussians, (noise,) = self._gaussians(state), fitted(self, state, "noise")
        if noise == 0:
            return self._combined(self._plain(features, gaussians), state)
        return self._combined(stepped_distances(forward, _named(gaussians), [float(noise)])[0], state)

    def _gaussians(self, state: State) -> dict[str | None, Gaussian]:
        keys = {name: [f"{key}.{name or 'penultimate'}" for key in Gaussian._fields] for name in self._names}
        return {name: Gaussian(*fitted(self, state, *names)) for name, names in keys.items()}

    def _plain(self, features: Features, gaussians: Mapping[str | None, Gaussian]) -> Tensor:
        return torch.stack([gaussian.distance(features.tap(name)) for name, gaussian in gaussians.items()], 1)

    def _combined(self, distances: Tensor, state: State) -> Tensor:
        weight, bias = (value.to(distances.device) for value in fitted(self, state, "weight", "bias"))
        return distances @ weight + bias

    def _calibrated(self, training: TrainingSet, gaussians: Mapping[str | None, Gaussian]) -> Calibration:
        """The size of step whose regression, fitted on one half of the images, has the least FPR95 on the other."""
        rows, labels = _labelled_rows(training, 2 * self.images)
        if len(rows) < 4 * FOLDS:
            raise ValueError(f"{len(rows)} labelled training images are too few to calibrate on: {4 * FOLDS} or more")
        clean: list[Tensor] = []
        fgsm: list[Tensor] = []
        for part in _chunks(len(rows)):
            images = training.images(rows[part])
            adversarial = fgsm_images(training.network, images, labels[part], self.fgsm_eps)
            for kept, batch in ((clean, images), (fgsm, adversarial)):
                forward = ForwardPass(training.network, batch, tuple(self.layers or ()), input_graph=True)
                kept.append(torch.stack(stepped_distances(forward, _named(gaussians), self.noise)).cpu())
        inside, outside = torch.cat(clean, 1), torch.cat(fgsm, 1)  # [M,n,L], a size of step a row
        # Every second image, for sets are often sorted by class.
        tried = [_regression(a[::2], b[::2]) for a, b in zip(inside, outside, strict=True)]
        rates = [
            _rate((a[1::2] @ found.weight).numpy(), (b[1::2] @ found.weight).numpy())
            for found, a, b in zip(tried, inside, outside, strict=True)
        ]
        best = int(np.argmin(rates))
        return tried[best]._replace(noise=_double(self.noise[best]))


def _named(gaussians: Mapping[str | None, Gaussian]) -> dict[str, Gaussian]:
    return {name: gaussian for name, gaussian in gaussians.items() if name is not None}


def stepped_distances(forward: ForwardPass, gaussians: Mapping[str, Gaussian], noise: Sequence[float]) -> list[Tensor]:
    """Distances at each layer of the image stepped for that layer, for each size of step: M of float64 [B,L].

    One backward pass a layer serves all sizes; every size but 0 is one more forward pass a layer.
    """
    columns = [_layer_distances(forward, layer, gaussian, noise) for layer, gaussian in gaussians.items()]
    return [torch.stack(each, 1) for each in zip(*columns, strict=True)]


def _layer_distances(forward: ForwardPass, layer: str, gaussian: Gaussian, noise: Sequence[float]) -> list[Tensor]:
    gradient = None
    if any(noise):
        gradient = forward.gradient_of(lambda _, kept: gaussian.distance(pooled(kept[layer])))
    distances = []
    with torch.no_grad():
        for size in noise:
            activation = forward.activation(layer)
            if gradient is not None and size != 0:
                _, values = forward.network.run(stepped(forward, gradient, size, "pixel"), (layer,))
                activation = values[layer].activation
            distances.append(gaussian.distance(pooled(activation)))
    return distances


def fgsm_images(network: Network, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    """Images in [0,1] moved by eps along the sign of the gradient of their cross-entropy (Goodfellow et al. 2015)."""
    forward, labels = ForwardPass(network, images, input_graph=True), labels.to(network.mean.device)
    gradient = forward.gradient_of(lambda logits, _: cross_entropy(logits, labels, reduction="none"))
    moved = stepped(forward, gradient, -eps, "pixel") * network.std + network.mean
    return moved.clamp(0, 1)


def _labelled_rows(training: TrainingSet, count: int) -> tuple[NDArray[np.int64], Tensor]:
    """Row numbers of at most `count` labelled images, ascending, and their labels."""
    rows = training.draw(count)
    labels = torch.cat([part.labels for part in training.parts()])[torch.from_numpy(rows)]
    known = labels >= 0
    return rows[known.numpy()], labels[known]


def _chunks(count: int) -> Iterator[slice]:
    return (slice(start, start + ROWS) for start in range(0, count, ROWS))


def _rate(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> float:
    """FPR95; 1, the worst, of scores that are equal at the threshold."""
    if no_rate(recalls(inside, outside)["fpr_id_pos"], len(inside)):
        return 1.0
    return roc_statistics(inside, outside)["fpr_id_pos"]


def _regression(inside: Tensor, outside: Tensor) -> Calibration:
    """scikit-learn's LogisticRegressionCV of out (1) or in (0) on standardised distances [n,L]."""
    from sklearn.linear_model import LogisticRegressionCV

    values = torch.cat([inside, outside])
    mean, scale = values.mean(0), values.std(0).clamp(min=1e-12)
    out = np.repeat([0, 1], [len(inside), len(outside)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # about defaults that change between its versions
        model = LogisticRegressionCV(cv=FOLDS).fit(((values - mean) / scale).numpy(), out)
    weight = torch.from_numpy(model.coef_[0]) / scale
    bias = float(model.intercept_[0]) - weight @ mean
    return Calibration(weight, bias, _double(0))
