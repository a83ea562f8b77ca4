"""From tidy rows and published figures to a table's entries."""

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import pandas as pd

from ... import config as configs
from ..reading import read_table
from .choosing import NUMBER, choose, fits, refusals
from .entries import NAMES, PATTERNS, Column, Entry, Found, Result, Runs, Table
from .spec import PRINTED, Names, columns_of, plot_of, read_spec, rows_of, runs_of

PUBLISHED = configs.ROOT / "results" / "published"
IN_COLUMN = ("dataset", "reference", "metric", "subset", "stat", "variant")  # given by a column

Values = Mapping[str, Any]
Results = dict[tuple[str, ...], list[dict[str, Any]]]  # rows by NAMES and x, in the order of `by_samples`
Published = dict[Names, tuple[float, str]]  # (method, *PRINTED, x) -> value, note


def by_samples(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of a tidy table, those of the most samples last; with standard deviations."""
    made = with_deviations(rows.assign(**{NUMBER: range(len(rows))}))
    return made.sort_values(["n", "cell_key", "metric_key"], kind="stable")


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
        for row in rows_of(spec, panel)
        for column in columns_of(spec, panel)
    ]
    notes = spec.get("notes", [])
    about = (spec["title"], spec["source"], spec["panels"], spec.get("published"), plot_of(spec))
    return Table(name, *about, notes, entries)


def _published(file: str | None) -> Published:
    if file is None:
        return {}
    frame = read_table(PUBLISHED / file, ["row", *PRINTED, "note", "x"])
    points = frame["x"].map(point) if "x" in frame else ""
    keys = frame.assign(x=points)[["row", *PRINTED, "x"]].itertuples(index=False, name=None)
    return dict(zip(keys, zip(frame["value"].astype(float), frame["note"], strict=True), strict=True))


def _by_names(tidy: pd.DataFrame) -> Results:
    """The rows that did not fail, in the same order."""
    held = tidy[~tidy["status"].str.startswith("failed")]
    keys = zip(*(held[name] for name in NAMES), held["x"].map(point), strict=True)
    results: Results = {}
    for key, row in zip(keys, held.to_dict("records"), strict=True):
        results.setdefault(key, []).append({str(name): value for name, value in row.items()})
    return results


def point(x: object) -> str:
    """The place on a curve as text, alike for 500, 500.0 and `500.0`; empty for what is no point."""
    return "" if x is None or x == "" else f"{float(str(x)):.9g}"


def _entry(panel: dict[str, Any], row: Values, column: Column, results: Results, published: Published) -> Entry:
    asked, settings = _asked(panel, row, column), _settings(panel, column._asdict(), row)
    runs = runs_of(row) or runs_of(column._asdict()) or runs_of(panel)
    external, near = bool(row.get("external")), panel.get("near", "")
    held = [] if external else results.get((*(asked[name] for name in NAMES), point(column.x)), [])
    fitting = [each for each in held if _alike(each, asked) and fits(each, settings)]
    refused = tuple(refusals(held, asked, settings)) if not fitting else ()
    found = _explained(choose(fitting, runs), fitting, runs)._replace(refused=refused)
    reported, note = published.get(_printed(panel, row, column, asked, runs), (math.nan, ""))
    about = (reported, note, settings, runs, near, external, panel.get("order", {}))
    return Entry(panel["label"], row["label"], column, asked, found, *about)


def _explained(found: Found, rows: Sequence[Values], runs: Runs | None) -> Found:
    """A number with what the rows behind it say of it: why it has no value, how far their images let it be off."""
    if found.ours is None:
        return found
    taken = [row for row in rows if row[NUMBER] in found.rows]
    if math.isnan(found.ours.value):
        return found._replace(undefined=_why_undefined(taken))
    return found._replace(ours=_on_its_images(found.ours, taken, runs))


def _why_undefined(rows: Sequence[Values]) -> str:
    """The status of the first row that is not in order, if there is one."""
    said = (str(row["status"]).replace(":", ": ", 1) for row in rows if row["status"] != "ok")
    return next(said, "undefined")


def _on_its_images(ours: Result, rows: Sequence[Values], runs: Runs | None) -> Result:
    """Runs over seeds draw no other images: their spread is that of the draws alone."""
    if runs is None or runs.over != "seed" or ours.runs == 1:
        return ours
    widths = [float(row["ci_high"]) - float(row["ci_low"]) for row in rows]
    return ours._replace(images=sum(widths) / len(widths) / 2)


def _asked(panel: dict[str, Any], row: Values, column: Column) -> dict[str, str]:
    """NAMES and PATTERNS of an entry."""
    values = {"method": row.get("row"), **panel, **row}
    return {
        **{name: str(values[name]) for name in ("method", "model")},
        **{name: str(getattr(column, name)).format(**values) for name in IN_COLUMN},
        **{name: str(panel.get(name, "*")) for name in ("protocol", "split")},
    }


def _settings(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Those that results must have, of a panel, a column and a row; the last one's word counts."""
    return {name: value for part in parts for name, value in (part.get("settings") or {}).items()}


def _printed(panel: Values, row: Values, column: Column, asked: Values, runs: Runs | None) -> Names:
    """Under which names the published file has an entry."""
    names = {**asked, "model": str(panel.get("network", panel["model"]))}
    for given in (panel.get("printed"), column.printed, row.get("printed")):
        names |= {name: str(value).format(**{**panel, **row}) for name, value in (given or {}).items()}
    if runs and runs.only is not None:
        names["subset"] = f"run={runs.only}"
    return str(row.get("row", asked["method"])), *(names[key] for key in PRINTED), point(column.x)


def _alike(row: Values, asked: Values) -> bool:
    """Whether a row has an entry's PATTERNS."""
    return all(fnmatchcase(row[name], asked[name]) for name in PATTERNS)
