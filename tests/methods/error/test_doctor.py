"""DOCTOR: odds of an error by hand, against the plain formula, and where predictions are sure; float64."""

import math
from typing import Any

import pytest
import torch
from assay.harness.detection import Features
from assay.methods.error.doctor import Doctor
from assay.methods.ood.logits import MSP
from detection_toys import logits_of, random_features, scores_of

# p = (1/2, 1/4, 1/4); (4/7, 2/7, 1/7); uniform
TOY = logits_of([math.log(2), 0, 0], [math.log(4), math.log(2), 0], [1, 1, 1])


def test_by_hand() -> None:
    """g = sum p^2 is 3/8, 21/49 and 1/3, so that (1 - g) / g is 5/3, 4/3 and 2; (1 - p) / p of the highest is 1, 3/4
    and 2; 1e-6 (the toy is float32)."""
    assert scores_of(Doctor(), TOY).tolist() == pytest.approx([5 / 3, 4 / 3, 2], abs=1e-6)
    assert scores_of(Doctor("beta"), TOY).tolist() == pytest.approx([1, 3 / 4, 2], abs=1e-6)


def test_the_plain_formula_gives_the_same() -> None:
    """60 random rows, T = 1 and 2: the softmax written out, 1e-12. Classes that do not exclude each other are read so
    too."""
    features = random_features()
    for temperature in (1.0, 2.0):
        p = (features.logits / temperature).softmax(1)
        alike, highest = p.square().sum(1), p.amax(1)
        for form, expected in (("alpha", (1 - alike) / alike), ("beta", (1 - highest) / highest)):
            for sigmoid in (False, True):
                given = Features(features.logits, features.labels, sigmoid=sigmoid)
                found = scores_of(Doctor(form, temperature), given)  # type: ignore[arg-type]
                assert torch.allclose(found, expected, rtol=0, atol=1e-12)


def test_beta_orders_as_msp_does() -> None:
    features = random_features(200)
    orders = [scores_of(each, features).argsort().tolist() for each in (Doctor("beta"), MSP())]
    assert orders[0] == orders[1]


@pytest.mark.parametrize("form", ["alpha", "beta"])
def test_sure_predictions_keep_their_order(form: Any) -> None:
    """Logits (z, 0, 0), z from 30 to 60: 1 - p = 2 e^-z, and both odds go to 2 e^-z (alpha: twice that); 1e-9 relative.
    Written with 1 - g in float64 all from 37 on would be 0."""
    z = torch.linspace(30, 60, 20, dtype=torch.float64)
    features = Features(torch.stack([z, 0 * z, 0 * z], 1), torch.full((20,), -1))
    expected = 2 * torch.exp(-z) * (2 if form == "alpha" else 1)
    assert torch.allclose(scores_of(Doctor(form), features), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("settings", "says"), [({"form": "gamma"}, "form='gamma'"), ({"temperature": 0.0}, "temperature=0.0")]
)
def test_bad_settings(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Doctor(**settings)
