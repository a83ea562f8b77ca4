"""What of a store may go: cells that are unfinished or old, cached features, fits."""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from .store import cells


class Garbage(NamedTuple):
    """A cell's or a feature cache's folder, or a fit's file, and what to call it."""

    path: Path
    what: str

    def remove(self) -> None:
        """Delete it."""
        if self.path.is_dir():
            shutil.rmtree(self.path)
        else:
            self.path.unlink(missing_ok=True)


def find(root: Path, unfinished: bool, features: bool, horizon: float | None) -> list[Garbage]:
    """What may go, below a store's root; never what somebody is computing.

    Args:
        unfinished: also cells without any finished metric.
        features: also cached features and fits. Scores stay; who needs features again passes over the images again.
        horizon: also cells that were finished before that time (seconds of the epoch), and of caches only those.
    """
    found = [Garbage(cell.path, str(cell.cell()["labels"]["method"])) for cell in cells(root)]
    doomed = [each for each in found if _is_garbage(each.path, horizon, unfinished)]
    return [*doomed, *(each for each in _caches(root) if features and _is_old(each.path, horizon))]


def _caches(root: Path) -> Iterator[Garbage]:
    yield from (Garbage(path, "features") for path in sorted(root.glob("features/*/")))
    yield from (Garbage(path, "fit") for path in sorted(root.glob("fits/*.safetensors")))


def _is_old(path: Path, horizon: float | None) -> bool:
    if _is_locked(path):
        return False
    return horizon is None or _newest([path, *path.glob("*/*.parquet")]) < horizon


def _is_garbage(path: Path, horizon: float | None, unfinished: bool) -> bool:
    if _is_locked(path):
        return False
    finished = [*path.glob("*/DONE-*.json"), *path.glob("score/*.parquet")]  # scores are read by other cells' rows
    if not finished:
        return unfinished
    return horizon is not None and _newest(finished) < horizon


def _is_locked(path: Path) -> bool:
    return any(path.glob("locks/*.lock"))


def _newest(paths: Iterable[Path]) -> float:
    return max(path.stat().st_mtime for path in paths)
