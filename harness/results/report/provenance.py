"""Where the numbers are from: one line a run, and what a method took in it."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ..environment import LIBRARIES
from ..tidy import runs_table

ABOUT = ("started", "model", "dataset", "split", "overrides", "host", "device", "wall_s", "peak_memory_mb", "threads")
CODE = ("assay", "git_sha", "git_dirty", "plugins")


class Runs(NamedTuple):
    """A table of the records of runs, the last first; a column that all leave empty is left out."""

    heads: list[str]
    lines: list[list[str]]


def provenance(table: pd.DataFrame) -> Runs:
    """Of every invocation that has left a record (`runs_table`)."""
    if table.empty:
        return Runs([], [])
    each = table.drop_duplicates("record").sort_values("started", ascending=False, kind="stable")
    heads = [name for name in ("run_id", *ABOUT, *CODE, *LIBRARIES) if name in each and each[name].notna().any()]
    return Runs(heads, [[_said(value) for value in line] for line in each[heads].itertuples(index=False)])


def _said(value: object) -> str:
    """A field as text."""
    if pd.isna(value):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def seconds_an_image(runs: Path) -> dict[tuple[str, str], float]:
    """Seconds that a method alone took an image, by run and method, over all that was computed in a run."""
    table = runs_table(runs)
    if table.empty:
        return {}
    table = table[table["images"].fillna(0) > 0]
    sums = table.groupby(["run_id", "method"])[["method_wall_s", "images"]].sum()
    return {_key(key): float(took / images) for key, (took, images) in zip(sums.index, sums.to_numpy(), strict=True)}


def _key(key: Sequence[str]) -> tuple[str, str]:
    run, method = key
    return run, method
