"""ReAct."""

import math

import numpy as np
import pytest
import torch
from assay.harness.detection import LinearHead
from assay.methods.ood.logits import Energy
from assay.methods.ood.react import ReAct
from detection_toys import features_of, line_dice, logits_of, random_features, scores_of, training_of

HEAD = LinearHead(torch.tensor([[1.0, 0], [0, 2]]), torch.tensor([0.0, 1]))


def test_by_hand() -> None:
    """a = (3, 1/2) clipped at 1: z = (1, 2), energy -log(e + e^2)."""
    features = features_of(torch.tensor([[3, 0.5]]), HEAD)
    assert scores_of(ReAct(clip=1), features).item() == pytest.approx(-math.log(math.e + math.e**2), abs=1e-6)


def test_percentile_by_hand() -> None:
    """Activations 0 1 2 3 4 over two units: the 90th percentile lies at rank 0.9 * 5 of six values, 3.5."""
    training = training_of(features_of(torch.tensor([[0.0, 1], [2, 3], [4, 3]]), HEAD), size=1)
    state = ReAct(percentile=90).fit(training)
    assert state["clip"].item() == pytest.approx(3.5)


def test_percentile_is_numpys_over_all_activations() -> None:
    """np.percentile of the flattened training features; the score is that of the number; exact."""
    train, test = random_features(), random_features(seed=1)
    c = float(np.percentile(train.tap().numpy(), 80))
    assert torch.equal(scores_of(ReAct(percentile=80), test, training_of(train, 7)), scores_of(ReAct(clip=c), test))


@pytest.mark.parametrize("c", [1.0, 0.8])
def test_golden(c: float) -> None:
    """tests/golden/line_dice.npz; 1e-5."""
    features, arrays = line_dice()
    assert torch.allclose(-scores_of(ReAct(clip=c), features), arrays[f"react_c{c}"], atol=1e-5, rtol=0)


def test_pytorch_ood() -> None:
    """pytorch-ood 0.4, fitted to the 85th percentile and with a given threshold; float64, 1e-12."""
    oracle = pytest.importorskip("pytorch_ood.detector").ReAct
    train, test = random_features(), random_features(seed=1)
    fitted = oracle(None, test.linear_head(), percentile=0.85).fit_feature_maps(train.tap(), train.labels)
    ours = scores_of(ReAct(percentile=85), test, training_of(train))
    assert torch.allclose(ours, fitted.predict_feature_maps(test.tap()), atol=1e-12, rtol=0)
    given = oracle(None, test.linear_head(), threshold=0.7).predict_feature_maps(test.tap())
    assert torch.allclose(scores_of(ReAct(clip=0.7), test), given, atol=1e-12, rtol=0)


def test_clipping_nowhere_is_the_energy() -> None:
    """c above every activation; exact. A given number needs no training set, a percentile does."""
    features = random_features()
    assert torch.equal(scores_of(ReAct(clip=1e9), features), scores_of(Energy(), features))
    assert not ReAct(clip=1.0).needs().training
    assert ReAct().needs().training


def test_errors() -> None:
    """Of a setting, of a missing fit, and of a network without a linear head; each names what and why."""
    with pytest.raises(ValueError, match=r"percentile=101: a percentile lies between 0 and 100"):
        ReAct(percentile=101)
    with pytest.raises(ValueError, match=r"ReAct\(.*requires fit: its state has no clip \(it has nothing\)"):
        ReAct().score(random_features(), {})
    with pytest.raises(ValueError, match="does not end in a linear layer"):
        ReAct(clip=1.0).score(logits_of([1.0, 2]), {})
