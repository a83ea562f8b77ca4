"""Rows of tidy tables for tests of what people read."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

COLUMNS: dict[str, Any] = {
    **{"model": "m", "dataset": "d", "reference": "", "split": "test", "subset": "all", "method": "gradcam"},
    **{"metric": "pointing_game", "variant": "tol=2px", "stat": "mean", "x": None, "value": 0.5, "n": 4},
    **{"ci_low": 0.4, "ci_high": 0.6, "status": "ok", "x_label": "", "headline": True, "kind": "attribution"},
    **{"cell_key": "c", "metric_key": "k", "run_id": "r", "higher_is_better": None},
}


def table(*rows: Mapping[str, Any]) -> pd.DataFrame:
    """Tidy rows that differ from a common one."""
    return pd.DataFrame([COLUMNS | dict(row) for row in rows])


def curve(method: str, values: list[float], **others: Any) -> list[dict[str, Any]]:
    """Rows of a curve over 0, 1, 2, ..."""
    about = {
        "method": method,
        "metric": "insertion",
        "variant": "morf,mean,accuracy,2x1%",
        "stat": "accuracy",
        "x_label": "pixels changed, %",
        "headline": False,
        **others,
    }
    return [
        {**about, "x": float(x), "value": value, "ci_low": value - 0.1, "ci_high": value + 0.1}
        for x, value in enumerate(values)
    ]
