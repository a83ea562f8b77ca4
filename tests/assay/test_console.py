"""The console command: `run` is run.py, every other word the other command."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def assay(*words: str) -> subprocess.CompletedProcess:
    """`python -m assay`, from the checkout."""
    return subprocess.run([sys.executable, "-m", "assay", *words], cwd=ROOT, capture_output=True, text=True)


def test_help_says_both() -> None:
    """With --help and without a word."""
    for words in (["--help"], []):
        done = assay(*words)
        assert done.returncode == 0
        assert "assay run KEY=VALUE" in done.stdout
        assert "compare" in done.stdout


def test_run_is_the_compute_command() -> None:
    """Its help is Hydra's; a mistyped name is answered as run.py answers it."""
    assert "Groups (GROUP=CHOICE" in assay("run", "--help").stdout
    done = assay("run", "model=scenes_vg")
    assert done.returncode != 0
    assert "scenes_vgg" in done.stderr


@pytest.mark.parametrize(("words", "code"), [(["ls", "protocol"], 0), (["ls", "protocl"], 2)])
def test_every_other_word_is_the_other_command(words: list[str], code: int) -> None:
    """And its exit code is the process's."""
    done = assay(*words)
    assert done.returncode == code
    assert "protocol" in done.stdout + done.stderr
