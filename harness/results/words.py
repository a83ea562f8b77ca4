"""A run's command line as it is kept and told: without credentials, and without sinks, which change no result."""

import re
from collections.abc import Iterable

SINK = re.compile(r"[~+]{0,2}sink([.=@]|$)")
CREDENTIALS = re.compile(r"(?<=://)(?<!abfs://)[^\s/'\"]+@")  # of an address; in Azure's a container stands there
WORD = re.compile(r" (?=[~+]{0,2}[\w@/.]+=|~)")  # between overrides


def kept(words: Iterable[str]) -> list[str]:
    """The overrides that a record holds."""
    return [without_credentials(word) for word in words if not SINK.match(word)]


def told_overrides(text: str) -> str:
    """Overrides in one line, which a record of an earlier version holds with its sinks."""
    return " ".join(kept(WORD.split(text)))


def without_credentials(text: str) -> str:
    """`//HOST` for each `//USER@HOST` and `//USER:PASSWORD@HOST`."""
    return CREDENTIALS.sub("", text)
