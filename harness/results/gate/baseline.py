"""The committed baseline and the results of a run: what is read, and what `--update` writes."""

import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from ...config import ConfigError
from ...store.files import write_atomically
from ...store.store import CellStore
from ..tables import read_tidy

CELL = ["model", "dataset", "split", "protocol", "method", "seed", "precision"]
PART = [*CELL, "metric"]  # the unit of a finding
ROW = ["variant", "subset", "stat", "x"]
NUMBERS = ["value", "ci_low", "ci_high"]
STORED = [*PART, *ROW, *NUMBERS, "n", "status", "weights"]
SAMPLE = [*PART, "column", "sample_id"]


def samples_file(baseline: Path) -> Path:
    """The per-sample file beside a baseline."""
    return baseline.with_name(f"{baseline.stem}_samples.csv.gz")


def read_baseline(path: Path) -> pd.DataFrame:
    """The rows of a baseline.

    Raises ConfigError when it is not there or was made by another version.
    """
    if not path.is_file():
        raise ConfigError(f"no baseline {path}: make one with python -m harness check --update")
    rows = read_tidy(path)
    if absent := [name for name in STORED if name not in rows]:
        raise ConfigError(f"{path} has no column {absent[0]}: make it with python -m harness check --update")
    return rows


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
        raise ConfigError(f"two results for {part_name(twice.iloc[0])} in {path}: remove {results} and run again")
    return rows


def part_name(row: Any) -> str:
    """`pointing_game of gradcam on scenes_vgg (scenes test[:60])`; a failure has no split."""
    data = f"{row['dataset']} {row['split']}".strip()
    return f"{row['metric']} of {row['method']} on {row['model']} ({data})"


def failed(rows: pd.DataFrame) -> pd.Series:
    """Which rows are failures, as bools."""
    return rows["status"].str.startswith("failed")


def current_samples(rows: pd.DataFrame, store: Path) -> pd.DataFrame:
    """The paired columns behind tidy rows, long: SAMPLE and value; empty where the store is not there."""
    parts = rows[~failed(rows)].drop_duplicates(PART)
    tables = [table for row in parts.to_dict("records") for table in _sample_columns(row, store)]
    return pd.concat(tables, ignore_index=True) if tables else _no_samples()


def _sample_columns(row: dict[Any, Any], store: Path) -> Iterator[pd.DataFrame]:
    group = CellStore(store, row["cell_key"]).group(row["metric_key"])
    done = [stop for stop in group.stops() if (rows := group.finished(stop)) and rows.split == row["split"]]
    columns = group.about()["paired"] if done else []
    table = group.read(done[0]) if columns else pd.DataFrame()  # rows about detectors have no columns of their own
    for column in columns:
        about = {name: row[name] for name in PART} | {"column": column}
        yield table[["sample_id"]].assign(**about, value=table[column].astype(float))[[*SAMPLE, "value"]]


def _no_samples() -> pd.DataFrame:
    return pd.DataFrame(columns=[*SAMPLE, "value"])


def read_samples(path: Path) -> pd.DataFrame:
    """The per-sample file of a baseline; empty if there is none."""
    if not path.is_file():
        return _no_samples()
    return pd.read_csv(path, dtype=dict.fromkeys(SAMPLE, str)).fillna(dict.fromkeys(SAMPLE, ""))


def update(baseline: Path, results: Path) -> str:
    """Make the current results the baseline; says what was written. Refuses failed rows (ConfigError)."""
    rows = read_current(results)
    if failed(rows).any():
        first = rows[failed(rows)].iloc[0]
        raise ConfigError(f"not a baseline: {part_name(first)} {first.status}")
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
