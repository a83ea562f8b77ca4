"""The files of results/tables/ and, behind them, of results/measured/: written anew, and told of."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd

from ...config import ConfigError, suggest
from ...store.files import write_atomically
from .entries import Table
from .filling import by_samples, fill_table
from .kinds import render
from .measured import keep, read_tidy, shown, united
from .plotting import draw
from .spec import names
from .versions import older


def regenerate(chosen: Iterable[str], results: Path) -> list[Table]:
    """Fill tables (all of them if none is named); write `<results>/tables/<name>.md`, `.csv` and, of a plot, `.png`.

    The rows that they show are kept in `<results>/measured/<name>.csv`.
    Raises ConfigError for a name that is not in conf/table, or a specification that cannot be read.
    """
    wanted = list(chosen) or names()
    if unknown := [name for name in wanted if name not in names()]:
        raise ConfigError(suggest(unknown[0], names(), "table"))
    tidy = read_tidy(results / "tidy" / "results.csv")
    return [_regenerate(name, tidy, results) for name in wanted]


def _regenerate(name: str, tidy: pd.DataFrame, results: Path) -> Table:
    table, rows = _filled(name, tidy, results)
    for kind in ("md", "csv"):
        write_atomically(results / "tables" / f"{name}.{kind}", render(table, kind).encode())
    picture = results / "tables" / f"{name}.png"
    if drawn := draw(table):
        write_atomically(picture, drawn)
    else:
        picture.unlink(missing_ok=True)
    keep(table, rows, results)
    return table


def _filled(name: str, tidy: pd.DataFrame, results: Path) -> tuple[Table, pd.DataFrame]:
    """A table, and the rows that it was filled from: the tidy ones, and behind them those kept."""
    rows = united(name, tidy, results)
    table = fill_table(name, by_samples(rows))
    kept = sum(entry.is_computed and min(entry.found.rows) >= len(tidy) for entry in table.entries)
    return replace(table, notes=[*table.notes, *older(shown(table, rows))], kept=kept), rows


def own_tables(results: Path) -> Iterator[tuple[str, bytes]]:
    """Files (name, bytes) of the tables that have a number of these results, and not only of those kept."""
    tidy = read_tidy(results / "tidy" / "results.csv")
    fresh = by_samples(tidy)
    for name in names():
        if any(entry.is_computed for entry in fill_table(name, fresh).entries):
            yield from _own_files(_filled(name, tidy, results)[0])


def _own_files(table: Table) -> Iterator[tuple[str, bytes]]:
    if sum(entry.is_computed for entry in table.entries) > table.kept:
        yield from ((f"{table.name}.{kind}", render(table, kind).encode()) for kind in ("md", "csv", "tex"))
        if drawn := draw(table):
            yield f"{table.name}.png", drawn


def summary(table: Table, results: Path) -> str:
    """One line: how full the table is and where it lies."""
    ours = sum(entry.is_computed for entry in table.entries)
    asked = sum(not entry.external for entry in table.entries)
    reported = sum(not math.isnan(entry.reported) for entry in table.entries)
    path = (results / "tables" / f"{table.name}.md").absolute()
    said = [f"{ours} of {asked} cells computed", *_remarks(table), f"{reported} reported"]
    return f"{table.name}: {', '.join(said)}: {path}"


def _remarks(table: Table) -> Iterator[str]:
    """Of cells that rest on results/measured alone, of those without a value, and of those that several results fit."""
    if table.kept:
        yield f"{table.kept} of them as kept in results/measured"
    if undefined := len(table.undefined()):
        yield f"{undefined} undefined"
    if doubtful := len(table.ambiguous()):
        yield f"{doubtful} fit several results"
    if others := sum(bool(entry.ours and entry.ours.others) for entry in table.entries):
        yield f"{others} have results on fewer images or of an older version, too"
