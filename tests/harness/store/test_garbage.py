"""`python -m harness gc`: what goes, what stays, and that nothing goes unasked."""

import os
import time
from pathlib import Path

import pytest
from assay.harness.store import garbage
from assay.harness.store.files import write_atomically
from assay.harness.store.identity import SCHEMA
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
