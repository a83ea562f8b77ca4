"""What the report's sections are about: one model on one part of one data set, or on what is told from it."""

from collections.abc import Collection, Iterator
from typing import NamedTuple

import pandas as pd

from ..settings import told_apart
from ..text import column_name, headlines


class Place(NamedTuple):
    """Rows of the tidy table whose `method` and `column`, as they stand, mean one result (`told_apart`).

    shown: the headlines. curves: rows with a value along `x`. `called` is the method's own name in both, `floor` says
    whether every other method has to beat it.
    """

    model: str
    title: str
    shown: pd.DataFrame
    curves: pd.DataFrame

    @property
    def name(self) -> str:
        """As a heading."""
        return f"{self.model} on {self.title}"


def places(results: pd.DataFrame, floors: Collection[str] = ()) -> Iterator[Place]:
    """The sections of a tidy table; rows of no part of a data set (failures) are in none."""
    known = results[results["split"] != ""]
    known = known.assign(called=known["method"], floor=known["method"].isin(list(floors)))
    for title, part in known.groupby(_titles(known), sort=True):
        shown = headlines(part, floors)
        for model, rows in part.groupby("model", sort=True):
            yield Place(str(model), str(title), shown[shown["model"] == model], _curves(rows, floors))


def _titles(rows: pd.DataFrame) -> pd.Series:
    """What a row is shown under: its data set and part, or what ood sets are told from."""
    plain = rows["dataset"] + " " + rows["split"]
    reference = rows["reference"].fillna("")
    return plain.where(reference == "", reference + " against other sets")


def _curves(rows: pd.DataFrame, floors: Collection[str]) -> pd.DataFrame:
    points = rows[rows["x"].notna() & rows["value"].notna()]
    columns = [column_name(row) for row in points.assign(x=None, reference="").itertuples()]
    return told_apart(points.assign(column=columns), floors)
