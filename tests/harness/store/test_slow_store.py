"""A store that does not answer for once: nothing is left out, nothing is thrown away, and the run ends by saying so."""

import errno
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from assay.harness import launch
from assay.harness.console import FAILED, exit_code
from assay.harness.overrides import compose_config
from assay.harness.places import place, read_bytes, stamps
from assay.harness.results.tidy import collect
from assay.harness.store import sealed
from assay.harness.store.damage import Damaged
from assay.harness.store.identity import SCHEMA
from assay.harness.store.outcomes import Finished
from assay.harness.store.sealed import read_sealed, write_sealed
from assay.harness.store.store import CellStore, Group, Shard
from assay.harness.types import ResultRow

LABELS: dict[str, Any] = {"model": "net", "dataset": "data", "protocol": "p", "kind": "ood", "seed": 0}
WORK = ["compute.processes=1", "compute.device=cpu", "limit=8", "compute.shard_size=4", "method=[center]"]
WORK += ["metric=[pointing_game]", "compute.coordination=none"]


class Slow:
    """The requests of fsspec's store in memory, of which one times out."""

    def __init__(self, patch: pytest.MonkeyPatch, system: type) -> None:
        self.asked, self.late = 0, -1
        for name in ("cat_file", "ls", "info", "find"):
            patch.setattr(system, name, self._counted(getattr(system, name)))

    def _counted(self, real: Any) -> Any:
        def asked(system: Any, *words: Any, **more: Any) -> Any:
            self.asked += 1
            if self.asked - 1 == self.late:
                raise TimeoutError  # as FSTimeoutError, without a word
            return real(system, *words, **more)

        return asked

    def fail_at(self, number: int) -> None:
        """Let the request of this number from now on fail, alone; -1: none."""
        self.asked, self.late = 0, number


@pytest.fixture
def results() -> Path:
    """A place of fsspec's store in memory."""
    pytest.importorskip("upath", reason="universal_pathlib is not installed")
    return place(f"memory://{uuid4()}")


@pytest.fixture
def slow(results: Path) -> Iterator[Slow]:
    with pytest.MonkeyPatch.context() as patch:
        yield Slow(patch, type(results.fs))  # type: ignore[attr-defined]


@pytest.fixture
def group(results: Path) -> Group:
    """A metric with a shard and a row, and one that an earlier run asked for."""
    cell = CellStore(results / "store", "one")
    identity = {"schema": SCHEMA, "method": {"_target_": "x"}, "protocol": {}}
    cell.describe({"identity": identity, "labels": LABELS | {"method": "m"}}, {"metric": {"name": "m"}})
    made = cell.group("metric")
    made.write(Shard(0, 2), {"position": np.arange(2), "sample_id": np.array(["a", "b"], dtype=object)})
    now, before = (asdict(ResultRow(name, "mean", 0.5, 2)) for name in ("now", "before"))
    made.finish(2, Finished("run", "test", [now], (before,)))
    return made


def test_one_request_that_fails_leaves_no_row_out(results: Path, group: Group, slow: Slow) -> None:
    """Each request of a collection in turn: it ends with an error, or has all rows."""
    whole = collect(results)
    asked = slow.asked
    assert asked > 10 and len(whole) == 2
    ended = 0
    for number in range(asked):
        slow.fail_at(number)
        try:
            assert len(collect(results)) == len(whole), f"request {number} of {asked}"
        except OSError:
            ended += 1
    assert ended > asked // 2


def test_rows_of_an_earlier_run_are_not_lost(group: Group, slow: Slow) -> None:
    """What was there is asked for before it is replaced; a file that is not read is not a file without rows."""
    slow.fail_at(1)  # the first asks whether it is there
    with pytest.raises(OSError, match=r"DONE-00000002\.json cannot be read now \(TimeoutError"):
        group.finished(2)
    for number in (0, 1):
        slow.fail_at(number)
        with pytest.raises(OSError):
            group.withdraw(2)
            group.finished(2)
    slow.fail_at(-1)
    assert group.read(2)["sample_id"].tolist() == ["a", "b"]


def test_a_run_ends_and_the_same_command_resumes(results: Path, slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither is the request called wrong, nor a file damaged; the table is the same afterwards."""
    words = [*WORK, f"results={results}"]
    assert launch.run(compose_config(words), []) == 0
    before = read_bytes(results / "tidy" / "results.csv")
    asked, failing = list[Path](), set[int]()

    def late(path: Path) -> bytes:
        asked.append(path)
        if len(asked) in failing:
            raise TimeoutError
        return read_bytes(path)

    monkeypatch.setattr(sealed, "read_bytes", late)
    for number in (1, 3, 5):
        asked.clear()
        failing.add(number)
        with pytest.raises(OSError, match="cannot be read now") as found:
            launch.run(compose_config(words), [])
        assert exit_code(found.value) == FAILED
        failing.clear()
    assert launch.run(compose_config(words), []) == 0
    assert read_bytes(results / "tidy" / "results.csv") == before
    assert not [name for name in stamps(results) if name.endswith("damaged")]


@pytest.mark.parametrize(("number", "is_lost"), [(errno.EIO, True), (errno.ETIMEDOUT, False), (errno.EMFILE, False)])
def test_of_a_disk_lost_bytes_alone_are_damage(
    number: int, is_lost: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network folder that is slow, or too many open files, say nothing about the bytes."""
    write_sealed(tmp_path / "x", sealed.SEAL.encode())

    def broken(path: Path) -> bytes:
        raise OSError(number, "no")

    monkeypatch.setattr(sealed, "read_bytes", broken)
    with pytest.raises(Damaged if is_lost else OSError, match="x cannot be read"):
        read_sealed(tmp_path / "x")
