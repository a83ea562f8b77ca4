"""NNGuide."""

import math

import numpy as np
import pytest
import torch
from assay.harness.detection import LinearHead
from assay.harness.training import TrainingSet
from assay.methods.ood import neighbours
from assay.methods.ood.nnguide import NNGuide
from detection_toys import features_of, random_features, scores_of, training_of
from scipy.special import logsumexp


def test_by_hand() -> None:
    """Directions (1, 0), (0, 1), with logits = features: confidences log(e^2 + 1) and log(1 + e). For (3, 4), direction
    (.6, .8): products .6 log(e^2 + 1) = 1.276 and .8 log(1 + e) = 1.051; k=1 is the first, k=2 their mean."""
    head = LinearHead(torch.eye(2), torch.zeros(2))
    training = training_of(features_of(torch.tensor([[2.0, 0], [0, 1]]), head), size=1)
    features = features_of(torch.tensor([[3.0, 4]]), head)
    guides = [0.6 * math.log(math.e**2 + 1), 0.8 * math.log(1 + math.e)]
    confidence = math.log(math.exp(3) + math.exp(4))
    expected = [-guides[0] * confidence, -sum(guides) / 2 * confidence]
    scores = [scores_of(NNGuide(k), features, training).item() for k in (1, 2)]
    assert scores == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("k", [1, 7, 60])
def test_openood(k: int) -> None:
    """OpenOOD's formula written out in NumPy, all pairs at once, without its 1e-10 added to directions; 1e-12."""
    train, test = random_features(), random_features(seed=1)
    units = [each.tap().numpy() / np.linalg.norm(each.tap().numpy(), axis=1, keepdims=True) for each in (train, test)]
    bank = units[0] * logsumexp(train.logits.numpy(), axis=1)[:, None]
    guidance = np.sort(units[1] @ bank.T, axis=1)[:, -k:].mean(1)
    expected = -guidance * logsumexp(test.logits.numpy(), axis=1)
    assert torch.allclose(scores_of(NNGuide(k), test, training_of(train, 7)), torch.from_numpy(expected), atol=1e-12)


def test_pytorch_ood() -> None:
    """pytorch-ood 0.4, whose bank is float32; relative 1e-5."""
    oracle = pytest.importorskip("pytorch_ood.detector").NNGuide
    train, test = random_features(dtype=torch.float32), random_features(seed=1, dtype=torch.float32)
    theirs = oracle(None, test.linear_head(), k=5).fit_features(train.tap(), train.labels)
    ours = scores_of(NNGuide(5), test, training_of(train)).float()
    assert torch.allclose(ours, theirs.predict_features(test.tap()), rtol=1e-5, atol=0)


def test_parts_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 3 rows of similarities at a time; 1e-12."""
    train, test = random_features(), random_features(seed=1)
    whole = scores_of(NNGuide(4), test, training_of(train))
    monkeypatch.setattr(neighbours, "PAIRS", 3 * 60)
    assert torch.allclose(scores_of(NNGuide(4), test, training_of(train)), whole, atol=1e-12, rtol=0)


def test_it_searches_a_share_and_leaves_the_bank_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bank of 25 rows of 60: no more are searched, a fifth of all is 12; the bank's own rows are as they were."""
    monkeypatch.setattr(TrainingSet, "BANK", 25)
    training = training_of(random_features(), 7)
    before = training.bank.tap().clone()
    assert [len(NNGuide(5, share).fit(training)["guides"]) for share in (1.0, 0.2)] == [25, 12]
    assert torch.equal(training.bank.tap(), before)


def test_errors() -> None:
    with pytest.raises(ValueError, match="k=0: the nearest neighbour is k=1"):
        NNGuide(0)
    with pytest.raises(ValueError, match=r"k=50 is more than the 6 training images searched \(share=0.1 of 60"):
        NNGuide(50, 0.1).fit(training_of(random_features()))
    with pytest.raises(ValueError, match="requires fit: its state has no guides"):
        NNGuide().score(random_features(), {})
