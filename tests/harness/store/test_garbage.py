"""`python -m harness gc`: what goes, what stays, and that nothing goes unasked."""

import os
import platform
import subprocess
import time
from pathlib import Path

import pytest
from assay.harness.commands.program import call
from assay.harness.results.overview import overview
from assay.harness.store import damage, garbage
from assay.harness.store.files import write_atomically
from assay.harness.store.identity import SCHEMA
from assay.harness.store.signs import LASTS_S, SIGN, sign
from assay.harness.store.store import CellStore


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A finished cell, an unfinished one, a score cell, features of two days ago, features in work, a fit."""
    for key in ("done", "open", "scores"):
        CellStore(tmp_path, key).describe({"identity": {"schema": SCHEMA}, "labels": {"method": f"of {key}"}}, {})
    files = ["done/m/DONE-8.json", "open/m/0-8.parquet", "scores/score/0-8.parquet", "fits/f.safetensors"]
    files += ["features/old/logits/0-8.parquet", "features/busy/logits/0-8.parquet", "features/busy/locks/0-8.lock"]
    for name in files:
        write_atomically(tmp_path / name, b"x")
    then = time.time() - 2 * 86400
    for path in [tmp_path / "features/old", *tmp_path.glob("features/old/**/*"), tmp_path / "done/m/DONE-8.json"]:
        os.utime(path, (then, then))
    return tmp_path


DAY_AGO = -86400.0


@pytest.fixture(autouse=True)
def unnamed() -> None:
    """No damage is named yet."""
    damage.found.clear()


@pytest.fixture
def begun(tmp_path: Path) -> list[Path]:
    """What killed runs leave: folders without a description, a features folder without a shard; and one in work."""
    paths = [tmp_path / "begun/samples", tmp_path / "features/begun/logits", tmp_path / "busy/locks"]
    for path in paths:
        path.mkdir(parents=True)
    (paths[2] / "00000000-00000008.lock").touch()
    write_atomically(tmp_path / "torn/cell.json", b"{")
    write_atomically(tmp_path / "torn/m/DONE-8.json", b"x")
    return paths


def test_what_was_begun_may_go(tmp_path: Path, begun: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Only on request, and not what somebody computes; a damaged description is named, and its cell's work stays."""
    assert garbage.find(tmp_path, False, False, None) == []
    found = garbage.find(tmp_path, True, True, None)
    assert [(each.path.name, each.what) for each in found] == [
        ("begun", "features of no image"),
        ("begun", "without a description"),
    ]
    assert [each.path for each in found] == [begun[1].parent, begun[0].parent]
    assert f"damaged: {tmp_path / 'torn/cell.json'}" in capsys.readouterr().err
    assert "2 unfinished cells without a description" in overview(tmp_path)


@pytest.mark.parametrize(
    ("unfinished", "features", "horizon", "expected"),
    [
        (False, False, None, set()),
        (True, False, None, {"open"}),
        (False, False, DAY_AGO, {"done"}),
        (False, True, None, {"old", "f"}),
        (False, True, DAY_AGO, {"done", "old"}),
        (True, True, None, {"open", "old", "f"}),
    ],
)
def test_what_may_go(root: Path, unfinished: bool, features: bool, horizon: float | None, expected: set[str]) -> None:
    """Exactly what was asked for; features that somebody computes stay."""
    found = garbage.find(root, unfinished, features, None if horizon is None else time.time() + horizon)
    assert {each.path.stem for each in found} == expected
    for each in found:
        each.remove()
    assert not any(each.path.exists() for each in found)
    assert (root / "features/busy/logits/0-8.parquet").exists()
    assert (root / "scores/score/0-8.parquet").exists()


def test_what_workers_without_locks_compute_stays(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They hold nothing, so what one of them has begun within the hour is spared, and said."""
    paths = [root / name for name in ("open", "done", "features/old", "begun")]
    for path in paths:
        sign(path)
    found = garbage.find(root, True, True, time.time())
    assert {each.path.stem for each in found} == {"f", "scores"}
    for name in ("results", "results/tidy"):
        (root / name).mkdir()
    (root / "results" / "store").symlink_to(root)
    capsys.readouterr()
    assert call(["gc", "--unfinished", "--results", str(root / "results")]) == 0
    assert "4 stay: a worker without locks was at work there within the last hour" in capsys.readouterr().out
    for path in paths:
        os.utime(path / SIGN, (time.time() - LASTS_S - 1,) * 2)
    assert {each.path for each in garbage.find(root, True, True, None)} >= {root / "open", root / "features/old"}
    assert {each.path.name for each in garbage.find(root, True, False, None)} >= {"open", "begun"}


def test_temporary_files_of_dead_writers_go_wherever_they_lie(tmp_path: Path) -> None:
    """Of tables, records and pages too: in the store and beside it."""
    with subprocess.Popen(["true"]) as dead:
        pass
    for place in ("store/cell/m", "tidy", "runs/r", "report"):
        write_atomically(tmp_path / place / f".x.csv.{platform.node()}.{dead.pid}.tmp", b"half")
    assert call(["gc", "--yes", "--results", str(tmp_path)]) == 0
    assert not list(tmp_path.rglob(".*.tmp"))


@pytest.mark.parametrize("days", ["-5", "nan", "inf", "-inf", "soon"])
def test_no_number_of_days_removes_nothing(
    root: Path, days: str, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    """-5 would be "older than in five days": everything."""
    results = tmp_path_factory.mktemp("results")
    root.rename(results / "store")
    before = sorted(results.rglob("*"))
    assert call(["gc", f"--older-than={days}", "--yes", "--results", str(results)]) == 2
    assert "--older-than" in capsys.readouterr().err
    assert sorted(results.rglob("*")) == before
