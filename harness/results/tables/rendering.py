"""A table as text: Markdown, comma-separated."""

import io
import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from .. import markdown as md
from ..formulas import quoted_cells
from .entries import NAMES, PATTERNS, Column, Entry, Runs, Table, in_override
from .missing import missing_lines, note_lines
from .order import DIGITS, agreement, compared, tau_of
from .plotting import is_drawn
from .verdicts import counted, verdicts

NONE, BETWEEN = "–", " · "
WHERE = "what they mean: docs/how-to/tables-and-ci.md"


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
    """Why there is no number: none is asked for, too few runs, results of several settings, or it is undefined."""
    if entry.external:
        return "published only"
    if entry.found.several:
        return f"{len(entry.found.several)} results"
    if entry.runs and entry.found.done:
        return f"{entry.found.done} of {entry.runs.count} runs"
    return entry.found.undefined


def _number(value: float, unit: Column, sign: str = "") -> str:
    return NONE if math.isnan(value) else f"{value * unit.scale:{sign}.{unit.digits}f}"


def grids(table: Table) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Of each panel its label, what to know of it (`remark`), and its texts: a line a row, a column a quantity."""
    words = {id(entry): verdict.word for entry, verdict in zip(table.entries, verdicts(table), strict=True)}
    for label, entries in table.by_panel():
        rows: dict[str, dict[str, str]] = {}
        for entry in entries:
            text = BETWEEN.join(filter(None, [entry_text(entry, table.published is not None), words[id(entry)]]))
            rows.setdefault(entry.label, {"method": entry.label})[entry.column.heading] = text
        yield label, remark(entries), pd.DataFrame(list(rows.values()))


def legend(table: Table) -> str:
    """What the parts of an entry are."""
    middle = ["reported", "ours - reported"] if table.published else []
    verdict = ["verdict (below)"] if table.published else []
    means = any(entry.runs and entry.runs.only is None for entry in table.entries)
    ours = ", or a mean of runs (σ, their standard deviation)" if means else ""
    samples = " (runs x that of the smallest)" if means else ""
    first, last = f"ours ± half the width of its 95 % interval{ours}", f"number of samples{samples}"
    return BETWEEN.join([first, *middle, last, *verdict])


def markdown(table: Table) -> str:
    """A heading and a grid a panel; under them what is missing and what to know."""
    lines = [f"# {table.title}", "", f"Source: {table.source}.", "", f"Each cell: {legend(table)}.", ""]
    lines += [f"![{table.title}]({table.name}.png)", ""] if is_drawn(table) else []
    for label, about, texts in grids(table):
        body = map(md.row, texts.itertuples(index=False))
        lines += [f"## {label}", "", *_paragraph(about), *md.heading(list(texts)), *body, ""]
    for title, items in [
        ("Beside the paper", comparison_lines(table)),
        ("Missing", missing_lines(table)),
        ("Notes", note_lines(table)),
    ]:
        lines += [f"## {title}", "", *(f"- {item}" for item in items), ""] if items else []
    return "\n".join(lines)


def comparison_lines(table: Table) -> list[str]:
    """How many cells have which verdict; how far the rows stand in the paper's order."""
    said, order = counted(table), agreement(list(compared(table).values()))
    none = "none, no column has three rows with both numbers, or an order"
    return (
        [
            f"Verdicts: {said} ({WHERE}; why, cell by cell: `{table.name}.csv`).",
            f"Rank correlation of ours with the printed order: {order or none}.",
        ]
        if said
        else []
    )


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
    order += ["verdict", "why", "tau"]
    judged = zip(table.entries, verdicts(table), strict=True)
    taus = {place: tau_of(group) for place, group in compared(table).items()}
    lines = pd.DataFrame(
        [
            {"table": table.name, **_fields(entry), "verdict": verdict.word, "why": verdict.why}
            | {"tau": taus[entry.ranked_in] if verdict.word else math.nan}
            for entry, verdict in judged
        ]
    )
    frame = lines.reindex(columns=order).astype({"n": "Int64"})
    buffer = io.StringIO()
    quoted_cells(frame).to_csv(buffer, index=False, float_format=f"%.{DIGITS}g", lineterminator="\n")
    return buffer.getvalue()


def _fields(entry: Entry) -> dict[str, Any]:
    ours = entry.ours
    found = ours.found | {name: getattr(ours, name) for name in ("value", "half_width", "sigma", "n")} if ours else {}
    place = {"panel": entry.panel, "row": entry.label, "column": entry.column.label, "x": entry.column.x}
    compared = {"reported": entry.reported, "difference": entry.difference, "note": entry.note, "near": entry.near}
    settings = ", ".join(f"{name}={in_override(value)}" for name, value in entry.settings.items())
    about = {"settings": settings, "runs": _runs(entry.runs), "status": status(entry)}
    return {**place, **entry.asked, **about, **found, **compared}


def _runs(runs: Runs | None) -> str:
    """`seed=0..9`, or the one of them."""
    seeds = runs.seeds if runs else []
    return f"{runs.over}={'..'.join(dict.fromkeys(map(str, (seeds[0], seeds[-1]))))}" if runs else ""
