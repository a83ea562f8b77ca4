"""Jobs that failed: of each the command that asks for it again, why, and the tracebacks, in one file to read.

    <results>/runs/failed/<digest of the command, without variables of the environment>.log

It goes when the same command ends well, and is not shown once nothing of the job is a failure in the store.
"""

import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from ..arguments import without_variables
from ..places import names_in, read_bytes, remove
from ..store.files import write_atomically
from ..store.identity import digest
from ..store.store import SAMPLES, SCORE, CellStore, Group

HEADS = ("again", "failed", "in")  # of lines before the tracebacks


class FailedJob(NamedTuple):
    """again: the command. failed: what, and why, a line each. log: with the tracebacks."""

    again: str
    failed: tuple[str, ...]
    log: Path


def note_failures(results: Path, again: str, failures: dict[str, str], groups: Iterable[Group]) -> Path:
    """Put what failed in a job that went to its end; returns the log.

    groups: of the job; failures and their tracebacks are in the store.
    """
    failed = list(_failed(groups))
    lines = [f"failed: {name}: {why}" for name, why in failures.items()]
    lines += [f"in: {group.cell.key}/{group.key}" for group, _ in failed]
    return _put(results, again, lines, dict.fromkeys(text for _, text in failed if text))


def note_error(results: Path, again: str, error: Exception) -> Path:
    """Put what ended a job; returns the log."""
    said = " ".join(f"{type(error).__name__}: {error}".split())
    return _put(results, again, [f"failed: {said}"], ["".join(traceback.format_exception(error))])


@contextmanager
def for_status() -> Iterator[None]:
    """What only `status` reads: where it cannot be kept a line says so, and the run ends as it would have."""
    try:
        yield
    except Exception as error:  # each object store's client has errors of its own
        print(f"not kept for status: {type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)


def settle(results: Path, again: str) -> None:
    """The job has ended well."""
    with suppress(OSError):  # nothing may be written there, then nothing was
        remove(_log(results, again))


def failed_jobs(results: Path) -> list[FailedJob]:
    """Those whose failures are there still, by command."""
    folder = _folder(results)
    read = (_read(folder / name) for name in names_in(folder) if name.endswith(".log"))
    open_ = (job for job, places in read if not places or any(_has_failed(results, place) for place in places))
    return sorted(open_)


def _failed(groups: Iterable[Group]) -> Iterator[tuple[Group, str]]:
    """Groups of the same cells that have failed, with their tracebacks."""
    for key in dict.fromkeys((group.cell.root, group.cell.key) for group in groups):
        cell = CellStore(*key)
        for group in map(cell.group, [*cell.groups(), SAMPLES, SCORE]):
            if failure := group.failure():
                yield group, failure.traceback


def _put(results: Path, again: str, lines: Iterable[str], tracebacks: Iterable[str]) -> Path:
    path = _log(results, again)
    head = [f"again: {again}", *(" ".join(line.split()) for line in lines)]
    write_atomically(path, "\n".join([*head, "", *tracebacks, ""]).encode())
    return path


def _read(log: Path) -> tuple[FailedJob, list[str]]:
    """A job, and the places in the store of what failed in it."""
    said: dict[str, list[str]] = {head: [] for head in HEADS}
    for line in read_bytes(log).decode(errors="replace").partition("\n\n")[0].splitlines():
        head, _, text = line.partition(": ")
        said.setdefault(head, []).append(text)
    return FailedJob("".join(said["again"]), tuple(said["failed"]), log.absolute()), said["in"]


def _has_failed(results: Path, place: str) -> bool:
    cell, _, group = place.partition("/")
    return CellStore(results / "store", cell).group(group).has_failed


def _folder(results: Path) -> Path:
    return results / "runs" / "failed"


def _log(results: Path, again: str) -> Path:
    """Of a command, with whatever variables: where those were wrong it is given again with others."""
    return _folder(results) / f"{digest(without_variables(again))[:12]}.log"
