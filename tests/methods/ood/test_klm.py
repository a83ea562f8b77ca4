"""KL matching."""

import math
from dataclasses import replace

import pytest
import torch
from assay.harness.detection import Features
from assay.methods.ood.klm import KLMatching
from detection_toys import logits_of, random_features, scores_of, training_of
from scipy.stats import entropy


def test_by_hand() -> None:
    """Predicted as 0: p = (3/4, 1/4) and (1/2 + 1/8, ...): typical (11/16, 5/16); class 1 is never predicted. For p =
    (1/2, 1/2): log(1/2) - (log 11/16 + log 5/16) / 2."""
    rows = [[math.log(3), 0.0], [math.log(5), math.log(3)]]
    training = training_of(logits_of(*rows), size=1)
    assert KLMatching().fit(training)["typical"].flatten().tolist() == pytest.approx([11 / 16, 5 / 16])
    expected = -math.log(2) - (math.log(11 / 16) + math.log(5 / 16)) / 2
    assert scores_of(KLMatching(), logits_of([1.0, 1.0]), training).item() == pytest.approx(expected, rel=1e-6)


def test_scipy() -> None:
    """scipy's relative entropy to each class' mean, the least of them; 1e-12."""
    train, test = random_features(200), random_features(seed=1)
    p, predicted = train.logits.softmax(1), train.predicted
    typical = [p[predicted == label].mean(0).numpy() for label in predicted.unique()]
    expected = [min(entropy(row.numpy(), each) for each in typical) for row in test.logits.softmax(1)]
    ours = scores_of(KLMatching(), test, training_of(train, 7))
    assert torch.allclose(ours, torch.tensor(expected), atol=1e-12)


def test_pytorch_ood() -> None:
    """pytorch-ood 0.4; float64, 1e-12."""
    oracle = pytest.importorskip("pytorch_ood.detector").KLMatching
    train, test = random_features(200), random_features(seed=1)
    theirs = oracle(None).fit_logits(train.logits, train.labels).predict_logits(test.logits)
    assert torch.allclose(scores_of(KLMatching(), test, training_of(train)), theirs, atol=1e-12)


def test_labels_are_not_read() -> None:
    """Rotated labels, and none: equal to the bit."""
    train, test = random_features(200), random_features(seed=1)
    others = [(train.labels + 1) % 5, torch.full((200,), -1)]
    scores = [
        scores_of(KLMatching(), test, training_of(replace(train, labels=each))) for each in (train.labels, *others)
    ]
    assert torch.equal(scores[0], scores[1])
    assert torch.equal(scores[0], scores[2])


def test_probabilities_of_zero() -> None:
    """Logits 2000 apart have a p of exactly 0: such a class adds nothing, and a score is finite where d_k is 0."""
    training = training_of(Features(torch.tensor([[2000.0, 0]]), torch.tensor([0])))
    same, other = (scores_of(KLMatching(), logits_of(row), training).item() for row in ([2000.0, 0], [0.0, 2000]))
    assert same == 0
    assert 1e300 < other < math.inf


def test_requires_fit() -> None:
    with pytest.raises(ValueError, match="requires fit: its state has no typical"):
        KLMatching().score(random_features(), {})
