"""A run against a baseline: numbers off by more than their tolerance, samples that moved, rows that are gone."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from ... import config as configs
from .findings import Finding, Moves, RowChange, Verdict, moved
from .sides import NUMBERS, PART, ROW, SAMPLE, Side, failed, part_name, read_side

SHOWN = 5  # samples named in a finding
PROJECT = "check.yaml"  # the limits that `make check` goes by

Key = tuple[str, ...]


@dataclass(frozen=True)
class Limits:
    """A file of conf/. tolerance: by metric, `default` for the rest; method: by method, where it amplifies rounding.

    pair: by method and metric, where the two together do.
    """

    tolerance: dict[str, float]
    moved_share: float
    method: dict[str, float] = field(default_factory=dict)
    pair: dict[str, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def read(cls, name: str = PROJECT) -> "Limits":
        """The project's limits, of one kind of machine; name: of the file."""
        made: Any = OmegaConf.to_container(OmegaConf.load(configs.CONF / name))
        return cls(**made)

    def of(self, metric: str, method: str = "") -> float:
        """The tolerance of a metric of a method: the largest that is given."""
        of_pair = self.pair.get(method, {}).get(metric, 0.0)
        return max(self.tolerance.get(metric, self.tolerance["default"]), self.method.get(method, 0.0), of_pair)


def check(before: Path, now: Path, *, limits: str = PROJECT) -> Verdict:
    """Compare two runs, each a folder of results or the file of a baseline; limits: a file of conf/.

    Raises ConfigError when one of them is not there or cannot be read.
    """
    return compare_sides(read_side(before), read_side(now), Limits.read(limits))


def compare_sides(before: Side, now: Side, limits: Limits | None = None) -> Verdict:
    """What became of the results of `before`, under the project's limits where none are given."""
    limits = limits or Limits.read()
    moves = compare_samples(before.samples, now.samples, limits)
    findings = list(_findings(before.rows, now.rows, moves, limits))
    return Verdict(findings, [*_remarks(before.rows, now.rows), *_without_samples(before.samples, now.samples)])


def _findings(
    before: pd.DataFrame, now: pd.DataFrame, moves: dict[Key, list[Moves]], limits: Limits
) -> Iterator[Finding]:
    """One for each (cell, metric) of the baseline, and for each failure elsewhere."""
    failures = {_without_split(row): str(row["status"]) for row in now[failed(now)].to_dict("records")}
    present = set(now[PART].itertuples(index=False, name=None))
    joined = side_by_side(before, now, limits)
    wrong = joined[joined["lost"] | joined["off"].astype(bool)]
    parts = {key: part for key, part in wrong.groupby(PART, sort=False)}
    for key in joined[PART].drop_duplicates().itertuples(index=False, name=None):
        about, part = dict(zip(PART, map(str, key), strict=True)), parts.get(key, wrong[:0])
        why = failures.pop(_without_split(about), None)
        if why is not None:
            yield Finding(about, "failed", [], [], why)
        elif key not in present:
            yield Finding(about, "missing", [], [], f"{len(part)} rows of the baseline are not in the results")
        else:
            yield _compare_part(about, part, moves.get(key, []), limits)
    for place, why in failures.items():
        names = [name for name in PART if name != "split"]
        yield Finding(dict(zip(names, place, strict=True)) | {"split": ""}, "failed", [], [], why)


def side_by_side(before: pd.DataFrame, now: pd.DataFrame, limits: Limits) -> pd.DataFrame:
    """The rows of the baseline with those of now: NUMBERS and n of both, `off` (which of them differ) and `lost`.

    A number differs by more than the tolerance, or is defined in one of the two only.
    """
    numbers = [*NUMBERS, "n"]
    columns = [*PART, *ROW, *numbers]
    known = before.loc[~failed(before), columns]
    joined = known.merge(now[columns], on=[*PART, *ROW], how="left", suffixes=("_before", "_now"), indicator="found")
    pairs = joined[["metric", "method"]].itertuples(index=False, name=None)
    tolerance = np.array([limits.of(*pair) for pair in pairs])
    off = [_off(joined, name, 0 * tolerance if name == "n" else tolerance) for name in numbers]
    joined["off"] = [
        [name for name, is_off in zip(numbers, each, strict=True) if is_off] for each in zip(*off, strict=True)
    ]
    return joined.assign(lost=joined["found"] == "left_only")


def _off(joined: pd.DataFrame, name: str, tolerance: Any) -> Any:
    one, other = (joined[f"{name}_{side}"].to_numpy(float) for side in ("before", "now"))
    close = np.abs(one - other) <= tolerance * np.maximum(1.0, np.abs(one)) * (1 + 1e-9)
    return ~(close | (np.isnan(one) & np.isnan(other)))


def _without_split(row: dict[Any, Any]) -> Key:
    """A failure has no split: its run may have been of any length."""
    return tuple(str(row[name]) for name in PART if name != "split")


def _compare_part(about: dict[str, str], part: pd.DataFrame, moves: list[Moves], limits: Limits) -> Finding:
    """part: its rows that are lost or off."""
    lost = [_row_name(key) for key in part.loc[part["lost"], ROW].itertuples(index=False, name=None)]
    if lost:
        why = f"{len(lost)} rows of the baseline are not in the results: {', '.join(lost[:SHOWN])}"
        return Finding(about, "missing", [], [], why)
    rows = [change for row in part.to_dict("records") for change in _row_changes(row)]
    rows.sort(key=lambda change: (change.what != "value", not change.row.startswith("mean of all")))
    shifted = any(move.moved > limits.moved_share * move.total for move in moves)
    return Finding(about, "changed" if rows or shifted else "same", rows, moves if rows or shifted else [])


def _row_changes(row: dict[Any, Any]) -> Iterator[RowChange]:
    for what in row["off"]:
        one, other = float(row[f"{what}_before"]), float(row[f"{what}_now"])
        yield RowChange(_row_name(tuple(row[name] for name in ROW)), what, one, other)


def _row_name(key: Key) -> str:
    variant, subset, stat, x = key
    return f"{stat} of {subset} [{variant}]" + (f" at {x}" if x else "")


def compare_samples(before: pd.DataFrame, now: pd.DataFrame, limits: Limits) -> dict[Key, list[Moves]]:
    """(cell, metric) -> what became of each column, of the samples of `before` where there are such now."""
    joined = before.merge(now, on=SAMPLE, suffixes=("_before", "_now"))
    moves: dict[Key, list[Moves]] = {}
    for (*key, column), part in joined.groupby([*PART, "column"], sort=False):
        about = dict(zip(PART, key, strict=True))
        moves.setdefault(tuple(key), []).append(_moves(column, part, limits.of(about["metric"], about["method"])))
    return moves


def _moves(column: str, part: pd.DataFrame, tolerance: float) -> Moves:
    one, other = part["value_before"].to_numpy(float), part["value_now"].to_numpy(float)
    apart = np.where(np.isnan(one) != np.isnan(other), np.inf, np.nan_to_num(np.abs(one - other)))
    distance = apart / np.maximum(1.0, np.nan_to_num(np.abs(one)))
    count = int((distance > tolerance).sum())
    order = np.argsort(-distance, kind="stable")[: min(count, SHOWN)]
    names = part["sample_id"].to_numpy()
    flips = bool(np.isin(one[~np.isnan(one)], (0, 1)).all())
    most = [f"{names[i]} ({moved(one[i], other[i])})" for i in order]
    return Moves(column, count, len(part), flips, most)


def _remarks(before: pd.DataFrame, now: pd.DataFrame) -> Iterator[str]:
    """Retrained networks, and results that the baseline does not know."""
    old, new = (rows[["model", "weights"]].drop_duplicates() for rows in (before, now))
    pairs = old.merge(new, on="model")
    for row in pairs[pairs["weights_x"] != pairs["weights_y"]].itertuples():
        yield f"the weights of {row.model} are not the baseline's: {row.weights_x} -> {row.weights_y}"
    keys = [*PART, *ROW]
    known = set(before[keys].itertuples(index=False, name=None))
    added = [key for key in now[~failed(now)][keys].itertuples(index=False, name=None) if key not in known]
    if added:
        label = part_name(dict(zip(keys, added[0], strict=True)))
        yield f"{len(added)} rows are not in the baseline, first: {label}; take them in with --update --reason TEXT"


def _without_samples(before: pd.DataFrame, now: pd.DataFrame) -> list[str]:
    absent = [name for name, frame in [("baseline", before), ("results", now)] if frame.empty]
    return [f"no per-sample values in the {name}: samples are not compared" for name in absent]
