"""MaxLogit-pNorm: by hand, by NumPy's norms, and the choice of p with its fallback."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from assay.harness.curves import risk_values
from assay.harness.detection import Features
from assay.methods.error import pnorm
from assay.methods.error.pnorm import Centred, PNorm
from assay.methods.ood.logits import MSP
from detection_toys import random_features, scores_of, training_of
from torch import Tensor


def pnorm_score(logits: Tensor, power: float) -> Tensor:
    """Of all rows at once."""
    return Centred.of(logits).score(power)


def with_errors(count: int = 300, seed: int = 0) -> Features:
    """Random features whose labels are the predictions but where a coin, likelier on small margins, says otherwise."""
    features = random_features(count, seed=seed)
    draw = torch.Generator().manual_seed(seed + 7)
    first, second = features.logits.topk(2, 1).values.unbind(1)
    wrong = torch.rand(count, generator=draw, dtype=torch.float64) < 0.6 * torch.exp(second - first)
    return replace(features, labels=torch.where(wrong, (features.predicted + 1) % 5, features.predicted))


def test_by_hand() -> None:
    """Logits (6, 3, 0): centred (3, 0, -3). p = 0: 3; p = 1: 3 / 6; p = 2: 3 / sqrt(18) = 1 / sqrt 2. 1e-15."""
    logits = torch.tensor([[6.0, 3.0, 0.0]])
    found = [pnorm_score(logits, p).item() for p in (0, 1, 2)]
    assert found == pytest.approx([-3, -1 / 2, -1 / math.sqrt(2)], abs=1e-15)


@pytest.mark.parametrize("power", [1, 2, 3.5, 10])
def test_numpys_norm_gives_the_same(power: float) -> None:
    """60 rows, 1e-12. The scale and the place of the logits change nothing."""
    logits = random_features().logits
    centred = (logits - logits.mean(1, keepdim=True)).numpy()
    expected = -centred.max(1) / np.linalg.norm(centred, power, axis=1)
    for given in (logits, 40 * logits, logits + 3):
        assert np.allclose(pnorm_score(given, power), expected, rtol=0, atol=1e-12)


def test_one_logit_above_the_mean_is_exactly_half() -> None:
    """Equal to the bit, so that nobody orders these images: a sum of absolute values gave two values in 40 rows."""
    logits = torch.randn(40, 11)
    below = logits.sub(logits.amax(1, keepdim=True))
    below[:, 3] = 50
    assert pnorm_score(below, 1).unique().tolist() == [-0.5]
    centred = Centred.of(below).scaled
    assert len((centred.amax(1) / centred.abs().sum(1)).unique()) > 1


def test_odd_logits() -> None:
    """All equal: 0, the least sure. A class without members (-inf) counts nowhere. Logits of 1e200 do not overflow."""
    assert pnorm_score(torch.ones(1, 3), 2).item() == 0
    given = torch.tensor([[6.0, 3.0, 0.0, -torch.inf]])
    assert pnorm_score(given, 2).item() == pytest.approx(-1 / math.sqrt(2), abs=1e-15)
    large = 1e200 * torch.tensor([[6.0, 3.0, 0.0]], dtype=torch.float64)
    assert pnorm_score(large, 10).item() == pytest.approx(pnorm_score(large / 1e200, 10).item(), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_power_is_the_one_of_the_smallest_aurc(seed: int) -> None:
    """Every candidate's AURC is that of its scores on the training images, MSP's the last; the smallest one scores."""
    features, detector = with_errors(seed=seed), PNorm(powers=[1, 2, 4])
    with pytest.warns(UserWarning, match="below 200"):
        state = detector.fit(training_of(features, 77))
    wrong = (features.predicted != features.labels).numpy()
    candidates = [*(pnorm_score(features.logits, p) for p in (1, 2, 4)), scores_of(MSP(), features)]
    assert state["aurc"].tolist() == [risk_values(each.numpy(), wrong)["aurc"] for each in candidates]
    assert torch.equal(detector.score(features, state), candidates[int(state["aurc"].argmin())])


def test_logits_are_centred_once_in_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """300 images, 11 powers and MSP, 64 rows at once: five chunks, each centred once; the same scores to the bit."""
    features, sizes = with_errors(), []
    whole, of = pnorm.tried(features, [*range(11), None]), Centred.of

    def counted(logits: Tensor) -> Centred:
        sizes.append(len(logits))
        return of(logits)

    monkeypatch.setattr(pnorm, "ROWS", 64)
    monkeypatch.setattr(Centred, "of", counted)
    with pytest.warns(UserWarning, match="below 200"):
        PNorm().fit(training_of(features))
    assert sizes == [64, 64, 64, 64, 44]
    assert torch.equal(pnorm.tried(features, [*range(11), None]), whole)
    assert torch.equal(whole[0], pnorm_score(features.logits, 0))
    assert torch.equal(whole[-1], scores_of(MSP(), features))


def test_it_falls_back_to_msp_where_that_is_better() -> None:
    """Logits (d, 0, -s), d = 1 .. 8, of which the three with the smallest d are wrong: MSP's order is perfect. Centred,
    the highest is (2 d + s) / 3 and the 1-norm (36 + 2 d) / 3 with s = 9: their ratio grows with d, and of equal AURC
    the power stands first. With s = 9 d^2 they are (2 d + s) / 3 and (4 s + 2 d) / 3, and the ratio falls: MSP."""
    d = torch.arange(1.0, 9, dtype=torch.float64)
    labels = torch.where(d <= 3, 1, 0)
    made = []
    for size in (9 + 0 * d, 9 * d**2):
        features = Features(torch.stack([d, 0 * d, -size], 1), labels)
        with pytest.warns(UserWarning, match="3 errors among 8"):
            made.append((features, PNorm(powers=[1]).fit(training_of(features))))
    assert [int(state["chosen"]) for _, state in made] == [0, 1]
    features, state = made[1]
    assert torch.equal(PNorm(powers=[1]).score(features, state), scores_of(MSP(), features))


def test_without_errors_there_is_nothing_to_choose_by() -> None:
    features = random_features()
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="0 of 60 labelled training images"):
        PNorm().fit(training_of(replace(features, labels=features.predicted)))


@pytest.mark.parametrize("powers", [[], [-1, 2]])
def test_bad_settings(powers: Any) -> None:
    with pytest.raises(ValueError, match="powers="):
        PNorm(powers=powers)
