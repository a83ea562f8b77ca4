"""Cells that a spreadsheet would compute: in a CSV an apostrophe stands before them, and is gone when that is read.

The rule is OWASP's ("CSV Injection"): a text that begins with = + - @, a tab or a carriage return. Numbers stay.
A text that begins with apostrophes and then one of these gets one more, so that what is read is what was written.
"""

import re
from collections.abc import Callable

import numpy as np
import pandas as pd

SIGNS = "'=+-@\t\r"
FORMULA = re.compile(r"'*[=+\-@\t\r]")
NUMBER = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|inf|nan)")


def quoted(text: str) -> str:
    """As it stands in a CSV."""
    return f"'{text}" if FORMULA.match(text) and not NUMBER.fullmatch(text) else text


def plain(text: str) -> str:
    """What was `quoted`."""
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text


def quoted_cells(frame: pd.DataFrame) -> pd.DataFrame:
    """A table whose texts are as they stand in a CSV."""
    return _with(frame, quoted)


def plain_cells(frame: pd.DataFrame) -> pd.DataFrame:
    """A table that was read from such a CSV."""
    return _with(frame, plain)


def _with(frame: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    made = {name: _moved(frame[name], change) for name in frame if not pd.api.types.is_numeric_dtype(frame[name])}
    return frame.assign(**{str(name): frame[name].map(lambda v, m=m: m.get(v, v)) for name, m in made.items() if m})


def _moved(column: pd.Series, change: Callable[[str], str]) -> dict[str, str]:
    """Of the few texts that change, what they become."""
    every = np.asarray(column.unique(), object).tolist()
    texts = [text for text in every if isinstance(text, str) and text[:1] and text[0] in SIGNS]
    return {text: made for text in texts if (made := change(text)) != text}
