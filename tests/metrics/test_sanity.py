"""Does a method find the planted cue? Counts exactly, shares to 1e-6 (float32 quotients of small integers)."""

from typing import cast

import pandas as pd
import pytest
import torch
from assay.harness.forward import ForwardPass
from assay.harness.types import Attribution, Batch, FramedMaps
from assay.metrics.sanity import CueRate
from conftest import sample

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
    assert columns["peak_in_cue"].tolist() == [1, 0, 1]
    assert columns["mass_in_cue"].tolist() == pytest.approx([0.75, 0, 0], abs=1e-6)
    assert set(CueRate.PAIRED) == set(columns)
    assert columns["peak_in_cue_of_others"].isnan().all() and columns["mass_in_cue_of_others"].isnan().all()

    frame = pd.DataFrame(
        {"image_id": list("abc"), "label": 10, "predicted": True} | {k: v.numpy() for k, v in columns.items()}
    )
    peak, mass = CueRate().summarize(frame)
    assert (peak.stat, peak.n, peak.variant, peak.ci_method) == ("peak_in_cue", 3, "tol=2px", "wilson")
    assert peak.value == pytest.approx(2 / 3)
    assert (mass.stat, mass.n, mass.ci_method) == ("mass_in_cue", 3, "clt")
    assert mass.value == pytest.approx(0.25, abs=1e-6)


def test_only_predicted_pairs_of_the_cues_class_count() -> None:
    """Six pairs of which rows 0 and 3 are of the cue's class and predicted: peak (1 + 0) / 2, mass (.2 + .6) / 2.

    Rows 1 and 2 are of another class: of the others, peak (1 + 0) / 2, mass (.9 + .1) / 2.
    """
    nan = float("nan")
    frame = pd.DataFrame(
        {
            "image_id": list("aabbcd"),
            "label": [4, 1, 1, 4, 4, 1],
            "predicted": [True, True, True, True, False, False],
            "peak_in_cue": [1, nan, nan, 0, 1, nan],
            "mass_in_cue": [0.2, nan, nan, 0.6, 0.9, nan],
            "peak_in_cue_of_others": [nan, 1, 0, nan, nan, 1],
            "mass_in_cue_of_others": [nan, 0.9, 0.1, nan, nan, 0.9],
        }
    )
    peak, mass, other_peak, other_mass = CueRate(cue_class=4).summarize(frame)
    assert (peak.value, peak.n, peak.higher_is_better) == (0.5, 2, True)
    assert mass.value == pytest.approx(0.4, abs=1e-12)
    assert (other_peak.value, other_peak.n, other_peak.higher_is_better) == (0.5, 2, False)
    assert (other_mass.stat, other_mass.n) == ("mass_in_cue_of_others", 2)
    assert other_mass.value == pytest.approx(0.5, abs=1e-12)


def test_other_classes_of_an_image_with_the_patch_by_hand() -> None:
    """The fourth map of docs/metrics/cue_rate.md: class 3, its box elsewhere, 3 at (4,4) in the patch and 1 outside.

    The second image has no patch: its pair counts nowhere.
    """
    maps = torch.zeros(3, 6, 6)
    maps[1, 4, 4], maps[1, 0, 0], maps[2, 0, 0] = 3, 1, 1
    with_patch = sample("a", (6, 6), {10: [[4, 4, 6, 6]], 3: [[0, 0, 2, 2]]})
    batch = Batch.of([with_patch, sample("b", (6, 6), {3: [[0, 0, 2, 2]]})])
    assert batch.targets.label.tolist() == [10, 3, 3]
    columns = CueRate().measure(batch, FramedMaps.of(Attribution(maps), batch), NO_FORWARD)
    peak, mass = columns["peak_in_cue_of_others"], columns["mass_in_cue_of_others"]
    assert peak[1:].isnan().tolist() == mass[1:].isnan().tolist() == [False, True]
    assert (peak[1].item(), mass[1].item()) == (1, 0.75)
    assert columns["peak_in_cue"].isnan().tolist() == [False, True, True]
    frame = pd.DataFrame(
        {"image_id": list("aab"), "label": [10, 3, 3], "predicted": True}
        | {name: values.numpy() for name, values in columns.items()}
    )
    rows = {row.stat: (row.value, row.n) for row in CueRate().summarize(frame)}
    assert rows["peak_in_cue_of_others"] == (1.0, 1)
    assert rows["mass_in_cue_of_others"] == (0.75, 1)


def test_maps_without_positive_mass() -> None:
    """A map of zeros: its peak is pixel (0,0), outside the patch, and its share undefined: left out of the mean."""
    batch = Batch.of([sample(name, (6, 6), {10: [[4, 4, 6, 6]]}) for name in "ab"])
    maps = torch.zeros(2, 6, 6)
    maps[1, 5, 5] = 1
    columns = CueRate().measure(batch, FramedMaps.of(Attribution(maps), batch), NO_FORWARD)
    assert columns["peak_in_cue"].tolist() == [0, 1]
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
        {"image_id": ["a"], "label": [10], "predicted": [False]} | {name: [1.0] for name in CueRate.PAIRED}
    )
    assert len(CueRate().summarize(frame)) == 2
    for row in CueRate().summarize(frame):
        assert (row.value, row.n) == (None, 0)
        assert row.status == "undefined:no predicted pair of the cue's class has a value"
