"""What is kept beside a group's columns: its result rows, or why there are none."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple


class Finished(NamedTuple):
    """A metric's result rows over the first images of a data set: those of `asdict(ResultRow)`.

    earlier: rows of summaries before, with their `run_id`, of subsets or under conventions that this one has not.
    """

    run_id: str
    split: str
    rows: list[dict[str, Any]]
    earlier: Sequence[dict[str, Any]] = ()

    def left_by(self, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """What stays, as `earlier`, of these rows and those before them when others of the same columns come."""
        known = [*({**row, "run_id": self.run_id} for row in self.rows), *self.earlier]
        summarised = {(row["variant"], row["subset"]) for row in rows}
        return [row for row in known if (row["variant"], row["subset"]) not in summarised]


class Failure(NamedTuple):
    """Why a group could not be computed, and the process that had started the one that wrote it."""

    why: str
    traceback: str = ""
    by: str = ""
