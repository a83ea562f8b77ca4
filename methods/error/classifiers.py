"""Classifiers of a few columns, right or wrong: scikit-learn's, and a small perceptron; kept as tensors, no pickles."""

from dataclasses import dataclass
from math import ceil
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from assay.harness.detection import State
from torch import Tensor

from .mlp import Training, fit_mlp, score_mlp

FLAT = 1e-4  # variance of standardised columns up to which scikit-learn refuses (newer releases) or warns (older ones)


class Classifier(Protocol):
    """Learns to tell wrong predictions by columns [N,K], float64; a small frozen class with its settings as fields."""

    VERSION: ClassVar[int]

    def fit(self, columns: Tensor, wrong: Tensor, seed: int) -> State:
        """What scoring needs; wrong: bool [N]."""

    def score(self, columns: Tensor, state: State) -> Tensor:
        """Float64 [N], higher = more likely wrong."""


@dataclass(frozen=True)
class NeuralNet:
    """A K-10-10-1 perceptron with dropout behind the second layer: `methods.error.mlp`, not scikit-learn's, which has
    no dropout.

    steps, batch_size: the paper's 3 epochs of CIFAR's 50,000 training images, 100 at a time, in steps, so that fewer
    images train it as long (its ImageNet-50: 250, ImageNet-100: 1150). Whole epochs are made. Inputs are scaled to mean
    0 and range 1.
    """

    steps: int = 1500
    batch_size: int = 100
    learning_rate: float = 1e-3
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(f"steps={self.steps}, batch_size={self.batch_size}: give at least 1 of each")

    def fit(self, columns: Tensor, wrong: Tensor, seed: int) -> State:
        """See `fit_mlp`."""
        epochs = max(1, round(self.steps / ceil(len(columns) / self.batch_size)))
        settings = Training((10, 10), (0.0, 0.5), epochs, self.batch_size, self.learning_rate)
        return fit_mlp(columns.float(), wrong, settings, seed)

    def score(self, columns: Tensor, state: State) -> Tensor:
        """Probability."""
        return score_mlp(columns.float(), state)


@dataclass(frozen=True)
class LinearDiscriminant:
    """Linear discriminant analysis with scikit-learn's defaults; the score is the log-odds."""

    VERSION: ClassVar[int] = 1

    def fit(self, columns: Tensor, wrong: Tensor, seed: int) -> State:
        """coef: [K]. intercept: []."""
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

        made = LinearDiscriminantAnalysis().fit(columns.numpy(), wrong.numpy())
        return {"coef": _double(made.coef_[0]), "intercept": _double(made.intercept_[0])}

    def score(self, columns: Tensor, state: State) -> Tensor:
        """Log-odds."""
        return columns.double() @ state["coef"] + state["intercept"]


@dataclass(frozen=True)
class QuadraticDiscriminant:
    """Quadratic discriminant analysis with scikit-learn's defaults; the score is the log-odds."""

    VERSION: ClassVar[int] = 1

    def fit(self, columns: Tensor, wrong: Tensor, seed: int) -> State:
        """shift, scale: [K]. Of right and wrong: means [2,K], whitening [2,K,K], offset [2].

        Columns are standardised first, which changes no odds: scikit-learn takes a column of small numbers for none.
        offset: log prior - half the log determinant.

        Raises:
            ValueError: right or wrong predictions have no spread of their own in a column, or in a sum of columns.
        """
        from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis

        values = columns.double()
        shift, scale = values.mean(0), values.std(0)
        standard = (values - shift) / scale
        for kind, of in (("wrong", wrong), ("right", ~wrong)):
            _check_spread(kind, values[of], standard[of])
        made = QuadraticDiscriminantAnalysis().fit(standard.numpy(), wrong.numpy())
        whitening = [turn / np.sqrt(spread) for turn, spread in zip(made.rotations_, made.scalings_, strict=True)]
        volume = np.array([np.log(spread).sum() for spread in made.scalings_])
        return {
            "shift": shift,
            "scale": scale,
            "means": _double(made.means_),
            "whitening": _double(np.stack(whitening)),
            "offset": _double(np.log(made.priors_) - volume / 2),
        }

    def score(self, columns: Tensor, state: State) -> Tensor:
        """Log-odds."""
        values = (columns.double() - state["shift"]) / state["scale"]
        apart = (values[None] - state["means"][:, None]) @ state["whitening"]  # [2,N,K]
        likely = state["offset"][:, None] - apart.square().sum(2) / 2
        return likely[1] - likely[0]


def _check_spread(kind: str, values: Tensor, standard: Tensor) -> None:
    """Raise ValueError where columns [n,K] of one kind of predictions have no covariance that can be inverted."""
    (count, width), mend = values.shape, "choose one covariance for both kinds, method=[unified_lda]"
    if count <= width:
        raise ValueError(
            f"{count} {kind} predictions: a covariance of {width} columns of their own needs {width + 1}: give more "
            f"training images (train.size), or {mend}"
        )
    if len(same := (values == values[0]).all(0).nonzero()):
        column = int(same[0])
        raise ValueError(
            f"column {column + 1} of {width} is {float(values[0, column]):g} for all {count} {kind} predictions, which "
            f"need a spread of their own: {mend}"
        )
    if float(torch.linalg.svdvals(standard - standard.mean(0))[-1] ** 2 / count) <= FLAT:
        raise ValueError(
            f"the {width} columns of the {count} {kind} predictions have next to no spread in one direction, a column "
            f"or a sum of columns: leave one of the scores out, or {mend}"
        )


@dataclass(frozen=True)
class RandomForest:
    """A random forest of scikit-learn; the score is the mean over trees of the share of wrong ones in the leaf.

    trees, depth: the paper's. random_state: the paper's code's 0; null: the run's seed.
    """

    trees: int = 100
    depth: int = 10
    random_state: int | None = 0
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.trees < 1 or self.depth < 1:
            raise ValueError(f"trees={self.trees}, depth={self.depth}: give at least 1 of each")

    def fit(self, columns: Tensor, wrong: Tensor, seed: int) -> State:
        """All nodes, tree behind tree, their roots at roots [T]: left, right, column, threshold, wrong."""
        from sklearn.ensemble import RandomForestClassifier

        seed = seed if self.random_state is None else self.random_state
        made = RandomForestClassifier(self.trees, max_depth=self.depth, random_state=seed)
        trees = [each.tree_ for each in made.fit(columns.numpy(), wrong.numpy()).estimators_]
        roots = np.cumsum([0, *(tree.node_count for tree in trees[:-1])])
        return {"roots": torch.from_numpy(roots)} | {
            name: torch.cat([_nodes(tree, int(root))[name] for tree, root in zip(trees, roots, strict=True)])
            for name in ("left", "right", "column", "threshold", "wrong")
        }

    def score(self, columns: Tensor, state: State) -> Tensor:
        """Mean share."""
        values = columns.float().double()  # scikit-learn compares float32 values
        rows = torch.arange(len(values))[:, None]
        at = state["roots"].expand(len(values), -1)  # [N,T]
        for _ in range(self.depth):
            goes_left = values[rows, state["column"][at]] <= state["threshold"][at]
            at = torch.where(goes_left, state["left"][at], state["right"][at])
        return state["wrong"][at].mean(1)


def _nodes(tree: Any, root: int) -> State:
    """A tree's nodes, which start at `root`; a leaf's children are itself."""
    own = np.arange(tree.node_count)
    leaf = tree.children_left < 0
    shares = tree.value[:, 0]  # [nodes,2]
    return {
        "left": torch.from_numpy(root + np.where(leaf, own, tree.children_left)),
        "right": torch.from_numpy(root + np.where(leaf, own, tree.children_right)),
        "column": torch.from_numpy(np.where(leaf, 0, tree.feature)),
        "threshold": _double(tree.threshold),
        "wrong": _double(shares[:, 1] / shares.sum(1)),
    }


def _double(values: Any) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float64, order="C"))
