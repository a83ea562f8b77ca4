"""The CI gate: a run against committed numbers, or another run. A change in either direction fails, and is named.

Only text and stored columns are read here; torch is not imported.
"""

from .baseline import update
from .comparing import check
from .findings import CODES, INCOMPARABLE, SAME
from .text import junit, lines, markdown

__all__ = ["CODES", "INCOMPARABLE", "SAME", "check", "junit", "lines", "markdown", "update"]
