"""Several detectors' scores as one: a small classifier on top (the conductance paper's unified classifiers)."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import torch
from assay.harness.detection import Detector, DetectorNeeds, Features, State, fitted
from assay.harness.training import FittedDetector, TrainingSet
from torch import Tensor

from .classifiers import Classifier

BEHIND = "/"  # between a member's name and the names in its state
TOP = "classifier"


@dataclass(frozen=True)
class Unified:
    """A classifier of right and wrong predictions on the scores of several detectors; its labels are the training
    images' errors.

    scores: detectors by name, each a column; the paper's are the label change rate and the conductance detector. They
    score from features and readings (none that looks at images again). folds: the column of a detector that is fitted
    comes from fits on the other folds' images, so that the classifier learns from scores as new images have them; each
    fold has its share of the errors. null: from the detector's own training images, the paper's scheme, which leaks:
    their scores are too sure.
    """

    classifier: Classifier
    scores: Mapping[str, Detector]
    folds: int | None = 5
    VERSION: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if len(self.scores) < 2 or any(not hasattr(each, "score") for each in self.scores.values()):
            raise ValueError(f"scores={list(self.scores)}: name at least two detectors")
        if looking := [name for name, each in self.scores.items() if each.needs().images]:
            raise ValueError(f"scores: {looking[0]} looks at images again; a unified detector joins those that do not")
        if TOP in self.scores or any(BEHIND in name for name in self.scores):
            raise ValueError(f"scores={list(self.scores)}: a name may not be {TOP!r} or have {BEHIND!r} in it")
        if self.folds is not None and self.folds < 2:
            raise ValueError(f"folds={self.folds}: give at least 2, or null for the paper's scheme")

    def needs(self) -> DetectorNeeds:
        """All that its detectors need, of training images too."""
        every = [each.needs() for each in self.scores.values()]
        return DetectorNeeds(
            any(needs.penultimate for needs in every),
            tuple(sorted({layer for needs in every for layer in needs.layers})),
            training=True,
            readings=tuple(dict.fromkeys(reading for needs in every for reading in needs.readings)),
        )

    def fit(self, training: TrainingSet) -> State:
        """States of the detectors and of the classifier, each under its name; n_train_errors: int64 [].

        Raises:
            ValueError: the training set has fewer wrong predictions, or right ones, than folds (or than two), or the
                classifier cannot learn from these columns.
        """
        known = training.part(np.flatnonzero(training.bank.labels.numpy() >= 0))
        wrong = known.bank.labels != known.bank.predicted
        self._check_kinds(int(wrong.sum()), int((~wrong).sum()))
        states = self._states(known)
        columns = self._columns(known.bank, states) if self.folds is None else self._held_out(known, wrong, self.folds)
        states[TOP] = self._classifier(columns, wrong, training.seed)
        return _joined(states) | {"n_train_errors": wrong.sum()}

    def score(self, features: Features, state: State) -> Tensor:
        """[N], as the classifier scores."""
        states: dict[str, State] = {name: {} for name in self.scores} | _apart(state)
        if TOP not in states:
            fitted(self, state, TOP)
        return self.classifier.score(self._columns(features, states), states[TOP])

    def _check_kinds(self, errors: int, right: int) -> None:
        least = self.folds or 2
        if min(errors, right) < least:
            raise ValueError(
                f"{errors} wrong and {right} right predictions among {errors + right} training images: a classifier "
                f"with folds={self.folds or 'null'} needs at least {least} of each; give more training images "
                "(train.size), those that the network was not trained on (dataset@train=NAME), or fewer folds"
            )

    def _classifier(self, columns: Tensor, wrong: Tensor, seed: int) -> State:
        try:
            return self.classifier.fit(columns, wrong, seed)
        except ValueError as error:
            names = ", ".join(f"{number} {name}" for number, name in enumerate(self.scores, 1))
            raise ValueError(f"{type(self.classifier).__name__} of the columns {names}: {error}") from error

    def _states(self, training: TrainingSet) -> dict[str, State]:
        return {
            name: cast(FittedDetector, each).fit(training) if each.needs().training else {}
            for name, each in self.scores.items()
        }

    def _columns(self, features: Features, states: Mapping[str, State]) -> Tensor:
        """Scores side by side, float64 [N,K]."""
        return torch.stack([each.score(features, states[name]).double() for name, each in self.scores.items()], 1)

    def _held_out(self, known: TrainingSet, wrong: Tensor, folds: int) -> Tensor:
        """The columns of each fold's images by detectors that are fitted on the others."""
        columns = torch.zeros(known.count, len(self.scores), dtype=torch.float64)
        for held in _dealt(wrong.numpy(), folds, known.seed):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # the fit on all images says it once
                states = self._states(known.part(np.setdiff1d(np.arange(known.count), held)))
            rows = torch.from_numpy(held)
            columns[rows] = self._columns(known.bank.rows(rows), states)
        return columns


def _dealt(wrong: np.ndarray, folds: int, seed: int) -> list[np.ndarray]:
    """Rows [N] of each fold, ascending: wrong ones and right ones in drawn orders are dealt like cards, one by one."""
    rng = np.random.default_rng([seed, len(wrong)])
    order = np.concatenate([rng.permutation(np.flatnonzero(kind)) for kind in (wrong, ~wrong)])
    return [np.sort(order[fold::folds]) for fold in range(folds)]


def _joined(states: Mapping[str, State]) -> State:
    """One state, each name led by its owner's."""
    return {f"{owner}{BEHIND}{name}": value for owner, state in states.items() for name, value in state.items()}


def _apart(state: State) -> dict[str, State]:
    """The states that `_joined` joined."""
    states: dict[str, State] = {}
    for name, value in state.items():
        owner, behind, rest = name.partition(BEHIND)
        if behind:
            states.setdefault(owner, {})[rest] = value
    return states
