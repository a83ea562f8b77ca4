"""Text that fits a terminal: wrapped lines, and tables that are narrowed or cut into blocks, never torn."""

import io
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

NARROWEST = 20  # columns; no terminal is narrower
GAP = 3  # columns between two columns of a table
HEAD = 20  # columns that a head may take beside narrow cells before it is wrapped


def width() -> int:
    """How many columns a line may take: what COLUMNS says, or the terminal; 80 in a pipe or a file."""
    return max(shutil.get_terminal_size().columns, NARROWEST)


def wrapped(line: str, columns: int | None = None) -> str:
    """A line cut between words, what follows indented; a word (a key, a path) stays whole, however long it is."""
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return textwrap.fill(
        line, columns or width(), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def grid(heads: Sequence[str], rows: Sequence[Sequence[str]], columns: int | None = None) -> str:
    """A table whose widest columns are wrapped until it fits."""
    return _rendered(heads, rows, [None] * len(heads), columns or width(), "top")


def blocks(label: str, names: Sequence[str], table: Mapping[str, Sequence[str]], columns: int | None = None) -> str:
    """A table with as many columns side by side as fit; the others follow in blocks, with the names of the rows again.

    Args:
        label: what the rows are.
        names: of the rows.
        table: head -> a cell a row. Heads are wrapped between words, cells are not.
    """
    columns = columns or width()
    first = min(max(map(len, [label, *names])), columns // 2)
    wide = {head: max(min(len(head), HEAD), *map(len, [*head.split(), *cells])) for head, cells in table.items()}
    parts = [
        _rendered(
            [label, *heads],
            list(zip(names, *(table[head] for head in heads), strict=True)),
            [first, *(wide[head] for head in heads)],
            columns,
            "bottom",
        )
        for heads in _side_by_side(wide, columns - first)
    ]
    return "\n\n".join(parts)


def _side_by_side(wide: Mapping[str, int], space: int) -> Iterator[list[str]]:
    """Heads in their order, in groups that fit; one that does not fit alone is a group, too."""
    group: list[str] = []
    taken = 0
    for head, needed in wide.items():
        if group and taken + GAP + needed > space:
            yield group
            group, taken = [], 0
        group.append(head)
        taken += GAP + needed
    if group:
        yield group


def _rendered(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    widths: Sequence[int | None],
    columns: int,
    vertical: Literal["top", "bottom"],
) -> str:
    """Plain text, the same in a terminal and in a pipe: no colour, no trailing blanks."""
    from rich.box import SIMPLE_HEAD  # here: --help and ls draw no table
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for head, each in zip(heads, widths, strict=True):
        table.add_column(Text(head), width=each, vertical=vertical, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    sink = io.StringIO()
    Console(file=sink, width=columns, color_system=None, force_terminal=False).print(table)
    return printable("\n".join(line.rstrip() for line in sink.getvalue().rstrip().splitlines()))


def printable(text: str) -> str:
    """With question marks for the letters (arrows, lines) that standard output cannot show."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)
