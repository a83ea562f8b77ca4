"""What a paper's table consists of: quantities, our results, and entries that hold one beside the published figure."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from scipy.special import stdtrit

NAMES = ("method", "model", "dataset", "metric", "subset", "stat")  # equal in an entry and in its result
PATTERNS = ("variant", "reference", "protocol", "split")  # shell patterns in an entry

Settings = Mapping[str, Any]  # of the results that an entry takes: name -> value, or a shell pattern


def in_override(value: Any) -> str:
    """A setting's value as on the command line: `[C,Psi]`, `null`."""
    if value is None:
        return "null"
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)


class Column(NamedTuple):
    """A quantity, or a point of a curve; `{name}` stands for a value of the row or panel. scale: 100 for percent.

    dataset: of which the result is, where it is not the panel's: an out-of-distribution set, or `average`. reference:
    a pattern of the in-distribution set that it is told from. settings, runs, printed: as in a row. x: of the point
    (a list of them in the file is as many columns of one label).
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
    settings: Settings | None = None
    runs: Mapping[str, Any] | None = None
    x: float | None = None
    printed: Mapping[str, str] | None = None

    @property
    def heading(self) -> str:
        """The label, of a point with its x."""
        return self.label if self.x is None else f"{self.label} {self.x:g}"


@dataclass(frozen=True)
class Runs:
    """Of a figure that is the mean of several runs, or one of them.

    over: what differs between them, as on the command line: `seed` (of a method's draws) or `subset_seed` (of the
    images). count: how many there are; run N has the seed N - 1. only: the one that is shown; None: their mean.
    """

    over: str
    count: int
    only: int | None = None

    @property
    def seeds(self) -> list[int]:
        """Of the runs that are needed."""
        return list(range(self.count)) if self.only is None else [self.only - 1]


class Result(NamedTuple):
    """Our number and its 95 % interval; nan where undefined.

    A mean of runs has `sigma`, their standard deviation (by n - 1), and no interval; n is then that of the smallest.
    images: of runs on the same images, which `sigma` says nothing of, the mean half-width of their own intervals.
    """

    value: float
    ci_low: float
    ci_high: float
    n: int
    found: dict[str, str]  # what stands where the entry has PATTERNS
    others: int = 0  # results of these settings that fit as well: fewer samples, an older VERSION
    sigma: float = math.nan
    runs: int = 1
    images: float = 0

    @property
    def half_width(self) -> float:
        """Of the interval, which need not be symmetric."""
        return (self.ci_high - self.ci_low) / 2

    @property
    def interval(self) -> tuple[float, float]:
        """Of 95 %; of a mean of runs that of Student's t, on both sides `images` more; nan where there is none."""
        if self.runs == 1:
            return self.ci_low, self.ci_high
        reach = float(stdtrit(self.runs - 1, 0.975)) * self.sigma / math.sqrt(self.runs) + self.images
        return self.value - reach, self.value + reach


class Found(NamedTuple):
    """What the results hold for an entry: one number, or why there is none.

    done: of runs whose mean is asked for, how many there are. several: what tells apart the results that fit, where
    they are of different settings: none is taken. rows: of the tidy table that say all this, by their place in it.
    refused: of results of this method, model and quantity that do not fit, what each has that is not asked for.
    undefined: why the number that there is has no value.
    """

    ours: Result | None = None
    done: int = 0
    several: tuple[str, ...] = ()
    rows: tuple[int, ...] = ()
    refused: tuple[str, ...] = ()
    undefined: str = ""


class Entry(NamedTuple):
    """One number of a table: what is asked for, what there is, the published one if there is one.

    near: why the published figure, of another network or of other images, is no measure of ours. external: only the
    published figure is meant to be there. order: of panels whose rows stand in one
    order, the name that they share (`among`) and that of the panel's row (`as`).
    """

    panel: str
    label: str
    column: Column
    asked: dict[str, str]  # NAMES and PATTERNS
    found: Found
    reported: float
    note: str
    settings: Settings = MappingProxyType({})
    runs: Runs | None = None
    near: str = ""
    external: bool = False
    order: Mapping[str, str] = MappingProxyType({})

    @property
    def ranked_in(self) -> tuple[str, str]:
        """What stands in one order: a column of a panel, or of panels that share an order."""
        return self.order.get("among", self.panel), self.column.heading

    @property
    def rank_name(self) -> str:
        """The row's name among those that it stands in order with."""
        return self.order.get("as", self.label)

    @property
    def ours(self) -> Result | None:
        """Our number, if there is exactly one."""
        return self.found.ours

    @property
    def is_computed(self) -> bool:
        """Whether our number is there and has a value."""
        return self.ours is not None and not math.isnan(self.ours.value)

    @property
    def difference(self) -> float:
        """Ours - reported; nan where one is not there, or the two are of different things."""
        return self.ours.value - self.reported if self.ours and not self.near else math.nan


@dataclass(frozen=True)
class Plot:
    """The picture of a table: a field for each panel and column label.

    kind: `lines` (with bands) or `bars` (one a row, with whiskers). x: of lines, `point` (the columns' x) or a setting
    of the rows (`gamma`), whose rows of one method are a line. x_label, y_label: words at the axes; the column's label
    where there is none.
    """

    kind: str
    x: str = "point"
    x_label: str = ""
    y_label: str = ""


@dataclass(frozen=True)
class Table:
    """A file of conf/table/ with its entries, in reading order.

    kept: how many of them show results that are in results/measured alone.
    """

    name: str
    title: str
    source: str
    panels: list[dict[str, Any]]
    published: str | None = None
    plot: Plot | None = None
    notes: list[str] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    kept: int = 0

    def by_panel(self) -> Iterator[tuple[str, list[Entry]]]:
        """Each panel's label and entries."""
        for panel in self.panels:
            yield panel["label"], [entry for entry in self.entries if entry.panel == panel["label"]]

    def missing(self) -> list[Entry]:
        """Entries that something has to be computed for."""
        asked = (entry for entry in self.entries if not entry.external)
        return [entry for entry in asked if entry.ours is None and not entry.found.several]

    def ambiguous(self) -> list[Entry]:
        """Entries that results of several settings fit."""
        return [entry for entry in self.entries if entry.found.several]

    def undefined(self) -> list[Entry]:
        """Entries whose number has no value, however often it is computed."""
        return [entry for entry in self.entries if entry.ours is not None and not entry.is_computed]
