"""Rows of tables of wrong predictions: ranking, the threshold of close recalls, risk and coverage."""

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from assay.harness.types import ResultRow
from assay.metrics.error_detection import NO_VALIDATION, ErrorDetection
from assay.metrics.operating_points import (
    OperatingPoint,
    close_recall_threshold,
    threshold_finding,
    threshold_passing,
)
from assay.metrics.ranked import Images
from numpy.typing import ArrayLike
from sklearn.metrics import average_precision_score, roc_auc_score

QUICK = ErrorDetection(resamples=200)


def table(scores: ArrayLike, wrong: ArrayLike) -> pd.DataFrame:
    """A score table."""
    scores = np.asarray(scores, dtype=float)
    ids = [f"image{row}" for row in range(len(scores))]
    flags = np.asarray(wrong, dtype=bool)
    return pd.DataFrame(
        {"image_id": ids, "label": 0, "predicted": flags.astype(int), "is_error": flags, "score": scores}
    )


def drawn(n: int = 500, seed: int = 0, digits: int = 2) -> pd.DataFrame:
    """About a fifth wrong, with higher scores."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 1, n).round(digits)
    return table(scores, rng.random(n) < 1 / (1 + np.exp(2 - 2 * scores)))


def named(rows: list[ResultRow]) -> dict[tuple[str, str, str, float | None], ResultRow]:
    """Rows by stat, variant, subset and x, each once."""
    found = {(row.stat, row.variant, row.subset, row.x): row for row in rows}
    assert len(found) == len(rows)
    return found


TEST = table([1, 2, 3, 4, 5, 6], [0, 0, 1, 0, 1, 1])
HELD_OUT = table([1, 2, 3, 4], [0, 1, 0, 1])


def test_rows_by_hand() -> None:
    """Test: right 1 2 4, wrong 3 5 6. Validation: right 1 3, wrong 2 4 (docs/metrics/error_detection.md).

    Threshold: at 1 recalls of wrong and right are 1, 0; at 2 1, 1/2; at 3 1/2, 1/2: closest; at 4 1/2, 1.
    Test at 3: all three wrong are flagged, of the right 1 and 2 are not: 1 and 2/3.
    AUROC 8 of 9 pairs. Risks by coverage in images: 0, 0, 1/3, 1/4, 2/5, 1/2: AURC 89/360; best 0 0 0 1/4 2/5 1/2.
    """
    made = QUICK.summarize(TEST, {"validation": HELD_OUT})
    assert list(made) == ["test"]
    rows = named(made["test"])
    expected = {
        ("accuracy", "top1", "all", None): 1 / 2,
        ("n_errors", "top1", "all", None): 3,
        ("n_errors", "top1", "validation", None): 2,
        ("auroc", "ties=half", "all", None): 8 / 9,
        ("auroc", "ties=half", "validation", None): 3 / 4,
        ("threshold", "close_recall", "validation", None): 3,
        ("recall_error", "close_recall", "all", None): 1,
        ("recall_correct", "close_recall", "all", None): 2 / 3,
        ("recall_error", "close_recall", "validation", None): 1 / 2,
        ("recall_correct", "close_recall", "validation", None): 1 / 2,
        ("aurc", "ties=mean", "all", None): 89 / 360,
        ("e_aurc", "ties=mean,discrete", "all", None): (1 / 3) / 6,
        ("risk", "ties=mean", "all", 0.5): 1 / 3,
        ("risk", "ties=mean", "all", 0.6): 1 / 4,
        ("risk", "ties=mean", "all", 1.0): 1 / 2,
    }
    assert {key: rows[key].value for key in expected} == pytest.approx(expected)
    assert rows["recall_error", "close_recall", "all", None].n == 3
    assert rows["recall_correct", "close_recall", "all", None].ci_method == "wilson"
    assert (rows["aurc", "ties=mean", "all", None].n, rows["auroc", "ties=half", "validation", None].n) == (6, 4)
    assert [x for stat, _, _, x in rows if stat == "risk"] == [step / 10 for step in range(1, 11)]


def test_a_cascade_by_hand() -> None:
    """A second network is right on the images of score 2, 3 and 5 (docs/metrics/error_detection.md). At 3 it is given
    3 4 5 6, of which it gets 3 and 5; 1 and 2 stay right: 4 of 6. On validation the flagged are 3 (right: it errs) and
    4 (wrong: it mends it), thresholds are those of a detector without it, and its accuracy is 3/4."""
    second = TEST.assign(larger=np.where(np.isin(TEST["score"], [2, 3, 5]), 0, 1))
    held_out = HELD_OUT.assign(larger=np.where(HELD_OUT["score"] == 3, 1, 0))
    rows = named(QUICK.summarize(second, {"validation": held_out})["test"])
    expected = {
        ("accuracy", "top1", "all", None): 1 / 2,
        ("accuracy", "top1,larger", "all", None): 1 / 2,
        ("accuracy", "top1,larger", "validation", None): 3 / 4,
        ("cascade_accuracy", "close_recall", "all", None): 4 / 6,
        ("passed_on", "close_recall", "all", None): 4 / 6,
        ("accuracy_if_fixed", "close_recall", "all", None): 1,
    }
    assert {key: rows[key].value for key in expected} == pytest.approx(expected)
    plain = named(QUICK.summarize(TEST, {"validation": HELD_OUT})["test"])
    assert {key: row for key, row in rows.items() if key in plain} == plain


@pytest.mark.parametrize("seed", range(3))
def test_a_cascade_lies_between_its_ends(seed: int) -> None:
    """Image by image: the second network's answer where the score is at the threshold or above, the first's elsewhere;
    nothing flagged leaves the first network, everything the second; exactly."""
    rng = np.random.default_rng(seed)
    frame = drawn(400, seed).assign(larger=lambda t: (rng.random(len(t)) < 0.1).astype(int))
    first, second = (~frame["is_error"]).to_numpy(), (frame["larger"] == frame["label"]).to_numpy()
    images = Images.of(frame, "all")
    rows: dict[str, float | None] = {}
    for threshold in (-np.inf, -0.5, 0.7, np.inf):
        flagged = frame["score"].to_numpy() >= threshold
        point = OperatingPoint("any", threshold, images)
        rows = {row.stat: row.value for row in point.outcome(images)}
        assert rows["passed_on"] == flagged.mean()
        assert rows["cascade_accuracy"] == np.where(flagged, second, first).mean()
    assert rows["cascade_accuracy"] == first.mean()


def test_scikit_learn_gives_the_same() -> None:
    """AUROC and average precision of wrong predictions on the test and the validation set; 1e-12."""
    sets = {"all": drawn(), "validation": drawn(300, 1)}
    rows = named(QUICK.summarize(sets["all"], {"validation": sets["validation"]})["test"])
    for subset, frame in sets.items():
        area = roc_auc_score(frame["is_error"], frame["score"])
        precision = average_precision_score(frame["is_error"], frame["score"])
        assert rows["auroc", "ties=half", subset, None].value == pytest.approx(area, abs=1e-12)
        assert rows["aupr_error", "average_precision", subset, None].value == pytest.approx(precision, abs=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_the_threshold_makes_the_recalls_closest(seed: int) -> None:
    """Against every candidate, with few and many ties: smallest |difference|, of equal ones the largest threshold."""
    frame = drawn(60, seed, digits=seed % 3)
    scores, wrong = frame["score"].to_numpy(), frame["is_error"].to_numpy()
    if not wrong.any() or wrong.all():
        pytest.skip("one-sided draw")
    # Exact in integers: recalls times both numbers.
    apart = {
        t: abs(
            int((scores[wrong] >= t).sum()) * int((~wrong).sum()) - int((scores[~wrong] < t).sum()) * int(wrong.sum())
        )
        for t in np.unique(scores)
    }
    best = max(t for t, value in apart.items() if value == min(apart.values()))
    assert close_recall_threshold(scores, wrong) == best


def test_of_equally_close_thresholds_the_largest_is_taken() -> None:
    """Right 1 4, wrong 2 3: at 2 the recalls are 1, 1/2; at 3 1/2, 1/2; at 4 0, 1/2: 3. Right 1 2, wrong 1 2: at 1
    they are 1, 0, at 2 1/2, 1/2. One score for all, as a detector that says nothing: that score."""
    wrong = np.array([False, True, True, False])
    assert close_recall_threshold(np.array([1.0, 2, 3, 4]), wrong) == 3
    assert close_recall_threshold(np.array([1.0, 1, 2, 2]), np.array([False, True, False, True])) == 2
    assert close_recall_threshold(np.zeros(4), wrong) == 0
    # Right 5 5, wrong 0 0 6 6: at 5 the recalls are 1/2, 0, at 6 1/2, 1, equally far apart.
    assert close_recall_threshold(np.array([5.0, 5, 0, 0, 6, 6]), np.array([0, 0, 1, 1, 1, 1], bool)) == 6


def test_intervals_resample_images() -> None:
    """They hold the value; accuracy at coverage 1 is 1 - risk, and the bootstrap's error of it is the binomial one."""
    frame = drawn()
    rows = named(ErrorDetection().summarize(frame, {})["test"])
    for (stat, *_), row in rows.items():
        if row.status == "ok" and stat != "n_errors":
            assert row.value is not None and row.ci_low is not None and row.ci_high is not None
            assert row.ci_low <= row.value <= row.ci_high, stat
    risk, accuracy = rows["risk", "ties=mean", "all", 1.0], rows["accuracy", "top1", "all", None]
    assert accuracy.value is not None
    assert risk.value == pytest.approx(1 - accuracy.value)
    assert risk.stderr == pytest.approx(accuracy.stderr, rel=0.1)
    assert (risk.ci_method, accuracy.ci_method) == ("bootstrap", "wilson")


def test_only_the_order_of_the_scores_counts() -> None:
    """A growing function of the scores moves the threshold and nothing else."""
    sets, moved = (drawn(), drawn(300, 1)), []
    for change in (lambda s: s, lambda s: np.exp(s) - 5):
        test, held_out = (frame.assign(score=change(frame["score"])) for frame in sets)
        moved.append(QUICK.summarize(test, {"validation": held_out})["test"])
    for before, after in zip(*moved, strict=True):
        if before.stat == "threshold":
            assert after.value == pytest.approx(np.exp(before.value) - 5)
        else:
            assert before == after


def test_without_a_validation_set_there_is_no_threshold() -> None:
    """The recalls say what to choose; everything else is there."""
    rows = QUICK.summarize(TEST, {})["test"]
    without = [row for row in rows if row.status != "ok"]
    assert {row.stat for row in without} == {"recall_error", "recall_correct"}
    assert {row.status for row in without} == {f"undefined:{NO_VALIDATION}"}
    assert {row.value for row in without} == {None}


@pytest.mark.parametrize(("wrong", "absent"), [(0, "wrong"), (1, "right")])
def test_a_network_that_is_always_right_or_wrong(wrong: int, absent: str) -> None:
    """Nothing to rank, and no threshold when that is the validation set; risk and accuracy stay."""
    one_sided = table([1, 2, 3], [wrong] * 3)
    rows = named(QUICK.summarize(one_sided, {"validation": HELD_OUT})["test"])
    assert rows["auroc", "ties=half", "all", None].status == f"undefined:no {absent} prediction among 3 images"
    assert rows["risk", "ties=mean", "all", 1.0].value == wrong
    stat = "recall_error" if absent == "wrong" else "recall_correct"
    assert rows[stat, "close_recall", "all", None].status == f"undefined:no {absent} prediction among 3 images"
    rows = named(QUICK.summarize(TEST, {"validation": one_sided})["test"])
    why = f"undefined:no threshold from the validation set: no {absent} prediction among 3 images"
    for key in itertools.product(("recall_error", "recall_correct"), ("all", "validation")):
        assert rows[key[0], "close_recall", key[1], None].status == why
    assert rows["threshold", "close_recall", "validation", None].status == why
    assert rows["auroc", "ties=half", "all", None].status == "ok"


def test_scores_that_cannot_be_ranked() -> None:
    """Not a number, or no images: undefined, with the reason; the accuracy needs no scores."""
    rows = named(QUICK.summarize(table([1, np.nan], [0, 1]), {"validation": HELD_OUT})["test"])
    for stat, variant in (("auroc", "ties=half"), ("aurc", "ties=mean"), ("recall_error", "close_recall")):
        assert rows[stat, variant, "all", None].status == "undefined:1 of 2 scores are not a number"
    assert rows["accuracy", "top1", "all", None].value == 0.5
    rows = named(QUICK.summarize(table([], []), {})["test"])
    assert rows["accuracy", "top1", "all", None].status == "undefined:no images"
    assert rows["aurc", "ties=mean", "all", None].status == "undefined:no images"


def test_orders_without_a_mistake_have_intervals_with_a_width() -> None:
    """100 right, then 25 wrong: AUROC from 1 - .025^(1/25); no error among the surest 13 and 63 of 125 images: risk up
    to 1 - .025^(1/13) and 1 - .025^(1/63); both areas of precision too, though the trapezoids' varies with
    the number of errors. What has a width is the bootstrap's; 1e-9."""
    rows = named(QUICK.summarize(table(range(125), np.arange(125) >= 100), {})["test"])
    area = rows["auroc", "ties=half", "all", None]
    assert area.ci_low == pytest.approx(0.025 ** (1 / 25))
    assert (area.ci_high, area.ci_method) == (1, "clopper_pearson")
    for x, images in ((0.1, 13), (0.5, 63)):
        risk = rows["risk", "ties=mean", "all", x]
        assert (risk.value, risk.ci_low, risk.ci_method) == (0, 0, "clopper_pearson")
        assert risk.ci_high == pytest.approx(1 - 0.025 ** (1 / images))
    for variant in ("trapezoid", "average_precision"):
        row = rows["aupr_error", variant, "all", None]
        assert row.ci_method == "clopper_pearson" and row.ci_low is not None and row.ci_low < 0.9
    assert rows["risk", "ties=mean", "all", 1.0].ci_method == "bootstrap"
    assert rows["aurc", "ties=mean", "all", None].ci_method == "bootstrap"


@pytest.mark.parametrize("wrong", [0, 1])
def test_a_network_without_errors_may_make_one(wrong: int) -> None:
    """50 images, all right or all wrong: no interval of a risk is a point, and none leaves [0,1]; but an excess by
    trapezoids, which may be below 0 by as much as the perfect order's area, here 0 or 1."""
    for row in QUICK.summarize(table(range(50), [wrong] * 50), {})["test"]:
        if row.stat in ("risk", "aurc", "e_aurc"):
            assert row.ci_low is not None and row.ci_high is not None and row.value is not None
            least = -wrong if (row.stat, row.variant) == ("e_aurc", "trapezoid,analytic") else 0
            assert least <= row.ci_low <= round(row.value, 12) <= row.ci_high <= 1
            assert row.ci_high - row.ci_low > 0.05 and row.ci_method == "clopper_pearson"


# Operating points


def points(rows: list[ResultRow], variant: str) -> dict[tuple[str, str], float | None]:
    """(stat, subset) -> value at one operating point."""
    return {(row.stat, row.subset): row.value for row in rows if row.variant == variant}


def test_a_chosen_recall_by_hand() -> None:
    """Validation: right 1 2 3 5, wrong 4 6. Three quarters of the right ones are below 4: t = 4, both wrong ones are
    flagged. Half of the wrong ones are at or above 6: t = 6, no right one is. Test, right 1 2 4, wrong 3 5 6: at 4 two
    of three wrong ones are flagged, two of three right ones pass, so that with 4, 5 and 6 put right five of six are
    right. At 6 one of three is found."""
    held_out = table([1, 2, 3, 5, 4, 6], [0, 0, 0, 0, 1, 1])
    metric = ErrorDetection(50, recalls_correct=[0.75], recalls_error=[0.5])
    rows = metric.summarize(TEST, {"validation": held_out})["test"]
    assert points(rows, "recall_correct>=0.75") == pytest.approx(
        {
            ("threshold", "validation"): 4,
            ("recall_error", "validation"): 1,
            ("recall_correct", "validation"): 3 / 4,
            ("recall_error", "all"): 2 / 3,
            ("recall_correct", "all"): 2 / 3,
            ("wrong_flagged", "all"): 2,
            ("wrong_passed", "all"): 1,
            ("right_flagged", "all"): 1,
            ("right_passed", "all"): 2,
            ("accuracy_if_fixed", "all"): 5 / 6,
        }
    )
    found = points(rows, "recall_error>=0.5")
    assert found["threshold", "validation"] == 6
    assert found["recall_error", "all"] == pytest.approx(1 / 3)
    # On the test set itself: right 1 2 4, of which two are below 3; of the wrong ones 5 and 6 are at or above 5.
    assert points(rows, "recall_correct>=0.75,on=test")["threshold", "all"] == 5  # three of three are below
    assert points(rows, "recall_error>=0.5,on=test")["threshold", "all"] == 5


def test_a_recall_that_no_score_leaves() -> None:
    """The highest score is a right prediction's and all right ones are to pass: t is the next number, and a test image
    is flagged only beyond it."""
    metric = ErrorDetection(50, recalls_correct=[1.0])
    rows = metric.summarize(table([2, 2.5], [0, 1]), {"validation": table([1, 2], [1, 0])})["test"]
    found = points(rows, "recall_correct>=1")
    assert found["threshold", "validation"] == np.nextafter(2, 3)
    assert (found["recall_error", "validation"], found["recall_correct", "validation"]) == (0, 1)
    assert (found["recall_error", "all"], found["right_flagged", "all"]) == (1, 0)


def test_a_recall_below_one_image_is_one_image() -> None:
    """1e-7 of four images: the highest score finds a wrong one, and beyond the lowest a right one passes; not the other
    end of the scores, which index -1 is."""
    scores, wrong = np.arange(8.0), np.arange(8) % 2 == 1
    assert threshold_finding(scores, wrong, 1e-7) == 7
    assert threshold_passing(scores, wrong, 1e-7) == 1


def test_a_chosen_recall_is_kept_where_it_was_chosen() -> None:
    """Any score set with ties: at least the share asked for, and with the next score on the other side less (or, of the
    right ones, no error is given away); a growing function of the scores changes no share."""
    for seed, digits in itertools.product(range(5), (0, 1, 6)):
        frame = drawn(80, seed, digits)
        scores, wrong = frame["score"].to_numpy(), frame["is_error"].to_numpy()
        for recall in (0.5, 0.9, 0.982):
            t = threshold_finding(scores, wrong, recall)
            above = scores[scores > t]
            assert (scores[wrong] >= t).mean() >= recall
            assert not len(above) or (scores[wrong] >= above.min()).mean() < recall
            t = threshold_passing(scores, wrong, recall)
            below = scores[scores < t].max()
            assert (scores[~wrong] < t).mean() >= recall > (scores[~wrong] < below).mean()
            assert threshold_passing(np.exp(scores), wrong, recall) in (np.exp(t), np.nextafter(np.exp(below), np.inf))


def test_the_papers_own_numbers() -> None:
    """Fig. 6 and sect. 5: of 4,444 right predictions 630 are flagged, of 556 wrong ones 495: recalls .858 and .890, and
    4,939 of 5,000 are right once what is flagged is put right: 98.8 % (98.4 % in print). Sect. 4.3: 120 and 310 are
    flagged: .973 and .558 (55.9 % in print)."""
    for right_flagged, wrong_flagged, recalls, fixed in (
        (630, 495, (0.858, 0.890), 0.9878),
        (120, 310, (0.973, 0.558), 0),
    ):
        scores = np.repeat([0, 1, 0, 1], [4444 - right_flagged, right_flagged, 556 - wrong_flagged, wrong_flagged])
        frame = table(scores, np.repeat([0, 1], [4444, 556]))
        found = points(ErrorDetection(2).summarize(frame, {"validation": frame})["test"], "close_recall")
        assert (found["recall_correct", "all"], found["recall_error", "all"]) == pytest.approx(recalls, abs=5e-4)
        assert (found["right_flagged", "all"], found["wrong_flagged", "all"]) == (right_flagged, wrong_flagged)
        assert (found["right_passed", "all"], found["wrong_passed", "all"]) == (
            4444 - right_flagged,
            556 - wrong_flagged,
        )
        assert found["accuracy_if_fixed", "all"] == pytest.approx(fixed or (4444 + 310) / 5000, abs=1e-12)


def test_points_of_the_curves_are_rows() -> None:
    """TEST, right 1 2 4, wrong 3 5 6: all wrong ones but one are found while no right one is flagged; a risk of at most
    .2 is met by the two surest images."""
    rows = named(QUICK.summarize(TEST, {"validation": HELD_OUT})["test"])
    assert rows["roc", "ties=mean", "all", 0.1].value == pytest.approx(2 / 3)
    assert rows["roc", "ties=mean", "all", 0.9].value == 1
    assert rows["roc", "ties=mean", "validation", 0.5].value == 1
    assert rows["coverage", "threshold", "all", 0.2].value == pytest.approx(2 / 6)
    assert rows["roc", "ties=mean", "all", 0.1].x_label == "right predictions flagged"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"resamples": 1}, "resamples=1"),
        ({"recalls_correct": [0.0]}, "recall_correct of 0.0: give shares above 0, up to 1"),
        ({"recalls_error": [0.9, 98]}, "recall_error of 98"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], says: str) -> None:
    """One resample has no spread; a recall is a share."""
    with pytest.raises(ValueError, match=says):
        ErrorDetection(**settings)
