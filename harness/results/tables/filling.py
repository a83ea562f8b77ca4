"""From tidy rows and published figures to a table's entries."""

import fnmatch
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from ... import config as configs
from .entries import NAMES, PATTERNS, Column, Entry, Result, Table
from .spec import Names, columns_of, read_spec, rows_of

PUBLISHED = configs.ROOT / "results" / "published"
IN_COLUMN = ("dataset", "reference", "metric", "subset", "stat", "variant")  # given by a column

Values = Mapping[str, str]
Results = dict[tuple[str, ...], pd.DataFrame]  # rows by NAMES, in the order of `latest_last`
Published = dict[Names, tuple[float, str]]  # (method, network, dataset, metric, subset, variant, stat) -> value, note


def read_tidy(path: Path) -> pd.DataFrame:
    """A tidy result table; text columns hold text, also where they are empty."""
    keys = ["cell_key", "metric_key", "run_id", "weights", "precision", "seed"]
    texts = [*NAMES, *PATTERNS, *keys, "status", "x", "x_label"]
    return pd.read_csv(path, dtype=dict.fromkeys(texts, str)).fillna(dict.fromkeys(texts, ""))


def latest_last(tidy: Path) -> pd.DataFrame:
    """All rows of a folder; of those that fit an entry, the last is the one with most samples, then the latest."""
    if not (tidy / "results.csv").is_file():
        return pd.DataFrame(columns=[*NAMES, *PATTERNS, "status", "value", "ci_low", "ci_high", "n"])
    rows = read_tidy(tidy / "results.csv")
    runs = pd.read_csv(tidy / "runs.csv") if (tidy / "runs.csv").is_file() else pd.DataFrame()
    started = dict(runs.groupby("run_id")["started"].max()) if len(runs) else {}
    rows["started"] = [str(started.get(run, "")) for run in rows["run_id"]]
    return rows.sort_values(["n", "started", "cell_key", "metric_key"], kind="stable")


def fill_table(name: str, tidy: pd.DataFrame) -> Table:
    """A table of conf/table with every entry that the tidy rows (`latest_last`) hold."""
    spec = read_spec(name)
    published, results = _published(spec.get("published")), _by_names(tidy)
    entries = [
        _entry(panel, row, Column(**column), results, published)
        for panel in spec["panels"]
        for row in rows_of(spec)
        for column in columns_of(spec, panel)
    ]
    notes = spec.get("notes", [])
    return Table(name, spec["title"], spec["source"], spec["panels"], spec.get("published"), notes, entries)


def _published(file: str | None) -> Published:
    if file is None:
        return {}
    frame = pd.read_csv(PUBLISHED / file, dtype={"note": str}).fillna({"note": ""})
    keys = frame[["row", "model", "dataset", "metric", "subset", "variant", "stat"]].itertuples(index=False, name=None)
    return dict(zip(keys, zip(frame["value"].astype(float), frame["note"], strict=True), strict=True))


def _by_names(tidy: pd.DataFrame) -> Results:
    """The rows that did not fail, in the same order."""
    held = tidy[~tidy["status"].str.startswith("failed")]
    return {names: rows for names, rows in held.groupby(list(NAMES), sort=False)}


def _entry(panel: dict[str, Any], row: Values, column: Column, results: Results, published: Published) -> Entry:
    asked = _asked(panel, row, column)
    network = str(panel.get("network", panel["model"]))
    key = (asked["method"], network, *(asked[k] for k in ("dataset", "metric", "subset", "variant", "stat")))
    reported, note = published.get(key, (math.nan, ""))
    return Entry(panel["label"], row["label"], column, asked, _result(results, asked), reported, note)


def _asked(panel: dict[str, Any], row: Values, column: Column) -> dict[str, str]:
    """NAMES and PATTERNS of an entry."""
    values = {**panel, **row}
    return {
        **{name: str(values[name]) for name in ("method", "model")},
        **{name: str(getattr(column, name)).format(**values) for name in IN_COLUMN},
        **{name: str(panel.get(name, "*")) for name in ("protocol", "split")},
    }


def _result(results: Results, asked: Values) -> Result | None:
    """The last of the rows that fit."""
    found = results.get(tuple(asked[name] for name in NAMES))
    if found is None:
        return None
    for name in PATTERNS:
        found = found[found[name].map(partial(fnmatch.fnmatchcase, pat=asked[name])).astype(bool)]
    if not len(found):
        return None
    row = found.iloc[-1]
    value, low, high = (float(row[name]) for name in ("value", "ci_low", "ci_high"))
    return Result(value, low, high, int(row["n"]), {name: row[name] for name in PATTERNS}, len(found) - 1)
