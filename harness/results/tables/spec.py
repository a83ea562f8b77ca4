"""Specifications of papers' tables: the files of conf/table/, read and checked."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ... import config as configs
from ...config import ConfigError, suggest
from .entries import Column, Plot, Runs

CHOICES = ("columns", "each", "without", "settings", "plot")  # parts of a file that not every table has
PRINTED = ("model", "dataset", "metric", "subset", "variant", "stat")  # names in a published file
KINDS = ("lines", "bars")  # of plots
NEEDED = tuple(key for key in Column._fields if key not in Column._field_defaults)  # keys of a column

SEEDS = ("seed", "subset_seed")  # what runs can differ in

Names = tuple[str, ...]


def names() -> list[str]:
    """Every table of conf/table/."""
    return sorted(path.stem for path in (configs.CONF / "table").glob("*.yaml"))


def read_spec(name: str) -> dict[str, Any]:
    """A file of conf/table/, its keys checked."""
    path = configs.CONF / "table" / f"{name}.yaml"
    spec: Any = OmegaConf.to_container(OmegaConf.load(path))
    _check_keys(path, "table", spec, ("title", "source", "rows", "panels"), ("published", "notes", *CHOICES))
    _check_plot(path, spec.get("plot"))
    for panel in spec["panels"]:
        _check_panel(path, spec, panel)
    return spec


def _check_panel(path: Path, spec: Mapping[str, Any], panel: Mapping[str, Any]) -> None:
    rows, columns = list(rows_of(spec, panel)), columns_of(spec, panel)
    to_fill = () if all(row.get("external") for row in rows) else ("fill",)
    _check_keys(path, "panel", panel, ("label", "model", "dataset", *to_fill), None)
    if "order" in panel:
        _check_keys(path, "order", panel["order"], ("among", "as"), ())
    for column in columns:
        _check_keys(path, "column", column, NEEDED, tuple(Column._field_defaults))
    for row in rows:
        _check_keys(path, "row", row, ("label", "row" if row.get("external") else "method"), None)
    for part in (panel, *columns, *rows):
        _check_runs(path, part.get("runs") or {})
        _check_keys(path, "printed", part.get("printed") or {}, (), PRINTED)


def _check_plot(path: Path, plot: Mapping[str, Any] | None) -> None:
    if plot is None:
        return
    _check_keys(path, "plot", plot, ("kind",), ("x", "x_label", "y_label"))
    if plot["kind"] not in KINDS:
        raise ConfigError(f"{path}: " + suggest(str(plot["kind"]), KINDS, "kind of a plot"))


def _check_runs(path: Path, runs: Mapping[str, Any]) -> None:
    """Several seeds of something that has seeds, of which at most one is shown."""
    if not runs:
        return
    _check_keys(path, "runs", runs, ("over", "count"), ("only",))
    if runs["over"] not in SEEDS:
        raise ConfigError(f"{path}: " + suggest(str(runs["over"]), SEEDS, "seed of a run"))
    count, only = runs["count"], runs.get("only", 1)
    if not (isinstance(count, int) and isinstance(only, int) and count > 1 and 1 <= only <= count):
        raise ConfigError(f"{path}: {dict(runs)}: count is a whole number above 1, only one of 1 to count")


def _check_keys(path: Path, what: str, given: Mapping[str, Any], needed: Names, others: Names | None) -> None:
    """All that is needed and, unless others is None (any name may stand for something), nothing unknown."""
    if absent := [key for key in needed if key not in given]:
        raise ConfigError(f"{path}: a {what} lacks {', '.join(absent)}: {dict(given)}")
    unknown = [key for key in given if others is not None and key not in (*needed, *others)]
    if unknown:
        raise ConfigError(f"{path}: " + suggest(unknown[0], (*needed, *(others or ())), f"key of a {what}"))


def columns_of(spec: Mapping[str, Any], panel: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The panel's columns, or those of the whole table; a list of points is as many columns."""
    every = panel.get("columns") or spec.get("columns") or []
    return [each for column in every for each in _points(column)]


def _points(column: dict[str, Any]) -> list[dict[str, Any]]:
    x = column.get("x")
    return [{**column, "x": each} for each in x] if isinstance(x, list) else [column]


def plot_of(spec: Mapping[str, Any]) -> Plot | None:
    """The table's picture, if it has one."""
    return Plot(**spec["plot"]) if spec.get("plot") else None


def runs_of(part: Mapping[str, Any]) -> Runs | None:
    """The runs of a row, a column or a panel, if it has some."""
    return Runs(**part["runs"]) if part.get("runs") else None


def rows_of(spec: Mapping[str, Any], panel: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The panel's rows, or those of the whole table: label, method and what else stands for something in a column."""
    methods = panel.get("rows") or spec["rows"]
    if isinstance(methods, str):
        known = [name for name in _of_package(f"assay.methods.{methods}.") if name not in spec.get("without", [])]
        settings = spec.get("settings", {})
        methods = [{"label": name, "method": name, "settings": settings.get(name, {})} for name in known]
    for row in methods:
        for each in spec.get("each", [{}]):
            label = f"{row['label']} ({each['label']})" if each else row["label"]
            yield {**row, **each, "label": label}


def _of_package(package: str) -> list[str]:
    """Methods of conf/method whose class is in a package, read from the files' text."""
    files = sorted((configs.CONF / "method").glob("*.yaml"))
    return [file.stem for file in files if f"\n_target_: {package}" in "\n" + file.read_text()]
