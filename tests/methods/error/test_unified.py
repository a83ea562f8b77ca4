"""Several detectors as one: columns, folds, states; the classifier is `test_classifiers`'."""

import re
import warnings
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from assay.harness.detection import Detector, DetectorNeeds, Features, State
from assay.harness.training import TrainingSet
from assay.methods.error.classifiers import LinearDiscriminant, NeuralNet, QuadraticDiscriminant, RandomForest
from assay.methods.error.conductance import ErrorMLP
from assay.methods.error.label_change import LabelChangeRate
from assay.methods.error.mutants.reading import MutantPredictions
from assay.methods.error.unified import Unified, _dealt
from assay.methods.ood.logits import MSP
from detection_toys import random_features, training_of
from safetensors.torch import load, save
from sklearn.metrics import roc_auc_score
from torch import Tensor

MUTANTS, OTHERS = MutantPredictions(count=10), MutantPredictions(operator="GF", count=10)


@dataclass(frozen=True)
class Memory:
    """Scores 1 for images that it was fitted on, by their first logit, and 0 for others: what leaks, and shows it."""

    VERSION: ClassVar[int] = 1

    def needs(self) -> DetectorNeeds:
        return DetectorNeeds(training=True)

    def fit(self, training: TrainingSet) -> State:
        return {"seen": training.bank.logits[:, 0]}

    def score(self, features: Features, state: State) -> Tensor:
        return torch.isin(features.logits[:, 0], state["seen"]).double()


@dataclass(frozen=True)
class Columns:
    """A classifier that keeps what it is given, and scores the sum."""

    VERSION: ClassVar[int] = 1

    def fit(self, columns: Tensor, wrong: Tensor, seed: int) -> State:
        return {"columns": columns, "wrong": wrong, "seed": torch.tensor(seed)}

    def score(self, columns: Tensor, state: State) -> Tensor:
        return columns.sum(1)


@dataclass(frozen=True)
class Looking:
    """Looks at images."""

    VERSION: ClassVar[int] = 1

    def needs(self) -> DetectorNeeds:
        return DetectorNeeds(images=True)

    def score(self, features: Features, state: State) -> Tensor:
        raise NotImplementedError


def features(count: int = 200, seed: int = 0) -> Features:
    """Random features; mutants of two kinds change a fifth of predictions at random, twice as many of wrong ones."""
    made = random_features(count, seed=seed, dtype=torch.float32)
    draw = torch.Generator().manual_seed(seed)
    often = torch.where(made.labels == made.predicted, 0.2, 0.4)[:, None].expand(-1, 10)
    changed = {mutants: torch.bernoulli(often, generator=draw).long() for mutants in (MUTANTS, OTHERS)}
    votes = {mutants: (made.predicted[:, None] + each) % 5 for mutants, each in changed.items()}
    return replace(made, readings={mutants: each.to(torch.int16) for mutants, each in votes.items()})


def unified(folds: int | None = 5, **scores: Detector) -> Unified:
    return Unified(Columns(), scores or {"lcr": LabelChangeRate(MUTANTS), "memory": Memory()}, folds)


def test_the_paper_s_scheme_leaks_and_folds_do_not() -> None:
    """Scores of a detector's own training images in the paper's scheme (all seen); of other images in folds (none)."""
    of = training_of(features())
    assert unified(None).fit(of)["classifier/columns"][:, 1].tolist() == [1.0] * 200
    assert unified(5).fit(of)["classifier/columns"][:, 1].tolist() == [0.0] * 200


@pytest.mark.parametrize("folds", [None, 2, 7])
def test_rows_stay_with_their_images(folds: int | None) -> None:
    """What needs no fit is in its row whatever the folds, beside whether the prediction is wrong; new images' scores
    come from detectors that are fitted on all."""
    known = features()
    state = unified(folds).fit(training_of(known, size=64))
    rates = LabelChangeRate(MUTANTS).score(known, {})
    assert torch.equal(state["classifier/columns"][:, 0], rates)
    assert torch.equal(state["classifier/wrong"], known.labels != known.predicted)
    assert int(state["n_train_errors"]) == int((known.labels != known.predicted).sum())
    assert torch.equal(unified(folds).score(known, state), rates + 1)


def test_images_without_a_label_teach_nothing() -> None:
    known = features()
    hidden = replace(known, labels=torch.where(torch.arange(200) % 4 == 0, -1, known.labels))
    kept = known.rows(torch.arange(200) % 4 != 0)
    with_hidden, without = (unified(None).fit(training_of(each)) for each in (hidden, kept))
    assert torch.equal(with_hidden["classifier/columns"], without["classifier/columns"])


def test_folds_depend_on_the_seed_alone() -> None:
    """Not on how the training set is cut into parts."""

    def columns(size: int, seed: int) -> Tensor:
        scores: dict[str, Detector] = {"mlp": ErrorMLP(["logits"], epochs=1), "msp": MSP()}
        return fit(unified(3, **scores), training_of(features(), size, seed=seed))["classifier/columns"]

    assert torch.equal(columns(64, 0), columns(200, 0))
    assert not torch.equal(columns(200, 0), columns(200, 1))


def fit(detector: Unified, of: TrainingSet) -> State:
    """Without the warning about few errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return detector.fit(of)


def test_the_warning_about_few_errors_is_given_once() -> None:
    with pytest.warns(UserWarning, match="errors among 200 training images") as told:
        unified(5, mlp=ErrorMLP(["logits"], epochs=1), msp=MSP()).fit(training_of(features()))
    assert len(told) == 1


@pytest.mark.parametrize(
    "classifier",
    [NeuralNet(200, learning_rate=0.01), RandomForest(), LinearDiscriminant(), QuadraticDiscriminant()],
    ids=lambda each: type(each).__name__,
)
def test_both_are_better_than_each(classifier: Any) -> None:
    """On new images the joint score of two independent rates has a higher AUROC than each by .03 at least; states
    survive a safetensors file."""
    detector = Unified(classifier, {"nai": LabelChangeRate(MUTANTS), "gf": LabelChangeRate(OTHERS)})
    state = load(save(detector.fit(training_of(features(2000)))))
    fresh = features(2000, seed=1)
    wrong = fresh.labels != fresh.predicted
    both = roc_auc_score(wrong, detector.score(fresh, state))
    assert all(both > 0.03 + roc_auc_score(wrong, each.score(fresh, {})) for each in detector.scores.values())


def test_needs_are_those_of_all() -> None:
    needs = unified(mlp=ErrorMLP(), lcr=LabelChangeRate(MUTANTS)).needs()
    assert needs == DetectorNeeds(penultimate=True, training=True, readings=(MUTANTS,))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: unified(lcr=LabelChangeRate(MUTANTS)), "scores=['lcr']: name at least two"),
        (lambda: unified(lcr=LabelChangeRate(MUTANTS), odin=Looking()), "odin looks at images again"),
        (lambda: unified(classifier=MSP(), msp=MSP()), "may not be 'classifier'"),
        (lambda: unified(1), "folds=1"),
    ],
)
def test_settings_are_checked(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        make()


def test_without_errors_there_is_nothing_to_learn() -> None:
    known = features()
    with pytest.raises(ValueError, match="0 wrong and 200 right predictions among 200 training images"):
        unified().fit(training_of(replace(known, labels=known.predicted)))


def test_a_column_that_a_classifier_refuses_has_its_name() -> None:
    """No mutant changes a prediction: the first column is 0."""
    known = features()
    still = replace(known, readings={MUTANTS: known.predicted[:, None].expand(-1, 10).to(torch.int16)})
    detector = Unified(QuadraticDiscriminant(), {"lcr": LabelChangeRate(MUTANTS), "msp": MSP()})
    with pytest.raises(ValueError, match="of the columns 1 lcr, 2 msp: column 1 of 2 is 0 for all"):
        detector.fit(training_of(still))


@pytest.mark.parametrize(("folds", "least"), [(5, 5), (2, 2), (None, 2)])
def test_fewer_errors_than_folds_are_refused(folds: int | None, least: int) -> None:
    """As many are enough: each fold then has one, and none is fitted without."""
    known = features()
    for errors in (least - 1, least):
        first = torch.arange(200) < errors
        given = training_of(replace(known, labels=torch.where(first, (known.predicted + 1) % 5, known.predicted)))
        if errors < least:
            says = f"{errors} wrong and {200 - errors} right predictions among 200 training images: .* at least {least}"
            with pytest.raises(ValueError, match=says):
                unified(folds).fit(given)
        else:
            assert int(unified(folds).fit(given)["n_train_errors"]) == errors


@pytest.mark.parametrize("errors", [5, 12, 33])
def test_folds_share_errors_and_images(errors: int) -> None:
    """Of 101 images in 5 folds: all images once; errors and sizes differ by one at most; another seed, other folds."""
    wrong = np.arange(101) < errors
    dealt = _dealt(wrong, 5, 0)
    assert sorted(np.concatenate(dealt).tolist()) == list(range(101))
    for counts in ([int(wrong[rows].sum()) for rows in dealt], [len(rows) for rows in dealt]):
        assert max(counts) - min(counts) <= 1
    assert all(map(np.array_equal, dealt, _dealt(wrong, 5, 0)))
    assert not any(map(np.array_equal, dealt, _dealt(wrong, 5, 1)))


def test_not_fitted() -> None:
    with pytest.raises(ValueError, match="requires fit: its state has no classifier"):
        unified().score(features(), {})
