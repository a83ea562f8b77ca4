"""What does not go into a bundle: paths, addresses, sinks; for a double-blind review also who ran it, and where."""

import re

import pandas as pd

from ..words import told_overrides, without_credentials
from .people import HOMES, people

# A sign of a name. Folders' names may have spaces and brackets inside, too: what is behind would say whose they are.
_SIGN = r"(?:[^\s'\",:;|<>=/\\]|(?<=\w)'(?=\w))"
_NAME = r"(?:[^\s'\",:;|<>=/\\\[\](){}]|(?<=\w)'(?=\w))*"
_MORE = rf"(?: +(?!PATH\b|[(\[]*[~/]|\.\./){_SIGN}+)*"  # but no other path
_SPACED = rf"{_SIGN}+{_MORE}"
_URL = r"[^\s'\"<>,\[\](){}|/\\]"
PATH = re.compile(
    rf"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*:/{{2,}})(?P<at>(?:{_URL}+{_MORE}/+)*{_URL}*)"
    rf"|\b[A-Za-z]:\\+(?P<drive>(?:{_SPACED}\\+)*{_NAME})"
    rf"|(?:(?<![\w.~/*+])/+(?={_SIGN})|(?<!\w)~(?P<tilde>[\w.-]*)/+|(?<![\w.])(?:\.\./+)+(?={_SIGN}))"
    rf"(?P<path>(?:{_SPACED}/+)*{_NAME})"
)
SLASHES = re.compile(r"[/\\]+")
PLACES = ("/", "\\")  # one of which is in every path
WHO = ("host", "git_sha", "git_dirty", "plugins")  # columns of runs.csv


def without_paths(text: str) -> str:
    """A text in which absolute paths, those of a home and those that climb are `PATH/NAME`, addresses `s3://PATH/NAME`.

    NAME is left out where it would be a home's, or a server's.
    """
    return PATH.sub(_short, text) if any(sign in text for sign in PLACES) else text


def _short(found: re.Match[str]) -> str:
    scheme = (found["scheme"] or "").rstrip("/")
    start = f"{scheme}//PATH" if scheme else "PATH"
    parts = [each for each in SLASHES.split(found["at"] or found["drive"] or found["path"] or "") if each]
    if not parts or (scheme and scheme != "file:" and len(parts) == 1):
        return start
    name = re.split("[?;]", parts[-1])[0] if scheme else parts[-1]
    is_whose = name in people() or parts[-2:-1] in [[home] for home in HOMES] or (scheme and re.search("[@:]", name))
    return start if is_whose or not name else f"{start}/{name}"


def hidden(frame: pd.DataFrame, anonymous: bool = False) -> pd.DataFrame:
    """A table without paths and addresses, in overrides no sinks; without the columns of WHO for the anonymous."""
    kept = frame.drop(columns=[name for name in WHO if anonymous and name in frame])
    texts = [name for name in kept if not pd.api.types.is_numeric_dtype(kept[name])]
    shown = kept.assign(**{str(name): kept[name].map(_plain) for name in texts})
    return shown.assign(overrides=kept["overrides"].map(_overrides)) if "overrides" in kept else shown


def _plain(value: object) -> object:
    return without_paths(without_credentials(value)) if isinstance(value, str) else value


def _overrides(value: object) -> object:
    return without_paths(told_overrides(value)) if isinstance(value, str) else value
