"""A baseline is made of a run's results: what it holds, and why it was changed.

Three files: `NAME.csv` or `NAME.csv.gz`, the tidy rows that can change; `NAME_samples.csv.gz`, the columns that metrics
declare as paired and the scores of detectors, a line a sample; `NAME_reasons.csv`, a line an update.
"""

import csv
import io
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from ...config import ConfigError
from ...store import damage
from ...store.files import write_atomically
from ..formulas import quoted
from ..reading import read_table
from .comparing import compare_sides
from .sides import PART, Side, beside, current, failed, part_name, read_side, write_side

HEADER = ["date", "commit", "results", "changed", "gone", "new", "reason"]


def update(baseline: Path, results: Path, reason: str) -> str:
    """Make the current results the baseline, and note why; says what was written.

    Raises ConfigError: a row has failed, there are no samples, or no reason is given.
    """
    if not reason.strip():
        raise ConfigError('--update needs --reason "TEXT": it is kept beside the baseline')
    side = current(results)
    if failed(side.rows).any():
        first = side.rows[failed(side.rows)].iloc[0]
        raise ConfigError(f"not a baseline: {part_name(first)} {first.status}")
    if damage.found:
        raise ConfigError("not a baseline: what is named above is damaged")
    if side.samples.empty:
        raise ConfigError(f"no per-sample tables in {results / 'store'}: run again with cache=missing or refresh")
    before = read_side(baseline) if baseline.is_file() else None
    line = [datetime.now(UTC).date().isoformat(), _commit(results), *_counts(before, side), " ".join(reason.split())]
    written = write_side(side, baseline)
    path = beside(baseline, "reasons.csv")
    write_atomically(path, _noted(path, line))
    return f"{written}\n{line[-1]}: {path}"


def _commit(results: Path) -> str:
    """The commit of the code that computed the results, `+` where it was edited; empty where that is not known."""
    path = results / "tidy" / "runs.csv"
    runs = read_table(path, ["git_sha", "git_dirty", "started"]) if path.is_file() else pd.DataFrame()
    if runs.empty or "git_sha" not in runs:
        return ""
    last = runs.sort_values("started").iloc[-1] if "started" in runs else runs.iloc[-1]
    return last["git_sha"][:12] + "+" * (last["git_dirty"] == "True")


def _counts(before: Side | None, now: Side) -> list[str]:
    """Of the (method, metric) results: all, changed, gone, new."""
    ours, known = _parts(now), _parts(before) if before else set()
    changed = len(compare_sides(before, now).wrong) - len(known - ours) if before else 0
    return [str(number) for number in (len(ours), changed, len(known - ours), len(ours - known))]


def _parts(side: Side) -> set[tuple[str, ...]]:
    return set(side.rows[PART].itertuples(index=False, name=None))


def _noted(path: Path, line: list[str]) -> bytes:
    """The file of reasons with one line more."""
    buffer = io.StringIO(path.read_text() if path.is_file() else "", newline="")
    is_new = not buffer.getvalue()
    buffer.seek(0, io.SEEK_END)
    noted = [quoted(text) for text in line]
    csv.writer(buffer, lineterminator="\n").writerows([HEADER, noted] if is_new else [noted])
    return buffer.getvalue().encode()
