"""Signs of workers without locks, which hold nothing by which `gc` could tell what they are computing."""

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..places import is_remote
from .store import FEATURES

SIGN = "locks/unlocked"  # in a cell's folder
LASTS_S = 3600.0  # longer than any shard takes


def sign(cell: Path) -> None:
    """Say that a worker begins a shard of a cell now; of an object store `gc` removes nothing."""
    if not is_remote(cell):
        (cell / SIGN).parent.mkdir(parents=True, exist_ok=True)
        (cell / SIGN).touch()


def is_signed(cell: Path) -> bool:
    """Whether a worker has begun a shard of a cell within the last hour."""
    with suppress(FileNotFoundError, NotADirectoryError):  # a fit is a file
        return time.time() - (cell / SIGN).stat().st_mtime < LASTS_S
    return False


def signed(root: Path) -> Iterator[str]:
    """Names of the cells and features below a store's root that are signed."""
    for folder in (root, root / FEATURES):
        yield from (path.name for path in sorted(folder.glob("*/")) if is_signed(path))
