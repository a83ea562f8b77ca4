"""Result rows as text: what a terminal shows."""

from typing import Any

import pandas as pd


def column_name(row: Any) -> str:
    """A result row's metric with what tells it apart from its neighbours; for an ood row, the set and the quantity."""
    point = "" if pd.isna(row.x) else f"at {row.x:g}"
    if row.reference:
        return " ".join(filter(None, [row.dataset, row.stat, point]))
    stat = "" if row.stat == "mean" else row.stat
    subset = "" if row.subset == "all" else row.subset
    return " ".join(filter(None, [row.metric, row.variant, subset, stat, point]))


def headlines(results: pd.DataFrame) -> pd.DataFrame:
    """Rows with a value that their metric calls headlines.

    Beside their columns: `column` names the quantity; `interval` is its text, empty where the metric gives none.
    """
    chosen = results[results["headline"].astype(bool) & results["value"].notna()].fillna({"reference": ""})
    chosen["column"] = [column_name(row) for row in chosen.itertuples()]
    chosen["interval"] = [_interval(row) for row in chosen.itertuples()]
    return chosen


def _interval(row: Any) -> str:
    return "" if pd.isna(row.ci_low) else f"[{row.ci_low:.3f}, {row.ci_high:.3f}]"


def terminal_table(results: pd.DataFrame) -> str:
    """Means with their intervals, a line a method and a column a quantity; failures below."""
    shown = headlines(results)
    shown["cell"] = [f"{row.value:.3f} {row.interval}".strip() for row in shown.itertuples()]
    plain = shown[shown["reference"] == ""]
    table = plain.pivot_table(index="method", columns="column", values="cell", aggfunc="first", sort=False)
    lines = [table.fillna("").to_string()] if len(table) else []
    lines += _ood_table(shown[shown["reference"] != ""])
    return "\n".join([*lines, *_failures(results)]) or "no row has a value: the status column of results.csv says why"


def _ood_table(shown: pd.DataFrame) -> list[str]:
    """As the papers print them: FPR95 / AUROC in percent, a line a detector and a column an OOD set."""
    if shown.empty:
        return []
    wide = shown.pivot_table(index=["method", "dataset"], columns="stat", values="value", aggfunc="first", sort=False)
    cells = [" / ".join(f"{100 * value:.2f}" for value in values) for values in wide.to_numpy()]
    table = pd.Series(cells, index=wide.index).unstack("dataset").sort_index()
    head = f"{shown['reference'].iloc[0]} against ...: {' / '.join(wide.columns)}, percent"
    return [head, table.to_string(), "intervals and the other conventions are in results.csv"]


def _failures(results: pd.DataFrame) -> list[str]:
    failed = results[results["status"].str.startswith("failed")]
    return [f"{row.method} x {row.metric}: {row.status}" for row in failed.itertuples()]
