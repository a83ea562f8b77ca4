"""The rows behind the tables, kept with the project (results/measured): a bare clone regenerates what is committed."""

from pathlib import Path

import pandas as pd

from ... import config as configs
from ...store.files import write_atomically
from ..formulas import quoted_cells
from ..reading import read_table
from .entries import NAMES, PATTERNS, Table

KEPT = configs.ROOT / "results" / "measured"  # those that travel with the code
CELL = ["cell_key", "metric_key"]
RESULT = [*CELL, "split", "variant", "subset"]  # a fresh result takes the place of the kept one of equal keys
TEXTS = [*NAMES, *PATTERNS, "cell_key", "metric_key", "run_id", "weights", "precision", "seed", "settings"]
TEXTS += ["status", "x", "x_label"]
NUMBERS = ["value", "stderr", "ci_low", "ci_high", "n", "ci_method"]


def read_tidy(path: Path) -> pd.DataFrame:
    """A tidy result table; text columns hold text, also where they are empty. Without a file it has no rows."""
    if not path.is_file():
        return pd.DataFrame(columns=[*TEXTS, *NUMBERS])
    return read_table(path, TEXTS)


def united(name: str, tidy: pd.DataFrame, results: Path) -> pd.DataFrame:
    """The tidy rows of a folder of results and, of results that they lack, those kept behind a table.

    What has failed since is not shown as it was: a failed row, which has no split, displaces its cell and metric.
    """
    rows = tidy
    for folder in (results / "measured", KEPT):
        kept = read_tidy(folder / f"{name}.csv")
        failed = rows[rows["status"].astype(str).str.startswith("failed")]
        more = kept[~_keys(kept, RESULT).isin(_keys(rows, RESULT)) & ~_keys(kept, CELL).isin(_keys(failed, CELL))]
        rows = pd.concat([each for each in (rows, more) if len(each)] or [rows], ignore_index=True)
    return rows


def _keys(rows: pd.DataFrame, names: list[str]) -> pd.Index:
    return pd.MultiIndex.from_frame(rows[names])


def keep(table: Table, rows: pd.DataFrame, results: Path) -> None:
    """Write the rows (as `united`) that a table's entries show, whole, to `<results>/measured/`; no file for none."""
    path, taken = results / "measured" / f"{table.name}.csv", shown(table, rows)
    if taken.empty:
        path.unlink(missing_ok=True)
        return
    ordered = taken.sort_values([name for name in TEXTS if name in taken], kind="stable")
    write_atomically(path, quoted_cells(ordered).to_csv(index=False, lineterminator="\n").encode())


def shown(table: Table, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows (as `united`) that some entry shows, each once: a mean and its deviation are of one row."""
    return rows.iloc[sorted({number for entry in table.entries for number in entry.found.rows})]
