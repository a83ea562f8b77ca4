"""Engines of clusters, tried for real: workers killed in the middle, and sweeps in which jobs fail.

    ASSAY_ENGINE_KILLS=10 ASSAY_ENGINE_JOBS=200 pytest -m slow -n 0 -s tests/campaigns/test_engines.py

Ray's parts are skipped where it is not installed, Slurm's where nobody answers: `slurm-one-node.sh start FOLDER` and
SLURM_CONF=FOLDER/slurm.conf give a Slurm of one node. Without a cluster: tests/harness/engine/fleet/test_stand_ins.py.
"""

import importlib.util
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
from planted import FAILS

ROOT = Path(__file__).resolve().parents[2]
COUNT, SEED = int(os.environ.get("ASSAY_ENGINE_KILLS", "10")), int(os.environ.get("ASSAY_ENGINE_KILLS_SEED", "0"))
RUN = [sys.executable, str(ROOT / "run.py")]
MAPS = [
    *("method=[gradcam,integrated_gradients,random]", "method.integrated_gradients.steps=32", "limit=24"),
    *("metric=[pointing_game,energy_pointing_game]", "compute.shard_size=2", "compute.batch_size=2"),
]
OOD = [
    *("experiment=ood_embedded", "compute.shard_size=8", "dataset.size=48", "train.size=120"),
    *("ood=[scenes_shapes,scenes_noise]", "ood.scenes_shapes.size=24", "ood.scenes_noise.size=24"),
    "metric.ood.resamples=100",
]
RAY, SLURM = ["compute=ray", "compute.processes=2"], ["compute=slurm", "compute.processes=2"]
SIZES = ["compute.device=cpu"]
JOBS, FAILING = int(os.environ.get("ASSAY_ENGINE_JOBS", "200")), (3, 9, 15)
SPAN_S = 2.0  # after the first shard


def answers(*command: str) -> bool:
    """Whether a program is there, and ends well."""
    return shutil.which(command[0]) is not None and subprocess.run(command, capture_output=True).returncode == 0


needs_ray = pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="ray is not installed")
needs_slurm = pytest.mark.skipif(
    not (importlib.util.find_spec("submitit") and answers("sinfo", "--noheader")), reason="no Slurm answers"
)
ENGINES = [
    pytest.param("local", id="local"),
    pytest.param("ray", id="ray", marks=needs_ray),
    pytest.param("slurm", id="slurm", marks=needs_slurm),
]


class Ended(NamedTuple):
    """A command that has ended."""

    code: int
    said: str


def started(results: Path, *words: str, path: str | Path = "", data: str = "") -> tuple[subprocess.Popen[bytes], Path]:
    """run.py under way, and where it speaks."""
    log = results.with_name(f"{results.name}.log")
    places = filter(None, [str(ROOT), str(path), os.environ.get("PYTHONPATH", "")])
    settings = {**os.environ, "PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"}
    settings |= {"ASSAY_DATA": data} if data else {}
    with log.open("wb") as out:
        command = [*RUN, *words, f"results={results}"]
        return subprocess.Popen(command, cwd=ROOT, env=settings, stdout=out, stderr=out, start_new_session=True), log


def ran(results: Path, *words: str, **where: Any) -> Ended:
    """run.py to its end."""
    process, log = started(results, *words, **where)
    return Ended(process.wait(), log.read_text())


def table(results: Path) -> bytes:
    """results.csv."""
    return (results / "tidy" / "results.csv").read_bytes()


@cache
def reference(asked: tuple[str, ...], scratch: Path) -> bytes:
    """The table of the lone run."""
    results = scratch / f"reference{abs(hash(asked))}"
    done = ran(results, *asked, "compute.processes=1", *SIZES)
    assert done.code == 0, done.said
    return table(results)


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the references."""
    return tmp_path_factory.mktemp("references")


# Who is killed


def processes() -> list[tuple[int, int, str]]:
    """Number, parent and command line of each."""
    listed = subprocess.run(["ps", "-ewwo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in listed.splitlines()]
    return [(int(pid), int(parent), args) for pid, parent, args in (row for row in rows if len(row) == 3)]


def actors(driver: int, results: Path) -> list[int]:
    """Ray's actors below a driver."""
    every, found = processes(), [driver]
    for each in found:  # it grows
        found += [pid for pid, parent, _ in every if parent == each]
    return [pid for pid, _, args in every if pid in found and args.startswith("ray::Hand")]


def workers(driver: int, results: Path) -> list[int]:
    """Python of Slurm's jobs that work for these results."""
    return [pid for pid, _, args in processes() if "submitit.core._submit" in args and str(results) in args]


def kill(find: Callable[[int, Path], list[int]], driver: int, results: Path, draw: random.Random) -> str:
    """SIGKILL to one of them."""
    victim = draw.choice(find(driver, results))
    os.kill(victim, signal.SIGKILL)
    return f"SIGKILL to {victim}"


def requeue(driver: int, results: Path, draw: random.Random) -> str:
    """One of Slurm's jobs is ended, and begins anew."""
    listed = subprocess.run(["squeue", "--me", "--noheader", "--states=RUNNING", "--format=%i"], capture_output=True)
    number = draw.choice(listed.stdout.decode().split())
    subprocess.run(["scontrol", "requeue", number], check=True)
    return f"requeued {number}"


def killed_in_the_middle(
    results: Path, words: list[str], strike: Callable[[int, Path, random.Random], str], draw: random.Random
) -> tuple[Ended, str]:
    """A run of which one worker is ended at some moment after its first shard."""
    process, log = started(results, *words, *SIZES)
    while process.poll() is None and not any(results.glob("store/**/*.parquet")):
        time.sleep(0.01)
    time.sleep(draw.uniform(0, SPAN_S))
    assert process.poll() is None, f"it has ended before anybody was killed: {log.read_text()}"
    struck = strike(process.pid, results, draw)
    shards = len(list(results.glob("store/**/*.parquet")))
    return Ended(process.wait(), log.read_text()), f"{struck} at {shards} files"


def told(capsys: pytest.CaptureFixture[str], what: str) -> None:
    with capsys.disabled():
        print(f"\n{what}")


@pytest.mark.slow
@needs_ray
@pytest.mark.parametrize("number", range(COUNT))
def test_ray_of_two_one_killed(number: int, tmp_path: Path, scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SIGKILL to one of two actors in the middle: the run ends well, its table is the lone run's, byte for byte."""
    asked = OOD if number % 5 == 4 else MAPS
    draw = random.Random(f"ray {SEED} {number}")
    done, struck = killed_in_the_middle(tmp_path / "results", [*asked, *RAY], partial(kill, actors), draw)
    told(capsys, f"ray {number}: {struck}, exit {done.code}")
    assert done.code == 0, done.said
    assert table(tmp_path / "results") == reference(tuple(asked), scratch)


@pytest.mark.slow
@needs_slurm
@pytest.mark.parametrize("number", range(COUNT))
def test_slurm_of_one_node_one_killed(
    number: int, tmp_path: Path, scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of two workers requeued, or killed and replaced, in the middle: the lone run's table, byte for byte."""
    asked = OOD if number % 5 == 4 else MAPS
    draw = random.Random(f"slurm {SEED} {number}")
    strike = partial(kill, workers) if number % 2 else requeue
    done, struck = killed_in_the_middle(tmp_path / "results", [*asked, *SLURM], strike, draw)
    told(capsys, f"slurm {number}: {struck}, exit {done.code}, a worker replaced: {'has ended' in done.said}")
    assert done.code == 0, done.said
    assert table(tmp_path / "results") == reference(tuple(asked), scratch)
    if number % 2 == 0:
        about = subprocess.run(["scontrol", "show", "job", struck.split()[1]], capture_output=True, text=True).stdout
        assert "Restarts=1" in about


# Sweeps


def fails_in(place: Path) -> list[str]:
    """A method that fails where its number is one of FAILING; the words that choose it."""
    text = FAILS.replace("bad: bool = False", "number: int = 0").replace("if self.bad", f"if self.number in {FAILING}")
    (place / "fails.py").write_text(text)
    (place / "conf/method").mkdir(parents=True)
    (place / "conf/method/fails.yaml").write_text("# @package method.fails\n_target_: fails.Fails\nnumber: 0\n")
    chosen = ["--config-dir", str(place / "conf"), "--allow-target", "fails.", "method=[fails]"]
    return [*chosen, "metric=[pointing_game]", "limit=2", *SIZES]


def listed(results: Path) -> list[str]:
    """What `status` says of failed jobs."""
    command = [sys.executable, "-m", "harness", "status", "--results", str(results)]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return lines[next(at for at, line in enumerate(lines) if line.endswith(("failed jobs", "failed job"))) :]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_a_sweep_of_many_jobs_with_three_that_fail(
    engine: str, tmp_path: Path, scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1, one table with all, equal for every engine; `status` names the three, and what to type and read."""
    words, results, begun = fails_in(tmp_path), tmp_path / "results", time.monotonic()
    who = [] if engine == "local" else [f"compute={engine}", "compute.processes=2"]
    done = ran(results, "-m", *words, *who, f"method.fails.number=range(0,{JOBS})", path=tmp_path)
    took = time.monotonic() - begun
    assert done.code == 1, done.said
    frame = pd.read_csv(results / "tidy/results.csv")
    failed = frame[frame.status == "failed:RuntimeError: planted"]
    assert frame.cell_key.nunique() == JOBS and failed.cell_key.nunique() == len(FAILING)
    assert set(frame[~frame.cell_key.isin(failed.cell_key)].status) == {"ok"}
    said = listed(results)
    assert said[0] == "3 failed jobs" and said[1::3] == ["FAILED fails: RuntimeError: planted"] * 3
    logs = [Path(line.removeprefix("  traceback: ")) for line in said[3::3]]
    assert all('raise RuntimeError("planted")' in log.read_text() for log in logs)
    numbers = [int(line.partition("method.fails.number=")[2].split()[0]) for line in said[2::3]]
    assert sorted(numbers) == sorted(FAILING)
    kept = scratch.parent / "sweep.csv"  # whose engine came first
    assert not kept.exists() or kept.read_bytes() == table(results)
    kept.write_bytes(table(results))
    told(capsys, f"sweep of {JOBS} by {engine}: exit {done.code}, {took:.0f} s, {len(frame)} rows, failed {numbers}")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_a_wrong_request_among_jobs(engine: str, tmp_path: Path) -> None:
    """Four jobs: a data set that is not there, twice; one that fails; one that is done. Exit code 2, three listed."""
    words, results = fails_in(tmp_path), tmp_path / "results"
    who = [] if engine == "local" else [f"compute={engine}", "compute.processes=1"]
    swept = ["dataset=voc07,scenes", f"method.fails.number={FAILING[0]},1"]
    done = ran(results, "-m", *words, *who, *swept, path=tmp_path, data="nowhere")
    assert done.code == 2, done.said
    frame = pd.read_csv(results / "tidy/results.csv")
    assert set(frame.status) == {"ok", "failed:RuntimeError: planted"} and set(frame.dataset) == {"scenes"}
    assert listed(results)[0] == "3 failed jobs"
