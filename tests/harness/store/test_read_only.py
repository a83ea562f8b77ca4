"""A complete store where nothing may be written is read: no lock, no note, no record is needed for that."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from assay.harness import launch
from assay.harness.commands.program import call
from assay.harness.overrides import compose_config

SMALL = ["compute.device=cpu", "compute.processes=1"]
MAPS = ["method=[gradcam,center]", "metric=[pointing_game]", "limit=4"]
SCORES = [
    *("experiment=ood_embedded", "dataset.size=16", "train.size=60", "ood=[scenes_noise]", "ood.scenes_noise.size=16"),
    *("method=[msp,mahalanobis]", "metric.ood.resamples=20", "compute.batch_size=8"),
]
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

protected: list[Path] = []


def _refuse_writes(event: str, arguments: tuple[object, ...]) -> None:
    """What a read-only file system answers; we may be root, whom no mode of a folder stops."""
    if not protected or not isinstance(arguments[0] if arguments else None, (str, bytes, os.PathLike)):
        return
    path = Path(os.fsdecode(arguments[0]))  # type: ignore[arg-type]
    changes = event in ("os.remove", "os.rmdir", "os.rename", "os.utime", "os.chmod") and path.exists()
    makes = event == "os.mkdir" and not path.exists()
    opens = event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & WRITES)
    if (changes or makes or opens) and any(path.is_relative_to(folder) for folder in protected):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))


sys.addaudithook(_refuse_writes)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing below the folder can be written."""
    protected.append(folder)
    try:
        yield
    finally:
        protected.clear()


def run(results: Path, *words: str) -> int:
    """The exit code of a run in this process."""
    return launch.run(compose_config([*words, *SMALL, f"results={results}"]), [])


def test_a_complete_store_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`cache=only` shows the table of before, of attributions and of detectors; so do the commands that read. What
    must write says that it cannot."""
    for words in (MAPS, SCORES):
        assert run(tmp_path, *words) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    capsys.readouterr()
    with read_only(tmp_path):
        with pytest.raises(OSError, match="Read-only"):
            (tmp_path / "x").touch()
        assert run(tmp_path, *MAPS, "cache=only") == 0
        shown = capsys.readouterr().out
        assert "gradcam" in shown and f"{tmp_path} cannot be written (Read-only file system)" in shown
        assert run(tmp_path, *SCORES, "cache=only") == 0
        assert "mahalanobis" in capsys.readouterr().out
        for command in (["status"], ["gc"], ["compare", "gradcam", "center"]):
            assert call([*command, "--results", str(tmp_path)]) == 0, command
        capsys.readouterr()
        assert call(["collect", "--results", str(tmp_path)]) != 0
        assert "Read-only" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_read_only_store_in_a_writable_folder(tmp_path: Path) -> None:
    """The record of the run and the tables are written, the store is read."""
    assert run(tmp_path, *MAPS) == 0
    with read_only(tmp_path / "store"):
        assert run(tmp_path, *MAPS, "cache=only") == 0
    assert len(list((tmp_path / "runs").glob("*/*.json"))) == 2
