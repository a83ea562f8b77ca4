"""Tables 1 and 2 and Figure 2 of the conductance paper, by hand."""

import numpy as np
import pandas as pd
import pytest
from assay.harness.types import ResultRow
from assay.metrics.class_units import UnitConductance


def table() -> pd.DataFrame:
    """docs/metrics/unit_conductance.md: four images, and one without a label, which does not count."""
    values = [[5.0, 1], [1, 2], [3, 0], [5, 2], [99, 99]]
    return pd.DataFrame(
        {
            "label": [0, 1, 1, 1, -1],
            "predicted": [0, 0, 1, 1, 1],
            "is_error": [False, True, False, False, False],
            "class_conductance": [np.array(each, dtype=np.float32) for each in values],
            "units": [np.array([label]) for label in (1, 1, 0, 0, 0)],
        }
    )


def found(rows: list[ResultRow]) -> dict[tuple[str, str, float | None], tuple[float | None, int]]:
    return {(row.subset, row.variant, row.x): (row.value, row.n) for row in rows}


def test_by_hand() -> None:
    """By rank over all, by unit a class; no row of wrong predictions where there are none."""
    rows = UnitConductance().summarize(table(), {})["test"]
    expected = {
        ("all", "right", 1): (pytest.approx(13 / 3), 3),
        ("all", "right", 2): (1, 3),
        ("all", "wrong", 1): (1, 1),
        ("all", "wrong", 2): (2, 1),
        ("class=0", "right", 1): (5, 1),
        ("class=0", "wrong", 1): (1, 1),
        ("class=1", "right", 0): (4, 2),
    }
    assert found(rows) == expected
    assert [(row.subset, row.x) for row in rows if row.headline] == [("all", 1)] * 2
    assert {(row.subset == "all", row.x_label) for row in rows} == {(True, "rank"), (False, "unit")}


def test_a_detector_without_units() -> None:
    """One row that says so."""
    (row,) = UnitConductance().summarize(table().drop(columns="class_conductance"), {})["test"]
    assert row.value is None and row.status == "undefined:the detector has no units of a class: method=[class_units]"
