"""What a paper's table consists of: quantities, our results, and entries that hold one beside the published figure."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

NAMES = ("method", "model", "dataset", "metric", "subset", "stat")  # equal in an entry and in its result
PATTERNS = ("variant", "reference", "protocol", "split")  # shell patterns in an entry


class Column(NamedTuple):
    """A quantity; `{name}` stands for a value of the row or panel. scale: 100 for percent.

    dataset: of which the result is, where it is not the panel's: an out-of-distribution set, or `average`. reference:
    a pattern of the in-distribution set that it is told from.
    """

    label: str
    metric: str
    variant: str
    stat: str
    subset: str = "all"
    scale: float = 1
    digits: int = 3
    dataset: str = "{dataset}"
    reference: str = "*"


class Result(NamedTuple):
    """Our number and its 95 % interval; nan where undefined."""

    value: float
    ci_low: float
    ci_high: float
    n: int
    found: dict[str, str]  # what stands where the entry has PATTERNS
    others: int  # results that fit as well: other weights, settings, parts of the data

    @property
    def half_width(self) -> float:
        """Of the interval, which need not be symmetric."""
        return (self.ci_high - self.ci_low) / 2


class Entry(NamedTuple):
    """One number of a table: what is asked for, ours if it is there, the published one if there is one."""

    panel: str
    label: str
    column: Column
    asked: dict[str, str]  # NAMES and PATTERNS
    ours: Result | None
    reported: float
    note: str

    @property
    def difference(self) -> float:
        """Ours - reported; nan where one is not there."""
        return self.ours.value - self.reported if self.ours else math.nan


@dataclass(frozen=True)
class Table:
    """A file of conf/table/ with its entries, in reading order."""

    name: str
    title: str
    source: str
    panels: list[dict[str, Any]]
    published: str | None = None
    notes: list[str] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)

    def by_panel(self) -> Iterator[tuple[str, list[Entry]]]:
        """Each panel's label and entries."""
        for panel in self.panels:
            yield panel["label"], [entry for entry in self.entries if entry.panel == panel["label"]]

    def missing(self) -> list[Entry]:
        """Entries without a result."""
        return [entry for entry in self.entries if entry.ours is None]
