"""A table as text: Markdown, comma-separated, LaTeX."""

import io
import math
from typing import Any

import pandas as pd

from .. import markdown as md
from .entries import NAMES, PATTERNS, Column, Entry, Runs, Table, in_override
from .missing import missing_lines, note_lines
from .plotting import is_drawn

NONE, BETWEEN = "–", " · "


def render(table: Table, kind: str) -> str:
    """As Markdown (md), one line an entry (csv) or LaTeX (tex)."""
    return {"md": markdown, "csv": comma_separated, "tex": latex}[kind](table)


def entry_text(entry: Entry, compared: bool) -> str:
    """`ours ± half-width · reported · difference · n`, or without the middle two; a dash for what is not there.

    The published figure of another network or of other images stands in brackets, without a difference.
    """
    ours, reported = entry.ours, _compared(entry) if compared else []
    runs = f"{ours.runs} x " if ours and ours.runs > 1 else ""
    parts = [_ours(entry), *reported, f"{runs}{ours.n}" if ours else NONE]
    while len(parts) > 1 and parts[-1] == NONE:
        parts.pop()
    return BETWEEN.join(parts)


def _compared(entry: Entry) -> list[str]:
    reported = _number(entry.reported, entry.column)
    if entry.near:
        return [reported if reported == NONE else f"({reported})"]
    return [reported, _number(entry.difference, entry.column, "+")]


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
    """Why there is no number: none is asked for, there are too few runs, or there are results of several settings."""
    if entry.external:
        return "published only"
    if entry.found.several:
        return f"{len(entry.found.several)} results"
    return f"{entry.found.done} of {entry.runs.count} runs" if entry.runs and entry.found.done else ""


def _number(value: float, unit: Column, sign: str = "") -> str:
    return NONE if math.isnan(value) else f"{value * unit.scale:{sign}.{unit.digits}f}"


def _grid(entries: list[Entry], compared: bool) -> tuple[list[str], list[list[str]]]:
    """Headings and lines: a line a row label, a column a quantity."""
    columns = list(dict.fromkeys(entry.column.heading for entry in entries))
    texts = {(entry.label, entry.column.heading): entry_text(entry, compared) for entry in entries}
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
    lines += [f"![{table.title}]({table.name}.png)", ""] if is_drawn(table) else []
    for label, entries in table.by_panel():
        head, body = _grid(entries, table.published is not None)
        lines += [f"## {label}", "", *_paragraph(remark(entries)), *md.heading(head), *map(md.row, body), ""]
    for title, items in [("Missing", missing_lines(table)), ("Notes", note_lines(table))]:
        lines += [f"## {title}", "", *(f"- {item}" for item in items), ""] if items else []
    return "\n".join(lines)


def _paragraph(text: str) -> list[str]:
    return [text, ""] if text else []


def remark(entries: list[Entry]) -> str:
    """What stands under the heading of a panel that is not the paper's; empty under another."""
    near = next((entry.near for entry in entries if entry.near), "")
    printed = any(not math.isnan(entry.reported) for entry in entries)
    brackets = (
        " In brackets the published figure, which is of something else: no difference is taken." if printed else ""
    )
    return f"Near, not the same: {near}.{brackets}" if near else ""


def comma_separated(table: Table) -> str:
    """One line an entry, numbers unrounded to six digits, unscaled."""
    order = ["table", "panel", "row", "column", "x", *NAMES, *PATTERNS, "settings", "runs"]
    order += ["value", "half_width", "sigma", "reported", "difference", "n", "status", "note", "near"]
    lines = pd.DataFrame([{"table": table.name, **_fields(entry)} for entry in table.entries])
    frame = lines.reindex(columns=order).astype({"n": "Int64"})
    buffer = io.StringIO()
    frame.to_csv(buffer, index=False, float_format="%.6g", lineterminator="\n")
    return buffer.getvalue()


def _fields(entry: Entry) -> dict[str, Any]:
    ours, held = entry.ours, {"n": None, "status": status(entry)}
    found = ours.found | {name: getattr(ours, name) for name in ("value", "half_width", "sigma", "n")} if ours else held
    place = {"panel": entry.panel, "row": entry.label, "column": entry.column.label, "x": entry.column.x}
    compared = {"reported": entry.reported, "difference": entry.difference, "note": entry.note, "near": entry.near}
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
        lines += [f"% {_tex(text)}" for text in filter(None, [label, remark(entries)])]
        lines += [rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", r"\toprule", rows[0]]
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
