"""Words that say who made a bundle or where, looked for in all of it before anything is written."""

import getpass
import io
import re
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from pathlib import Path

import pandas as pd

from ...config import CONF, ROOT, ConfigError

HOMES = ("home", "Users")  # folders of people's own
PARQUET = b"PAR1"  # how such a file begins
SHORTEST = 3  # letters of a name that is looked for


def people() -> set[str]:
    """Who is at work here, as far as the system knows."""
    try:
        return {getpass.getuser(), Path.home().name} - {""}
    except (OSError, KeyError, RuntimeError):
        return set()


def places(results: Path, runs: pd.DataFrame, anonymous: bool) -> list[str]:
    """What no file of a bundle may hold: folders; for the anonymous, commits."""
    folders = {str(each.absolute()) for each in (results, ROOT, Path.home())} - {"/"}
    return sorted(folders | (_said(runs, "git_sha") if anonymous else set()))


def names(runs: pd.DataFrame) -> list[str]:
    """Hosts of runs and who is at work: what nothing that people have written may hold.

    Not those that are everyday words here (`test`, `worker`, `root`), of which our own configs are full.
    """
    every = {*people(), *(name for host in _said(runs, "host") for name in (host, host.partition(".")[0]))}
    return sorted(name for name in every if len(name) >= SHORTEST and not _word(name).search(_vocabulary()))


def _said(runs: pd.DataFrame, column: str) -> set[str]:
    return set(runs[column].dropna().astype(str)) - {""} if column in runs else set()


@cache
def _vocabulary() -> str:
    """All our configs without their comments, which name authors."""
    return "\n".join(re.sub(r"#.*", "", path.read_text()) for path in sorted(CONF.rglob("*.yaml")))


def _word(word: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])")


def texts(files: Mapping[str, bytes]) -> dict[str, str]:
    """Each file as text, of a parquet its columns of texts; but pictures."""
    return {name: text for name, data in files.items() if (text := _text(data)) is not None}


def written(files: Mapping[str, bytes], tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
    """What people have written or named: configs, ids of samples, and of tables overrides and statuses."""
    free = texts({name: data for name, data in files.items() if name.startswith(("configs/", "samples/"))})
    return free | {
        name: _column_texts(table[[each for each in ("overrides", "status") if each in table]])
        for name, table in tables.items()
    }


def _text(data: bytes) -> str | None:
    if data.startswith(PARQUET):
        return _column_texts(pd.read_parquet(io.BytesIO(data)))
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def _column_texts(table: pd.DataFrame) -> str:
    columns = [table[name] for name in table if not pd.api.types.is_numeric_dtype(table[name])]
    return "\n".join(str(value) for column in columns for value in column.dropna().unique())


def check(texts: Mapping[str, str], words: Iterable[str], allowed: Collection[str] = ()) -> None:
    """Raise ConfigError, naming file and word, where a text holds one that is not allowed."""
    for word in (each for each in words if each not in allowed):
        found = _word(word)
        for name, text in texts.items():
            if found.search(text):
                raise ConfigError(
                    f"{name} would hold {word!r}, which must not leave this machine: nothing was written; delete the "
                    f"record in runs/ that says so (numbers stay), or, if it tells nothing of you: --allow {word}"
                )
