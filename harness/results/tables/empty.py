"""Cells that have no number of ours, or an undefined one, by name, and what results there are that a cell refuses."""

from collections.abc import Iterator

from .entries import Entry, Table
from .rendering import status


def empty_lines(table: Table) -> list[str]:
    """A line a row of a panel: which of its cells are empty, and why the results at hand do not fill them."""
    rows: dict[tuple[str, str], list[Entry]] = {}
    for entry in [*table.missing(), *table.ambiguous(), *table.undefined()]:
        rows.setdefault((entry.panel, entry.label), []).append(entry)
    return [f"{table.name}: {panel}: {row}: {', '.join(_said(entries))}" for (panel, row), entries in rows.items()]


def _said(entries: list[Entry]) -> Iterator[str]:
    for entry in entries:
        why = [text for text in [status(entry), *_refused(entry)] if text]
        yield entry.column.heading + (f" ({'; '.join(why)})" if why else "")


def _refused(entry: Entry) -> Iterator[str]:
    yield from (f"there is one of {each}" for each in entry.found.refused)
