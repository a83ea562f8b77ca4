"""The CI gate: an embedded run against committed numbers. A change in either direction fails, and is named.

The baseline is two files: `embedded.csv`, the tidy rows that can change, and `embedded_samples.csv.gz`, the
columns that metrics declare as paired, a line a sample: text without a format version, equal bytes for
equal numbers. Only text and stored columns are read here; torch is not imported.
"""

from .baseline import update
from .comparing import check
from .findings import CODES, SAME
from .text import junit, lines, markdown

__all__ = ["CODES", "SAME", "check", "junit", "lines", "markdown", "update"]
