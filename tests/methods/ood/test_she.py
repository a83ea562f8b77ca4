"""SHE."""

import math
from dataclasses import replace

import pytest
import torch
from assay.harness.detection import LinearHead
from assay.methods.ood.she import SHE, Likeness
from detection_toys import features_of, nearest_mean, random_features, scores_of, training_of

HEAD = LinearHead(torch.eye(2), torch.zeros(2))


def test_by_hand() -> None:
    """Class 0 has (2, 0) and (4, 2); (0, 5) of its label is taken for class 1, and one without a label does not count.
    Patterns (3, 1) and (0, 1): (2, 1) is of class 0, product 7, distance 1, cosine 7 / sqrt 50."""
    values = torch.tensor([[2.0, 0], [4, 2], [0, 5], [0, 1], [9, 9]])
    training = training_of(features_of(values, HEAD, torch.tensor([0, 0, 0, 1, -1])), size=2)
    assert SHE().fit(training)["patterns"].tolist() == [[3, 1], [0, 1]]
    features = features_of(torch.tensor([[2.0, 1]]), HEAD)
    kinds: tuple[Likeness, ...] = ("inner_product", "euclidean", "cosine")
    scores = [scores_of(SHE(kind), features, training).item() for kind in kinds]
    assert scores == pytest.approx([-7, 1, -7 / math.sqrt(50)], rel=1e-12)


def test_pytorch_ood() -> None:
    """pytorch-ood 0.4; float64, 1e-12."""
    oracle = pytest.importorskip("pytorch_ood.detector").SHE
    train, test = random_features(200), random_features(seed=1)
    head = nearest_mean(train)
    train, test = (features_of(each.tap(), head, each.labels) for each in (train, test))
    theirs = oracle(None, test.linear_head()).fit_features(train.tap(), train.labels).predict_features(test.tap())
    assert torch.allclose(scores_of(SHE(), test, training_of(train, 7)), theirs, atol=1e-12, rtol=0)


def test_a_class_without_a_pattern_has_that_of_all() -> None:
    """Class 1 has no image that is classified right: (3, 1) / 2, the mean of both of class 0, and a warning."""
    values = torch.tensor([[2.0, 0], [1, 1], [5, 0]])
    training = training_of(features_of(values, HEAD, torch.tensor([0, 0, 1])), size=1)
    with pytest.warns(UserWarning, match="1 of 2 classes have no training image that is classified right"):
        assert SHE().fit(training)["patterns"].tolist() == [[1.5, 0.5]] * 2


def test_rotated_labels_are_refused() -> None:
    """Then no image is classified right."""
    train = random_features(200)
    with pytest.raises(ValueError, match="no training image is classified right: are its labels those of the network"):
        SHE().fit(training_of(replace(train, labels=(train.predicted + 1) % 5)))


def test_errors() -> None:
    with pytest.raises(ValueError, match="likeness='manhattan': choose one of inner_product, euclidean, cosine"):
        SHE("manhattan")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="requires fit: its state has no patterns"):
        SHE().score(random_features(), {})
