"""Papers' tables, regenerated: ours ± interval | reported | difference | n.

A table is a YAML file in conf/table/. Only text is read here, the tidy results and the published figures:
nothing is built, and torch is not imported.
"""

import fnmatch
import io
import math
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from omegaconf import OmegaConf

from .. import config as configs
from ..config import ConfigError, groups, suggest, validate
from ..overrides import compose_config
from ..store.files import write_atomically

PUBLISHED = configs.ROOT / "results" / "published"
FORMATS = ("md", "csv", "tex")
NONE, BETWEEN = "–", " · "
NAMES = ("method", "model", "dataset", "metric", "subset", "stat")  # equal in a cell and in its result
PATTERNS = ("variant", "reference", "protocol", "split")  # shell patterns in a cell
IN_COLUMN = ("dataset", "reference", "metric", "subset", "stat", "variant")  # given by a column

CHOICES = ("columns", "each", "without")  # parts of a file that not every table has

Values = Mapping[str, str]
Names = tuple[str, ...]
Published = dict[Names, tuple[float, str]]  # (method, network, dataset, metric, subset, variant, stat) -> value, note


class Column(NamedTuple):
    """A quantity; `{name}` stands for a value of the row or panel. scale: 100 for percent.

    dataset: of which the result is, where it is not the panel's: an out-of-distribution set, or `average`. reference:
    a pattern of the in-distribution set that it is told from.
    """

    label: str
    metric: str
    variant: str
    stat: str
    subset: str = "all"
    scale: float = 1
    digits: int = 3
    dataset: str = "{dataset}"
    reference: str = "*"


class Result(NamedTuple):
    """Our number and its 95 % interval; nan where undefined."""

    value: float
    ci_low: float
    ci_high: float
    n: int
    found: dict[str, str]  # what stands where the cell has PATTERNS
    others: int  # results that fit as well: other weights, settings, parts of the data

    @property
    def half_width(self) -> float:
        """Of the interval, which need not be symmetric."""
        return (self.ci_high - self.ci_low) / 2


class Cell(NamedTuple):
    """One number of a table: what is asked for, ours if it is there, the published one if there is one."""

    panel: str
    label: str
    column: Column
    asked: dict[str, str]  # NAMES and PATTERNS
    ours: Result | None
    reported: float
    note: str

    @property
    def difference(self) -> float:
        """Ours - reported; nan where one is not there."""
        return self.ours.value - self.reported if self.ours else math.nan


@dataclass(frozen=True)
class Table:
    """A file of conf/table/ with its cells, in reading order."""

    name: str
    title: str
    source: str
    panels: list[dict[str, Any]]
    published: str | None = None
    notes: list[str] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)

    def by_panel(self) -> Iterator[tuple[str, list[Cell]]]:
        """Each panel's label and cells."""
        for panel in self.panels:
            yield panel["label"], [cell for cell in self.cells if cell.panel == panel["label"]]

    def missing(self) -> list[Cell]:
        """Cells without a result."""
        return [cell for cell in self.cells if cell.ours is None]


def names() -> list[str]:
    """Every table of conf/table/."""
    return sorted(path.stem for path in (configs.CONF / "table").glob("*.yaml"))


def read_tidy(path: Path) -> pd.DataFrame:
    """A tidy result table; text columns hold text, also where they are empty."""
    keys = ["cell_key", "metric_key", "run_id", "weights", "precision", "seed"]
    texts = [*NAMES, *PATTERNS, *keys, "status", "x", "x_label"]
    return pd.read_csv(path, dtype=dict.fromkeys(texts, str)).fillna(dict.fromkeys(texts, ""))


def regenerate(chosen: Iterable[str], results: Path) -> list[Table]:
    """Fill tables (all of them if none is named) and write `<results>/tables/<name>.md` and `.csv`.

    Raises ConfigError for a name that is not in conf/table, or a specification that cannot be read.
    """
    wanted = list(chosen) or names()
    if unknown := [name for name in wanted if name not in names()]:
        raise ConfigError(suggest(unknown[0], names(), "table"))
    tidy = _latest_last(results / "tidy")
    made = [fill_table(name, tidy) for name in wanted]
    for table in made:
        for kind in ("md", "csv"):
            write_atomically(results / "tables" / f"{table.name}.{kind}", render(table, kind).encode())
    return made


def _latest_last(tidy: Path) -> pd.DataFrame:
    """All rows; of those that a cell could take, the last is the one with most samples, then the latest."""
    if not (tidy / "results.csv").is_file():
        return pd.DataFrame(columns=[*NAMES, *PATTERNS, "status", "value", "ci_low", "ci_high", "n"])
    rows = read_tidy(tidy / "results.csv")
    runs = pd.read_csv(tidy / "runs.csv") if (tidy / "runs.csv").is_file() else pd.DataFrame()
    started = dict(runs.groupby("run_id")["started"].max()) if len(runs) else {}
    rows["started"] = [str(started.get(run, "")) for run in rows["run_id"]]
    return rows.sort_values(["n", "started", "cell_key", "metric_key"], kind="stable")


# Filling


def fill_table(name: str, tidy: pd.DataFrame) -> Table:
    """A table of conf/table with every cell that the tidy rows (`read_tidy`) hold."""
    spec = read_spec(name)
    published = _published(spec.get("published"))
    cells = [
        _cell(panel, row, Column(**column), tidy, published)
        for panel in spec["panels"]
        for row in _rows(spec)
        for column in _columns(spec, panel)
    ]
    notes = spec.get("notes", [])
    return Table(name, spec["title"], spec["source"], spec["panels"], spec.get("published"), notes, cells)


def read_spec(name: str) -> dict[str, Any]:
    """A file of conf/table/, its keys checked."""
    path = configs.CONF / "table" / f"{name}.yaml"
    spec: Any = OmegaConf.to_container(OmegaConf.load(path))
    _check_keys(path, "table", spec, ("title", "source", "rows", "panels"), ("published", "notes", *CHOICES))
    for panel in spec["panels"]:
        _check_keys(path, "panel", panel, ("label", "model", "dataset", "fill"), None)
        for column in _columns(spec, panel):
            needed = tuple(key for key in Column._fields if key not in Column._field_defaults)
            _check_keys(path, "column", column, needed, tuple(Column._field_defaults))
    return spec


def _check_keys(path: Path, what: str, given: Mapping[str, Any], needed: Names, others: Names | None) -> None:
    """All that is needed and, unless others is None (any name may stand for something), nothing unknown."""
    if absent := [key for key in needed if key not in given]:
        raise ConfigError(f"{path}: a {what} lacks {', '.join(absent)}: {dict(given)}")
    unknown = [key for key in given if others is not None and key not in (*needed, *others)]
    if unknown:
        raise ConfigError(f"{path}: " + suggest(unknown[0], (*needed, *(others or ())), f"key of a {what}"))


def _columns(spec: Mapping[str, Any], panel: Mapping[str, Any]) -> list[dict[str, Any]]:
    return panel.get("columns") or spec.get("columns") or []


def _rows(spec: dict[str, Any]) -> Iterator[dict[str, str]]:
    """label, method and what else stands for something in a column."""
    methods = spec["rows"]
    if isinstance(methods, str):
        known = [name for name in _of_package(f"assay.methods.{methods}.") if name not in spec.get("without", [])]
        methods = [{"label": name, "method": name} for name in known]
    for row in methods:
        for each in spec.get("each", [{}]):
            label = f"{row['label']} ({each['label']})" if each else row["label"]
            yield {**row, **each, "label": label}


def _of_package(package: str) -> list[str]:
    """Methods of conf/method whose class is in a package, read from the files' text."""
    files = sorted((configs.CONF / "method").glob("*.yaml"))
    return [file.stem for file in files if f"\n_target_: {package}" in "\n" + file.read_text()]


def _cell(
    panel: dict[str, Any],
    row: Values,
    column: Column,
    tidy: pd.DataFrame,
    published: Published,
) -> Cell:
    values = {**panel, **row}
    asked = {
        **{name: str(values[name]) for name in ("method", "model")},
        **{name: str(getattr(column, name)).format(**values) for name in IN_COLUMN},
        **{name: str(panel.get(name, "*")) for name in ("protocol", "split")},
    }
    network = str(panel.get("network", panel["model"]))
    key = (asked["method"], network, *(asked[k] for k in ("dataset", "metric", "subset", "variant", "stat")))
    reported, note = published.get(key, (math.nan, ""))
    return Cell(panel["label"], row["label"], column, asked, _result(tidy, asked), reported, note)


def _published(file: str | None) -> Published:
    if file is None:
        return {}
    frame = pd.read_csv(PUBLISHED / file, dtype={"note": str}).fillna({"note": ""})
    keys = frame[["row", "model", "dataset", "metric", "subset", "variant", "stat"]].itertuples(index=False, name=None)
    return dict(zip(keys, zip(frame["value"].astype(float), frame["note"], strict=True), strict=True))


def _result(tidy: pd.DataFrame, asked: Values) -> Result | None:
    """The last of the rows that fit."""
    fits = ~tidy["status"].str.startswith("failed")
    for name in NAMES:
        fits &= tidy[name] == asked[name]
    found = tidy[fits]
    for name in PATTERNS:
        found = found[found[name].map(partial(fnmatch.fnmatchcase, pat=asked[name])).astype(bool)]
    if not len(found):
        return None
    row = found.iloc[-1]
    value, low, high = (float(row[name]) for name in ("value", "ci_low", "ci_high"))
    return Result(value, low, high, int(row["n"]), {name: row[name] for name in PATTERNS}, len(found) - 1)


# Rendering


def render(table: Table, kind: str) -> str:
    """As Markdown (md), one line a cell (csv) or LaTeX (tex)."""
    return {"md": markdown, "csv": comma_separated, "tex": latex}[kind](table)


def cell_text(cell: Cell, compared: bool) -> str:
    """`ours ± half-width · reported · difference · n`, or without the middle two; a dash for what is not there."""
    ours, unit = cell.ours, cell.column
    reported = [_number(cell.reported, unit), _number(cell.difference, unit, "+")] if compared else []
    parts = [_ours(cell), *reported, str(ours.n) if ours else NONE]
    while len(parts) > 1 and parts[-1] == NONE:
        parts.pop()
    return BETWEEN.join(parts)


def _ours(cell: Cell) -> str:
    if cell.ours is None:
        return NONE
    if math.isnan(cell.ours.value):
        return "undefined"
    value, half = _number(cell.ours.value, cell.column), _number(cell.ours.half_width, cell.column)
    return value if half == NONE else f"{value} ± {half}"


def _number(value: float, unit: Column, sign: str = "") -> str:
    return NONE if math.isnan(value) else f"{value * unit.scale:{sign}.{unit.digits}f}"


def _grid(cells: list[Cell], compared: bool) -> tuple[list[str], list[list[str]]]:
    """Headings and lines: a line a row label, a column a quantity."""
    columns = list(dict.fromkeys(cell.column.label for cell in cells))
    texts = {(cell.label, cell.column.label): cell_text(cell, compared) for cell in cells}
    labels = list(dict.fromkeys(cell.label for cell in cells))
    return ["method", *columns], [[label, *(texts[label, column] for column in columns)] for label in labels]


def legend(table: Table) -> str:
    """What the parts of a cell are."""
    middle = ["reported", "ours - reported"] if table.published else []
    return BETWEEN.join(["ours ± half the width of its 95 % interval", *middle, "number of samples"])


def markdown(table: Table) -> str:
    """A heading and a grid a panel; under them what is missing and what to know."""
    lines = [f"# {table.title}", "", f"Source: {table.source}.", "", f"Each cell: {legend(table)}.", ""]
    for label, cells in table.by_panel():
        head, body = _grid(cells, table.published is not None)
        lines += [f"## {label}", "", _line(head), _line(["---"] * len(head)), *map(_line, body), ""]
    for title, items in [("Missing", missing_lines(table)), ("Notes", note_lines(table))]:
        lines += [f"## {title}", "", *(f"- {item}" for item in items), ""] if items else []
    return "\n".join(lines)


def _line(texts: list[str]) -> str:
    return "| " + " | ".join(text.replace("|", r"\|").replace("*", r"\*") for text in texts) + " |"


def comma_separated(table: Table) -> str:
    """One line a cell, numbers unrounded to six digits, unscaled."""
    lines = [
        {
            "table": table.name,
            "panel": cell.panel,
            "row": cell.label,
            "column": cell.column.label,
            **cell.asked,
            **(cell.ours.found | {"value": cell.ours.value, "half_width": cell.ours.half_width} if cell.ours else {}),
            "reported": cell.reported,
            "difference": cell.difference,
            "n": cell.ours.n if cell.ours else None,
            "note": cell.note,
        }
        for cell in table.cells
    ]
    order = ["table", "panel", "row", "column", *NAMES, *PATTERNS, "value", "half_width", "reported", "difference"]
    frame = pd.DataFrame(lines).reindex(columns=[*order, "n", "note"]).astype({"n": "Int64"})
    buffer = io.StringIO()
    frame.to_csv(buffer, index=False, float_format="%.6g", lineterminator="\n")
    return buffer.getvalue()


def latex(table: Table) -> str:
    """A tabular a panel, for booktabs."""
    lines = [f"% {_tex(table.title)}", f"% {_tex(table.source)}", f"% each cell: {_tex(legend(table))}"]
    for label, cells in table.by_panel():
        head, body = _grid(cells, table.published is not None)
        rows = [" & ".join(map(_tex, texts)) + r" \\" for texts in [head, *body]]
        lines += [f"% {_tex(label)}", rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", r"\toprule", rows[0]]
        lines += [r"\midrule", *rows[1:], r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join(lines)


_TEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "±": r"$\pm$", "·": r"$\cdot$", "–": "--"} | {
    "α": r"$\alpha$",
    "β": r"$\beta$",
    ">": r"$>$",
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(letter, letter) for letter in text)


# What is missing


def missing_lines(table: Table) -> list[str]:
    """For each panel with empty cells the command that fills them, and what has to be built first."""
    lines, known = [], groups()["method"]
    for panel in table.panels:
        cells = [cell for cell in table.missing() if cell.panel == panel["label"]]
        ready = [cell for cell in cells if cell.asked["method"] in known]
        if ready:
            command = fill_command(panel, ready)
            why = obstacle(command)
            lines.append(f"{panel['label']}, {len(ready)} cells: `{command}`" + (f" (not yet: {why})" if why else ""))
    absent = list(dict.fromkeys(c.asked["method"] for c in table.missing() if c.asked["method"] not in known))
    number = sum(cell.asked["method"] in absent for cell in table.missing())
    return lines + ([f"{number} cells wait for methods that conf/method lacks: {', '.join(absent)}"] if absent else [])


def fill_command(panel: Mapping[str, Any], cells: list[Cell]) -> str:
    """The panel's command for the methods and metrics of some cells."""
    asked = {name: ",".join(dict.fromkeys(cell.asked[name] for cell in cells)) for name in ("method", "metric")}
    return str(panel["fill"]).format(**panel, methods=asked["method"], metrics=asked["metric"]).strip()


@cache
def obstacle(command: str) -> str:
    """Why a `python run.py ...` cannot be run; empty if it composes."""
    try:
        validate(compose_config(shlex.split(command)[2:]))
    except ConfigError as error:
        return str(error).splitlines()[0].split(" Did you mean")[0].split(" Valid:")[0].rstrip(".")
    return ""


def note_lines(table: Table) -> list[str]:
    """The table's notes, those of the published figures with their number, and a choice among several results."""
    printed = pd.Series([cell.note for cell in table.cells if cell.note], dtype=str).value_counts(sort=False)
    notes = [f"published, {number} cells: {note}" for note, number in printed.items()]
    several = sum(bool(cell.ours and cell.ours.others) for cell in table.cells)
    chosen = [f"{several} cells had several results: the one with most samples, then the latest run's, is shown"]
    return [*table.notes, *notes, *(chosen if several else [])]


def summary(table: Table, results: Path) -> str:
    """One line: how full the table is and where it lies."""
    ours, reported = len(table.cells) - len(table.missing()), sum(not math.isnan(c.reported) for c in table.cells)
    path = (results / "tables" / f"{table.name}.md").absolute()
    return f"{table.name}: {ours} of {len(table.cells)} cells computed, {reported} reported: {path}"
