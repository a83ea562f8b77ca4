"""OOD detection where shifted images of known classes are in distribution: OpenOOD's definition on the joined set."""

import numpy as np
import pandas as pd
import pytest
from assay.harness.inside import Inside
from assay.harness.types import ResultRow
from assay.metrics.full_spectrum import FullSpectrum
from assay.metrics.ood import OODDetection
from numpy.typing import ArrayLike, NDArray
from sklearn import metrics

Rows = dict[str, list[ResultRow]]
QUICK = FullSpectrum(["blur"], resamples=200)


def table(scores: ArrayLike, wrong: int = 0, prefix: str = "image") -> pd.DataFrame:
    """A score table, of whose labelled images the first `wrong` are predicted wrong."""
    scores = np.asarray(scores, dtype=float)
    errors = np.arange(len(scores)) < wrong
    ids = [f"{prefix}{row}" for row in range(len(scores))]
    return pd.DataFrame(
        {"image_id": ids, "label": 0, "predicted": errors.astype(int), "is_error": errors, "score": scores}
    )


def one(rows: list[ResultRow], stat: str) -> ResultRow:
    """The headline, or the only row of this statistic."""
    found = [row for row in rows if row.stat == stat]
    assert len(found) == 1
    return found[0]


def normal(shift: float, n: int, seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(shift, 1, n)


def test_rows_by_hand() -> None:
    """In distribution 1 1 and, shifted, 2 4; unknown 3 5: won pairs 3 + 4 of 8. Alone the test set would lose none.

    Three of the four joined images are predicted right; the shifted set has no rows of its own.
    """
    rows = QUICK.summarize(table([1, 1]), {"blur": table([2, 4], wrong=1, prefix="other"), "far": table([3, 5])})
    assert list(rows) == ["far", "average"]
    assert one(rows["far"], "auroc").value == pytest.approx(7 / 8)
    assert one(rows["far"], "auroc").n == 2
    assert one(rows["average"], "auroc").value == pytest.approx(7 / 8)
    accuracy = one(rows["average"], "accuracy")
    assert (accuracy.value, accuracy.n, accuracy.variant) == (0.75, 4, "top1")


def openood(confidence: NDArray[np.float64], label: NDArray[np.int64]) -> tuple[float, float]:
    """FPR95 and AUROC as its evaluators/metrics.py defines them: unknown images, of label -1, are the positives."""
    unknown = (label == -1).astype(int)
    fpr, tpr, _ = metrics.roc_curve(unknown, -confidence, drop_intermediate=False)
    return float(fpr[np.argmax(tpr >= 0.95)]), float(metrics.auc(fpr, tpr))


def test_quantities_are_openoods() -> None:
    """Its `eval_ood(fsood=True)`: test and shifted images keep their labels, unknown ones have -1; near and far are
    means over their sets; accuracy over all joined. To 1e-12, which is rounding."""
    test, blur, noise = table(normal(0, 300, 0), 30), table(normal(0.7, 300, 1), 90), table(normal(1, 200, 2), 100, "n")
    far = {name: table(normal(shift, 150, 3 + place)) for place, (name, shift) in enumerate({"a": 1, "b": 2}.items())}
    metric = FullSpectrum(["blur", "noise"], {"far": ["a", "b"], "near": ["c"]}, resamples=50)
    rows = metric.summarize(test, {"blur": blur, "noise": noise, **far, "c": table(normal(0.8, 90, 9))})
    joined = -np.concatenate([each["score"] for each in (test, blur, noise)])
    found = []
    for name, each in far.items():
        labels = np.repeat([0, -1], [len(joined), len(each)])
        fpr, auroc = openood(np.concatenate([joined, -each["score"]]), labels)
        assert one(rows[name], "fpr95_ood_pos").value == pytest.approx(fpr, abs=1e-12)
        assert one(rows[name], "auroc").value == pytest.approx(auroc, abs=1e-12)
        found.append(auroc)
    assert one(rows["average far"], "auroc").value == pytest.approx(np.mean(found), abs=1e-12)
    assert one(rows["average near"], "auroc").value == one(rows["c"], "auroc").value
    assert one(rows["average"], "accuracy").value == pytest.approx(1 - 220 / 800)


def test_versions_of_an_image_are_no_more_images() -> None:
    """A shifted set that is the test set again changes no value, no resample and so no interval; scores of other images
    make it narrower. Of detectors that tell all apart the interval is that of the images looked at, too."""
    test, far = table(normal(0, 80, 0)), table(normal(1, 60, 1))
    alone = OODDetection(resamples=400).summarize(test, {"far": far})["far"]
    again = FullSpectrum(["blur"], resamples=400).summarize(test, {"far": far, "blur": test})["far"]
    others = FullSpectrum(["blur"], resamples=400).summarize(
        test, {"far": far, "blur": table(test["score"], prefix="x")}
    )
    shuffled = FullSpectrum(["blur"], resamples=400).summarize(test, {"far": far, "blur": test[::-1]})["far"]
    for stat in ("auroc", "fpr95_id_pos"):
        assert one(again, stat) == one(shuffled, stat) == one(alone, stat)
        assert one(others["far"], stat).value == one(alone, stat).value
    widths = [one(rows, "auroc") for rows in (others["far"], alone)]
    assert widths[0].stderr is not None and widths[1].stderr is not None
    assert widths[0].stderr < 0.95 * widths[1].stderr
    perfect = FullSpectrum(["blur"], resamples=50).summarize(test, {"far": table(far["score"] + 99), "blur": test})
    plain = OODDetection(resamples=50).summarize(test, {"far": table(far["score"] + 99)})
    assert one(perfect["far"], "auroc") == one(plain["far"], "auroc")


def test_of_versions_alone_one_counts() -> None:
    """Two images, each twice, and three others: five."""
    test = table([1, 2])
    inside = Inside.of(test, {"blur": test, "other": table([7, 8, 9], prefix="x")})
    assert sorted(inside.once()) == [1, 2, 7, 8, 9]


def test_accuracy_of_versions_is_drawn_by_image_and_needs_labels() -> None:
    """Two versions of an image are one cluster; without a label there is no accuracy, and ranking goes on."""
    test, far = table([1, 2, 3], wrong=1), table([4, 5])
    accuracy = one(QUICK.summarize(test, {"far": far, "blur": test})["average"], "accuracy")
    assert accuracy.ci_method == "cluster_bootstrap" and accuracy.value == pytest.approx(2 / 3)
    unlabelled = QUICK.summarize(test.assign(label=-1), {"far": far, "blur": test.assign(label=-1)})
    assert one(unlabelled["average"], "accuracy").value is None
    assert one(unlabelled["average"], "accuracy").status == "undefined:no image has a label"
    assert one(unlabelled["average"], "auroc").value == 1


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"shifted": []}, r"shifted=\[\]: list sets of the test set's classes"),
        ({"shifted": "blur"}, "shifted=blur"),
        ({"shifted": ["blur", "blur"]}, "each once"),
        ({"shifted": ["blur"], "tpr": 2}, "tpr=2"),
        ({"shifted": ["blur"], "groups": {"near": "far"}}, "groups.near=far"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        FullSpectrum(**settings)  # type: ignore[arg-type]
