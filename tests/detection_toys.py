"""Feature sets with known statistics, shared by the tests of detectors."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from assay.harness.detection import Features, LinearHead
from assay.harness.training import TrainingSet
from conftest import golden
from torch import Tensor


def features_of(
    penultimate: Tensor,
    head: LinearHead,
    labels: Tensor | None = None,
    layers: Mapping[str, Tensor] | None = None,
    sigmoid: bool = False,
) -> Features:
    """Features whose logits are the head's."""
    labels = torch.full((len(penultimate),), -1) if labels is None else labels
    return Features(head(penultimate), labels, penultimate, dict(layers or {}), head, sigmoid)


def logits_of(*rows: list[float], sigmoid: bool = False) -> Features:
    """Logits alone."""
    return Features(torch.tensor(rows), torch.full((len(rows),), -1), sigmoid=sigmoid)


def training_of(features: Features, size: int | None = None, **more: Any) -> TrainingSet:
    """A training set read in parts of `size` rows (one part, unless given)."""

    def parts() -> Iterator[Features]:
        for start in range(0, len(features), size or len(features)):
            yield features.rows(slice(start, start + (size or len(features))))

    return TrainingSet(parts, len(features), **more)


def random_features(count: int = 60, classes: int = 5, width: int = 12, seed: int = 0, dtype: Any = None) -> Features:
    """Rectified features around a mean for each class, a random head, layers `first` and `second`; float64 by default.

    The head and the means do not depend on the seed.
    """
    fixed, draw = (torch.Generator().manual_seed(s) for s in (99, seed))

    def normal(*shape: int, generator: torch.Generator) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype or torch.float64)

    head = LinearHead(normal(classes, width, generator=fixed) / 2, normal(classes, generator=fixed) / 4)
    means = normal(classes, width, generator=fixed)
    labels = torch.arange(count) % classes
    penultimate = (means[labels] + normal(count, width, generator=draw)).relu()
    layers = {"first": normal(count, 4, generator=draw), "second": normal(count, 3, generator=draw)}
    return features_of(penultimate, head, labels, layers)


def nearest_mean(features: Features) -> LinearHead:
    """A head that classifies well: each class' logit is minus half the squared distance to its mean, but |a|^2 / 2."""
    classes = features.logits.shape[1]
    means = torch.stack([features.tap()[features.labels == label].mean(0) for label in range(classes)])
    return LinearHead(means, -means.square().sum(1) / 2)


def line_dice() -> tuple[Features, dict[str, Tensor]]:
    """The golden file's features and all of its arrays."""
    arrays = {name: torch.from_numpy(value) for name, value in golden("line_dice").items()}
    return features_of(arrays["features"], LinearHead(arrays["weight"], arrays["bias"])), arrays


def mean_training(features: Features, mean: Tensor) -> TrainingSet:
    """A training set of the one image whose features are `mean` [D]."""
    assert features.head is not None
    return training_of(features_of(mean[None], features.head, torch.tensor([0])))


def class_mean_training(features: Features, means: Tensor) -> TrainingSet:
    """A training set of one image a class, whose features are `means` [C,D]."""
    assert features.head is not None
    return training_of(features_of(means, features.head, torch.arange(len(means))))


def scores_of(detector: Any, features: Features, training: TrainingSet | None = None) -> Tensor:
    """Scores, after a fit where one is needed."""
    state = detector.fit(training) if detector.needs().training else {}
    return detector.score(features, state)
