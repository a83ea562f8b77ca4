"""Jobs that failed: kept with what to type and what to read, until they no longer fail."""

import subprocess
from pathlib import Path

import forks
import pandas as pd
import pytest
from assay.harness import console, launch
from assay.harness.arguments import SET, again
from assay.harness.commands.program import call
from assay.harness.overrides import compose_config
from assay.harness.results import jobs
from assay.harness.results.jobs import failed_jobs, note_error, note_failures, settle
from assay.harness.store.outcomes import Failure
from assay.harness.store.store import CellStore
from planted import FAILS


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of who runs the tests stands in a command."""
    for name in ("ASSAY_ALLOW_TARGET", *SET):
        monkeypatch.delenv(name, raising=False)


def test_a_sweep_with_a_failing_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two jobs, one fails: exit code 1, rows of both, and `status` says what to type and to read."""
    (tmp_path / "fails.py").write_text(FAILS)
    (tmp_path / "conf/method").mkdir(parents=True)
    config = tmp_path / "conf/method/fails.yaml"
    config.write_text("# @package method.fails\n_target_: fails.Fails\nbad: false\n")
    results = tmp_path / "results"
    words = [
        *("--config-dir", str(tmp_path / "conf"), "--allow-target", "fails.", "method=[fails]", "limit=1"),
        *("metric=[pointing_game]", "compute.device=cpu", "compute.processes=1", f"results={results}"),
    ]
    swept = ["-m", "method.fails.bad=true,false"]
    forked = forks.start(*words, *swept, environment={"PYTHONPATH": str(tmp_path)})
    assert forked.wait() == 1, forked.errors()
    assert call(["status", "--results", str(results)]) == 0
    said = capsys.readouterr().out.splitlines()
    at = said.index("1 failed job")
    assert said[at + 1] == "FAILED fails: RuntimeError: planted"
    assert said[at + 2].startswith(f"  again: python run.py --config-dir {tmp_path}/conf --allow-target fails. ")
    assert said[at + 2].endswith(f" results={results} method.fails.bad=True")
    log = Path(said[at + 3].removeprefix("  traceback: "))
    assert f"tracebacks: {log}" in forked.errors() and 'raise RuntimeError("planted")' in log.read_text()
    frame = pd.read_csv(results / "tidy/results.csv")
    assert frame.cell_key.nunique() == 2 and {"ok", "failed:RuntimeError: planted"} < set(frame.status)


def test_what_no_longer_fails_is_not_shown(tmp_path: Path) -> None:
    """Its command has ended well; or another one has computed what failed in it. What ended a job has no such place."""
    root = tmp_path / "store"
    cell = CellStore(root, "cell")
    cell.describe({"identity": {}, "labels": {}}, {"metric": {"name": "m"}})
    cell.group("metric").fail(Failure("ValueError: no", "Traceback of it"))
    log = note_failures(tmp_path, "python run.py a=1", {"x": "ValueError: no\nmore"}, [cell.group("metric")])
    note_error(tmp_path, "python run.py b=2", OSError("full"))
    first, second = failed_jobs(tmp_path)
    assert first == ("python run.py a=1", ("x: ValueError: no more",), log.absolute())
    assert "Traceback of it" in log.read_text()
    assert second.again == "python run.py b=2" and second.failed == ("OSError: full",)
    cell.group("metric").forgive()
    assert failed_jobs(tmp_path) == [second]
    settle(tmp_path, "python run.py b=2")
    settle(tmp_path, "python run.py never=failed")
    assert failed_jobs(tmp_path) == []


def test_the_command_for_one_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: options stay, a sweep's words go, what a shell would read otherwise is quoted."""
    job = ["method=[a,b]", "seed=1"]
    assert again(["run.py", "-m", "method=[a,b]", "seed=0,1"], job, True) == "python run.py 'method=[a,b]' seed=1"
    assert again(["/x/assay", "experiment=e"], job, True) == "assay run 'method=[a,b]' seed=1 hydra.mode=RUN"
    monkeypatch.setenv("ASSAY_ALLOW_TARGET", "mine.,yours.")
    given = ["run.py", "--config-dir", "tests", *job]
    allowed = "--allow-target mine. --allow-target yours."
    assert again(given, job, False) == f"python run.py --config-dir tests {allowed} 'method=[a,b]' seed=1"


def test_what_only_status_reads_changes_no_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A client's own errors, which are no OSErrors: one line, and the run ends as it did."""

    class NoCredentials(Exception):
        """As botocore's."""

    def refused(*_: object) -> None:
        raise NoCredentials("Unable to\nlocate")

    for name in ("write_atomically", "remove"):
        monkeypatch.setattr(jobs, name, refused)
    console._keep(str(tmp_path), "python run.py a=1", ValueError("first"))
    words = ["method=[center]", "metric=[pointing_game]", "limit=1", "compute.device=cpu", "compute.processes=1"]
    assert launch.run(compose_config([*words, f"results={tmp_path}"]), [], "python run.py a=1") == 0
    assert capsys.readouterr().err.count("not kept for status: NoCredentials: Unable to locate\n") == 2
    console._keep("nowhere://bucket", "python run.py a=1", ValueError("first"))
    assert capsys.readouterr().err.startswith("not kept for status: NoPlace: ")


def test_the_command_says_the_variables_that_it_reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Those that are set, as a shell takes them; of clusters the engine's. The job is the same with others."""
    for name, value in {"ASSAY_DATA": "/a b", "ASSAY_PLUGINS": "none", "RAY_ADDRESS": "x:1", "SLURM_CONF": "c"}.items():
        monkeypatch.setenv(name, value)
    job = ["method=[a,b]", "seed=1"]
    mine = "ASSAY_DATA='/a b' ASSAY_PLUGINS=none"
    rest = "python run.py 'method=[a,b]' seed=1"
    assert again(["run.py", *job], job, False, "local") == f"{mine} {rest}"
    by_ray = again(["run.py", *job], job, False, "ray")
    assert by_ray == f"{mine} RAY_ADDRESS=x:1 {rest}"
    assert again(["run.py", *job], job, False, "slurm") == f"{mine} SLURM_CONF=c {rest}"
    shown = subprocess.run(["sh", "-c", f"{by_ray.partition('python')[0]} env"], capture_output=True, text=True).stdout
    assert "ASSAY_DATA=/a b\n" in shown and "RAY_ADDRESS=x:1\n" in shown
    note_error(tmp_path, by_ray, OSError("no such data"))
    assert [each.again for each in failed_jobs(tmp_path)] == [by_ray]
    settle(tmp_path, rest)
    assert failed_jobs(tmp_path) == []
