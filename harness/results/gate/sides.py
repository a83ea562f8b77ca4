"""The two sides of a comparison: the results of a run, or a baseline that was made of such."""

import gzip
import io
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ...config import ConfigError
from ...store.damage import unless_damaged
from ...store.files import write_atomically
from ...store.outcomes import Finished
from ...store.store import SCORE, CellStore
from ..formulas import quoted_cells
from ..reading import read_table
from ..tables import read_tidy

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


class _Column(NamedTuple):
    """One column behind a tidy row: of which part (PART and column), whose values, and these."""

    part: dict[str, Any]
    samples: pd.Series
    values: pd.Series


def current_samples(rows: pd.DataFrame, store: Path) -> pd.DataFrame:
    """The values of samples behind tidy rows, long: SAMPLE and value; empty where the store is not there."""
    parts = rows[~failed(rows)].drop_duplicates(PART).to_dict("records")
    found = [column for row in parts for column in unless_damaged(partial(_columns_of, row, store)) or ()]
    if not found:
        return _no_samples()
    lengths = [len(each.values) for each in found]
    made = pd.DataFrame([each.part for each in found]).loc[np.repeat(np.arange(len(found)), lengths)]
    made["sample_id"] = np.concatenate([each.samples.to_numpy(object) for each in found])
    made["value"] = np.concatenate([each.values.to_numpy(float) for each in found])
    return made.reset_index(drop=True)[[*SAMPLE, "value"]]


def _columns_of(row: dict[Any, Any], store: Path) -> list[_Column]:
    """What a metric declares as paired; a metric of detectors has no columns of its own: it reads the scores."""
    cell = CellStore(store, row["cell_key"])
    group = cell.group(row["metric_key"])
    stop = next((stop for stop in group.stops() if _split(group.finished(stop)) == row["split"]), None)
    paired = group.about()["paired"] if stop is not None else []
    source, columns = (group, paired) if paired else (cell.group(SCORE), [SCORE])
    if stop is None or not source.shards():  # an average of sets has no samples
        return []
    table, part = source.read(stop), {name: row[name] for name in PART}
    return [_Column(part | {"column": name}, table["sample_id"], table[name]) for name in columns]


def _split(done: Finished | None) -> str | None:
    return done.split if done else None


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
    quoted_cells(frame.sort_values(order)).to_csv(buffer, index=False, float_format="%.6g", lineterminator="\n")
    return buffer.getvalue().encode()
