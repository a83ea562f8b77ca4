"""Label change rates from predictions of mutants that are written down."""

import math
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from assay.harness.detection import Features
from assay.methods.error.label_change import LabelChangeRate, WangTest
from assay.methods.error.mutants.reading import MutantPredictions
from assay.methods.error.mutants.sequential import Sprt
from detection_toys import training_of
from torch import Tensor

MUTANTS = MutantPredictions(count=4)
STOP = Sprt(0.1, 0.6, 0.2, 0.2)
STOPPED = MutantPredictions(count=4, stop=STOP)


def features(votes: list[list[int]], predicted: list[int], labels: list[int] | None = None) -> Features:
    """Images that the network predicts so, and its mutants so."""
    logits = torch.nn.functional.one_hot(torch.tensor(predicted), 3).float()
    known = torch.full((len(predicted),), -1) if labels is None else torch.tensor(labels)
    return Features(logits, known, readings={MUTANTS: torch.tensor(votes, dtype=torch.int16)})


VOTES = [[0, 0, 0, 0], [1, 0, 2, 1], [2, 2, 1, 0]]


def test_rate_by_hand() -> None:
    """Predicted 0, 1, 2: none, two and two of four predict another class."""
    detector = LabelChangeRate(MUTANTS)
    assert detector.score(features(VOTES, [0, 1, 2]), {}).tolist() == [0, 0.5, 0.5]
    assert not detector.needs().training
    assert detector.needs().readings == (MUTANTS,)


@pytest.mark.parametrize(
    ("first", "rates"), [(1, [0, 0, 0]), (2, [0, 0.5, 0]), (3, [0, 2 / 3, 1 / 3]), (4, [0, 0.5, 0.5])]
)
def test_rate_of_the_first_mutants(first: int, rates: list[float]) -> None:
    """Any prefix of the same predictions."""
    scores = LabelChangeRate(MUTANTS, first).score(features(VOTES, [0, 1, 2]), {})
    assert torch.allclose(scores, torch.tensor(rates, dtype=torch.float64))


def test_mutants_that_were_not_asked_do_not_count() -> None:
    """One of two asked."""
    assert LabelChangeRate(MUTANTS).score(features([[0, 1, -1, -1]], [0]), {}).tolist() == [0.5]


def test_stopped_mutants_are_scored_by_their_own_test() -> None:
    """A change adds log 6, none log(4/9); from log 4 or log(1/4) on the test has ended. The score is that of all votes,
    and nothing is fitted."""
    detector = LabelChangeRate(STOPPED, test=STOP)
    assert not detector.needs().training
    given = features([[1, -1, -1, -1], [0, 0, -1, -1]], [0, 0])
    given = replace(given, readings={STOPPED: given.readings[MUTANTS]})
    assert detector.score(given, {}).tolist() == pytest.approx([math.log(6), 2 * math.log(4 / 9)])
    assert detector.details(given, {})["asked"].tolist() == [1, 2]
    whole = features([[1, 0, 0, 1], [0, 0, 1, 1]], [0, 0])
    assert torch.equal(LabelChangeRate(MUTANTS, test=STOP).score(whole, {}), detector.score(given, {}))


def test_details_by_hand() -> None:
    """Which mutants changed the prediction, in their order."""
    found = LabelChangeRate(MUTANTS).changed(features([[1, 0, 2, -1]], [1]))
    assert found.dtype == torch.int8
    assert found.tolist() == [[0, 1, 1, -1]]
    assert list(LabelChangeRate(MUTANTS).details(features([[1, 0, 2, -1]], [1]), {})) == ["changed"]


def training(rates: list[int]) -> Features:
    """Right predictions of class 0, of whose four mutants so many predict another; and a wrong one with all changed."""
    votes = [[1] * count + [0] * (4 - count) for count in rates]
    return features([*votes, [1, 1, 1, 1]], [0] * (len(rates) + 1), [0] * len(rates) + [2])


def test_wang_s_threshold_by_hand() -> None:
    """Rates .25, .25, 0, 0 of right predictions: mean .125, standard deviation .1443, bound .125 + 2.326 * .0722."""
    detector = LabelChangeRate(MUTANTS, test=WangTest(mu=1.0, delta=0.2))
    assert detector.needs().training
    state = detector.fit(training_of(training([1, 1, 0, 0])))
    bound = 0.125 + 2.326 * 0.14433756729740643 / 2
    assert float(state["right_rate"]) == pytest.approx(bound, rel=1e-9)
    test = WangTest(mu=1.0, delta=0.2).at(bound)
    assert [test.right, test.wrong] == pytest.approx([0.8 * bound, 1.2 * bound])


def test_wang_s_score_orders_by_changes() -> None:
    """More changes, a higher ratio; asked in the mutants' order until the test ends."""
    detector = LabelChangeRate(MUTANTS, test=WangTest(mu=1.0, delta=0.5, alpha=0.2, beta=0.2))
    state = detector.fit(training_of(training([1, 1, 0, 0])))
    images = features([[0, 0, 0, 0], [0, 0, 0, 1], [1, 1, 1, 1]], [0, 0, 0])
    scores = detector.score(images, state)
    assert scores.tolist() == sorted(scores)
    assert len(set(scores.tolist())) == 3
    assert int(detector.details(images, state)["asked"][2]) < 4
    with pytest.raises(ValueError, match="requires fit"):
        detector.score(images, {})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LabelChangeRate(MUTANTS, first=5), "first=5: there are 1 to 4 mutants"),
        (lambda: LabelChangeRate(MUTANTS, first=0), "first=0"),
        (lambda: LabelChangeRate(STOPPED), "test=None: mutants that a test stops are scored by that test"),
        (lambda: LabelChangeRate(STOPPED, test=WangTest()), "test=WangTest(mu=1.5"),
        (lambda: LabelChangeRate(STOPPED, test=Sprt(0.1, 0.5)), "method.lcr.test=${method.lcr.mutants.stop}"),
        (lambda: WangTest(mu=0.5), "mu=0.5"),
        (lambda: WangTest(delta=1.0), "delta=1"),
        (lambda: WangTest().at(0.0), "right predictions change at a rate of 0"),
        (lambda: WangTest(mu=2.0).at(0.5), "right predictions change at a rate of 0.5"),
        (lambda: MutantPredictions(count=0), "count=0"),
        (lambda: MutantPredictions(count=10, tries=5), "tries=5"),
        (lambda: MutantPredictions(operator="XY"), "operator='XY'"),  # type: ignore[arg-type]
        (lambda: MutantPredictions(keep=2.0), "keep=2"),
    ],
)  # fmt: skip
def test_settings_are_checked(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        make()


def test_too_few_right_predictions_for_a_mean() -> None:
    detector = LabelChangeRate(MUTANTS, test=WangTest())
    with pytest.raises(ValueError, match="1 right predictions"):
        detector.fit(training_of(training([1])))


def test_of_another_kind() -> None:
    """Votes are int16 and sums are not."""
    many: Tensor = torch.ones(1, 4, dtype=torch.int16)
    assert LabelChangeRate(MUTANTS).score(features(many.tolist(), [0]), {}).dtype == torch.float64
