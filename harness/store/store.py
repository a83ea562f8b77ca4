"""Per-sample tables on disk: atomic shards, result rows and failures, in a folder a cell.

    <root>/<cell key>/cell.json                        the cell's identity and its labels
    <root>/<cell key>/<group key>/group.json           the metric's identity (the group `samples`: who and what)
    <root>/<cell key>/<group key>/00000000-00000032.parquet   rows of images 0..31, in dataset order
    <root>/<cell key>/<group key>/DONE-00000200.json   result rows over the first 200 images
    <root>/<cell key>/<group key>/FAILED.json          why the group could not be computed
    <root>/features/<key>/...                          features of a data set, as a cell without identity
    <root>/fits/<key>.safetensors                      what a method's fit left

A shard is either absent or whole: files are written beside their place and renamed, or put as one object where the
root is a place of an object store (`places.py`). Each holds its checksum (`sealed.py`), which every reading checks. No
other module knows these names.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from ..places import exists, files_below, is_remote, matching, names_in, read_together, remove, sizes_in
from .columns import packed, to_numpy, unpacked
from .damage import Damaged, Incomplete, unless_damaged
from .files import Lock, started_by
from .identity import UNSEALED
from .journal import Journal
from .outcomes import Failure, Finished
from .sealed import read_json, read_sealed, read_unsealed, write_json, write_sealed

SAMPLES = "samples"  # key of the group that holds image_id, label, prediction
SCORE = "score"  # key of the group that holds a detector's scores
FEATURES = "features"  # the folder of cells that hold features
_SHARD_NAME = re.compile(r"(\d{8})-(\d{8})\.parquet")


class Shard(NamedTuple):
    """Images start .. stop-1 of the run's order: the unit of work, of resuming and of locking."""

    start: int
    stop: int

    def __str__(self) -> str:
        return f"{self.start:08d}-{self.stop:08d}"


def shards_of(count: int, size: int, borders: Iterable[int] = ()) -> list[Shard]:
    """Split `count` images into shards, none of which reaches across a border."""
    edges = sorted({0, count, *(each for each in borders if each < count)})
    return [Shard(start, min(start + size, end)) for first, end in pairwise(edges) for start in range(first, end, size)]


class Group:
    """One metric's columns inside a cell, its result rows, and its failure.

    seen: the names of its files when somebody looked, who asks about that moment; None: every question is a look.
    """

    def __init__(self, path: Path, seen: Collection[str] | None = None) -> None:
        self.path, self.seen = path, seen
        self.key = path.name

    def about(self) -> dict[str, Any]:
        """The identity and name written by `CellStore.describe`."""
        return read_json(self.path / "group.json")

    @property
    def cell(self) -> "CellStore":
        """The cell that it belongs to."""
        return CellStore(self.path.parent.parent, self.path.parent.name)

    # Columns

    def shards(self) -> list[Shard]:
        """Ranges present on disk, in order."""
        names = map(_SHARD_NAME.fullmatch, names_in(self.path) if self.seen is None else self.seen)
        return sorted(Shard(int(m[1]), int(m[2])) for m in names if m)

    def size(self) -> int:
        """Bytes of its shards, by one listing."""
        sizes = sizes_in(self.path)
        return sum(sizes.get(self._file(shard).name, 0) for shard in self.shards())

    def has(self, shard: Shard) -> bool:
        """Whether exactly this range is on disk."""
        return self._holds(self._file(shard))

    def _holds(self, file: Path) -> bool:
        return exists(file) if self.seen is None else file.name in self.seen

    def missing(self, wanted: Iterable[Shard]) -> list[Shard]:
        """The wanted ranges that files on disk, of whatever sizes, do not cover."""
        covered = np.zeros(0, dtype=bool)
        present = self.shards()
        if present:
            covered = np.zeros(max(shard.stop for shard in present), dtype=bool)
        for shard in present:
            covered[shard.start : shard.stop] = True
        return [s for s in wanted if s.stop > len(covered) or not covered[s.start : s.stop].all()]

    def write(self, shard: Shard, columns: dict[str, np.ndarray]) -> None:
        """Put one shard; see `columns.packed`."""
        write_sealed(self._file(shard), packed(columns))

    def read(self, stop: int) -> pd.DataFrame:
        """The rows of images 0 .. stop-1, one a pair, in order.

        Raises:
            Incomplete: some of them are missing. Damaged: files that are not as they were written, all of the group's.
        """
        if self.missing([Shard(0, stop)]):
            raise self._gap(0, stop)
        tables = self._tables([shard for shard in self.shards() if shard.start < stop])
        filled = [table for table in tables if table.num_rows] or tables[:1]
        frame = pa.concat_tables(filled, promote_options="permissive").to_pandas()
        frame = frame[frame["position"] < stop].drop_duplicates(["position", "sample_id"], keep="first")
        return frame.sort_values("position", kind="stable").reset_index(drop=True)

    def parts(self, stop: int) -> Iterator[dict[str, np.ndarray]]:
        """The columns of images 0 .. stop-1 in order, a shard at a time; for tables with a row an image.

        Raises:
            Incomplete: a shard before `stop` is missing, or (Damaged) is not as it was written: what was read so far
                is no table of these images.
        """
        start = 0
        for shard in [shard for shard in self.shards() if shard.start < stop]:
            if shard.start > start:
                break
            if shard.stop > start:
                (table,) = self._tables([shard])
                inside = slice(start - shard.start, min(stop, shard.stop) - shard.start)
                yield {name: to_numpy(table[name])[inside] for name in table.column_names}
                start = shard.stop
        if start < stop:
            raise self._gap(start, stop)

    def _tables(self, shards: Iterable[Shard]) -> list[pa.Table]:
        tables, damages = [], list[Damaged]()
        files = [self._file(shard) for shard in shards]
        held = read_together(files)
        for file in files:
            try:
                tables.append(unpacked(read_sealed(file, data=held.get(file))))
            except Damaged as damage:
                damages.append(damage)
        if damages:
            raise Damaged([path for damage in damages for path in damage.paths], damages[0].why)
        return tables

    def _gap(self, start: int, stop: int) -> Incomplete:
        return Incomplete(f"{self.path}: images {start} to {stop - 1} or some of them are missing: run again")

    def _file(self, shard: Shard) -> Path:
        return self.path / f"{shard}.parquet"

    # Result rows and failures

    def stops(self) -> list[int]:
        """Numbers of images over which there are result rows."""
        return sorted(int(path.stem.split("-")[1]) for path in matching(self.path, "DONE-*.json"))

    def finished(self, stop: int) -> Finished | None:
        """Result rows over the first `stop` images, if they are there; a damaged file, which is named, holds none."""
        path = self._done(stop)
        kept = unless_damaged(lambda: read_json(path)) if exists(path) else None
        return None if kept is None else Finished(**kept)

    def finish(self, stop: int, result: Finished) -> None:
        """Put the result rows over the first `stop` images, unless the same are there."""
        before = self.finished(stop)
        if before is None or before.rows != result.rows:
            self._note()
            write_json(self._done(stop), result._asdict())

    def failure(self) -> Failure | None:
        """Why the group could not be computed, if it could not."""
        if not self.has_failed:
            return None
        kept = unless_damaged(lambda: read_json(self._failed))
        return Failure(f"{self._failed} is damaged") if kept is None else Failure(**kept)

    @property
    def has_failed(self) -> bool:
        """Whether there is a failure."""
        return self._holds(self._failed)

    def fail(self, failure: Failure) -> None:
        """Put a failure, unless the same is there."""
        before = self.failure()
        if before is None or before[:2] != failure[:2]:
            self._note()
            write_json(self._failed, failure._replace(by=started_by())._asdict())

    def forgive(self, launch: str = "") -> None:
        """Forget a failure: it is tried again. One of this launch stays: another rank has tried, just now."""
        failure = self.failure()
        if failure is not None and not (launch and failure.by == launch):
            self._note()
            remove(self._failed)

    def withdraw(self, stop: int) -> None:
        """Forget the result rows over the first `stop` images."""
        if exists(self._done(stop)):
            self._note()
            remove(self._done(stop))

    def clear(self, stop: int) -> None:
        """Forget what was computed of the first `stop` images, and every summary."""
        self._note()
        shards = [self._file(shard) for shard in self.shards() if shard.start < stop]
        for path in [*shards, *matching(self.path, "DONE-*.json"), self._failed]:
            remove(path)

    def _done(self, stop: int) -> Path:
        return self.path / f"DONE-{stop:08d}.json"

    @property
    def _failed(self) -> Path:
        return self.path / "FAILED.json"

    def _note(self) -> None:
        self.cell.note()


def _is_damaged(path: Path) -> bool:
    """Whether a JSON is damaged, which is named."""
    try:
        read_json(path)
    except Damaged as damage:
        damage.tell("written anew")
        return True
    return False


class CellStore:
    """The folder of one cell."""

    def __init__(self, root: Path, key: str) -> None:
        self.root, self.key, self.path = root, key, root / key

    def group(self, key: str) -> Group:
        """The columns of one metric (or `SAMPLES`)."""
        return Group(self.path / key)

    def groups_now(self, keys: Iterable[str]) -> dict[str, Group]:
        """Groups by key, as they are now: one look for all that is asked of them, which are no files to be changed."""
        if is_remote(self.path):
            found = files_below(self.path)
            return {key: Group(self.path / key, found.get(key, ())) for key in keys}
        return {key: Group(self.path / key, names_in(self.path / key)) for key in keys}

    def groups(self) -> list[str]:
        """Keys of the metrics present, without `SAMPLES`, and without those whose description is damaged: these are
        named."""
        keys = sorted(path.parent.name for path in matching(self.path, "*/group.json"))
        return [key for key in keys if key != SAMPLES and unless_damaged(self.group(key).about) is not None]

    def lock(self, shard: Shard) -> Lock:
        """The lock of one shard of this cell."""
        return Lock(self.path / "locks" / f"{shard}.lock")

    def describe(self, cell: dict[str, Any], groups: dict[str, Any]) -> None:
        """Write the identities, once, and anew where one is damaged, which is named; an empty one is not written."""
        for path, value in [
            *([(self._about, cell)] if cell else []),
            *((self.path / key / "group.json", v) for key, v in groups.items()),
        ]:
            if not exists(path):
                write_json(path, value)
            elif _is_damaged(path):
                write_json(path, value)
                self.note()  # its rows were not read

    def cell(self) -> dict[str, Any]:
        """The identity and labels written by `describe`."""
        return read_json(self._about)

    def is_unsealed(self) -> bool:
        """Whether a version of Assay without checksums has described it."""
        about = read_unsealed(self._about) or {}
        return dict(about.get("identity") or {}).get("schema") in UNSEALED

    def exists(self) -> bool:
        """Whether it is described; features are not."""
        return exists(self._about)

    @property
    def _about(self) -> Path:
        return self.path / "cell.json"

    def note(self) -> None:
        """The cell's rows are about to change: the tidy tables must be brought up to date."""
        if self.exists():  # features have no rows
            Journal(self.root).note(self.key)
