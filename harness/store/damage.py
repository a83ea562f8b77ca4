"""What is not there, or not as it was written: said once by name, and never in the way of the rest."""

import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from ..places import rename

T = TypeVar("T")

ASIDE = ".damaged"  # behind the name of a file that is kept for who wants to look at it, and counts as missing
REMEDY = "the run.py command that made it, given again, makes it anew and nothing else"

found: list[Path] = []  # what this process has named


class Incomplete(RuntimeError):
    """A table is read of which a part is not there."""


class Damaged(Incomplete):
    """Files whose bytes are not those that were written; `why` is about the first."""

    def __init__(self, paths: Sequence[Path], why: str, remedy: str = REMEDY) -> None:
        more = f" (and {len(paths) - 1} more files beside it)" if len(paths) > 1 else ""
        super().__init__(f"{paths[0]}{more} {why}: {remedy}")
        self.paths, self.why, self.remedy = paths, why, remedy

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.paths, self.why, self.remedy)  # from the process that found it

    def set_aside(self) -> None:
        """Count the files as missing from now on, and say so."""
        for path in self.paths:
            with suppress(FileNotFoundError):  # another run has been quicker
                rename(path, path.with_name(path.name + ASIDE))
            say(f"damaged: {path} {self.why}: set aside, and computed anew")

    def tell(self, remedy: str = "") -> None:
        """Name the damage, once a process."""
        if unnamed := [path for path in self.paths if path not in found]:
            found.extend(unnamed)
            say(f"damaged: {self}" if not remedy else f"damaged: {unnamed[0]} {self.why}: {remedy}")


def unless_damaged(read: Callable[[], T]) -> T | None:
    """What is read; None after saying what is damaged or gone."""
    try:
        return read()
    except Damaged as damage:
        damage.tell()
    except Incomplete as gap:
        say(f"incomplete: {gap}")
    return None


def mended(work: Callable[[], T]) -> T:
    """What some work makes; a file that it finds damaged is set aside, and the work done again.

    Raises:
        Damaged: what was made anew is damaged again: a disk is ill.
    """
    remade = set[Path]()
    while True:
        try:
            return work()
        except Damaged as damage:
            if remade & {*damage.paths}:
                raise
            remade |= {*damage.paths}
            damage.set_aside()


def say(what: str) -> None:
    """A line on standard error."""
    print(what, file=sys.stderr, flush=True)


def set_aside(root: Path) -> Iterable[Path]:
    """Files below a folder that were set aside."""
    return root.glob(f"**/*{ASIDE}")
