"""Files that are whole or absent, and locks that die with their process."""

import errno
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from ..places import is_remote, put
from .damage import say, set_aside

NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
WITHOUT = "its file system has no locks; compute.coordination=none needs none"
POLL_S = 0.05
PATIENCE_S = 5.0  # how long one waits without a word


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is either absent or whole, even when the process or machine dies."""
    if is_remote(path):
        put(path, data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk names no file
    finally:
        temporary.unlink(missing_ok=True)  # a full disk must not fill further


def started_by() -> str:
    """The process that started this one: what the ranks of one torchrun, on one host, have in common."""
    return f"{platform.node()} {os.getppid()}"


class Holder(NamedTuple):
    """A process that holds a lock; a number of -1 where it has not said who it is."""

    number: int
    host: str

    def __str__(self) -> str:
        return "another process" if self.number < 0 else f"process {self.number} on {self.host}"


class Lock:
    """An exclusive lock on a file, held from a successful `acquire` to `release` or the process' end.

    The file is there while the lock is held (or its holder died): that is how cells in use are told from garbage. It
    says who that is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: BaseFileLock = FileLock(path, thread_local=False)

    def acquire(self) -> bool:
        """Take the lock if nobody holds it; never waits."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while not self._lock.is_locked:
            try:
                self._take(0)
                self._sign()
                return True
            except Timeout:
                if self.path.exists():
                    return False  # else its holder has removed it meanwhile: it is free
        return False

    def wait(self) -> None:
        """Take the lock, waiting for its holder; who that is, is said once on standard error after PATIENCE_S."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._take(PATIENCE_S)
        except Timeout:
            say_waiting(self)
            self._take()
        self._sign()

    def _take(self, timeout: float | None = None) -> None:
        try:
            self._lock.acquire(timeout, POLL_S)
        except OSError as error:
            if error.errno in NO_LOCKS:
                raise OSError(error.errno, f"{error.strerror}: {WITHOUT}", str(self.path)) from error
            raise

    def holder(self) -> Holder:
        """Who holds it, as its file says."""
        with suppress(OSError, ValueError):
            number, host = self.path.read_text().split()[:2]
            return Holder(int(number), host)
        return Holder(-1, "")

    def _sign(self) -> None:
        """Say who holds it: for others to read, so what prevents it does not matter."""
        if not isinstance(self._lock, SoftFileLock):  # which has signed
            with suppress(OSError):
                self.path.write_text(f"{os.getpid()}\n{platform.node()}\n")

    def release(self) -> None:
        """Remove the file and give the lock back; harmless when it is not held."""
        if self._lock.is_locked:
            self.path.unlink(missing_ok=True)  # while it is ours: who opened it meanwhile sees that it is gone
            self._lock.release()


def say_waiting(lock: Lock) -> None:
    """Who holds us up, and where."""
    say(f"waiting for {lock.holder()}, which holds {lock.path}")


class Patience:
    """Waiting by and by for what others hold: says once who, when it lasts."""

    def __init__(self) -> None:
        self.since: float | None = None
        self.has_said = False

    def wait(self, seconds: float, obstacle: Callable[[], Lock | None]) -> None:
        """Wait so long; the obstacle is what to name, if anything."""
        self.since = time.monotonic() if self.since is None else self.since
        lasts = time.monotonic() - self.since > PATIENCE_S
        if lasts and not self.has_said and (lock := obstacle()):
            self.has_said = True
            say_waiting(lock)
        time.sleep(seconds)

    def end(self) -> None:
        """There is work again."""
        self.since = None


def remove_leftovers(root: Path) -> int:
    """Delete temporary files of dead writers, locks that nobody holds, and what was set aside; returns how many."""
    abandoned = [path for path in root.glob("**/.*.tmp") if not _writer_alive(path)]
    abandoned += set_aside(root)
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
