"""Shards, markers and locks: whole or absent, and released by the kernel."""

import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from assay.harness.config import ROOT
from assay.harness.store import files
from assay.harness.store.damage import Incomplete
from assay.harness.store.files import Lock, Patience, remove_leftovers, write_atomically
from assay.harness.store.identity import SCHEMA
from assay.harness.store.journal import Journal
from assay.harness.store.outcomes import Failure, Finished
from assay.harness.store.sealed import read_json, write_json
from assay.harness.store.store import CellStore, Group, Shard, shards_of
from assay.harness.store.survey import cells, survey


def columns(start: int, stop: int, per_image: int = 1) -> dict[str, np.ndarray]:
    """A shard's columns: every type that a metric may give, all values made from the position."""
    position = np.repeat(np.arange(start, stop), per_image)
    label = np.tile(np.arange(per_image), stop - start)
    return {
        "position": position,
        "sample_id": np.array([f"image{i}#{c}" for i, c in zip(position, label, strict=True)], dtype=object),
        "score": position / 7 + label,
        "float32": (position / 3).astype(np.float32),
        "hit": position % 2 == 0,
        "curve": np.stack([position, position**2, np.full(len(position), np.nan)], 1).astype(np.float32),
    }


def empty() -> dict[str, np.ndarray]:
    """What a shard without targets writes."""
    return {"position": np.zeros(0, np.int64), "sample_id": np.zeros(0, object)}


@pytest.fixture
def group(tmp_path: Path) -> Group:
    """A group of nothing yet."""
    return CellStore(tmp_path, "cell").group("metric")


# Shards


def test_shards_cover_all_images_once() -> None:
    """Last shard shorter; none of nothing; names sort as numbers do."""
    assert shards_of(70, 32) == [Shard(0, 32), Shard(32, 64), Shard(64, 70)]
    assert shards_of(32, 32) == [Shard(0, 32)]
    assert shards_of(0, 32) == []
    assert str(Shard(32, 64)) == "00000032-00000064"


def test_round_trip(group: Group) -> None:
    """Values, types and curves [n,K] come back exactly (nan as nan), rows in order of position."""
    group.write(Shard(3, 6), columns(3, 6, 2))
    group.write(Shard(0, 3), columns(0, 3, 2))
    frame, expected = group.read(6), columns(0, 6, 2)
    assert list(frame.columns) == list(expected)
    for name in ("position", "score", "float32", "hit"):
        assert frame[name].dtype == expected[name].dtype
        np.testing.assert_array_equal(frame[name].to_numpy(), expected[name])
    assert frame["sample_id"].tolist() == expected["sample_id"].tolist()
    curves = np.stack(frame["curve"].to_list())
    assert curves.dtype == np.float32
    np.testing.assert_array_equal(curves, expected["curve"])


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_columns_of_bits_come_back(group: Group, shape: tuple[int, ...]) -> None:
    """True and false, [n], [n,K] and [n,K,L], part by part: they are packed closer than numpy has them."""
    bits = np.random.default_rng(0).random((5, *shape)) < 0.5
    group.write(Shard(0, 5), columns(0, 5) | {"bits": bits})
    (part,) = group.parts(5)
    assert part["bits"].dtype == bool
    np.testing.assert_array_equal(part["bits"], bits)


def test_several_rows_of_an_image_keep_their_order(group: Group) -> None:
    """Pairs of one image share a position; the order in which they were written stays, also from many small shards."""
    for i in (2, 0, 1):
        group.write(Shard(i, i + 1), columns(i, i + 1, 3))
    assert group.read(3)["sample_id"].tolist() == [f"image{i}#{c}" for i in range(3) for c in range(3)]


def test_missing_ranges(group: Group) -> None:
    """Exact files, files of other sizes, overlapping ones: a wanted range is missing unless wholly covered."""
    wanted = shards_of(12, 4)
    assert group.missing(wanted) == wanted
    group.write(Shard(4, 8), columns(4, 8))
    assert group.missing(wanted) == [Shard(0, 4), Shard(8, 12)]
    group.write(Shard(0, 3), columns(0, 3))
    assert group.missing(wanted) == [Shard(0, 4), Shard(8, 12)]
    group.write(Shard(2, 6), columns(2, 6))  # overlaps both
    assert group.missing(wanted) == [Shard(8, 12)]
    assert group.missing([Shard(0, 8), Shard(1, 2), Shard(7, 9)]) == [Shard(7, 9)]
    assert group.shards() == [Shard(0, 3), Shard(2, 6), Shard(4, 8)]
    assert group.has(Shard(2, 6))
    assert not group.has(Shard(0, 4))


def test_overlapping_shards_give_each_row_once(group: Group) -> None:
    """Runs with other shard sizes leave overlapping files; a prefix of any length has its rows once, in order."""
    for start, stop in [(0, 4), (4, 8), (0, 3), (3, 6), (6, 8)]:
        group.write(Shard(start, stop), columns(start, stop, 2))
    for stop in (1, 3, 5, 8):
        expected = columns(0, stop, 2)
        frame = group.read(stop)
        assert frame["sample_id"].tolist() == expected["sample_id"].tolist()
        np.testing.assert_array_equal(frame["score"], expected["score"])
        assert frame.index.tolist() == list(range(2 * stop))


def test_a_limit_reads_a_prefix(group: Group) -> None:
    """`limit=5` over shards of 4: the fifth image is cut out of its shard."""
    for shard in shards_of(12, 4):
        group.write(shard, columns(*shard))
    assert group.read(5)["position"].tolist() == [0, 1, 2, 3, 4]


def test_images_without_targets_leave_empty_shards(group: Group) -> None:
    """They count as done, and change neither types nor order of the others; all empty is an empty table."""
    group.write(Shard(0, 2), empty())
    assert group.missing([Shard(0, 2)]) == []
    assert len(group.read(2)) == 0
    group.write(Shard(2, 4), columns(2, 4))
    frame = group.read(4)
    assert frame["position"].tolist() == [2, 3]
    assert frame["hit"].dtype == bool
    assert frame["score"].dtype == np.float64


def test_other_files_are_no_shards(group: Group) -> None:
    """Leftovers of dead writers and files of people are not read."""
    group.write(Shard(0, 2), columns(0, 2))
    (group.path / ".00000002-00000004.parquet.123.tmp").write_bytes(b"half")
    (group.path / "copy of 00000002-00000004.parquet").write_bytes(b"x")
    assert group.shards() == [Shard(0, 2)]
    assert len(group.read(2)) == 2


def test_clearing_forgets_results_and_failures_and_keeps_the_identity(tmp_path: Path) -> None:
    """`cache=refresh`: shards, DONE and FAILED go, group.json stays."""
    cell = CellStore(tmp_path, "cell")
    cell.describe({"labels": {}}, {"metric": {"name": "m"}})
    group = cell.group("metric")
    group.write(Shard(0, 2), columns(0, 2))
    group.finish(2, Finished("run", "test", []))
    group.fail(Failure("x"))
    group.clear(2)
    assert [path.name for path in group.path.iterdir()] == ["group.json"]
    group.clear(2)


def test_descriptions_are_written_once(tmp_path: Path) -> None:
    """A second call with the same key changes nothing; `samples` is no metric; cells are found by their file."""
    cell = CellStore(tmp_path, "abc")
    about = {"identity": {"schema": SCHEMA}, "labels": {"method": "m"}}
    cell.describe(about, {"samples": {}, "k2": {"name": "two"}, "k1": {"name": "one"}})
    cell.describe({"labels": {"method": "other"}}, {"k1": {"name": "other"}})
    assert cell.cell() == about
    assert cell.groups() == ["k1", "k2"]
    assert cell.group("k1").about() == {"name": "one"}
    (tmp_path / "stray").mkdir()
    assert [found.key for found in cells(tmp_path)] == ["abc"]


def test_cells_of_another_version_are_told_apart(tmp_path: Path) -> None:
    """They are not read as ours, and not lost from sight."""
    for key, schema in (("ours", SCHEMA), ("theirs", SCHEMA - 1)):
        CellStore(tmp_path, key).describe({"identity": {"schema": schema}, "labels": {}}, {})
    assert [cell.key for cell in cells(tmp_path)] == ["ours"]
    assert [cell.key for cell in survey(tmp_path).outdated] == ["theirs"]


@pytest.mark.parametrize("lost", [0, 1, 2], ids=["first", "middle", "last"])
def test_parts_of_a_table_with_a_gap_are_refused(group: Group, lost: int) -> None:
    """Whichever shard is missing: rows of the others alone are no table of these images (a fit would take them)."""
    shards = shards_of(12, 4)
    for shard in shards:
        group.write(shard, columns(*shard))
    assert sum(len(part["position"]) for part in group.parts(12)) == 12
    assert sum(len(part["position"]) for part in group.parts(9)) == 9
    (group.path / f"{shards[lost]}.parquet").unlink()
    with pytest.raises(Incomplete, match="missing"):
        list(group.parts(12))


def test_rows_are_written_once_and_noted(tmp_path: Path) -> None:
    """The same rows again change no file; other rows, failures and their end each leave a note of the cell."""
    cell, journal = CellStore(tmp_path, "cell"), Journal(tmp_path)
    cell.describe({"identity": {"schema": SCHEMA}, "labels": {}}, {"metric": {"name": "m"}})
    group = cell.group("metric")

    def noted() -> set[str]:
        names = journal.take()
        journal.settle(names)
        return names

    group.finish(2, Finished("run", "test", [{"value": 1.0}]))
    assert noted() == {"cell"} and group.stops() == [2]
    group.finish(2, Finished("run", "test", [{"value": 1.0}]))
    assert noted() == set()
    changes: list[Callable[[], None]] = [
        lambda: group.finish(2, Finished("run", "test", [{"value": 2.0}])),
        lambda: group.fail(Failure("why", "trace")),
        group.forgive,
        lambda: group.withdraw(2),
        lambda: group.clear(2),
    ]
    for change in changes:
        change()
        assert noted() == {"cell"}
    group.forgive()
    assert noted() == set()


def test_a_note_that_was_taken_and_not_settled_is_taken_again(tmp_path: Path) -> None:
    """Killed between reading and writing: nothing is forgotten; what changes meanwhile is noted anew."""
    journal = Journal(tmp_path)
    journal.note("a")
    assert journal.take() == {"a"}
    journal.note("a")
    journal.note("b")
    assert Journal(tmp_path).take() == {"a", "b"}
    journal.settle({"a", "b"})
    assert journal.take() == set()


# Atomic files


def test_writing_replaces_whole_files(tmp_path: Path) -> None:
    """Folders are made, old content goes, nothing else stays."""
    path = tmp_path / "deep" / "file.json"
    write_json(path, {"a": 1})
    write_json(path, {"b": [2]})
    assert read_json(path) == {"b": [2]}
    assert path.read_text().endswith("}\n")
    assert list(path.parent.iterdir()) == [path]


def _interrupted(monkeypatch: pytest.MonkeyPatch, where: str, path: Path) -> None:
    """Write `new` over `old` and fail on the way."""
    path.write_bytes(b"old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if where == "replace":
            patch.setattr(Path, "replace", fail)
        else:
            patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space"):
            write_atomically(path, b"new")


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_an_interrupted_write_leaves_the_old_file(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether flushing or renaming fails; and the next write succeeds."""
    path = tmp_path / "file"
    _interrupted(monkeypatch, where, path)
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_an_interrupted_write_leaves_nothing_beside_it(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception (unlike a kill) gives the space back."""
    path = tmp_path / "file"
    _interrupted(monkeypatch, where, path)
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_shard_is_absent(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a shard is no shard."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            group.write(Shard(0, 2), columns(0, 2))
    assert group.shards() == []
    assert group.missing([Shard(0, 2)]) == [Shard(0, 2)]


# Locks


def test_a_lock_is_exclusive_and_leaves_no_file(tmp_path: Path) -> None:
    """Also between two objects of one process, and against itself; releasing twice or unheld is harmless."""
    one, other = Lock(tmp_path / "a" / "x.lock"), Lock(tmp_path / "a" / "x.lock")
    assert one.acquire()
    assert not other.acquire()
    assert not one.acquire()
    other.release()
    assert not other.acquire()
    one.release()
    one.release()
    assert not one.path.exists()
    assert other.acquire()
    other.release()
    assert Lock(tmp_path / "b.lock").acquire()


def process(code: str, *arguments: Path | str) -> subprocess.Popen[str]:
    """Another Python that runs `code`, with locks at hand."""
    start = "import sys, time\nfrom pathlib import Path\nfrom assay.harness.store.files import Lock\n"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", start + code, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


HOLD = "lock = Lock(Path(sys.argv[1])); print(lock.acquire(), flush=True); sys.stdin.readline(); lock.release()"


def line(other: subprocess.Popen[str]) -> str:
    """The next line that a process prints."""
    assert other.stdout is not None
    return other.stdout.readline().strip()


def finish(other: subprocess.Popen[str]) -> None:
    """Let a waiting process go on to its end."""
    other.communicate("\n", timeout=60)


def eventually(condition: Callable[[], bool], seconds: float = 10) -> bool:
    """Whether the condition comes true within some seconds."""
    end = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.01)
    return met


def test_processes_exclude_each_other_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    """Held by another process; free again the moment that one is SIGKILLed, though its file remains."""
    path = tmp_path / "x.lock"
    holder, second = process(HOLD, path), process("time.sleep(0)\nsys.stdin.readline()\n" + HOLD, path)
    assert line(holder) == "True"
    assert not Lock(path).acquire()
    assert second.stdin is not None
    second.stdin.write("\n")
    second.stdin.flush()
    assert line(second) == "False"
    finish(second)
    holder.send_signal(signal.SIGKILL)
    holder.wait(timeout=60)
    assert path.exists()
    ours = Lock(path)
    assert eventually(ours.acquire)
    ours.release()
    assert not path.exists()
    holder.communicate()


def test_the_file_of_a_released_lock_is_not_taken_for_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The race: we open the file, its holder removes it and lets go, a third makes a new one and holds that.

    Our flock on the removed file succeeds but locks nothing that others see, so it must not count.
    """
    path = tmp_path / "x.lock"
    holder, third, ours = Lock(path), Lock(path), Lock(path)
    assert holder.acquire()
    real_open = os.open
    interfered = False

    def slow_open(*arguments: object) -> int:
        nonlocal interfered
        descriptor = real_open(*arguments)  # type: ignore[arg-type]
        if not interfered:
            interfered = True
            holder.release()
            assert third.acquire()
        return descriptor

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", slow_open)
        assert not ours.acquire()
    third.release()
    assert ours.acquire()
    ours.release()


def test_a_removed_file_without_a_successor_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same race without a third: the lock is ours, on a file that exists."""
    path = tmp_path / "x.lock"
    holder, ours = Lock(path), Lock(path)
    assert holder.acquire()
    real_open = os.open

    def slow_open(*arguments: object) -> int:
        descriptor = real_open(*arguments)  # type: ignore[arg-type]
        holder.release()
        return descriptor

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", slow_open)
        assert ours.acquire()
    assert path.exists()
    assert not Lock(path).acquire()
    ours.release()


def test_processes_never_hold_a_lock_together(tmp_path: Path) -> None:
    """Three processes add to a counter 60 times each, reading, yielding, writing: with a leak, additions get lost."""
    code = (
        "lock, counter = Lock(Path(sys.argv[1])), Path(sys.argv[2])\n"
        "for _ in range(60):\n"
        "    while not lock.acquire(): time.sleep(0)\n"
        "    value = int(counter.read_text()); time.sleep(0); counter.write_text(str(value + 1))\n"
        "    lock.release()\n"
    )
    counter = tmp_path / "counter"
    counter.write_text("0")
    others = [process(code, tmp_path / "x.lock", counter) for _ in range(3)]
    assert [other.wait(timeout=120) for other in others] == [0, 0, 0]
    for other in others:
        other.communicate()
    assert counter.read_text() == "180"


def test_waiting_for_a_lock(tmp_path: Path) -> None:
    """`wait` returns once the holder, another process, is done."""
    path = tmp_path / "x.lock"
    holder = process(HOLD, path)
    assert line(holder) == "True"
    assert holder.stdin is not None
    holder.stdin.write("\n")
    holder.stdin.flush()
    ours = Lock(path)
    ours.wait()
    assert not Lock(path).acquire()
    ours.release()
    holder.communicate(timeout=60)


def test_who_is_waited_for_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a while, number, host and place; not where the holder lets go at once, and nothing of a file of before."""
    monkeypatch.setattr(files, "PATIENCE_S", 0.3)
    path = tmp_path / "x.lock"
    holder, ours = process(HOLD, path), Lock(path)
    assert line(holder) == "True"
    threading.Timer(1, finish, [holder]).start()
    ours.wait()
    said = f"waiting for process {holder.pid} on {platform.node()}, which holds {path}\n"
    assert capsys.readouterr().err == said
    assert ours.holder() == (os.getpid(), platform.node())
    ours.release()
    ours.wait()
    assert capsys.readouterr().err == "" and str(Lock(tmp_path / "none").holder()) == "another process"
    ours.release()


def test_patience_ends_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is waited for by and by: said after a while without work, and not again."""
    monkeypatch.setattr(files, "PATIENCE_S", 0.05)
    patience, lock = Patience(), Lock(tmp_path / "x.lock")
    patience.wait(0.1, lambda: lock)
    patience.end()
    patience.wait(0.1, lambda: lock)
    assert capsys.readouterr().err == ""
    for obstacle in (None, lock, lock):
        patience.wait(0.0, lambda obstacle=obstacle: obstacle)  # type: ignore[misc]
    assert capsys.readouterr().err == f"waiting for another process, which holds {lock.path}\n"


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_stay(tmp_path: Path) -> None:
    """Temporary files by host and process in their name (another host stays); locks by whether they can be had."""
    cell = CellStore(tmp_path, "cell")
    group = cell.group("metric")
    group.write(Shard(0, 2), columns(0, 2))
    dead = process("", "")
    dead.communicate(timeout=60)
    host = platform.node()
    names = {
        "dead": f".a.parquet.{host}.{dead.pid}.tmp",
        "alive": f".a.parquet.{host}.{os.getpid()}.tmp",
        "elsewhere": f".a.parquet.other-{host}.{dead.pid}.tmp",
    }
    for name in names.values():
        (group.path / name).write_bytes(b"half")
    held, abandoned = cell.lock(Shard(0, 2)), cell.lock(Shard(2, 4))
    assert held.acquire()
    abandoned.path.write_bytes(b"")
    (group.path / "00000002-00000004.parquet.damaged").write_bytes(b"x")
    assert remove_leftovers(tmp_path) == 3
    assert sorted(path.name for path in group.path.iterdir()) == sorted(
        [names["alive"], names["elsewhere"], "00000000-00000002.parquet"]
    )
    assert held.path.exists()
    assert not abandoned.path.exists()
    held.release()
