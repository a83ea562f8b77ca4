"""A table as text: Markdown, comma-separated, LaTeX."""

import io
import math
from typing import Any

import pandas as pd

from .. import markdown as md
from .entries import NAMES, PATTERNS, Column, Entry, Table
from .missing import missing_lines, note_lines

NONE, BETWEEN = "–", " · "


def render(table: Table, kind: str) -> str:
    """As Markdown (md), one line an entry (csv) or LaTeX (tex)."""
    return {"md": markdown, "csv": comma_separated, "tex": latex}[kind](table)


def entry_text(entry: Entry, compared: bool) -> str:
    """`ours ± half-width · reported · difference · n`, or without the middle two; a dash for what is not there."""
    ours, unit = entry.ours, entry.column
    reported = [_number(entry.reported, unit), _number(entry.difference, unit, "+")] if compared else []
    parts = [_ours(entry), *reported, str(ours.n) if ours else NONE]
    while len(parts) > 1 and parts[-1] == NONE:
        parts.pop()
    return BETWEEN.join(parts)


def _ours(entry: Entry) -> str:
    if entry.ours is None:
        return NONE
    if math.isnan(entry.ours.value):
        return "undefined"
    value, half = _number(entry.ours.value, entry.column), _number(entry.ours.half_width, entry.column)
    return value if half == NONE else f"{value} ± {half}"


def _number(value: float, unit: Column, sign: str = "") -> str:
    return NONE if math.isnan(value) else f"{value * unit.scale:{sign}.{unit.digits}f}"


def _grid(entries: list[Entry], compared: bool) -> tuple[list[str], list[list[str]]]:
    """Headings and lines: a line a row label, a column a quantity."""
    columns = list(dict.fromkeys(entry.column.label for entry in entries))
    texts = {(entry.label, entry.column.label): entry_text(entry, compared) for entry in entries}
    labels = list(dict.fromkeys(entry.label for entry in entries))
    return ["method", *columns], [[label, *(texts[label, column] for column in columns)] for label in labels]


def legend(table: Table) -> str:
    """What the parts of an entry are."""
    middle = ["reported", "ours - reported"] if table.published else []
    return BETWEEN.join(["ours ± half the width of its 95 % interval", *middle, "number of samples"])


def markdown(table: Table) -> str:
    """A heading and a grid a panel; under them what is missing and what to know."""
    lines = [f"# {table.title}", "", f"Source: {table.source}.", "", f"Each cell: {legend(table)}.", ""]
    for label, entries in table.by_panel():
        head, body = _grid(entries, table.published is not None)
        lines += [f"## {label}", "", *md.heading(head), *map(md.row, body), ""]
    for title, items in [("Missing", missing_lines(table)), ("Notes", note_lines(table))]:
        lines += [f"## {title}", "", *(f"- {item}" for item in items), ""] if items else []
    return "\n".join(lines)


def comma_separated(table: Table) -> str:
    """One line an entry, numbers unrounded to six digits, unscaled."""
    order = ["table", "panel", "row", "column", *NAMES, *PATTERNS, "value", "half_width", "reported", "difference"]
    lines = pd.DataFrame([{"table": table.name, **_fields(entry)} for entry in table.entries])
    frame = lines.reindex(columns=[*order, "n", "note"]).astype({"n": "Int64"})
    buffer = io.StringIO()
    frame.to_csv(buffer, index=False, float_format="%.6g", lineterminator="\n")
    return buffer.getvalue()


def _fields(entry: Entry) -> dict[str, Any]:
    ours = entry.ours
    found = ours.found | {"value": ours.value, "half_width": ours.half_width, "n": ours.n} if ours else {"n": None}
    place = {"panel": entry.panel, "row": entry.label, "column": entry.column.label}
    compared = {"reported": entry.reported, "difference": entry.difference, "note": entry.note}
    return {**place, **entry.asked, **found, **compared}


def latex(table: Table) -> str:
    """A tabular a panel, for booktabs."""
    lines = [f"% {_tex(table.title)}", f"% {_tex(table.source)}", f"% each cell: {_tex(legend(table))}"]
    for label, entries in table.by_panel():
        head, body = _grid(entries, table.published is not None)
        rows = [" & ".join(map(_tex, texts)) + r" \\" for texts in [head, *body]]
        lines += [f"% {_tex(label)}", rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", r"\toprule", rows[0]]
        lines += [r"\midrule", *rows[1:], r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join(lines)


_TEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "±": r"$\pm$", "·": r"$\cdot$", "–": "--"} | {
    "α": r"$\alpha$",
    "β": r"$\beta$",
    ">": r"$>$",
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(letter, letter) for letter in text)
