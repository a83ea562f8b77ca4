"""The picture of a table whose file has a `plot:`: a field a panel and column label, ours beside the published."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

from ...pictures import Size, encoded, panels, tighten
from .entries import Entry, Plot, Table

ACROSS = 3  # fields side by side
EACH, LEGEND = Size(4, 3.4), 2.4  # inches: of a field; what the names of the lines have beside them
# Okabe and Ito's colours, told apart by people who see few; when they are used up, another kind of line.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
Dash = Literal["-", "--", ":", "-."]
DASHES: tuple[Dash, ...] = ("-", "--", ":", "-.")
PUBLISHED = "published"  # in the list of names


class Style(NamedTuple):
    """How a line is told from the others."""

    colour: str
    marker: str
    dash: Dash

    @classmethod
    def of(cls, number: int) -> "Style":
        """Of the line of this number, from 0."""
        dash = number // len(COLOURS) % len(DASHES)
        return cls(COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)], DASHES[dash])


class Mark(NamedTuple):
    """A number of ours with its interval, and the published one, in the column's scale; nan for what is not there."""

    x: float
    ours: float
    low: float
    high: float
    reported: float


class Field(NamedTuple):
    """One of the small pictures: its marks by name, x rising."""

    title: str
    quantity: str
    lines: dict[str, list[Mark]]


def is_drawn(table: Table) -> bool:
    """Whether the table has a picture, and a number to show in it."""
    return table.plot is not None and any(fields_of(table, table.plot))


def draw(table: Table) -> bytes | None:
    """The picture as a PNG, of a table that has one (`is_drawn`)."""
    if table.plot is None or not (fields := list(fields_of(table, table.plot))):
        return None
    names = list(dict.fromkeys(name for field in fields for name in field.lines))
    styles = {name: Style.of(number) for number, name in enumerate(names)}
    figure, axes = panels(len(fields), ACROSS, EACH, margin=Size(LEGEND, 0))
    for axis, field in zip(axes, fields, strict=True):
        _draw_field(axis, field, table.plot, styles)
    figure.legend(handles=_handles(fields, styles), loc="center right", frameon=False, fontsize=8)
    tighten(figure, right=LEGEND)
    return encoded(figure)


def fields_of(table: Table, plot: Plot) -> Iterator[Field]:
    """Those that have something to show."""
    for panel, entries in table.by_panel():
        labels = list(dict.fromkeys(entry.column.label for entry in entries))
        for label in labels:
            of_label = [entry for entry in entries if entry.column.label == label]
            if lines := _lines(of_label, plot):
                yield Field("\n".join([panel, *([label] if len(labels) > 1 else [])]), label, lines)


def _lines(entries: Sequence[Entry], plot: Plot) -> dict[str, list[Mark]]:
    rows = list(dict.fromkeys(entry.label for entry in entries))
    lines: dict[str, list[Mark]] = {}
    for entry in entries:
        name, x = _place(entry, plot, rows)
        mark = _mark(entry, x)
        if not math.isnan(x) and not (math.isnan(mark.ours) and math.isnan(mark.reported)):
            lines.setdefault(name, []).append(mark)
    return {name: sorted(line) for name, line in lines.items()}


def _place(entry: Entry, plot: Plot, rows: list[str]) -> tuple[str, float]:
    """The name of an entry's line and where on it the entry stands; nan for an entry that is no point of a line."""
    if plot.kind == "bars":
        return entry.label, rows.index(entry.label)
    if plot.x == "point":
        return entry.label, math.nan if entry.column.x is None else entry.column.x
    return entry.asked["method"], float(entry.settings.get(plot.x, math.nan))


def _mark(entry: Entry, x: float) -> Mark:
    ours = (entry.ours.value, entry.ours.ci_low, entry.ours.ci_high) if entry.ours else (math.nan,) * 3
    return Mark(x, *(number * entry.column.scale for number in (*ours, entry.reported)))


def _draw_field(axis: Any, field: Field, plot: Plot, styles: dict[str, Style]) -> None:
    for name, marks in field.lines.items():
        style = styles[name]
        {"lines": _draw_line, "bars": _draw_bar}[plot.kind](axis, marks, style)
        published = [mark.reported for mark in marks]
        hollow = {"linestyle": "none", "markerfacecolor": "none", "markersize": 6}
        axis.plot([mark.x for mark in marks], published, color=style.colour, marker=style.marker, **hollow)
    axis.set_title(field.title, fontsize=8)
    axis.set_xlabel(plot.x_label, fontsize=8)
    axis.set_ylabel(plot.y_label or field.quantity, fontsize=8)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.3)
    if plot.kind == "bars":
        axis.set_xticks([])


def _draw_line(axis: Any, marks: list[Mark], style: Style) -> None:
    xs, ours, low, high, _ = zip(*marks, strict=True)
    axis.plot(xs, ours, color=style.colour, marker=style.marker, linestyle=style.dash, markersize=3, linewidth=1.4)
    axis.fill_between(xs, low, high, color=style.colour, alpha=0.15, linewidth=0)


def _draw_bar(axis: Any, marks: list[Mark], style: Style) -> None:
    for mark in marks:
        axis.bar(mark.x, mark.ours, color=style.colour, alpha=0.75)
        axis.vlines(mark.x, mark.low, mark.high, color="#333333", linewidth=1)


def _handles(fields: list[Field], styles: dict[str, Style]) -> list[Any]:
    """What the list of names shows: each line's mark, and a hollow one for what is published."""
    from matplotlib.lines import Line2D

    marks = [
        Line2D([], [], color=style.colour, marker=style.marker, linestyle=style.dash, label=name)
        for name, style in styles.items()
    ]
    shown = any(not math.isnan(mark.reported) for field in fields for line in field.lines.values() for mark in line)
    hollow = Line2D([], [], color="#333333", marker="o", linestyle="none", markerfacecolor="none", label=PUBLISHED)
    return [*marks, *([hollow] if shown else [])]
