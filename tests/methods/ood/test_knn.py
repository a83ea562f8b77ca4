"""KNN."""

import math

import pytest
import torch
from assay.harness.detection import LinearHead
from assay.harness.training import TrainingSet
from assay.methods.ood import neighbours
from assay.methods.ood.knn import KNN
from detection_toys import features_of, random_features, scores_of, training_of
from sklearn.neighbors import NearestNeighbors


def test_by_hand() -> None:
    """Directions (1, 0), (0, 1), (-1, 0) from (3, 0): distances 0, sqrt 2, 2; lengths do not matter."""
    head = LinearHead(torch.eye(2), torch.zeros(2))
    training = training_of(features_of(torch.tensor([[5.0, 0], [0, 0.1], [-2, 0]]), head), size=2)
    features = features_of(torch.tensor([[3.0, 0]]), head)
    scores = [scores_of(KNN(k), features, training).item() for k in (1, 2, 3)]
    assert scores == pytest.approx([0, math.sqrt(2), 2], abs=1e-6)


@pytest.mark.parametrize("k", [1, 10, 60])
def test_sklearn(k: int) -> None:
    """scikit-learn's exact neighbours of the normalised rows; float64, 1e-12."""
    train, test = random_features(), random_features(seed=1)
    rows = [torch.nn.functional.normalize(each.tap()).numpy() for each in (train, test)]
    expected = NearestNeighbors(n_neighbors=k).fit(rows[0]).kneighbors(rows[1])[0][:, -1]
    assert torch.allclose(scores_of(KNN(k), test, training_of(train, 7)), torch.from_numpy(expected), atol=1e-12)


def test_pytorch_ood() -> None:
    """pytorch-ood 0.4; float64, 1e-12."""
    oracle = pytest.importorskip("pytorch_ood.detector").KNN
    train, test = random_features(), random_features(seed=1)
    theirs = oracle(None, k=5).fit_features(train.tap(), train.labels).predict_features(test.tap())
    assert torch.allclose(scores_of(KNN(5), test, training_of(train)), theirs, atol=1e-12, rtol=0)


def test_near_neighbours_keep_their_digits() -> None:
    """float32 directions 1e-4 apart: the distance to 1e-7, where sqrt(2 - 2 cos) has an error of 3e-4."""
    head = LinearHead(torch.eye(2), torch.zeros(2))
    training = training_of(features_of(torch.tensor([[1.0, 1e-4]]), head))
    assert scores_of(KNN(1), features_of(torch.tensor([[1.0, 0]]), head), training).item() == pytest.approx(1e-4, 1e-3)


def test_parts_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 3 rows of similarities at a time; 1e-12."""
    train, test = random_features(), random_features(seed=1)
    whole = scores_of(KNN(4), test, training_of(train))
    monkeypatch.setattr(neighbours, "PAIRS", 3 * 60)
    assert torch.allclose(scores_of(KNN(4), test, training_of(train)), whole, atol=1e-12, rtol=0)


def test_directions_are_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven rows at a time: torch's normalised rows to the bit, zeros left as they are, the features left alone."""
    monkeypatch.setattr(neighbours, "ROWS", 7)
    values = torch.cat([random_features().tap(), torch.zeros(1, 12, dtype=torch.float64)])
    before = values.clone()
    assert torch.equal(neighbours.directions(values), torch.nn.functional.normalize(values))
    assert torch.equal(values, before)


def test_share() -> None:
    """A third of 60 images: 20 different rows in order, the same for a seed, others for another."""
    train = random_features()
    states = [KNN(5, 1 / 3).fit(training_of(train, 7, seed=s))["neighbours"] for s in (0, 0, 1)]
    whole = KNN(5).fit(training_of(train))["neighbours"]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
    where = [int((whole == row).all(1).nonzero()) for row in states[0]]
    assert where == sorted(set(where))
    assert len(where) == 20


def test_at_most_the_bank(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bank of 25 rows of 60: the share is of all images, and no more than the bank is searched."""
    monkeypatch.setattr(TrainingSet, "BANK", 25)
    training = training_of(random_features(), 7)
    assert len(KNN(5).fit(training)["neighbours"]) == 25
    assert len(KNN(5, 0.2).fit(training)["neighbours"]) == 12


def test_errors() -> None:
    """k and share out of range, and more neighbours than images, with the numbers and what to change."""
    with pytest.raises(ValueError, match="k=0: the nearest neighbour is k=1"):
        KNN(0)
    with pytest.raises(ValueError, match=r"share=1.5: choose a share"):
        KNN(5, 1.5)
    message = (
        r"k=50 is more than the 30 training images searched \(share=0.5 of 60, at most 50000\): choose a smaller k"
    )
    with pytest.raises(ValueError, match=message):
        KNN(50, 0.5).fit(training_of(random_features()))
    with pytest.raises(ValueError, match="requires fit: its state has no neighbours"):
        KNN().score(random_features(), {})
