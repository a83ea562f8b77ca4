"""Per-sample tables on disk: atomic shards, DONE and FAILED markers, locks that die with their process.

    <root>/<cell key>/cell.json                        the cell's identity and its labels
    <root>/<cell key>/<group key>/group.json           the metric's identity (the group `samples`: who and what)
    <root>/<cell key>/<group key>/00000000-00000032.parquet   rows of images 0..31, in dataset order
    <root>/<cell key>/<group key>/DONE-00000200.json   result rows over the first 200 images
    <root>/<cell key>/<group key>/FAILED.json          why the group could not be computed

A shard is either absent or whole: files are written beside their place and renamed. Locks are advisory
`flock`s, released by the kernel when a process dies, however it dies.
"""

import fcntl
import json
import os
import platform
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

SAMPLES = "samples"  # key of the group that holds image_id, label, prediction
_SHARD_NAME = re.compile(r"(\d{8})-(\d{8})\.parquet")


class Shard(NamedTuple):
    """Images start .. stop-1 of the run's order: the unit of work, of resuming and of locking."""

    start: int
    stop: int

    def __str__(self) -> str:
        return f"{self.start:08d}-{self.stop:08d}"


def shards_of(count: int, size: int) -> list[Shard]:
    """Split `count` images into shards."""
    return [Shard(start, min(start + size, count)) for start in range(0, count, size)]


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is either absent or whole, even when the process or machine dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # a full disk must not fill further


def write_json(path: Path, value: Any) -> None:
    """Atomic JSON, readable by people."""
    write_atomically(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


class Lock:
    """An exclusive lock on a file, held from a successful `acquire` to `release` or the process' end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock if nobody holds it; never waits."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        if not self._is_current(descriptor):  # its last holder removed the file after we opened it
            os.close(descriptor)
            return self.acquire()
        self._descriptor = descriptor
        return True

    def wait(self) -> None:
        """Take the lock, waiting for its holder."""
        while not self.acquire():
            time.sleep(0.05)

    def _is_current(self, descriptor: int) -> bool:
        try:
            return self.path.stat().st_ino == os.fstat(descriptor).st_ino
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Remove the file and give the lock back; harmless when it is not held."""
        if self._descriptor is not None:
            self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None


class Group:
    """One metric's columns inside a cell."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def shards(self) -> list[Shard]:
        """Ranges present on disk, in order."""
        names = (_SHARD_NAME.fullmatch(path.name) for path in self.path.glob("*.parquet"))
        return sorted(Shard(int(m[1]), int(m[2])) for m in names if m)

    def has(self, shard: Shard) -> bool:
        """Whether exactly this range is on disk."""
        return (self.path / f"{shard}.parquet").exists()

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
        """Put one shard; columns [n,K] become lists of one length."""
        arrays = {
            name: pa.FixedSizeListArray.from_arrays(pa.array(c.ravel()), c.shape[1]) if c.ndim > 1 else pa.array(c)
            for name, c in columns.items()
        }
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(arrays), sink)
        write_atomically(self.path / f"{shard}.parquet", sink.getvalue().to_pybytes())

    def read(self, stop: int) -> pd.DataFrame:
        """The rows of images 0 .. stop-1, one a pair, in order."""
        tables = [pq.read_table(self.path / f"{shard}.parquet") for shard in self.shards() if shard.start < stop]
        filled = [table for table in tables if table.num_rows] or tables[:1]
        frame = pa.concat_tables(filled, promote_options="permissive").to_pandas()
        frame = frame[frame["position"] < stop].drop_duplicates(["position", "sample_id"], keep="first")
        return frame.sort_values("position", kind="stable").reset_index(drop=True)

    def parts(self, stop: int) -> Iterator[dict[str, np.ndarray]]:
        """The columns of images 0 .. stop-1 in order, a shard at a time; for tables with a row an image."""
        start = 0
        for shard in self.shards():
            if shard.stop > start and shard.start < stop:
                table = pq.read_table(self.path / f"{shard}.parquet")
                inside = slice(start - shard.start, min(stop, shard.stop) - shard.start)
                yield {name: _to_numpy(table[name])[inside] for name in table.column_names}
                start = shard.stop

    def done(self, stop: int) -> Path:
        """Marker that the first `stop` images are evaluated and summarised; it holds the result rows."""
        return self.path / f"DONE-{stop:08d}.json"

    @property
    def failed(self) -> Path:
        """Marker of a failure, with its reason."""
        return self.path / "FAILED.json"

    def clear(self, stop: int) -> None:
        """Forget what was computed of the first `stop` images, and every summary."""
        shards = [self.path / f"{shard}.parquet" for shard in self.shards() if shard.start < stop]
        for path in [*shards, *self.path.glob("DONE-*.json"), self.failed]:
            path.unlink(missing_ok=True)


def _to_numpy(column: pa.ChunkedArray) -> np.ndarray:
    """A column [n], or a column of lists [n,K]."""
    if not pa.types.is_fixed_size_list(column.type):
        return column.to_numpy()
    return column.combine_chunks().flatten().to_numpy().reshape(len(column), column.type.list_size)


class CellStore:
    """The folder of one cell."""

    def __init__(self, root: Path, key: str) -> None:
        self.key, self.path = key, root / key

    def group(self, key: str) -> Group:
        """The columns of one metric (or `SAMPLES`)."""
        return Group(self.path / key)

    def groups(self) -> list[str]:
        """Keys of the metrics present, without `SAMPLES`."""
        return sorted(p.parent.name for p in self.path.glob("*/group.json") if p.parent.name != SAMPLES)

    def lock(self, shard: Shard) -> Lock:
        """The lock of one shard of this cell."""
        return Lock(self.path / "locks" / f"{shard}.lock")

    def describe(self, cell: dict[str, Any], groups: dict[str, Any]) -> None:
        """Write the identities, once; an empty one is not written."""
        for path, value in [
            *([(self.path / "cell.json", cell)] if cell else []),
            *((self.path / key / "group.json", v) for key, v in groups.items()),
        ]:
            if not path.exists():
                write_json(path, value)

    def cell(self) -> dict[str, Any]:
        """The identity and labels written by `describe`."""
        return read_json(self.path / "cell.json")


def read_json(path: Path) -> dict[str, Any]:
    """Parse a JSON object."""
    value: dict[str, Any] = json.loads(path.read_text())
    return value


def cells(root: Path) -> list[CellStore]:
    """Every cell below a store's root."""
    return [CellStore(root, path.parent.name) for path in sorted(root.glob("*/cell.json"))]


def remove_leftovers(root: Path) -> int:
    """Delete temporary files of dead writers and locks that nobody holds; returns how many."""
    abandoned = [path for path in root.glob("**/.*.tmp") if not _writer_alive(path)]
    for path in abandoned:
        path.unlink(missing_ok=True)
    locks = [lock for lock in map(Lock, root.glob("**/locks/*.lock")) if lock.acquire()]
    for lock in locks:
        lock.release()
    return len(abandoned) + len(locks)


def _writer_alive(path: Path) -> bool:
    """Whether the process that writes a temporary file (host and number are in its name) may still run."""
    host, number = platform.node(), path.name.split(".")[-2]
    is_ours = path.name.endswith(f".{host}.{number}.tmp")
    return not is_ours or _is_running(int(number))


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
