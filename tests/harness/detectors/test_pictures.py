"""Pictures of score tables: files that open, curves that agree with the reported numbers, odd tables that draw."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from assay.harness.curves import acceptance_limit, risk_bootstrap, roc_statistics
from assay.harness.detectors.pictures import _risk, _roc, draw_error_roc, draw_histograms, draw_risk_coverage, draw_roc
from numpy.typing import ArrayLike
from PIL import Image


def table(scores: ArrayLike, wrong: ArrayLike | None = None) -> pd.DataFrame:
    """A score table; without `wrong` every prediction is right."""
    scores = np.asarray(scores, dtype=float)
    flags = np.zeros(len(scores), bool) if wrong is None else wrong
    return pd.DataFrame({"score": scores, "is_error": flags, "label": 0})


def normal(shift: float, n: int = 200, seed: int = 0) -> np.ndarray:
    """Scores rounded so that some are equal."""
    return np.random.default_rng(seed).normal(shift, 1, n).round(1)


def size(path: Path) -> tuple[int, int]:
    """Width and height of a picture that opens."""
    with Image.open(path) as picture:
        picture.load()
        return picture.size


def test_curves_are_those_of_the_numbers() -> None:
    """The area below the drawn ROC curve is AUROC, the mean of the drawn risks AURC (1e-12); the share of OOD scores
    below the drawn line is FPR95, exactly."""
    inside, outside = normal(0), normal(1, 150, 1)
    reported = roc_statistics(inside, outside)
    alarms, found = _roc(inside, outside)
    assert np.trapezoid(found, alarms) == pytest.approx(reported["auroc"], abs=1e-12)
    assert (outside < acceptance_limit(inside)).mean() == reported["fpr_id_pos"]
    wrong = np.random.default_rng(2).random(200) < 0.2
    coverage, risk = _risk(inside, wrong)
    assert risk.mean() == pytest.approx(risk_bootstrap(inside, wrong, resamples=2)[0]["aurc"], abs=1e-12)
    assert (coverage[-1], risk[-1]) == (1, pytest.approx(wrong.mean()))


def test_pictures_grow_with_their_panels(tmp_path: Path) -> None:
    """One to four OOD sets, three side by side; several detectors in one ROC picture, of which one lacks a set."""
    inside = table(normal(0))
    sets = {f"set{i}": table(normal(i, 60, i)) for i in range(4)}
    for count in (1, 2, 4):
        draw_histograms(inside, dict(list(sets.items())[:count]), tmp_path / f"new/h{count}.png", "title")
    widths, heights = zip(*(size(tmp_path / f"new/h{count}.png") for count in (1, 2, 4)), strict=True)
    assert widths[2] > widths[1] > widths[0]
    assert heights[2] > heights[1]
    draw_roc({"a": (inside, sets), "b": (inside, {"set0": sets["set0"]})}, tmp_path / "roc.png")
    assert size(tmp_path / "roc.png")[0] > 1000
    wrong = np.random.default_rng(0).random(200) < 0.1
    draw_risk_coverage({f"detector{i}": table(normal(0, 200, i), wrong) for i in range(12)}, tmp_path / "risk.png")
    assert min(size(tmp_path / "risk.png")) > 300
    draw_error_roc({"one": table(normal(0), wrong), "all right": table(normal(0))}, tmp_path / "errors.png")
    assert min(size(tmp_path / "errors.png")) > 300


@pytest.mark.parametrize(
    "scores",
    [[], [np.nan], [1.0, 1.0, 1.0], [np.inf, 0.0], [0.1] * 99 + [1e30]],
    ids=["none", "nan", "equal", "inf", "far"],
)
def test_odd_scores_still_draw(scores: list[float], tmp_path: Path) -> None:
    """On either side, alone or beside good ones: a picture each, empty where nothing can be shown."""
    good, odd = table(normal(0)), table(scores)
    for number, (inside, outside) in enumerate([(good, odd), (odd, good), (odd, odd)]):
        draw_histograms(inside, {"good": good, "odd": outside}, tmp_path / f"h{number}.png", "odd")
        draw_roc({"one": (inside, {"odd": outside}), "two": (good, {"odd": good})}, tmp_path / f"r{number}.png")
        assert min(*size(tmp_path / f"h{number}.png"), *size(tmp_path / f"r{number}.png")) > 100
    draw_risk_coverage({"odd": odd, "good": good}, tmp_path / "c.png")
    assert min(size(tmp_path / "c.png")) > 100


def test_nothing_to_draw(tmp_path: Path) -> None:
    """No set, no detector: an empty picture, no error."""
    draw_histograms(table(normal(0)), {}, tmp_path / "h.png", "nothing")
    draw_roc({}, tmp_path / "r.png")
    draw_risk_coverage({}, tmp_path / "c.png")
    assert len(list(tmp_path.iterdir())) == 3


def test_equal_scores_have_no_line(tmp_path: Path) -> None:
    """No score leaves 95 % of equal ones to its left: the picture is drawn, and its size is the usual one."""
    for name, inside in (("equal", table([-1.0] * 200)), ("usual", table(normal(0)))):
        draw_histograms(inside, {"x": table(normal(1))}, tmp_path / f"{name}.png", "title")
    assert size(tmp_path / "equal.png")[0] == size(tmp_path / "usual.png")[0]
