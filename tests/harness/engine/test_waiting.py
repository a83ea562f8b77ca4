"""Shards in other hands: who holds them is said, and a failure that another rank has just met is not tried again."""

import os
import platform
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from assay.harness import launch
from assay.harness.config import ROOT
from assay.harness.engine.rank import Rank
from assay.harness.overrides import compose_config
from assay.harness.store import files
from assay.harness.store.outcomes import Failure
from assay.harness.store.store import Shard

WORDS = ["method=[center]", "metric=[pointing_game]", "limit=4", "compute.device=cpu", "compute.processes=1"]
HOLD = """
import sys
from pathlib import Path
from assay.harness.store.files import Lock
lock = Lock(Path(sys.argv[1]))
print(lock.acquire(), flush=True)
sys.stdin.readline()
lock.release()
"""


def test_who_computes_the_last_shards_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Another run holds the only shard for a second: its number, host and place, once; then it is computed."""
    config = compose_config([*WORDS, f"results={tmp_path}"])
    run = launch.build_run(config, tmp_path / "store")
    (cell,) = run.job.cells  # type: ignore[attr-defined]
    path = cell.store.lock(Shard(0, 4)).path
    command = [sys.executable, "-c", HOLD, str(path)]
    other = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None and other.stdout.readline() == "True\n"
    monkeypatch.setattr(files, "PATIENCE_S", 0.3)
    threading.Timer(1.5, other.communicate, ["\n"]).start()
    assert launch.run(config, []) == 0
    told = capfd.readouterr()
    assert told.err.count(f"waiting for process {other.pid} on {platform.node()}, which holds {path}") == 1
    assert "1 shards computed" in told.out


def test_a_late_rank_0_does_not_forgive_its_sibling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under torchrun a rank fails before rank 0 begins: the failure stays and is told, nothing is computed again.
    Another launch forgives it."""
    config = compose_config([*WORDS, f"results={tmp_path}"])
    run = launch.build_run(config, tmp_path / "store")
    run.prepare(Rank.from_environment())
    (cell,) = run.job.cells  # type: ignore[attr-defined]
    cell.group("pointing_game").fail(Failure("RuntimeError: planted on rank 1"))
    with monkeypatch.context() as patch:
        patch.setenv("RANK", "0")
        patch.setenv("WORLD_SIZE", "2")
        assert Rank.from_environment().launch
        assert launch.run(config, []) == 1
    assert "planted on rank 1" in capsys.readouterr().err
    assert launch.run(config, []) == 0
