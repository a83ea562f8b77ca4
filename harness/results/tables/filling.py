"""From tidy rows and published figures to a table's entries."""

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pandas as pd

from ... import config as configs
from ..reading import read_table
from .choosing import choose, fits
from .entries import NAMES, PATTERNS, Column, Entry, Runs, Table
from .spec import Names, columns_of, read_spec, rows_of, runs_of

PUBLISHED = configs.ROOT / "results" / "published"
IN_COLUMN = ("dataset", "reference", "metric", "subset", "stat", "variant")  # given by a column

Values = Mapping[str, Any]
Results = dict[tuple[str, ...], list[dict[str, Any]]]  # rows by NAMES, in the order of `by_samples`
Published = dict[Names, tuple[float, str]]  # (method, network, dataset, metric, subset, variant, stat) -> value, note


def read_tidy(path: Path) -> pd.DataFrame:
    """A tidy result table; text columns hold text, also where they are empty."""
    keys = ["cell_key", "metric_key", "run_id", "weights", "precision", "seed", "settings"]
    texts = [*NAMES, *PATTERNS, *keys, "status", "x", "x_label"]
    return read_table(path, texts)


def by_samples(tidy: Path) -> pd.DataFrame:
    """All rows of a folder, those of the most samples last; with standard deviations."""
    if not (tidy / "results.csv").is_file():
        return pd.DataFrame(columns=[*NAMES, *PATTERNS, "status", "value", "ci_low", "ci_high", "n"])
    rows = with_deviations(read_tidy(tidy / "results.csv"))
    return rows.sort_values(["n", "cell_key", "metric_key"], kind="stable")


def with_deviations(rows: pd.DataFrame) -> pd.DataFrame:
    """Beside each mean of independent samples (an image each) the statistic `std`, their standard deviation (by n - 1).

    Where images have several pairs, the standard error is of another kind and holds none.
    """
    means = rows[(rows["stat"] == "mean") & (rows["ci_method"] == "clt")]
    deviations = means["stderr"] * means["n"] ** 0.5
    return pd.concat([rows, means.assign(stat="std", value=deviations, ci_low=math.nan, ci_high=math.nan)])


def fill_table(name: str, tidy: pd.DataFrame) -> Table:
    """A table of conf/table with every entry that the tidy rows (`by_samples`) hold."""
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
    return {names: rows.to_dict("records") for names, rows in held.groupby(list(NAMES), sort=False)}


def _entry(panel: dict[str, Any], row: Values, column: Column, results: Results, published: Published) -> Entry:
    asked, settings = _asked(panel, row, column), _settings(panel, column._asdict(), row)
    runs = runs_of(row) or runs_of(column._asdict()) or runs_of(panel)
    fitting = [each for each in _named(results, asked) if fits(each, settings)]
    reported, note = published.get(_printed(panel, row, asked, runs), (math.nan, ""))
    return Entry(panel["label"], row["label"], column, asked, choose(fitting, runs), reported, note, settings, runs)


def _asked(panel: dict[str, Any], row: Values, column: Column) -> dict[str, str]:
    """NAMES and PATTERNS of an entry."""
    values = {**panel, **row}
    return {
        **{name: str(values[name]) for name in ("method", "model")},
        **{name: str(getattr(column, name)).format(**values) for name in IN_COLUMN},
        **{name: str(panel.get(name, "*")) for name in ("protocol", "split")},
    }


def _settings(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Those that results must have, of a panel, a column and a row; the last one's word counts."""
    return {name: value for part in parts for name, value in (part.get("settings") or {}).items()}


def _printed(panel: dict[str, Any], row: Values, asked: Values, runs: Runs | None) -> Names:
    """Under which names the published file has an entry."""
    one = runs is not None and runs.only is not None
    names = {**asked, "subset": f"run={runs.only}" if runs and one else asked["subset"]}
    method, network = str(row.get("row", asked["method"])), str(panel.get("network", panel["model"]))
    return method, network, *(names[key] for key in ("dataset", "metric", "subset", "variant", "stat"))


def _named(results: Results, asked: Values) -> list[dict[str, Any]]:
    """Rows of an entry's NAMES and PATTERNS."""
    held = results.get(tuple(asked[name] for name in NAMES), [])
    return [row for row in held if all(fnmatchcase(row[name], asked[name]) for name in PATTERNS)]
