"""Lines of Markdown tables."""

from collections.abc import Iterable

_ESCAPES = str.maketrans({"|": r"\|", "*": r"\*", "\n": " "})


def row(texts: Iterable[str]) -> str:
    """A line of a table; what a text has of the table's own signs is escaped."""
    return "| " + " | ".join(text.translate(_ESCAPES) for text in texts) + " |"


def heading(texts: list[str]) -> list[str]:
    """The first line of a table and the rule below it."""
    return [row(texts), row(["---"] * len(texts))]
