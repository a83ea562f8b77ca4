"""The code state that a run records is Assay's own, never a repository's that it happens to lie in."""

import subprocess
from pathlib import Path

import pytest
import torch
from assay.harness.results import environment


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A user's git repository with one commit."""
    made = tmp_path.resolve()
    name = ["-c", "user.name=u", "-c", "user.email=u@example.org"]
    for command in (["init", "-q"], [*name, "commit", "-q", "--allow-empty", "-m", "theirs"]):
        subprocess.run(["git", *command], cwd=made, check=True)
    return made


def recorded(monkeypatch: pytest.MonkeyPatch, root: Path) -> tuple[str, str]:
    """(sha, dirty) as recorded by an Assay that lies in `root`."""
    monkeypatch.setattr(environment, "ROOT", root)
    about = environment.environment(torch.device("cpu"))
    return about["git_sha"], about["git_dirty"]


def test_a_checkout_records_its_commit(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """40 hex digits, and whether files are edited or new."""
    sha, dirty = recorded(monkeypatch, repository)
    assert len(sha) == 40
    assert dirty == "False"
    (repository / "new").touch()
    assert recorded(monkeypatch, repository) == (sha, "True")


def test_a_users_repository_is_not_recorded(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed in a virtual environment inside a repository: unknown, not the user's commit."""
    installed = repository / ".venv" / "lib" / "assay"
    installed.mkdir(parents=True)
    assert recorded(monkeypatch, installed) == ("", "")


def test_outside_of_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown too."""
    assert recorded(monkeypatch, tmp_path) == ("", "")
