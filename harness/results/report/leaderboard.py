"""Leaderboards: a line a method, a column a quantity; values with intervals and ranks, the best first."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

from .cliques import Cliques
from .ranks import ordered, ranks, rounded

ARROWS = {True: "↑", False: "↓", None: ""}


class Head(NamedTuple):
    """A quantity and its good direction."""

    name: str
    arrow: str
    first: str  # in which order a click sorts first


class Cell(NamedTuple):
    """A value as it is shown; `order`, with the digits that are ranked, sorts it.

    is_best: no test tells it from the best one of its column.
    """

    text: str
    interval: str
    order: float
    rank: str
    is_best: bool


class Line(NamedTuple):
    """A method with a cell a quantity; None where it has no value."""

    method: str
    is_floor: bool
    cells: list[Cell | None]


class Board(NamedTuple):
    """What a leaderboard shows."""

    heads: list[Head]
    lines: list[Line]


def leaderboard(shown: pd.DataFrame, cliques: Mapping[str, Cliques]) -> Board:
    """Of a place's headlines. cliques: of the quantities (by column) that were tested."""
    if shown.empty:
        return Board([], [])
    heads = [_head(row) for row in shown.drop_duplicates("column").itertuples()]
    made = ranks(shown)
    rows = {(row.method, row.column): row for row in shown.itertuples()}
    floors = dict(zip(shown["method"], shown["floor"], strict=True))
    lines = []
    for method in ordered(shown):
        cells = [_cell(rows.get((method, head.name)), made, cliques.get(head.name)) for head in heads]
        lines.append(Line(method, bool(floors[method]), cells))
    return Board(heads, lines)


def direction(row: Any) -> bool | None:
    """Whether higher is better; None where that is not known."""
    return None if pd.isna(row.higher_is_better) else bool(row.higher_is_better)


def _head(row: Any) -> Head:
    up = direction(row)
    return Head(row.column, ARROWS[up], "asc" if up is False else "desc")


def _cell(row: Any, made: pd.DataFrame, cliques: Cliques | None) -> Cell | None:
    if row is None:
        return None
    rank = made.at[row.method, row.column] if row.column in made else float("nan")
    is_best = cliques is not None and row.method in cliques.best
    return Cell(f"{row.value:.3f}", row.interval, rounded(row.value), "" if pd.isna(rank) else f"{rank:.0f}", is_best)
