"""ASH-S."""

import math

import pytest
import torch
from assay.harness.detection import LinearHead
from assay.methods.ood.ash import ASH, shaped
from assay.methods.ood.logits import Energy
from detection_toys import features_of, random_features, scores_of


def test_by_hand() -> None:
    """p=50 of (1, 3, 4, 0): (0, 3, 4, 0) exp(8/7); W sums them, and twice the last but one."""
    values = torch.tensor([[1.0, 3, 4, 0]])
    scale = math.exp(8 / 7)
    assert shaped(values, 50)[0].tolist() == pytest.approx([0, 3 * scale, 4 * scale, 0], rel=1e-6)
    features = features_of(values, LinearHead(torch.tensor([[1.0, 1, 1, 1], [0, 0, 2, 0]]), torch.tensor([0.0, 1])))
    expected = -math.log(math.exp(7 * scale) + math.exp(8 * scale + 1))
    assert scores_of(ASH(50), features).item() == pytest.approx(expected, rel=1e-6)


def test_how_many_are_kept() -> None:
    """D - round(p D / 100) as the authors count (12 features: 1 at p=90), at least one; a row of zeros stays one."""
    values = random_features().tap() + 0.1
    for percentile, kept in [(0, 12), (65, 4), (90, 1), (100, 1)]:
        assert torch.equal((shaped(values, percentile) > 0).sum(1), torch.full((60,), kept))
    assert not shaped(torch.zeros(2, 12), 90).any()


def test_pytorch_ood() -> None:
    """pytorch-ood 0.4's ash-s on maps of one cell; float64, relative 1e-12."""
    oracle = pytest.importorskip("pytorch_ood.detector").ASH
    features = random_features()
    for percentile in (30, 65, 90):
        theirs = oracle(None, lambda maps: features.linear_head()(maps.flatten(1)), "ash-s", percentile / 100)
        expected = theirs.predict_feature_maps(features.tap()[:, :, None, None])
        assert torch.allclose(scores_of(ASH(percentile), features), expected, rtol=1e-12, atol=0)


def test_keeping_all_is_the_energy_of_features_times_e() -> None:
    """p=0: scale exp(1); float64, 1e-12."""
    features = random_features()
    grown = features_of(features.tap() * math.e, features.linear_head())
    assert torch.allclose(scores_of(ASH(0), features), scores_of(Energy(), grown), atol=1e-12, rtol=0)


def test_bad_percentile() -> None:
    with pytest.raises(ValueError, match="percentile=900: a percentile lies between 0 and 100"):
        ASH(900)
