"""CSV files of ours, read as they stand; without torch, which reading does not need."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from ..config import ConfigError
from ..places import readable
from .formulas import plain_cells


def read_table(path: Path, texts: Iterable[str]) -> pd.DataFrame:
    """A CSV of ours with its columns `texts` as they stand there: a data set may be called NA or nan, or not at all."""
    kinds = dict.fromkeys(texts, str)
    try:
        others = {name: [""] for name in pd.read_csv(readable(path), nrows=0) if name not in kinds}
        return plain_cells(pd.read_csv(readable(path), dtype=kinds, keep_default_na=False, na_values=others))
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ConfigError(f"{path} is no table in UTF-8: {error}") from error
