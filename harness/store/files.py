"""Files that are whole or absent, and locks that die with their process."""

import json
import os
import platform
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

POLL_S = 0.05


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


def read_json(path: Path) -> dict[str, Any]:
    """Parse a JSON object."""
    value: dict[str, Any] = json.loads(path.read_text())
    return value


class Lock:
    """An exclusive lock on a file, held from a successful `acquire` to `release` or the process' end.

    The file is there while the lock is held (or its holder died): that is how cells in use are told from garbage.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path, thread_local=False)

    def acquire(self) -> bool:
        """Take the lock if nobody holds it; never waits."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while not self._lock.is_locked:
            try:
                self._lock.acquire(timeout=0)
                return True
            except Timeout:
                if self.path.exists():
                    return False  # else its holder has removed it meanwhile: it is free
        return False

    def wait(self) -> None:
        """Take the lock, waiting for its holder."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock.acquire(poll_interval=POLL_S)

    def release(self) -> None:
        """Remove the file and give the lock back; harmless when it is not held."""
        if self._lock.is_locked:
            self.path.unlink(missing_ok=True)  # while it is ours: who opened it meanwhile sees that it is gone
            self._lock.release()


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
