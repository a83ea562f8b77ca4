"""Classifiers kept as tensors against scikit-learn's own answers."""

import re

import pytest
import torch
from assay.methods.error.classifiers import (
    Classifier,
    LinearDiscriminant,
    NeuralNet,
    QuadraticDiscriminant,
    RandomForest,
)
from assay.methods.error.mlp import Training, fit_mlp
from safetensors.torch import load, save
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from torch import Tensor

EVERY: list[Classifier] = [
    LinearDiscriminant(),
    QuadraticDiscriminant(),
    RandomForest(20),
    NeuralNet(steps=25, learning_rate=0.01),
]
NAMES = [type(each).__name__ for each in EVERY]


def problem(count: int = 500, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A rate in steps of 1/40 and a score, float64 [N,2]; a fifth is wrong, and has more of both."""
    draw = torch.Generator().manual_seed(seed)
    wrong = torch.rand(count, generator=draw) < 0.2
    rate = torch.binomial(torch.full((count,), 40.0), torch.where(wrong, 0.4, 0.1), generator=draw) / 40
    score = (torch.randn(count, generator=draw) + wrong).sigmoid()
    return torch.stack([rate, score], 1).double(), wrong


@pytest.mark.parametrize("classifier", EVERY, ids=NAMES)
def test_it_finds_wrong_ones_and_its_state_is_tensors(classifier: Classifier) -> None:
    """AUROC of .9 on new images (each column has .76 to .93 of its own); after a safetensors file the same scores."""
    state = classifier.fit(*problem(), 0)
    columns, wrong = problem(seed=1)
    scores = classifier.score(columns, state)
    assert scores.dtype == torch.float64
    assert roc_auc_score(wrong, scores) > 0.9
    assert torch.equal(classifier.score(columns, load(save(state))), scores)
    assert all(
        torch.equal(value, again)
        for value, again in zip(state.values(), classifier.fit(*problem(), 0).values(), strict=True)
    )


def test_linear_discriminant_equals_sklearn() -> None:
    """To 1e-12 of its log-odds."""
    columns, wrong = problem()
    oracle = LinearDiscriminantAnalysis().fit(columns.numpy(), wrong.numpy())
    fresh, _ = problem(seed=1)
    found = LinearDiscriminant().score(fresh, LinearDiscriminant().fit(columns, wrong, 0))
    assert torch.allclose(found, torch.from_numpy(oracle.decision_function(fresh.numpy())), rtol=1e-12, atol=1e-12)


def test_quadratic_discriminant_equals_sklearn() -> None:
    """To 1e-10 of its log-odds; also with a column of small numbers, which scikit-learn by itself refuses."""
    columns, wrong = problem()
    oracle = QuadraticDiscriminantAnalysis().fit(columns.numpy(), wrong.numpy())
    fresh, _ = problem(seed=1)
    found = QuadraticDiscriminant().score(fresh, QuadraticDiscriminant().fit(columns, wrong, 0))
    assert torch.allclose(found, torch.from_numpy(oracle.decision_function(fresh.numpy())), rtol=1e-10, atol=1e-10)
    small = torch.tensor([1.0, 1e-7], dtype=torch.float64)
    again = QuadraticDiscriminant().score(fresh * small, QuadraticDiscriminant().fit(columns * small, wrong, 0))
    assert torch.allclose(again, found, rtol=1e-6, atol=1e-6)


def flat(kind: str) -> tuple[Tensor, Tensor]:
    """`problem` with columns that have no covariance of wrong ones, of right ones, or of either."""
    columns, wrong = problem()
    rate, score = columns.unbind(1)
    made = {
        "constant": (rate, torch.full_like(score, 0.5)),
        "wrong": (rate, torch.where(wrong, 0.5, score)),
        "right": (torch.where(wrong, rate, 0.0), score),
        "collinear": (rate, 2 * rate + 1),
        "nearly": (rate, torch.where(wrong, rate + 1e-6 * score, score)),
    }
    return torch.stack(made[kind], 1), wrong


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("constant", "column 2 of 2 is 0.5 for all {wrong} wrong predictions"),
        ("wrong", "column 2 of 2 is 0.5 for all {wrong} wrong predictions"),
        ("right", "column 1 of 2 is 0 for all {right} right predictions"),
        ("collinear", "the 2 columns of the {wrong} wrong predictions have next to no spread in one direction"),
        ("nearly", "the 2 columns of the {wrong} wrong predictions have next to no spread in one direction"),
    ],
)
def test_columns_without_a_covariance_are_refused(kind: str, says: str) -> None:
    """By column, number and mend; the linear discriminant, the mend, takes them all."""
    columns, wrong = flat(kind)
    words = says.format(wrong=int(wrong.sum()), right=int((~wrong).sum()))
    with pytest.raises(ValueError, match=rf"{re.escape(words)}.*method=\[unified_lda\]"):
        QuadraticDiscriminant().fit(columns, wrong, 0)
    assert bool(LinearDiscriminant().score(columns, LinearDiscriminant().fit(columns, wrong, 0)).isfinite().all())


@pytest.mark.parametrize("errors", [1, 2, 3])
def test_errors_that_a_covariance_needs(errors: int) -> None:
    """Three of two columns."""
    columns, _ = problem()
    wrong = torch.arange(500) < errors
    if errors < 3:
        with pytest.raises(ValueError, match=f"{errors} wrong predictions: a covariance of 2 columns .* needs 3"):
            QuadraticDiscriminant().fit(columns, wrong, 0)
    else:
        QuadraticDiscriminant().fit(columns, wrong, 0)


@pytest.mark.parametrize("depth", [1, 3, 10])
def test_random_forest_equals_sklearn(depth: int) -> None:
    """To 1e-12 of its probability, also where values tie with thresholds: the training columns themselves."""
    columns, wrong = problem()
    oracle = RandomForestClassifier(20, max_depth=depth, random_state=0).fit(columns.numpy(), wrong.numpy())
    forest = RandomForest(20, depth)
    state = forest.fit(columns, wrong, 5)
    for values in (columns, problem(seed=1)[0]):
        expected = torch.from_numpy(oracle.predict_proba(values.numpy())[:, 1])
        assert torch.allclose(forest.score(values, state), expected, rtol=0, atol=1e-12)


def test_random_state() -> None:
    """0 whatever the run's seed, unless left to it."""
    columns, wrong = problem()
    fixed, free = RandomForest(5), RandomForest(5, random_state=None)
    scores = [each.score(columns, each.fit(columns, wrong, seed)) for each in (fixed, free) for seed in (0, 1)]
    assert torch.equal(scores[0], scores[1])
    assert torch.equal(scores[0], scores[2])
    assert not torch.equal(scores[2], scores[3])


def test_the_neural_net_s_shape() -> None:
    """2-10-10-1."""
    state = NeuralNet(steps=1).fit(*problem(), 0)
    assert [tuple(state[f"weight{number}"].shape) for number in range(3)] == [(10, 2), (10, 10), (1, 10)]


def test_as_many_steps_whatever_the_images() -> None:
    """100 steps are 20 epochs of 500 images and 50 of 200, in batches of 100: what these give."""
    for count, epochs in ((500, 20), (200, 50)):
        columns, wrong = problem(count)
        expected = fit_mlp(columns.float(), wrong, Training((10, 10), (0.0, 0.5), epochs, 100), 0)
        assert torch.equal(NeuralNet(steps=100).fit(columns, wrong, 0)["weight2"], expected["weight2"])
