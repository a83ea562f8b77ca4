"""NCI."""

import numpy as np
import pytest
import torch
from assay.harness.detection import LinearHead
from assay.methods.ood.nci import NCI
from detection_toys import features_of, random_features, scores_of, training_of


def test_by_hand() -> None:
    """W = (2, 0; 0, 1), mean (1, 1): (4, -3) is of class 0, centred (3, -4) of length 5: 6/5, and |a|_1 = 7."""
    head = LinearHead(torch.tensor([[2.0, 0], [0, 1]]), torch.zeros(2))
    training = training_of(features_of(torch.tensor([[0.0, 3], [2, -1]]), head, torch.tensor([0, 1])), size=1)
    features = features_of(torch.tensor([[4.0, -3]]), head)
    scores = [scores_of(NCI(alpha), features, training).item() for alpha in (0, 0.5)]
    assert scores == pytest.approx([-6 / 5, -6 / 5 - 3.5], rel=1e-6)


def test_openood() -> None:
    """OpenOOD's formula in NumPy, an image at a time; 1e-12."""
    train, test = random_features(), random_features(seed=1)
    weight, mean = test.linear_head().weight.numpy(), train.tap().numpy().mean(0)
    expected = [
        -(weight[p] @ (value - mean)) / np.linalg.norm(value - mean) - 0.01 * np.abs(value).sum()
        for value, p in zip(test.tap().numpy(), test.predicted.tolist(), strict=True)
    ]
    assert torch.allclose(scores_of(NCI(0.01), test, training_of(train, 7)), torch.tensor(expected), atol=1e-12)


def test_pytorch_ood() -> None:
    """pytorch-ood 0.4, which computes in float32; 1e-5."""
    oracle = pytest.importorskip("pytorch_ood.detector").NCI
    train, test = random_features(dtype=torch.float32), random_features(seed=1, dtype=torch.float32)
    layer = torch.nn.Linear(12, 5)
    layer.weight.data, layer.bias.data = test.linear_head()
    theirs = oracle(None, layer, 0.01).fit_features(train.tap()).predict_features(test.tap())
    assert torch.allclose(scores_of(NCI(0.01), test, training_of(train)).float(), theirs, atol=1e-5)


def test_features_that_collapsed_have_the_weights_length() -> None:
    """Features at the mean plus a multiple of their class' weights: minus |w_p| whatever the multiple; 1e-12."""
    weight = torch.randn(5, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    head = LinearHead(weight, torch.zeros(5).double())
    training = training_of(features_of(torch.stack([weight[0], -weight[0]]), head, torch.tensor([0, 1])))
    features = features_of(torch.cat([weight, 7 * weight]), head)
    assert torch.equal(features.predicted, torch.arange(5).repeat(2))
    assert torch.allclose(scores_of(NCI(0), features, training), -weight.norm(dim=1).repeat(2), atol=1e-12)


def test_errors() -> None:
    with pytest.raises(ValueError, match="alpha=-1: choose 0 or a number above"):
        NCI(-1)
    with pytest.raises(ValueError, match="requires fit: its state has no mean"):
        NCI().score(random_features(), {})
