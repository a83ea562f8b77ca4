"""fDBD."""

import math

import numpy as np
import pytest
import torch
from assay.harness.detection import LinearHead
from assay.methods.ood.fdbd import FDBD
from detection_toys import features_of, random_features, scores_of, training_of


def test_by_hand() -> None:
    """W = (1, 0; 0, 1; -1, 0), no bias: (3, 1) has logits 3, 1, -3, boundaries 2/sqrt 2 and 6/2 away. The training mean
    is (3, -3), a distance of 4: -(sqrt 2 + 3)/2/4; from zero sqrt 10."""
    head = LinearHead(torch.tensor([[1.0, 0], [0, 1], [-1, 0]]), torch.zeros(3))
    training = training_of(features_of(torch.tensor([[2.0, -3], [4, -3]]), head, torch.tensor([0, 0])), size=1)
    features = features_of(torch.tensor([[3.0, 1]]), head)
    near = (math.sqrt(2) + 3) / 2
    scores = [scores_of(FDBD(origin), features, training).item() for origin in ("mean", "zero")]
    assert scores == pytest.approx([-near / 4, -near / math.sqrt(10)], rel=1e-6)


def test_the_distance_is_that_to_the_boundary() -> None:
    """Each is the length of the step to the nearest point where both logits are equal: there they are, to 1e-10."""
    features = random_features()
    weight, _ = head = features.linear_head()
    difference = weight[0] - weight[1]
    gap = (features.logits[:, 0] - features.logits[:, 1]) / difference.norm()
    there = head(features.tap() - gap[:, None] * difference / difference.norm())
    assert torch.allclose(there[:, 0], there[:, 1], atol=1e-10)
    assert torch.allclose(FDBD().fit(training_of(features))["apart"][0, 1], difference.norm(), atol=1e-12)


@pytest.mark.parametrize("origin", ["mean", "zero"])
def test_openood(origin: str) -> None:
    """OpenOOD's formula in NumPy, a class and an image at a time, over C - 1 as in the paper; 1e-12."""
    train, test = random_features(), random_features(seed=1)
    weight, mean = test.linear_head().weight.numpy(), train.tap().numpy().mean(0) * (origin == "mean")
    expected = []
    for values, logits in zip(test.tap().numpy(), test.logits.numpy(), strict=True):
        p = logits.argmax()
        others = [c for c in range(len(logits)) if c != p]
        total = sum(abs(logits[c] - logits[p]) / np.linalg.norm(weight[c] - weight[p]) for c in others)
        expected.append(-total / len(others) / np.linalg.norm(values - mean))
    ours = scores_of(FDBD(origin), test, training_of(train, 7))  # type: ignore[arg-type]
    assert torch.allclose(ours, torch.tensor(expected), atol=1e-12)


def test_pytorch_ood() -> None:
    """pytorch-ood 0.4, which computes in float32; relative 1e-5."""
    oracle = pytest.importorskip("pytorch_ood.detector").fDBD
    train, test = random_features(dtype=torch.float32), random_features(seed=1, dtype=torch.float32)
    layer = torch.nn.Linear(12, 5)
    layer.weight.data, layer.bias.data = test.linear_head()
    theirs = oracle(None, layer).fit_features(train.tap()).predict_features(test.tap())
    assert torch.allclose(scores_of(FDBD(), test, training_of(train)).float(), theirs, rtol=1e-5, atol=1e-6)


def test_size_does_not_matter() -> None:
    """Ten times the features and the bias, about ten times the mean: the same scores, 1e-10."""
    train, test = random_features(), random_features(seed=1)
    weight, bias = test.linear_head()
    big = LinearHead(weight, 10 * bias)
    grown = [features_of(10 * each.tap(), big, each.labels) for each in (train, test)]
    expected = scores_of(FDBD(), test, training_of(train))
    assert torch.allclose(scores_of(FDBD(), grown[1], training_of(grown[0])), expected, atol=1e-10)


def test_errors() -> None:
    """Classes without a boundary, an unknown origin, no fit."""
    weight = torch.randn(3, 4).double()
    weight[2] = weight[1]
    features = features_of(torch.randn(9, 4).double(), LinearHead(weight, torch.zeros(3).double()), torch.arange(9) % 3)
    with pytest.raises(ValueError, match="classes 1 and 2 have the same weights"):
        FDBD().fit(training_of(features))
    with pytest.raises(ValueError, match="origin='median': choose one of mean, zero"):
        FDBD("median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="requires fit: its state has no apart, origin"):
        FDBD().score(features, {})
