"""The kinds of text that a table can be."""

from .entries import Table
from .latex import latex
from .rendering import comma_separated, markdown

KINDS = {"md": markdown, "csv": comma_separated, "tex": latex}


def render(table: Table, kind: str) -> str:
    """As Markdown (md), one line an entry (csv) or LaTeX (tex)."""
    return KINDS[kind](table)
