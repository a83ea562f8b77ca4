"""Table 3 and Figure 4 of the conductance paper, by hand and against scikit-learn."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from assay.harness.types import ResultRow
from assay.metrics.label_change import LabelChange
from sklearn.metrics import roc_auc_score


def table(changed: list[list[int]], wrong: list[bool], labels: list[int] | None = None) -> pd.DataFrame:
    """Images whose mutants change their predictions so."""
    known = [0] * len(wrong) if labels is None else labels
    return pd.DataFrame(
        {"label": known, "is_error": wrong, "score": 0.0, "changed": [np.array(row) for row in changed]}
    )


def rows_of(test: pd.DataFrame, validation: pd.DataFrame | None = None, **settings: Any) -> list[ResultRow]:
    partners = {} if validation is None else {"validation": validation}
    return LabelChange(**{"resamples": 20, **settings}).summarize(test, partners)["test"]


def row(rows: list[ResultRow], stat: str, subset: str = "all", **more: Any) -> ResultRow:
    (found,) = [
        r for r in rows if r.stat == stat and r.subset == subset and all(getattr(r, k) == v for k, v in more.items())
    ]
    return found


CHANGED = [[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0]]
WRONG = [False, False, False, True, True]


def test_table_3_by_hand() -> None:
    """Right: 0, .25, .25, mean 1/6; wrong: 1, .5, mean .75; standard deviations .1443 and .3536."""
    rows = rows_of(table(CHANGED, WRONG))
    assert row(rows, "mean", variant="right").value == pytest.approx(1 / 6)
    assert row(rows, "mean", variant="wrong").value == pytest.approx(0.75)
    assert (row(rows, "mean", variant="right").n, row(rows, "mean", variant="wrong").n) == (3, 2)
    difference = (0.75 - math.sqrt(0.125)) - (1 / 6 + math.sqrt(1 / 48))
    assert row(rows, "lcr_difference").value == pytest.approx(difference)


def test_figure_4_by_hand() -> None:
    """The first mutant changes one of two wrong and one of three right: 1/2 of 2/3 pairs in order, the rest tied."""
    rows = rows_of(table(CHANGED, WRONG))
    assert [r.x for r in rows if r.stat == "auroc_by_mutants"] == [1, 2, 3, 4]
    assert row(rows, "auroc_by_mutants", x=1).value == pytest.approx((2 + 0.5 + 2 * 0.5) / 6)
    assert row(rows, "auroc_by_mutants", x=4).value == 1
    assert row(rows, "auroc_by_mutants", x=4).x_label == "mutants"


def test_figure_4_against_sklearn() -> None:
    """300 images, 23 mutants: every asked number and the last, on both sets; 1e-12."""
    draw = np.random.default_rng(0)
    wrong = draw.random((2, 300)) < 0.3
    changed = draw.random((2, 300, 23)) < np.where(wrong, 0.3, 0.2)[..., None]
    tables = [table(c.astype(int).tolist(), w.tolist()) for c, w in zip(changed, wrong, strict=True)]
    rows = rows_of(*tables)
    for subset, c, w in zip(("all", "validation"), changed, wrong, strict=True):
        for x in (1, 2, 3, 5, 10, 15, 20, 23):
            expected = roc_auc_score(w, c[:, :x].mean(1))
            found = row(rows, "auroc_by_mutants", subset, x=x)
            assert found.value == pytest.approx(expected, abs=1e-12)
            assert found.ci_low is not None
            assert found.ci_high is not None
            assert found.ci_low < expected < found.ci_high


def test_what_was_not_asked_does_not_count() -> None:
    """A test that ended after one mutant: rates 1 and 0."""
    rows = rows_of(table([[1, -1], [0, -1], [0, 0], [0, 1]], [True, False, False, True]))
    assert row(rows, "mean", variant="wrong").value == 0.75


def test_a_number_of_mutants_that_not_all_were_asked_is_undefined() -> None:
    """The first mutant was asked of all four images (1/2 of 4 pairs and 2 tied), the second of two."""
    rows = rows_of(table([[1, -1], [0, -1], [0, 0], [0, 1]], [True, False, False, True]))
    assert row(rows, "auroc_by_mutants", x=1).value == 0.75
    two = row(rows, "auroc_by_mutants", x=2)
    assert (two.value, two.ci_low) == (None, None)
    assert two.status == "undefined:2 of 4 images were asked of fewer than 2 mutants (mutants.stop)"


def test_unlabelled_images_do_not_count() -> None:
    rows = rows_of(table([*CHANGED, [1, 1, 1, 1]], [*WRONG, False], [0] * 5 + [-1]))
    assert row(rows, "mean", variant="right").n == 3


def test_a_detector_without_mutants_is_told() -> None:
    (found,) = rows_of(table(CHANGED, WRONG).drop(columns="changed"))
    assert found.value is None
    assert found.status == "undefined:the detector asks no mutants: method=[lcr]"


def test_without_errors_it_says_so() -> None:
    rows = rows_of(table(CHANGED, [False] * 5))
    assert row(rows, "mean", variant="wrong").status == "undefined:no wrong prediction among 5 images"
    assert row(rows, "lcr_difference").status == "undefined:fewer than two wrong predictions among 5 images"
    assert "no wrong prediction" in row(rows, "auroc_by_mutants", x=1).status
    assert row(rows, "mean", variant="right").value == pytest.approx(0.4)


def test_resamples_are_checked() -> None:
    with pytest.raises(ValueError, match="resamples=1"):
        LabelChange(1)
