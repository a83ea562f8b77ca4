"""Result rows as text: what a terminal shows."""

from collections.abc import Collection
from typing import Any, NamedTuple

import pandas as pd

from .settings import told_apart
from .terminal import blocks, grid, printable, wrapped


def column_name(row: Any) -> str:
    """A result row's metric with what tells it apart from its neighbours; for an ood row, the set and the quantity."""
    point = "" if pd.isna(row.x) else f"at {row.x:g}"
    if row.reference:
        return " ".join(filter(None, [row.dataset, row.stat, point]))
    stat = "" if row.stat == "mean" else row.stat
    subset = "" if row.subset == "all" else row.subset
    return " ".join(filter(None, [row.metric, row.variant, subset, stat, point]))


def headlines(results: pd.DataFrame, floors: Collection[str] = ()) -> pd.DataFrame:
    """Rows with a value that their metric calls headlines.

    Beside their columns: `column` names the quantity; `interval` is its text, empty where the metric gives none.
    `method` says what tells two results of one method apart, and which are floors (`told_apart`).
    """
    chosen = results[results["headline"].astype(bool) & results["value"].notna()].fillna({"reference": ""})
    chosen["column"] = [column_name(row) for row in chosen.itertuples()]
    chosen["interval"] = [_interval(row) for row in chosen.itertuples()]
    return told_apart(chosen, floors)


def _interval(row: Any) -> str:
    return "" if pd.isna(row.ci_low) else f"[{row.ci_low:.3f}, {row.ci_high:.3f}]"


def terminal_table(results: pd.DataFrame, floors: Collection[str] = ()) -> str:
    """Means with their intervals, a line a method (the best first) and a column a quantity; failures below.

    floors: methods that every other one has to beat; they are marked.
    """
    shown = headlines(results, floors)
    parts = [*_quantities(shown[shown["reference"] == ""])]
    for _, against in shown[shown["reference"] != ""].groupby("reference", sort=False):
        parts += _sets(against)
    parts += map(wrapped, failures(results))
    return printable("\n".join(parts) or wrapped("no row has a value: the status column of results.csv says why"))


def _quantities(shown: pd.DataFrame) -> list[str]:
    """A column a quantity: value and interval."""
    if shown.empty:
        return []
    shown = shown.assign(cell=[f"{row.value:.3f} {row.interval}".strip() for row in shown.itertuples()])
    wide = shown.pivot_table(index="method", columns="column", values="cell", aggfunc="first", sort=False)
    ranking, heads = _ranking(shown, "column"), _heads(shown, "column")
    wide = wide.reindex(ranking.methods).fillna("")
    table = blocks("method", ranking.methods, {heads[name]: list(wide[name]) for name in wide})
    return [table, *ranking.said()]


def _sets(shown: pd.DataFrame) -> list[str]:
    """Of one set of known images, as the papers print them: FPR95 / AUROC in percent, a line a detector and a column an
    OOD set."""
    shown = shown.assign(quantity=[row.column.removeprefix(f"{row.dataset} ") for row in shown.itertuples()])
    places = {"index": ["method", "dataset"], "columns": "quantity", "values": "value"}
    wide = shown.pivot_table(**places, aggfunc="first", sort=False)
    cells = pd.Series([" / ".join(map(_percent, values)) for values in wide.to_numpy()], index=wide.index)
    ranking, heads = _ranking(shown, "quantity"), _heads(shown, "quantity")
    table = cells.unstack("dataset", fill_value="").reindex(ranking.methods)
    title = f"{shown['reference'].iloc[0]} against ...: {' / '.join(heads[name] for name in wide)}, percent"
    rows = blocks("method", ranking.methods, {name: list(table[name]) for name in sorted(table)})
    said = "intervals and the other conventions are in results.csv"
    return [wrapped(title), rows, *ranking.said(), wrapped(said)]


class Ranking(NamedTuple):
    """Methods, the best first, and by what; by nothing where no direction is known: then they are sorted by name."""

    methods: list[str]
    by: str

    def said(self) -> list[str]:
        """What stands below the table."""
        return [wrapped(f"best first by {self.by}")] if self.by else []


def _ranking(shown: pd.DataFrame, quantity: str) -> Ranking:
    """By the first quantity (a column's name) whose good direction is known: its mean over data sets."""
    directed = shown[shown["higher_is_better"].notna()]
    if directed.empty:
        return Ranking(sorted(set(shown["method"])), "")
    first = directed.iloc[0]
    values = directed[directed[quantity] == first[quantity]].astype({"value": float}).groupby("method")["value"].mean()
    ranked = list(values.sort_values(ascending=not first["higher_is_better"], kind="stable").index)
    return Ranking([*ranked, *sorted(set(shown["method"]) - set(ranked))], first[quantity])


def _heads(shown: pd.DataFrame, quantity: str) -> dict[str, str]:
    """Quantity -> its name with an arrow for the good direction, if that is known."""
    each = shown.drop_duplicates(quantity)
    arrows = ["" if pd.isna(up) else " ↑" if up else " ↓" for up in each["higher_is_better"]]
    return {name: name + arrow for name, arrow in zip(each[quantity], arrows, strict=True)}


def _percent(value: float) -> str:
    return "-" if pd.isna(value) else f"{100 * value:.2f}"


def failures(results: pd.DataFrame) -> list[str]:
    """What failed, and why."""
    failed = results[results["status"].str.startswith("failed")]
    return [f"{row.method} x {row.metric}: {row.status}" for row in failed.itertuples()]


def differences(compared: pd.DataFrame) -> str:
    """Paired differences (of `results.compare`), a table a place; what is told from one data set is in one table."""
    sets = compared["reference"] + " against other sets"
    where = (compared["dataset"] + " " + compared["split"]).where(compared["reference"] == "", sets)
    parts = []
    for place, rows in compared.groupby(["model", where, "protocol", "first", "second"], sort=False):
        cells = [
            (row.metric, _quantity(row), f"{row.difference:.3f}", _interval(row) or _without(row), str(row.n))
            for row in rows.itertuples()
        ]
        parts.append(wrapped(_place(*place)))
        parts.append(grid(["metric", "column", "difference", "interval", "n"], cells))
    return "\n".join(parts)


def _quantity(row: Any) -> str:
    return f"{row.dataset} {row.column}" if row.reference else str(row.column)


def _without(row: Any) -> str:
    """Why a difference has no interval."""
    return "the same in all images" if row.ci_method == "constant" else "-"


def _place(model: str, where: str, protocol: str, first: str, second: str) -> str:
    """What a table of differences is about, and settings that other results have otherwise."""
    settings = [f"; {name} with {value}" for name, value in (("first", first), ("second", second)) if value]
    return f"{model} on {where}, protocol {protocol}" + "".join(settings)
