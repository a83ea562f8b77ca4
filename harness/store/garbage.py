"""What of a store may go: cells that are unfinished, old or of another version, cached features, fits."""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from .fits import fits
from .signs import is_signed
from .store import SCORE, CellStore
from .survey import Survey, caches, survey


class Garbage(NamedTuple):
    """A cell's or a feature cache's folder, or a fit's file, and what to call it."""

    path: Path
    what: str

    def remove(self) -> None:
        """Delete it."""
        if self.path.is_dir():
            CellStore(self.path.parent, self.path.name).note()
            shutil.rmtree(self.path)
        else:
            self.path.unlink(missing_ok=True)


def find(root: Path, unfinished: bool, features: bool, horizon: float | None) -> list[Garbage]:
    """What may go, below a store's root; never what somebody is computing.

    Args:
        unfinished: also cells without any finished metric, those that another version of Assay has written, and folders
            without a description, or, of features, without any: what a killed run had begun.
        features: also cached features and fits. Scores stay; who needs features again passes over the images again.
        horizon: also cells that were finished before that time (seconds of the epoch), and of caches only those.
    """
    seen = survey(root)
    found = [Garbage(cell.path, str(cell.cell()["labels"]["method"])) for cell in seen.cells]
    found += [Garbage(cell.path, "with a damaged description") for cell in seen.damaged]
    doomed = [each for each in found if _is_garbage(each.path, horizon, unfinished)]
    doomed += [each for each in _caches(root) if features and _is_old(each.path, horizon)]
    doomed += [each for each in _unread(root, seen) if unfinished and not _is_busy(each.path)]
    return list({each.path: each for each in doomed}.values())


def _unread(root: Path, seen: Survey) -> Iterator[Garbage]:
    """What nothing reads."""
    yield from (Garbage(cell.path, "of another version") for cell in seen.outdated)
    yield from (Garbage(cell.path, "without a description") for cell in seen.nameless)
    yield from (Garbage(cell.path, "features of no image") for cell in caches(root) if not _parts(cell.path))


def _caches(root: Path) -> Iterator[Garbage]:
    yield from (Garbage(cell.path, "features") for cell in caches(root))
    yield from (Garbage(path, "fit") for path in fits(root))


def _is_old(path: Path, horizon: float | None) -> bool:
    if _is_busy(path):
        return False
    return horizon is None or _newest([path, *_parts(path)]) < horizon


def _parts(path: Path) -> list[Path]:
    return list(path.glob("*/*.parquet"))


def _is_garbage(path: Path, horizon: float | None, unfinished: bool) -> bool:
    if _is_busy(path):
        return False
    finished = [*path.glob("*/DONE-*.json"), *path.glob(f"{SCORE}/*.parquet")]  # scores are read by other cells' rows
    if not finished:
        return unfinished
    return horizon is not None and _newest(finished) < horizon


def _is_busy(path: Path) -> bool:
    """Whether somebody computes it: holds a lock, or has signed it just now."""
    return any(path.glob("locks/*.lock")) or is_signed(path)


def _newest(paths: Iterable[Path]) -> float:
    return max(path.stat().st_mtime for path in paths)
