"""The CI gate: an embedded run against committed numbers. A change in either direction fails, and is named.

The baseline is two files: `embedded.csv`, the tidy rows that can change, and `embedded_samples.csv.gz`, the
columns that metrics declare as paired, a line a sample: text without a format version, equal bytes for
equal numbers. Only text and stored columns are read here; torch is not imported.
"""

import gzip
import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from .. import config as configs
from ..config import ConfigError
from ..store.store import CellStore, read_json, write_atomically
from .tables import read_tidy

SAME, CHANGED, INCOMPARABLE, INCOMPLETE = 0, 1, 2, 3  # exit codes; ConfigError gives INCOMPARABLE
CODES = "exit codes: 0 same, 1 changed (better is a change too), 2 cannot compare, 3 missing or failed rows"
BASELINE = Path("results/baselines/embedded.csv")

CELL = ["model", "dataset", "split", "protocol", "method", "seed", "precision"]
PART = [*CELL, "metric"]  # the unit of a finding
ROW = ["variant", "subset", "stat", "x"]
NUMBERS = ["value", "ci_low", "ci_high"]
STORED = [*PART, *ROW, *NUMBERS, "n", "status", "weights"]
SAMPLE = [*PART, "column", "sample_id"]
SHOWN = 5  # samples named in a finding

Key = tuple[str, ...]


@dataclass(frozen=True)
class Limits:
    """conf/check.yaml. tolerance: metric -> absolute, `default` for the rest."""

    tolerance: dict[str, float]
    moved_share: float

    @classmethod
    def read(cls) -> "Limits":
        """The project's limits."""
        made: Any = OmegaConf.to_container(OmegaConf.load(configs.CONF / "check.yaml"))
        return cls(**made)

    def of(self, metric: str) -> float:
        """The tolerance of a metric."""
        return self.tolerance.get(metric, self.tolerance["default"])


class RowChange(NamedTuple):
    """A result row that is not what it was; `what` is one of NUMBERS, n or status."""

    row: str
    what: str
    before: float
    now: float

    def __str__(self) -> str:
        place = self.row if self.what == "value" else f"{self.row} {self.what}"
        return f"{place} {_plain(self.before)} -> {_plain(self.now)}"


class Moves(NamedTuple):
    """What became of one paired column of a cell: how many samples moved, those that moved most first."""

    column: str
    moved: int
    total: int
    flips: bool  # a column of zeros and ones
    most: list[str]

    def __str__(self) -> str:
        if not self.moved:
            return f"{self.column}: no sample moved"
        verb = "flipped" if self.flips else "moved"
        return f"{self.column}: {self.moved} of {self.total} samples {verb}, first: {' '.join(self.most)}"


@dataclass(frozen=True)
class Finding:
    """What became of one metric of one cell. kind: same, changed, missing or failed."""

    part: dict[str, str]
    kind: str
    rows: list[RowChange]
    moves: list[Moves]
    why: str = ""

    @property
    def name(self) -> str:
        """`pointing_game of gradcam on scenes_vgg (scenes test[:60])`."""
        data = f"{self.part['dataset']} {self.part['split']}".strip()
        return f"{self.part['metric']} of {self.part['method']} on {self.part['model']} ({data})"

    def __str__(self) -> str:
        rows = [f"{self.rows[0]}{_more(self.rows)}"] if self.rows else []
        if self.kind == "changed" and not self.rows:
            rows = ["means as before"]
        return f"{self.kind}: {self.name}: " + "; ".join([*filter(None, [self.why]), *rows, *map(str, self.moves)])


class Report(NamedTuple):
    """Findings in the order of the baseline, and remarks that change no verdict."""

    findings: list[Finding]
    remarks: list[str]

    @property
    def wrong(self) -> list[Finding]:
        """All but what is as before."""
        return [finding for finding in self.findings if finding.kind != "same"]

    @property
    def code(self) -> int:
        """The exit code: INCOMPLETE before CHANGED."""
        kinds = {finding.kind for finding in self.findings}
        return INCOMPLETE if kinds & {"missing", "failed"} else CHANGED if "changed" in kinds else SAME


def samples_file(baseline: Path) -> Path:
    """The per-sample file beside a baseline."""
    return baseline.with_name(f"{baseline.stem}_samples.csv.gz")


# Reading and writing


def read_current(results: Path) -> pd.DataFrame:
    """The tidy rows of a run, with cell_key and metric_key.

    Raises ConfigError when there are none, or when two cells claim the same rows.
    """
    path = results / "tidy" / "results.csv"
    if not path.is_file():
        raise ConfigError(f"no {path}: compute it with python run.py experiment=ci_embedded (make check does both)")
    rows = read_tidy(path)
    twice = rows[rows.duplicated([*PART, *ROW])]
    if len(twice):
        raise ConfigError(f"two results for {_label(twice.iloc[0])} in {path}: remove {results} and run again")
    return rows


def _label(row: Any) -> str:
    return f"{row['metric']} of {row['method']} on {row['model']} ({row['dataset']} {row['split']})"


def current_samples(rows: pd.DataFrame, store: Path) -> pd.DataFrame:
    """The paired columns behind tidy rows, long: SAMPLE and value; empty where the store is not there."""
    parts = rows[~_failed(rows)].drop_duplicates(PART)
    tables = [table for row in parts.to_dict("records") for table in _sample_columns(row, store)]
    empty = pd.DataFrame(columns=[*SAMPLE, "value"])
    return pd.concat(tables, ignore_index=True) if tables else empty


def _sample_columns(row: dict[Any, Any], store: Path) -> Iterator[pd.DataFrame]:
    group = CellStore(store, row["cell_key"]).group(row["metric_key"])
    done = [path for path in group.path.glob("DONE-*.json") if read_json(path)["split"] == row["split"]]
    if not done:
        return
    table = group.read(int(done[0].stem.split("-")[1]))
    for column in read_json(group.path / "group.json")["paired"]:
        about = {name: row[name] for name in PART} | {"column": column}
        yield table[["sample_id"]].assign(**about, value=table[column].astype(float))[[*SAMPLE, "value"]]


def _failed(rows: pd.DataFrame) -> pd.Series:
    return rows["status"].str.startswith("failed")


def update(baseline: Path, results: Path) -> str:
    """Make the current results the baseline; says what was written. Refuses failed rows (ConfigError)."""
    rows = read_current(results)
    if _failed(rows).any():
        raise ConfigError(f"not a baseline: {_label(rows[_failed(rows)].iloc[0])} {rows[_failed(rows)].iloc[0].status}")
    samples = current_samples(rows, results / "store")
    if samples.empty:
        raise ConfigError(f"no per-sample tables in {results / 'store'}: run python run.py experiment=ci_embedded")
    packed = gzip.compress(_csv(samples, SAMPLE), mtime=0)
    write_atomically(baseline, _csv(rows[STORED], [*PART, *ROW]))
    write_atomically(samples_file(baseline), packed)
    size = f"{len(samples)} values of samples, {len(packed) / 1000:.0f} kB"
    return f"{len(rows)} rows: {baseline}\n{size}: {samples_file(baseline)}"


def _csv(frame: pd.DataFrame, order: list[str]) -> bytes:
    buffer = io.StringIO()
    frame.sort_values(order).to_csv(buffer, index=False, float_format="%.6g", lineterminator="\n")
    return buffer.getvalue().encode()


def read_samples(path: Path) -> pd.DataFrame:
    """The per-sample file of a baseline; empty if there is none."""
    if not path.is_file():
        return pd.DataFrame(columns=[*SAMPLE, "value"])
    return pd.read_csv(path, dtype=dict.fromkeys(SAMPLE, str)).fillna(dict.fromkeys(SAMPLE, ""))


# Comparing


def check(baseline: Path, results: Path) -> Report:
    """Compare a run with a baseline under conf/check.yaml.

    Raises ConfigError when one of them is not there or cannot be read.
    """
    if not baseline.is_file():
        raise ConfigError(f"no baseline {baseline}: make one with python -m harness check --update")
    before, now = read_tidy(baseline), read_current(results)
    if absent := [name for name in STORED if name not in before]:
        raise ConfigError(f"{baseline} has no column {absent[0]}: make it with python -m harness check --update")
    samples = (read_samples(samples_file(baseline)), current_samples(now, results / "store"))
    moves = compare_samples(*samples, Limits.read())
    findings = list(_findings(before, now, moves, Limits.read()))
    return Report(findings, [*_remarks(before, now), *_without_samples(*samples)])


def _findings(
    before: pd.DataFrame, now: pd.DataFrame, moves: dict[Key, list[Moves]], limits: Limits
) -> Iterator[Finding]:
    """One for each (cell, metric) of the baseline, and for each failure elsewhere."""
    failures = {_without_split(row): str(row["status"]) for row in now[_failed(now)].to_dict("records")}
    present = {key: part.set_index(ROW) for key, part in now.groupby(PART, sort=False)}
    for key, part in before.groupby(PART, sort=False):
        about = dict(zip(PART, map(str, key), strict=True))
        why = failures.pop(_without_split(about), None)
        if why is not None:
            yield Finding(about, "failed", [], [], why)
        elif key not in present:
            yield Finding(about, "missing", [], [], f"{len(part)} rows of the baseline are not in the results")
        else:
            yield _compare_part(about, part.set_index(ROW), present[key], moves.get(key, []), limits)
    for place, why in failures.items():
        names = [name for name in PART if name != "split"]
        yield Finding(dict(zip(names, place, strict=True)) | {"split": ""}, "failed", [], [], why)


def _without_split(row: dict[Any, Any]) -> Key:
    """A failure has no split: its run may have been of any length."""
    return tuple(str(row[name]) for name in PART if name != "split")


def _compare_part(
    about: dict[str, str], before: pd.DataFrame, now: pd.DataFrame, moves: list[Moves], limits: Limits
) -> Finding:
    lost = [_row_name(key) for key in before.index if key not in now.index]
    if lost:
        why = f"{len(lost)} rows of the baseline are not in the results: {', '.join(lost[:SHOWN])}"
        return Finding(about, "missing", [], [], why)
    tolerance = limits.of(about["metric"])
    pairs = [(key, before.loc[key], now.loc[key]) for key in before.index]
    rows = [change for pair in pairs for change in _row_changes(*pair, tolerance)]
    rows.sort(key=lambda change: (change.what != "value", not change.row.startswith("mean of all")))
    shifted = any(move.moved > limits.moved_share * move.total for move in moves)
    return Finding(about, "changed" if rows or shifted else "same", rows, moves if rows or shifted else [])


def _row_changes(key: Key, before: pd.Series, now: pd.Series, tolerance: float) -> Iterator[RowChange]:
    """Numbers of one row that differ by more than the tolerance, or are defined in one of the two only."""
    for what, limit in [*((name, tolerance) for name in NUMBERS), ("n", 0.0)]:
        one, other = float(before[what]), float(now[what])
        if not _close(one, other, limit):
            yield RowChange(_row_name(key), what, one, other)


def _close(one: float, other: float, tolerance: float) -> bool:
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    return abs(one - other) <= tolerance * (1 + 1e-9)


def _row_name(key: Key) -> str:
    variant, subset, stat, x = key
    return f"{stat} of {subset} [{variant}]" + (f" at {x}" if x else "")


def compare_samples(before: pd.DataFrame, now: pd.DataFrame, limits: Limits) -> dict[Key, list[Moves]]:
    """(cell, metric) -> what became of each paired column, of the samples in both."""
    joined = before.merge(now, on=SAMPLE, suffixes=("_before", "_now"))
    moves: dict[Key, list[Moves]] = {}
    for (*key, column), part in joined.groupby([*PART, "column"], sort=False):
        moves.setdefault(tuple(key), []).append(_moves(column, part, limits.of(part["metric"].iloc[0])))
    return moves


def _moves(column: str, part: pd.DataFrame, tolerance: float) -> Moves:
    one, other = part["value_before"].to_numpy(float), part["value_now"].to_numpy(float)
    distance = np.where(np.isnan(one) != np.isnan(other), np.inf, np.nan_to_num(np.abs(one - other)))
    moved = int((distance > tolerance).sum())
    order = np.argsort(-distance, kind="stable")[: min(moved, SHOWN)]
    names = part["sample_id"].to_numpy()
    flips = bool(np.isin(one[~np.isnan(one)], (0, 1)).all())
    most = [f"{names[i]} ({_plain(one[i])} -> {_plain(other[i])})" for i in order]
    return Moves(column, moved, len(part), flips, most)


def _remarks(before: pd.DataFrame, now: pd.DataFrame) -> Iterator[str]:
    """Retrained networks, and results that the baseline does not know."""
    old, new = (rows[["model", "weights"]].drop_duplicates() for rows in (before, now))
    pairs = old.merge(new, on="model")
    for row in pairs[pairs["weights_x"] != pairs["weights_y"]].itertuples():
        yield f"the weights of {row.model} are not the baseline's: {row.weights_x} -> {row.weights_y}"
    keys = [*PART, *ROW]
    known = set(before[keys].itertuples(index=False, name=None))
    added = [key for key in now[~_failed(now)][keys].itertuples(index=False, name=None) if key not in known]
    if added:
        label = _label(dict(zip(keys, added[0], strict=True)))
        yield f"{len(added)} rows are not in the baseline, first: {label}; take them in with --update"


def _without_samples(before: pd.DataFrame, now: pd.DataFrame) -> list[str]:
    absent = [name for name, frame in [("baseline", before), ("results", now)] if frame.empty]
    return [f"no per-sample values in the {name}: samples are not compared" for name in absent]


def _plain(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.4g}"


def _more(rows: list[RowChange]) -> str:
    return f" (and {len(rows) - 1} more numbers)" if len(rows) > 1 else ""


# Reporting


def verdict(report: Report) -> str:
    """One line: `changed: 1 of 42 metrics changed`."""
    total = len(report.findings)
    counts = [(kind, sum(f.kind == kind for f in report.findings)) for kind in ("changed", "missing", "failed")]
    told = ", ".join(f"{number} {kind}" for kind, number in counts if number)
    return f"{told} of {total} (method, metric) results" if told else f"same: {total} (method, metric) results"


def lines(report: Report) -> list[str]:
    """What a terminal shows: everything wrong, remarks, the verdict last."""
    return [*map(str, report.wrong), *(f"note: {remark}" for remark in report.remarks), verdict(report)]


def markdown(report: Report) -> str:
    """A summary for a pull request or $GITHUB_STEP_SUMMARY."""
    text = [f"## Embedded benchmark: {verdict(report)}", ""]
    if report.wrong:
        text += [_line(["metric", "method", "network", "what", "before", "now", "samples"]), _line(["---"] * 7)]
        text += [_line(_markdown_cells(finding)) for finding in report.wrong]
    return "\n".join([*text, "", *(f"- {remark}" for remark in report.remarks), ""])


def _markdown_cells(finding: Finding) -> Iterable[str]:
    about = [finding.part[name] for name in ("metric", "method", "model")]
    if not finding.rows:
        what = [finding.why or "means as before", "", ""]
    else:
        first = finding.rows[0]
        place = first.row if first.what == "value" else f"{first.row} {first.what}"
        what = [place + _more(finding.rows), _plain(first.before), _plain(first.now)]
    return [*about, *what, "; ".join(map(str, finding.moves))]


def _line(texts: Iterable[str]) -> str:
    return "| " + " | ".join(text.replace("|", r"\|").replace("\n", " ") for text in texts) + " |"


def junit(report: Report) -> bytes:
    """One test case for each metric of each cell; a change is a failure, a missing or failed one an error."""
    kinds = [finding.kind for finding in report.findings]
    failures, errors = kinds.count("changed"), kinds.count("missing") + kinds.count("failed")
    counts = {"tests": str(len(kinds)), "failures": str(failures), "errors": str(errors)}
    suite = ElementTree.Element("testsuite", {"name": "check", **counts})
    for finding in report.findings:
        place = ".".join(finding.part[name] for name in ("model", "dataset", "method"))
        case = ElementTree.SubElement(suite, "testcase", {"classname": place, "name": finding.part["metric"]})
        if finding.kind != "same":
            tag = "failure" if finding.kind == "changed" else "error"
            ElementTree.SubElement(case, tag, {"message": str(finding)}).text = "\n".join(map(str, finding.rows))
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True) + b"\n"
