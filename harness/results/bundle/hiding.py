"""What of a machine does not go into a bundle: absolute paths; for a double-blind review also who ran it, and where."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from ...config import ROOT, ConfigError

PATH = re.compile(r"(?<![\w.:/<~\\-])/(?:[^\s'\",:;\[\](){}<>|=/\\]+/)*([^\s'\",:;\[\](){}<>|=/\\]+)/?")
WHO = ("host", "git_sha", "git_dirty", "plugins")  # columns of runs.csv
SHORTEST = 3  # letters of a host's name that is looked for


def without_paths(text: str) -> str:
    """A text in which absolute paths are `PATH/NAME`."""
    return PATH.sub(r"PATH/\1", text)


def hidden(frame: pd.DataFrame, anonymous: bool = False) -> pd.DataFrame:
    """A table without absolute paths, and without the columns of WHO for the anonymous."""
    kept = frame.drop(columns=[name for name in WHO if anonymous and name in frame])
    texts = [name for name in kept if not pd.api.types.is_numeric_dtype(kept[name])]
    return kept.assign(**{str(name): kept[name].map(_plain) for name in texts})


def _plain(value: object) -> object:
    return without_paths(value) if isinstance(value, str) else value


def private(results: Path, runs: pd.DataFrame, anonymous: bool) -> list[str]:
    """Words that no file of a bundle may hold."""
    places = {str(each.absolute()) for each in (results, ROOT, Path.home())} - {"/"}
    who = {name for column in WHO[:2] if anonymous and column in runs for name in runs[column].dropna().astype(str)}
    return sorted(places | {name for name in who if len(name) >= SHORTEST})


def check(files: Mapping[str, bytes], words: Iterable[str]) -> None:
    """Raise ConfigError, naming file and word, where a text of a bundle holds one."""
    texts = {name: data.decode() for name, data in files.items() if _is_text(data)}
    for word in words:
        found = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)")
        for name, text in texts.items():
            if found.search(text):
                raise ConfigError(f"{name} would hold {word!r}, which must not leave this machine: nothing was written")


def _is_text(data: bytes) -> bool:
    """Rather than a picture or a parquet."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
