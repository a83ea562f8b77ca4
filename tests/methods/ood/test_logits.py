"""MSP, max-logit, entropy, margin, energy, GEN.

Tolerances are absolute: 1e-6 where a float32 result is compared with arithmetic, 1e-5 against the golden file.
"""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from assay.harness.detection import Detector, Features
from assay.methods.ood.logits import GEN, MSP, Energy, Entropy, Margin, MaxLogit
from detection_toys import line_dice, logits_of, random_features, scores_of
from sklearn.metrics import roc_auc_score

# p = (1/2, 1/4, 1/4); (4/7, 2/7, 1/7); uniform
TOY = logits_of([math.log(2), 0, 0], [math.log(4), math.log(2), 0], [1, 1, 1])


# By hand


@pytest.mark.parametrize(
    ("detector", "expected"),
    [
        (MSP(), [math.log(1 / 2), math.log(3 / 7), math.log(2 / 3)]),
        (MSP("probability"), [-1 / 2, -4 / 7, -1 / 3]),
        (MaxLogit(), [-math.log(2), -math.log(4), -1]),
        (Entropy(), [1.5 * math.log(2), math.log(7) - 10 / 7 * math.log(2), math.log(3)]),
        (Margin(), [-1 / 4, -2 / 7, 0]),
        (Energy(), [-math.log(4), -math.log(7), -1 - math.log(3)]),
        (GEN(0.5, 2), [1 / 2 + math.sqrt(3) / 4, math.sqrt(12) / 7 + math.sqrt(10) / 7, 2 * math.sqrt(2) / 3]),
        (GEN(0.5), [1 / 2 + math.sqrt(3) / 2, (math.sqrt(12) + math.sqrt(10) + math.sqrt(6)) / 7, math.sqrt(2)]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_by_hand(detector: Detector, expected: list[float]) -> None:
    """p = (1/2, 1/4, 1/4) of logits (log 2, 0, 0), and two more; GEN with gamma 1/2 is a sum of sqrt(p (1 - p))."""
    assert scores_of(detector, TOY).tolist() == pytest.approx(expected, abs=1e-6)


def test_sigmoid_by_hand() -> None:
    """Logits (log 3, 0) are probabilities 3/4 and 1/2 of classes that do not exclude each other; the energy reads
    the logits as before."""
    toy = logits_of([math.log(3), 0], sigmoid=True)
    assert scores_of(MSP(), toy).item() == pytest.approx(math.log(1 / 4), abs=1e-6)
    assert scores_of(MSP("probability"), toy).item() == pytest.approx(-3 / 4, abs=1e-6)
    assert scores_of(Margin(), toy).item() == pytest.approx(-1 / 4, abs=1e-6)
    each = 2 * math.log(2) - 3 / 4 * math.log(3), math.log(2)
    assert scores_of(Entropy(), toy).item() == pytest.approx(sum(each), abs=1e-6)
    assert scores_of(GEN(0.5), toy).item() == pytest.approx(math.sqrt(3) / 4 + 1 / 2, abs=1e-6)
    assert scores_of(Energy(), toy).item() == pytest.approx(-math.log(4), abs=1e-6)


# Against the authors' code and pytorch-ood


@pytest.mark.parametrize(("detector", "name"), [(MSP("probability"), "msp"), (Energy(), "energy")])
def test_golden(detector: Detector, name: str) -> None:
    """tests/golden/line_dice.npz, whose scores are higher for ID; 1e-5."""
    features, arrays = line_dice()
    assert torch.allclose(-scores_of(detector, features), arrays[name], atol=1e-5, rtol=0)


def test_pytorch_ood() -> None:
    """pytorch-ood 0.4: MSP, max-logit and energy to 1e-12 in float64. It clips probabilities at 1e-7, which moves the
    entropy by less than 1e-5; its GEN is the mean over the top M, and ours the sum, equal without tiny p."""
    ours = pytest.importorskip("pytorch_ood.detector")
    features = random_features()
    pairs = [(MSP("probability"), ours.MaxSoftmax), (MaxLogit(), ours.MaxLogit), (Energy(), ours.EnergyBased)]
    for detector, oracle in pairs:
        assert torch.allclose(scores_of(detector, features), oracle.score(features.logits), atol=1e-12, rtol=0)
    assert torch.allclose(scores_of(Entropy(), features), ours.Entropy.score(features.logits), atol=1e-5, rtol=0)
    gentle = Features(features.logits / 2, features.labels)
    for top, gamma in [(2, 0.1), (5, 0.1), (5, 0.5), (3, 2), (5, 10)]:
        expected = top * ours.GEN.score(gentle.logits, gamma, top)
        assert torch.allclose(scores_of(GEN(gamma, top), gentle), expected, atol=1e-12, rtol=0)


# Invariants


@pytest.mark.parametrize("sigmoid", [False, True])
def test_saturated_predictions_keep_their_order(sigmoid: bool) -> None:
    """Logits (z, 0, 0) of 50 to 60 in distribution and 30 to 40 outside: log(1 - p) = log 2 - z (sigmoid: -z) to 1e-12
    relative, scikit-learn's AUROC 1. In float32 every p is 1: .5."""
    inside, outside = (
        torch.stack([z, 0 * z, 0 * z], 1) for z in (torch.linspace(50, 60, 40), torch.linspace(30, 40, 40))
    )
    labels, logits = torch.arange(80) // 40, torch.cat([inside, outside])
    features = Features(logits, torch.full((80,), -1), sigmoid=sigmoid)
    scores = scores_of(MSP(), features)
    expected = (0 if sigmoid else math.log(2)) - logits[:, 0].double()
    assert torch.allclose(scores, expected, rtol=1e-12, atol=0)
    assert roc_auc_score(labels, scores) == 1
    assert roc_auc_score(labels, scores_of(MSP("probability"), features)) == 0.5


def test_the_exact_form_orders_as_the_probability_does() -> None:
    """log(1 - p) of p in float64, of 60 rows that do not saturate; 1e-12."""
    features = random_features()
    for each in (features, replace(features, sigmoid=True)):
        assert torch.allclose(scores_of(MSP(), each), (1 - each.probabilities.amax(1)).log(), atol=1e-12, rtol=0)


def test_gen_of_sure_predictions_is_not_rounded() -> None:
    """Logits (z, 0): 2 (p (1 - p))^0.1 with 1 - p = e^-z to 1e-6; in float32, p would be 1 from z = 17 on."""
    scores = scores_of(GEN(), logits_of([18.0, 0], [20, 0], [24, 0]))
    assert scores.tolist() == pytest.approx([2 * math.exp(-z / 10) for z in (18, 20, 24)], rel=1e-6)


def test_more_classes_than_there_are() -> None:
    """GEN's top=100 of five classes is all of them, exactly."""
    features = random_features()
    assert torch.equal(scores_of(GEN(top=100), features), scores_of(GEN(top=5), features))


@pytest.mark.parametrize(("settings", "message"), [({"gamma": 0}, "gamma=0"), ({"top": 0}, "top=0")])
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GEN(**settings)
    with pytest.raises(ValueError, match="form='softmax': choose one of exact, probability"):
        MSP("softmax")  # type: ignore[arg-type]
