"""A table as text: Markdown, comma-separated, LaTeX."""

import io
import math
from typing import Any

import pandas as pd

from .. import markdown as md
from .entries import NAMES, PATTERNS, Column, Entry, Runs, Table, in_override
from .missing import missing_lines, note_lines

NONE, BETWEEN = "–", " · "


def render(table: Table, kind: str) -> str:
    """As Markdown (md), one line an entry (csv) or LaTeX (tex)."""
    return {"md": markdown, "csv": comma_separated, "tex": latex}[kind](table)


def entry_text(entry: Entry, compared: bool) -> str:
    """`ours ± half-width · reported · difference · n`, or without the middle two; a dash for what is not there."""
    ours, unit = entry.ours, entry.column
    reported = [_number(entry.reported, unit), _number(entry.difference, unit, "+")] if compared else []
    runs = f"{ours.runs} x " if ours and ours.runs > 1 else ""
    parts = [_ours(entry), *reported, f"{runs}{ours.n}" if ours else NONE]
    while len(parts) > 1 and parts[-1] == NONE:
        parts.pop()
    return BETWEEN.join(parts)


def _ours(entry: Entry) -> str:
    if entry.ours is None:
        return status(entry) or NONE
    if math.isnan(entry.ours.value):
        return "undefined"
    value, half, sigma = (
        _number(number, entry.column) for number in (entry.ours.value, entry.ours.half_width, entry.ours.sigma)
    )
    spread = "" if sigma == NONE else f" (σ {sigma})"
    return f"{value}{spread}" if half == NONE else f"{value} ± {half}"


def status(entry: Entry) -> str:
    """Why there is no number though there are results: too few runs, or results of several settings."""
    if entry.found.several:
        return f"{len(entry.found.several)} results"
    return f"{entry.found.done} of {entry.runs.count} runs" if entry.runs and entry.found.done else ""


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
    means = any(entry.runs and entry.runs.only is None for entry in table.entries)
    ours = ", or a mean of runs (σ, their standard deviation)" if means else ""
    samples = " (runs x that of the smallest)" if means else ""
    return BETWEEN.join([f"ours ± half the width of its 95 % interval{ours}", *middle, f"number of samples{samples}"])


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
    order = ["table", "panel", "row", "column", *NAMES, *PATTERNS, "settings", "runs", "value", "half_width", "sigma"]
    lines = pd.DataFrame([{"table": table.name, **_fields(entry)} for entry in table.entries])
    frame = lines.reindex(columns=[*order, "reported", "difference", "n", "status", "note"]).astype({"n": "Int64"})
    buffer = io.StringIO()
    frame.to_csv(buffer, index=False, float_format="%.6g", lineterminator="\n")
    return buffer.getvalue()


def _fields(entry: Entry) -> dict[str, Any]:
    ours, held = entry.ours, {"n": None, "status": status(entry)}
    found = ours.found | {name: getattr(ours, name) for name in ("value", "half_width", "sigma", "n")} if ours else held
    place = {"panel": entry.panel, "row": entry.label, "column": entry.column.label}
    compared = {"reported": entry.reported, "difference": entry.difference, "note": entry.note}
    settings = ", ".join(f"{name}={in_override(value)}" for name, value in entry.settings.items())
    return {**place, **entry.asked, "settings": settings, "runs": _runs(entry.runs), **found, **compared}


def _runs(runs: Runs | None) -> str:
    """`seed=0..9`, or the one of them."""
    seeds = runs.seeds if runs else []
    return f"{runs.over}={'..'.join(dict.fromkeys(map(str, (seeds[0], seeds[-1]))))}" if runs else ""


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
    "μ": r"$\mu$",
    "σ": r"$\sigma$",
    ">": r"$>$",
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(letter, letter) for letter in text)
