"""Units that are specific to a class: their order by hand, against a loop, and what cannot be."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from assay.harness.build import build
from assay.harness.detection import Features, LinearHead
from assay.harness.network import Network
from assay.harness.training import TrainingSet
from assay.methods.error.class_units import ClassUnits
from assay.methods.error.units import Conductance
from conftest import alone
from detection_toys import random_features, training_of
from torch import Tensor, nn


def training(features: Features) -> TrainingSet:
    """A set whose image that is zero after normalisation has features of zero."""
    zero = torch.zeros_like(features.tap()[:1])
    network = Network(nn.Identity(), (0, 0, 0), (1, 1, 1))
    images = lambda rows: torch.zeros(len(rows), 3, 2, 2)  # noqa: E731
    of_zero = lambda _: replace(features.rows(slice(0, 1)), penultimate=zero)  # noqa: E731
    return training_of(features, network=network, images=images, features_of=of_zero)


def identity_head(penultimate: Tensor, labels: list[int]) -> Features:
    """Logits = features, so that the conductance of the predicted class' own unit is its feature, and 0 elsewhere."""
    head = LinearHead(torch.tensor([[1.0, 0.5, 0], [0, 1, 0]]), torch.zeros(2))
    return Features(head(penultimate), torch.tensor(labels), penultimate, head=head)


def test_by_hand() -> None:
    """W = ((1, .5, 0), (0, 1, 0)), x' = 0. Of class 0, images (4, 2, 9) and (2, 0, 9) are right: conductances (4, 1, 0)
    and (2, 0, 0), order 0, 1, 2. (9, 9, 9) of class 1 is predicted as 0 and left out. Of class 1, (0, 3, 0): order 1,
    0, 2 (0 before 2: equal, as they stand)."""
    features = identity_head(torch.tensor([[4.0, 2, 9], [2, 0, 9], [9, 9, 9], [0, 3, 0]]), [0, 0, 1, 1])
    detector = ClassUnits(top=2)
    state = detector.fit(training(features))
    assert state["order"].tolist() == [[0, 1, 2], [1, 0, 2]]
    test = identity_head(torch.tensor([[4.0, 2, 1], [1, 6, 0]]), [0, 1])
    assert detector.score(test, state).tolist() == [-2.5, -3.0]
    details = detector.details(test, state)
    assert details["class_conductance"].tolist() == [[4, 1, 0], [6, 0, 0]]
    assert details["units"].tolist() == [[0, 1], [1, 0]]


def test_against_a_loop() -> None:
    """300 random features; and the same of a layer's reading."""
    features = random_features(300, dtype=torch.float32)
    features = replace(features, labels=torch.where(torch.arange(300) % 3 > 0, features.predicted, features.labels))
    values = features.linear_head().weight[features.predicted] * features.tap()
    layer = ClassUnits(layer="first", steps=4)
    reading = Conductance("first", steps=4)
    kept = replace(features, readings={reading: values})
    assert layer.needs().readings == (reading,) and not layer.needs().penultimate
    for detector, of in ((ClassUnits(), features), (layer, kept)):
        state = detector.fit(training(of))
        scores = detector.score(of, state)
        for label in range(5):
            right = values[(features.predicted == label) & (features.labels == label)].double().mean(0).numpy()
            assert state["order"][label].tolist() == np.argsort(-right, kind="stable").tolist()
        for row in (0, 7, 299):
            units = state["order"][features.predicted[row]][:3]
            assert scores[row].item() == pytest.approx(-values[row, units].double().mean().item(), abs=1e-7)


def test_a_class_without_right_predictions_has_the_order_of_all() -> None:
    features = identity_head(torch.tensor([[4.0, 2, 9], [2, 0, 9], [0, 3, 0]]), [0, 0, 0])
    assert ClassUnits(top=1).fit(training(features))["order"].tolist() == [[0, 1, 2], [0, 1, 2]]


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="top=0: give at least 1 unit"):
        ClassUnits(top=0)
    wrong = identity_head(torch.tensor([[4.0, 2, 9]]), [1])
    with pytest.raises(ValueError, match="none of 1 training images is rightly predicted"):
        ClassUnits().fit(training(wrong))
    with pytest.raises(ValueError, match="top=4: there are 3 units"):
        ClassUnits(top=4).fit(training(replace(wrong, labels=torch.tensor([0]))))
    with pytest.raises(ValueError, match=re.escape("requires fit: its state has no order")):
        ClassUnits().score(wrong, {})


def test_the_config_builds_the_class() -> None:
    """conf/method/class_units.yaml: the class' defaults."""
    assert build(alone("method", "class_units").method["class_units"]) == ClassUnits()
