"""Whose the rows are that lie beside a run's records: each invocation puts its own in the place of the last one's."""

from functools import partial
from hashlib import sha256
from pathlib import Path

from ..places import matching, read_bytes
from ..store.damage import unless_damaged
from ..store.sealed import read_json

FILE = "results.csv"
ROWS = "rows"  # of a record: the digest of the rows that were put with it


def mark(data: bytes) -> str:
    """What tells rows from others."""
    return sha256(data).hexdigest()[:16]


def holders(folder: Path) -> list[str]:
    """Moments of the records of a run whose rows are there, in order; of records without a digest the last one."""
    moments = [path.stem for path in matching(folder, "*.json")]
    there = mark(read_bytes(folder / FILE)) if (folder / FILE).is_file() else "none"
    marks = {each: _mark_of(folder / f"{each}.json") for each in moments}
    return [each for each in moments if marks[each] == there or (not marks[each] and each == moments[-1])]


def _mark_of(record: Path) -> str:
    about = unless_damaged(partial(read_json, record)) or {}
    return str(about.get(ROWS, ""))
