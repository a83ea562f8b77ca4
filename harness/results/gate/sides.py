"""The two sides of a comparison: the results of a run, or a baseline that was made of such."""

import gzip
import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ...config import ConfigError
from ...store.damage import unless_damaged
from ...store.files import write_atomically
from ...store.store import SCORE, CellStore, Finished, Group
from ..tables import read_tidy
from ..tidy import read_table

CELL = ["model", "dataset", "split", "protocol", "method", "seed", "precision"]
PART = [*CELL, "metric"]  # the unit of a finding
ROW = ["variant", "subset", "stat", "x"]
NUMBERS = ["value", "ci_low", "ci_high"]
STORED = [*PART, *ROW, *NUMBERS, "n", "status", "weights"]
SAMPLE = [*PART, "column", "sample_id"]


class Side(NamedTuple):
    """Tidy rows, and the values of samples behind them (SAMPLE and value), which may be none."""

    rows: pd.DataFrame
    samples: pd.DataFrame


def read_side(path: Path) -> Side:
    """A baseline, whose name ends in .csv or .csv.gz, or a folder of results.

    Raises:
        ConfigError: it is not there, or cannot be read as such.
    """
    if path.name.endswith((".csv", ".csv.gz")):
        return Side(read_baseline(path), read_samples(samples_file(path)))
    return current(path)


def samples_file(baseline: Path) -> Path:
    """The per-sample file beside a baseline."""
    return beside(baseline, "samples.csv.gz")


def beside(baseline: Path, name: str) -> Path:
    """Another file of a baseline: embedded_<name> beside embedded.csv or embedded.csv.gz."""
    return baseline.with_name(f"{baseline.name.removesuffix('.gz').removesuffix('.csv')}_{name}")


def read_baseline(path: Path) -> pd.DataFrame:
    """The rows of a baseline.

    Raises ConfigError when it is not there or was made by another version.
    """
    if not path.is_file():
        raise ConfigError(f"no baseline {path}: make one with python -m harness check --update --reason TEXT")
    rows = read_tidy(path)
    if absent := [name for name in STORED if name not in rows]:
        raise ConfigError(
            f"{path} has no column {absent[0]}: make it with python -m harness check --update --reason TEXT"
        )
    return rows


def current(results: Path) -> Side:
    """The tidy rows of a run, with cell_key and metric_key, and its samples.

    Raises ConfigError when there are none, or when two cells claim the same rows.
    """
    rows = read_current(results)
    return Side(rows, current_samples(rows, results / "store"))


def read_current(results: Path) -> pd.DataFrame:
    """The rows of `current`."""
    path = results / "tidy" / "results.csv"
    if not path.is_file():
        raise ConfigError(
            f"no {path}: compute it with python run.py results={results} ..., or the gate's with make check"
        )
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
    """The values of samples behind tidy rows, long: SAMPLE and value; empty where the store is not there."""
    parts = rows[~failed(rows)].drop_duplicates(PART)
    every = parts.to_dict("records")
    tables = [table for row in every for table in unless_damaged(partial(_sample_tables, row, store)) or ()]
    return pd.concat(tables, ignore_index=True) if tables else _no_samples()


def _sample_tables(row: dict[Any, Any], store: Path) -> list[pd.DataFrame]:
    return list(_sample_columns(row, store))


def _sample_columns(row: dict[Any, Any], store: Path) -> Iterator[pd.DataFrame]:
    """What a metric declares as paired; a metric of detectors has no columns of its own: it reads the scores."""
    cell = CellStore(store, row["cell_key"])
    group = cell.group(row["metric_key"])
    stop = next((stop for stop in group.stops() if _split(group.finished(stop)) == row["split"]), None)
    if stop is None:
        return
    paired = group.about()["paired"]
    table, columns = _columns(group, paired, stop) if paired else _columns(cell.group(SCORE), [SCORE], stop)
    for column in columns:
        about = {name: row[name] for name in PART} | {"column": column}
        yield table[["sample_id"]].assign(**about, value=table[column].astype(float))[[*SAMPLE, "value"]]


def _split(done: Finished | None) -> str | None:
    return done.split if done else None


def _columns(group: Group, columns: list[str], stop: int) -> tuple[pd.DataFrame, list[str]]:
    """A table and which of its columns are meant: none where the group has none, as an average of sets."""
    return (group.read(stop), columns) if group.shards() else (pd.DataFrame(), [])


def _no_samples() -> pd.DataFrame:
    return pd.DataFrame(columns=[*SAMPLE, "value"])


def read_samples(path: Path) -> pd.DataFrame:
    """The per-sample file of a baseline; empty if there is none."""
    if not path.is_file():
        return _no_samples()
    return read_table(path, SAMPLE)


def write_side(side: Side, baseline: Path) -> str:
    """Make a baseline of it; equal numbers give equal bytes. Says what was written."""
    sizes = []
    for frame, order, path in [
        (side.rows[STORED], [*PART, *ROW], baseline),
        (side.samples, SAMPLE, samples_file(baseline)),
    ]:
        data = _csv(frame, order)
        packed = gzip.compress(data, mtime=0) if path.suffix == ".gz" else data
        write_atomically(path, packed)
        sizes.append(f"{len(packed) / 1000:.0f} kB: {path}")
    return f"{len(side.rows)} rows, {sizes[0]}\n{len(side.samples)} values of samples, {sizes[1]}"


def _csv(frame: pd.DataFrame, order: list[str]) -> bytes:
    buffer = io.StringIO()
    frame.sort_values(order).to_csv(buffer, index=False, float_format="%.6g", lineterminator="\n")
    return buffer.getvalue().encode()
