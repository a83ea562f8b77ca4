"""What the gate says: a finding for each metric of each cell, and the verdict that they add up to."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from .sides import part_name

SAME, CHANGED, INCOMPARABLE, INCOMPLETE = 0, 1, 2, 3  # exit codes; ConfigError gives INCOMPARABLE
CODES = "exit codes: 0 same, 1 changed (better is a change too), 2 cannot compare, 3 missing or failed rows"


class RowChange(NamedTuple):
    """A result row that is not what it was; `what` is one of NUMBERS, n or status."""

    row: str
    what: str
    before: float
    now: float

    @property
    def place(self) -> str:
        """The row, and which of its numbers unless it is the value."""
        return self.row if self.what == "value" else f"{self.row} {self.what}"

    def __str__(self) -> str:
        return f"{self.place} {moved(self.before, self.now)}"


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
    def more(self) -> str:
        """How many numbers changed beside the first."""
        return f" (and {len(self.rows) - 1} more numbers)" if len(self.rows) > 1 else ""

    def __str__(self) -> str:
        rows = [f"{self.rows[0]}{self.more}"] if self.rows else []
        if self.kind == "changed" and not self.rows:
            rows = ["means as before"]
        told = [*filter(None, [self.why]), *rows, *map(str, self.moves)]
        return f"{self.kind}: {part_name(self.part)}: " + "; ".join(told)


@dataclass(frozen=True)
class Verdict:
    """Findings in the order of the baseline, and remarks that change no exit code."""

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

    def count(self, kind: str) -> int:
        """How many findings are of a kind."""
        return sum(finding.kind == kind for finding in self.findings)

    def __str__(self) -> str:
        """One line: `1 changed of 42 (method, metric) results`."""
        counts = [(kind, self.count(kind)) for kind in ("changed", "missing", "failed")]
        told = ", ".join(f"{number} {kind}" for kind, number in counts if number)
        total = f"{len(self.findings)} (method, metric) results"
        return f"{told} of {total}" if told else f"same: {total}"


def plain(value: float, digits: int = 4) -> str:
    """A number at so many digits."""
    return "undefined" if math.isnan(value) else f"{value:.{digits}g}"


def apart(before: float, now: float) -> tuple[str, str]:
    """Both numbers, at as many digits from four on as tell them apart."""
    digits = next((n for n in (4, 6, 8) if plain(before, n) != plain(now, n)), 10)
    return plain(before, digits), plain(now, digits)


def moved(before: float, now: float) -> str:
    """`0.3679 -> 0.434`."""
    return " -> ".join(apart(before, now))
