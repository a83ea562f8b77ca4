"""Relative Mahalanobis distance."""

import numpy as np
import pytest
import torch
from assay.harness.detection import LinearHead
from assay.methods.ood.rmd import RMD
from detection_toys import features_of, random_features, scores_of, training_of
from sklearn.covariance import EmpiricalCovariance


def test_by_hand() -> None:
    """Classes at (-2, 2) +- 1 in each, (2, 0) likewise: tied covariance 1 in each, mean (0, 1), covariance of all
    (1 + 4, 1 + 1) and -2 between. For (3, 0): nearest class 1; inverse of (5, -2; -2, 2) is (2, 2; 2, 5) / 6, (3, -1):
    (18 - 12 + 5) / 6 = 11/6."""
    corners = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    values = torch.cat([corners + torch.tensor([-2.0, 2]), corners + torch.tensor([2.0, 0])])
    head = LinearHead(torch.eye(2), torch.zeros(2))
    training = training_of(features_of(values, head, torch.arange(8) // 4), size=3)
    features = features_of(torch.tensor([[3.0, 0]]), head)
    assert scores_of(RMD(), features, training).item() == pytest.approx(1 - 11 / 6, rel=1e-6)


def test_openood() -> None:
    """OpenOOD's formula in float64 with scikit-learn's covariances of the rows themselves; relative 1e-9."""
    train, test = random_features(200), random_features(seed=1)
    rows, labels = train.tap().numpy(), train.labels.numpy()
    means = [rows[labels == label].mean(0) for label in range(5)]
    tied = EmpiricalCovariance().fit(rows - np.stack(means)[labels]).precision_
    whole = EmpiricalCovariance().fit(rows - rows.mean(0)).precision_
    expected = []
    for value in test.tap().numpy():
        background = (value - rows.mean(0)) @ whole @ (value - rows.mean(0))
        expected.append(min((value - mean) @ tied @ (value - mean) - background for mean in means))
    assert torch.allclose(scores_of(RMD(), test, training_of(train, 7)), torch.tensor(expected), rtol=1e-9, atol=1e-9)


def test_pytorch_ood() -> None:
    """pytorch-ood 0.4: covariances are sums over the images (ours over their number) plus 1e-6, in float32; 1e-5."""
    oracle = pytest.importorskip("pytorch_ood.detector").RMD
    train, test = random_features(200, dtype=torch.float32), random_features(seed=1, dtype=torch.float32)
    theirs = 200 * oracle(None).fit_features(train.tap(), train.labels).predict_features(test.tap())
    ours = scores_of(RMD(), test, training_of(train)).float()
    assert (ours - theirs).abs().max() < 1e-5 * ours.abs().max()


def test_linear_maps_do_not_matter() -> None:
    """Features stretched and turned, and moved: the same scores; 1e-8. So are classes under other names."""
    train, test = random_features(200), random_features(seed=1)
    turn = torch.randn(12, 12, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    moved = [features_of(each.tap() @ turn + 3, each.linear_head(), each.labels) for each in (train, test)]
    renamed = features_of(train.tap(), train.linear_head(), (train.labels + 1) % 5)
    expected = scores_of(RMD(), test, training_of(train))
    assert torch.allclose(scores_of(RMD(), moved[1], training_of(moved[0])), expected, atol=1e-8)
    assert torch.allclose(scores_of(RMD(), test, training_of(renamed)), expected, atol=1e-10)


def test_errors() -> None:
    train = random_features(5)
    with pytest.raises(ValueError, match="no class has two training images"):
        RMD().fit(training_of(train))
    with pytest.raises(ValueError, match="requires fit: its state has no means, precision, mean, whole"):
        RMD().score(train, {})
