"""Rows of OOD tables: conventions named, sets averaged, intervals that share the in-distribution images."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from assay.harness.curves import roc_statistics
from assay.harness.types import ResultRow
from assay.metrics.ood import CONVENTIONS, OODDetection
from numpy.typing import ArrayLike


def table(scores: ArrayLike) -> pd.DataFrame:
    """A score table of images that are all predicted right."""
    scores = np.asarray(scores, dtype=float)
    ids = [f"image{row}" for row in range(len(scores))]
    return pd.DataFrame({"image_id": ids, "label": 0, "predicted": 0, "is_error": False, "score": scores})


def named(rows: list[ResultRow]) -> dict[tuple[str, str], ResultRow]:
    """Rows by stat and variant, each once."""
    found = {(row.stat, row.variant): row for row in rows}
    assert len(found) == len(rows) == len(CONVENTIONS) + 2  # a recall beside each rate
    return found


def known(value: float | None) -> float:
    """A value that is not undefined."""
    assert value is not None
    return value


def shifted(shift: float, n: int = 400, seed: int = 0) -> pd.DataFrame:
    """Normal scores of mean `shift`."""
    return table(np.random.default_rng(seed).normal(shift, 1, n))


def measured(rows: Mapping[tuple[str, str], ResultRow]) -> list[ResultRow]:
    """Those that have intervals: all but the recalls that the thresholds of the two rates reach."""
    return [row for row in rows.values() if not row.stat.startswith("tpr_at")]


QUICK = OODDetection(resamples=200)


def test_rows_by_hand() -> None:
    """In distribution 1 1 2 3, outside 2 3 3 4 (docs/metrics/ood.md); n counts the OOD images."""
    rows = named(QUICK.summarize(table([1, 1, 2, 3]), {"far": table([2, 3, 3, 4, 4])})["far"])
    assert rows["auroc", "ties=half"].value == pytest.approx((2.5 + 2 * 3.5 + 2 * 4) / 20)
    assert {row.n for row in measured(rows)} == {5}
    rows = named(QUICK.summarize(table([1, 1, 2, 3]), {"far": table([2, 3, 3, 4])})["far"])
    expected = {
        ("fpr95_id_pos", "index,strict"): 1 / 4,
        ("fpr95_ood_pos", "first_at_least"): 2 / 4,
        ("auroc", "ties=half"): 13.5 / 16,
        ("aupr_out", "trapezoid"): 71 / 96,
        ("aupr_out", "average_precision"): 19 / 24,
        ("detection_error", "pooled"): 2 / 8,
    }
    assert {key: rows[key].value for key in expected} == pytest.approx(expected)
    assert [rows[key].higher_is_better for key in expected] == [False, False, True, True, True, False]
    assert {row.ci_method for row in measured(rows)} == {"two_sample_bootstrap"}
    assert rows["tpr_at_fpr95_id_pos", "index,strict"].value == 3 / 4
    assert rows["tpr_at_fpr95_ood_pos", "first_at_least"].value == 1


def test_a_higher_score_is_out_of_distribution() -> None:
    """Turned round, AUROC is its complement."""
    inside, outside = shifted(0), shifted(1, 300, 1)
    there = named(QUICK.summarize(inside, {"x": outside})["x"])
    back = named(
        QUICK.summarize(inside.assign(score=-inside["score"]), {"x": outside.assign(score=-outside["score"])})["x"]
    )
    key = ("auroc", "ties=half")
    assert known(there[key].value) > 0.7
    assert known(there[key].value) + known(back[key].value) == pytest.approx(1)


def test_the_average_is_the_unweighted_mean_over_sets() -> None:
    """Of 300 and 20 images: the plain mean of the two values; n is the number of all images."""
    inside, sets = shifted(0), {"near": shifted(0.5, 300, 1), "far": shifted(2, 20, 2)}
    made = QUICK.summarize(inside, sets)
    assert list(made) == ["far", "near", "average"]
    average = named(made["average"])
    for key, row in average.items():
        values = [named(made[name])[key].value for name in sets]
        assert row.value == pytest.approx(np.mean(values))  # type: ignore[arg-type]
        assert row.n == 320 or row.stat.startswith("tpr_at")


def test_the_average_shares_the_resampled_in_distribution_images() -> None:
    """Six like sets of 2000 images against 100: the in-distribution images decide the error of each AUROC, so the
    mean's is not sqrt(6) times smaller but nearly as large (sets resampled apart would give .41 of it)."""
    sets = {f"set{seed}": shifted(1, 2000, seed) for seed in range(1, 7)}
    made = QUICK.summarize(shifted(0, 100), sets)
    key = ("auroc", "ties=half")
    one = np.mean([known(named(made[name])[key].stderr) for name in sets])
    assert known(named(made["average"])[key].stderr) > 0.85 * one


def test_two_sets_of_one_size_are_resampled_apart() -> None:
    """Their names part their draws: equal scores, other intervals."""
    made = QUICK.summarize(shifted(0), {"one": shifted(1, 300, 1), "two": shifted(1, 300, 1)})
    one, two = (named(made[name])["auroc", "ties=half"] for name in ("one", "two"))
    assert one.value == two.value
    assert one.ci_low != two.ci_low


def test_intervals_hold_the_value_and_shrink_with_the_images() -> None:
    """Four times the images on both sides: half the standard error, within 15 %."""
    widths = []
    for n in (200, 800):
        rows = named(OODDetection().summarize(shifted(0, n), {"x": shifted(1, n, 1)})["x"])
        for row in measured(rows):
            assert row.value is not None and row.ci_low is not None and row.ci_high is not None
            assert row.ci_low <= row.value <= row.ci_high
        widths.append(rows["auroc", "ties=half"].stderr)
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.15)  # type: ignore[operator]


def test_the_recall_names_the_rows() -> None:
    """tpr=.8: fpr80; the index follows."""
    inside, outside = shifted(0), shifted(1, 300, 1)
    rows = named(OODDetection(tpr=0.8, resamples=10).summarize(inside, {"x": outside})["x"])
    expected = roc_statistics(inside["score"], outside["score"], 0.8)
    assert rows["fpr80_id_pos", "index,strict"].value == expected["fpr_id_pos"]
    assert rows["fpr80_ood_pos", "first_at_least"].value == expected["fpr_ood_pos"]


def test_what_is_not_there_is_undefined_and_says_why() -> None:
    """No set; an empty one, which leaves the average without a value; a score that is not a number; one image."""
    inside = shifted(0)
    nothing = QUICK.summarize(inside, {})
    assert list(nothing) == ["average"]
    assert {row.status for row in nothing["average"]} == {"undefined:no OOD set was chosen: ood=[NAME,...]"}
    made = QUICK.summarize(inside, {"empty": table([]), "good": shifted(1)})
    assert {row.status for row in made["empty"]} == {"undefined:400 images against 0: no scores"}
    assert {row.status for row in made["good"]} == {"ok"}
    assert {(row.status, row.value) for row in made["average"]} == {("undefined:no value for empty", None)}
    broken = QUICK.summarize(inside, {"x": table([1, np.nan])})["x"]
    assert {row.status for row in broken} == {"undefined:400 images against 2: 1 of 2 scores are not a number"}
    alone = QUICK.summarize(inside, {"x": table([1])})["x"]
    assert {(row.status, row.stderr) for row in alone} == {("ok", None)}


def test_sets_that_are_told_apart_have_intervals_with_a_width() -> None:
    """300 in distribution, OOD sets of 100 and 60 far above: AUROC from 1 - .025^(1/100), the average from the mean of
    the sets' ends; 1e-9. The scores of `near` overlap: its rows, and an average with it, are the bootstrap's."""
    inside = shifted(0, 300)
    sets = {"far": shifted(99, 100, 1), "farther": shifted(999, 60, 2)}
    made = {name: named(rows) for name, rows in QUICK.summarize(inside, sets | {"near": shifted(1)}).items()}
    for row in measured(made["far"]):
        assert row.ci_method == "clopper_pearson"
        assert known(row.ci_low) <= known(row.value) <= known(row.ci_high)
        assert known(row.ci_high) - known(row.ci_low) > 0.005
    low = known(made["far"]["auroc", "ties=half"].ci_low)
    assert low == pytest.approx(0.025 ** (1 / 100), abs=1e-9)
    assert {row.ci_method for row in [*measured(made["near"]), *measured(made["average"])]} == {"two_sample_bootstrap"}
    average = named(QUICK.summarize(inside, sets)["average"])["auroc", "ties=half"]
    assert (average.value, average.ci_high, average.ci_method) == (1, 1, "clopper_pearson")
    assert average.ci_low == pytest.approx((low + 0.025 ** (1 / 60)) / 2, abs=1e-9)


def test_a_rate_of_equal_scores_is_none() -> None:
    """All scores -1, as of a saturated softmax: the threshold accepts no image, so the .00 that the index rule gives
    beside an AUROC of .5 is no rate, of no set and not on average. OpenOOD's convention flags all: 1 and 1."""
    made = QUICK.summarize(table([-1.0] * 100), {"x": table([-1.0] * 100), "y": shifted(1)})
    for name in ("x", "y", "average"):
        rows = named(made[name])
        rate, recall = rows["fpr95_id_pos", "index,strict"], rows["tpr_at_fpr95_id_pos", "index,strict"]
        assert rate.value is None and "reaches 0.0 % of 100 images, not 95 %: the scores are equal" in rate.status
        assert (recall.value, recall.n, recall.headline, recall.status) == (0, 100, False, "ok")
    rows = named(made["x"])
    assert rows["auroc", "ties=half"].value == 0.5
    for stat in ("fpr95_ood_pos", "tpr_at_fpr95_ood_pos"):
        assert rows[stat, "first_at_least"].value == 1


@pytest.mark.parametrize(("tied", "recall"), [(1, 0.94), (6, 0.89), (7, None)])
def test_a_few_equal_scores_at_the_threshold_are_named(tied: int, recall: float | None) -> None:
    """100 images; the threshold, the sixth highest score, is shared by `tied`: .94 of them score less, .93, ... .89
    (90 % but for the one image that the index rule gives away), and below that the rate is undefined."""
    inside = np.arange(100.0)
    inside[94 - tied + 1 : 95] = 94
    rows = named(QUICK.summarize(table(inside), {"x": table([1000.0, 3, 4])})["x"])
    rate, reached = rows["fpr95_id_pos", "index,strict"], rows["tpr_at_fpr95_id_pos", "index,strict"]
    assert reached.value == (inside < 94).mean() == pytest.approx(recall or 0.88)
    assert rate.value == (None if recall is None else pytest.approx(2 / 3))


def test_settings_are_checked() -> None:
    """A recall of 95 is .95 mistyped; one resample has no spread."""
    with pytest.raises(ValueError, match=r"tpr=95: give a share"):
        OODDetection(tpr=95)
    with pytest.raises(ValueError, match="resamples=1"):
        replace(QUICK, resamples=1)


GROUPED = replace(QUICK, groups={"near": ["a", "b"], "far": ["c"]})


def test_a_group_has_an_average_of_its_own() -> None:
    """In distribution 1 1 2 3. `a` 2 3 3 4 has AUROC 13.5/16 (docs/metrics/ood.md) and FPR95 1/4; of `b` 1 4 the one
    beats no image and ties with two, the other beats all four: 5/8, and -1 alone is above t = -3: 1/2. `near` is their
    mean, 23.5/32 and 3/8, n = 6; `far` is `c` alone; `average` and the sets are those without groups, bit for bit."""
    inside = table([1, 1, 2, 3])
    sets = {"a": table([2, 3, 3, 4]), "b": table([1, 4]), "c": shifted(9)}
    made = GROUPED.summarize(inside, sets)
    assert list(made) == ["a", "b", "c", "average", "average near", "average far"]
    near = named(made["average near"])
    assert near["auroc", "ties=half"].value == pytest.approx((13.5 / 16 + 5 / 8) / 2)
    assert near["fpr95_id_pos", "index,strict"].value == pytest.approx(3 / 8)
    assert {row.n for row in measured(near)} == {6}
    assert made["average near"] == QUICK.summarize(inside, {"a": sets["a"], "b": sets["b"]})["average"]
    assert made["average far"] == QUICK.summarize(inside, {"c": sets["c"]})["average"]
    assert {name: rows for name, rows in made.items() if " " not in name} == QUICK.summarize(inside, sets)


def test_a_group_without_one_of_its_sets_has_no_average() -> None:
    """Not the mean of what is left."""
    made = GROUPED.summarize(shifted(0), {"a": shifted(1), "c": shifted(2)})
    assert {(row.value, row.status) for row in made["average near"]} == {(None, "undefined:no scores of b")}
    assert {row.status for row in made["average far"]} == {"ok"}


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        ({"near": []}, r"groups.near=\[\]: give a group a name and a list"),
        ({"near": "svhn"}, "groups.near=svhn: give a group a name and a list"),
        ({" ": ["svhn"]}, "give a group a name"),
        ({"near": ["svhn", "svhn"]}, "a set is there twice"),
    ],
)
def test_groups_are_checked(groups: dict[str, list[str]], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(QUICK, groups=groups)
