"""The files of results/tables/: written anew, and told of."""

import math
from collections.abc import Iterable
from pathlib import Path

from ...config import ConfigError, suggest
from ...store.files import write_atomically
from .entries import Table
from .filling import by_samples, fill_table
from .rendering import render
from .spec import names


def regenerate(chosen: Iterable[str], results: Path) -> list[Table]:
    """Fill tables (all of them if none is named) and write `<results>/tables/<name>.md` and `.csv`.

    Raises ConfigError for a name that is not in conf/table, or a specification that cannot be read.
    """
    wanted = list(chosen) or names()
    if unknown := [name for name in wanted if name not in names()]:
        raise ConfigError(suggest(unknown[0], names(), "table"))
    tidy = by_samples(results / "tidy")
    made = [fill_table(name, tidy) for name in wanted]
    for table in made:
        for kind in ("md", "csv"):
            write_atomically(results / "tables" / f"{table.name}.{kind}", render(table, kind).encode())
    return made


def summary(table: Table, results: Path) -> str:
    """One line: how full the table is and where it lies."""
    ours = sum(entry.ours is not None for entry in table.entries)
    reported = sum(not math.isnan(entry.reported) for entry in table.entries)
    path = (results / "tables" / f"{table.name}.md").absolute()
    doubtful = f", {len(table.ambiguous())} fit several results" if table.ambiguous() else ""
    return f"{table.name}: {ours} of {len(table.entries)} cells computed{doubtful}, {reported} reported: {path}"
