"""Does a method find the planted cue? Counts exactly, shares to 1e-6 (float32 quotients of small integers)."""

from typing import cast

import pandas as pd
import pytest
import torch
from conftest import sample

from harness.network import ForwardPass
from harness.types import Attribution, Batch, FramedMaps
from metrics.sanity import CueRate

NO_FORWARD = cast(ForwardPass, None)  # the metric looks at the map alone


def test_cue_rate_by_hand() -> None:
    """A 6x6 frame with the cue (class 10) in pixels x 4..5, y 4..5 (docs/metrics/cue_rate.md), three images.

    a: peak 2 at (5,4), in the patch; positive mass 2 + 1 in it and 1 outside: 3/4.
    b: peak at (3,2): sqrt(1^2 + 2^2) = 2.24 px away, a miss at 2 px; mass 0 of 5.
    c: peak at (3,3): sqrt(2) px, a hit within 2 px; mass 0 of 1.
    """
    maps = torch.zeros(3, 6, 6)
    maps[0, 4, 5], maps[0, 5, 4], maps[0, 0, 0], maps[0, 5, 5] = 2, 1, 1, -7
    maps[1, 2, 3] = 5
    maps[2, 3, 3] = 1
    batch = Batch.of([sample(name, (6, 6), {10: [[4, 4, 6, 6]]}) for name in "abc"])
    columns = CueRate().measure(batch, FramedMaps.of(Attribution(maps), batch), NO_FORWARD)
    assert columns["peak_in_cue"].tolist() == [True, False, True]
    assert columns["mass_in_cue"].tolist() == pytest.approx([0.75, 0, 0], abs=1e-6)
    assert set(CueRate.PAIRED) == set(columns)

    frame = pd.DataFrame(
        {"image_id": list("abc"), "label": 10, "predicted": True} | {k: v.numpy() for k, v in columns.items()}
    )
    peak, mass = CueRate().summarize(frame)
    assert (peak.stat, peak.n, peak.variant, peak.ci_method) == ("peak_in_cue", 3, "tol=2px", "wilson")
    assert peak.value == pytest.approx(2 / 3)
    assert (mass.stat, mass.n, mass.ci_method) == ("mass_in_cue", 3, "clt")
    assert mass.value == pytest.approx(0.25, abs=1e-6)


def test_only_predicted_pairs_of_the_cues_class_count() -> None:
    """Six pairs of which rows 0 and 3 are of class 4 and predicted: peak (1 + 0) / 2, mass (.2 + .6) / 2; 1e-12."""
    frame = pd.DataFrame(
        {
            "image_id": list("aabbcd"),
            "label": [4, 1, 1, 4, 4, 1],
            "predicted": [True, True, True, True, False, False],
            "peak_in_cue": [True, True, True, False, True, True],
            "mass_in_cue": [0.2, 0.9, 0.9, 0.6, 0.9, 0.9],
        }
    )
    peak, mass = CueRate(cue_class=4).summarize(frame)
    assert (peak.value, peak.n) == (0.5, 2)
    assert mass.value == pytest.approx(0.4, abs=1e-12)


def test_maps_without_positive_mass() -> None:
    """A map of zeros: its peak is pixel (0,0), outside the patch, and its share undefined: left out of the mean."""
    batch = Batch.of([sample(name, (6, 6), {10: [[4, 4, 6, 6]]}) for name in "ab"])
    maps = torch.zeros(2, 6, 6)
    maps[1, 5, 5] = 1
    columns = CueRate().measure(batch, FramedMaps.of(Attribution(maps), batch), NO_FORWARD)
    assert columns["peak_in_cue"].tolist() == [False, True]
    assert columns["mass_in_cue"][0].isnan()
    frame = pd.DataFrame(
        {"image_id": list("ab"), "label": 10, "predicted": True} | {k: v.numpy() for k, v in columns.items()}
    )
    peak, mass = CueRate().summarize(frame)
    assert (peak.value, peak.n) == (0.5, 2)
    assert (mass.value, mass.n) == (1, 1)


def test_cue_rate_without_a_predicted_pair() -> None:
    """A network that never predicts the cue's class has nothing to explain: no value, and the reason."""
    frame = pd.DataFrame(
        {"image_id": ["a"], "label": [10], "predicted": [False], "peak_in_cue": [True], "mass_in_cue": [1.0]}
    )
    for row in CueRate().summarize(frame):
        assert (row.value, row.n) == (None, 0)
        assert row.status == "undefined:no predicted pair of the cue's class has a value"
