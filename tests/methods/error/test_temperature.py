"""Temperature scaling: a T worked out by hand, another minimiser, and what moves no order."""

import math

import numpy as np
import pytest
import torch
from assay.harness.detection import Features
from assay.methods.error.temperature import Temperature, nll_slope
from assay.methods.ood.logits import MSP
from detection_toys import logits_of, scores_of, training_of
from scipy.optimize import minimize_scalar
from torch.nn.functional import cross_entropy


def overconfident(count: int = 400, classes: int = 5, temperature: float = 2.5, seed: int = 0) -> Features:
    """Labels drawn from softmax(z), shown with logits `temperature` times z: about 40 % are predicted wrong."""
    draw = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(count, classes, generator=draw, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(1), 1, generator=draw)[:, 0]
    return Features(temperature * logits, labels)


def fit(features: Features, size: int | None = None) -> float:
    """The fitted temperature; few errors are no matter here."""
    with pytest.warns(UserWarning, match="below 200"):
        return float(Temperature().fit(training_of(features, size))["temperature"])


def test_by_hand() -> None:
    """Four images with logits (2, 0), of which one is of class 1: the likeliest p(class 0) is 3/4, so 2 / T = log 3.
    The score of logits (2, 0) is then log(1/4), and of (4, 0), with odds of 9 to 1, log(1/10); 1e-9."""
    rows = Features(torch.tensor([[2.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1]))
    found = fit(rows)
    assert found == pytest.approx(2 / math.log(3), abs=1e-9)
    scores = Temperature().score(logits_of([2, 0], [4, 0]), {"temperature": torch.tensor(found, dtype=torch.float64)})
    assert scores.tolist() == pytest.approx([math.log(1 / 4), math.log(1 / 10)], abs=1e-9)


def test_another_minimiser_finds_the_same() -> None:
    """SciPy's bounded search over log T of torch's own cross-entropy, 400 images: 1e-5 (its search is less exact); read
    in parts or whole the same to 1e-12; near the temperature that the logits were made with."""
    features = overconfident()

    def loss(log_temperature: float) -> float:
        return float(cross_entropy(features.logits / math.exp(log_temperature), features.labels))

    theirs = math.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9}).x)
    ours = fit(features)
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert fit(features, size=37) == pytest.approx(ours, rel=1e-12)
    assert ours == pytest.approx(2.5, rel=0.2)


def test_the_slope_is_the_derivative() -> None:
    """Against a central difference of the mean NLL over 1/T, 1e-6 relative; it grows with 1/T."""
    features = overconfident(50)
    slope = nll_slope(features.logits, features.labels)
    for inverse in (0.1, 0.5, 1.0):
        step = 1e-5
        above, below = (
            float(cross_entropy(features.logits * (inverse + side * step), features.labels)) for side in (1, -1)
        )
        assert slope(math.log(inverse)) == pytest.approx((above - below) / (2 * step), rel=1e-6)
    assert np.all(np.diff([slope(x) for x in np.linspace(-4, 3, 30)]) > 0)


def test_it_orders_two_classes_as_msp_does() -> None:
    """Of two classes the probability is a function of the logits' difference; of more the order changes."""
    for classes, alike in ((2, True), (5, False)):
        features = overconfident(classes=classes)
        state = {"temperature": torch.tensor(3.0, dtype=torch.float64)}
        orders = Temperature().score(features, state).argsort(), scores_of(MSP(), features).argsort()
        assert torch.equal(*orders) is alike


def test_a_class_without_members_counts_nowhere() -> None:
    """A logit of -inf beside the two of the hand case; exactly."""
    two = Features(torch.tensor([[2.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1]))
    three = Features(torch.tensor([[2.0, 0.0, -torch.inf]] * 4), two.labels)
    assert fit(three) == fit(two)


def test_training_images_without_errors_are_refused() -> None:
    """T would go to 0: said with what to do; so where the network is right less often than a guess."""
    right = Features(torch.tensor([[2.0, 0.0]] * 4), torch.zeros(4, dtype=torch.int64))
    with (
        pytest.warns(UserWarning),
        pytest.raises(ValueError, match=r"^0 of 4 labelled training images .*dataset@train"),
    ):
        Temperature().fit(training_of(right))
    guesses = Features(torch.tensor([[2.0, 0.0]] * 4), torch.tensor([0, 1, 1, 1]))
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"no temperature between 0\.001 and 1000"):
        Temperature().fit(training_of(guesses))


def test_unlabelled_images_are_left_out() -> None:
    """The hand case among images of label -1; exactly."""
    rows = Features(torch.tensor([[2.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1]))
    more = Features(torch.cat([rows.logits, torch.tensor([[9.0, 1.0]] * 3)]), torch.tensor([0, 0, 0, 1, -1, -1, -1]))
    assert fit(more) == fit(rows)
