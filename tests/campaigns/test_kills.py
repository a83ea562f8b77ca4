"""Kills at random moments, each resumed: the tables are those of a run that nobody killed, byte for byte.

    ASSAY_KILLS=50 ASSAY_KILLS_SEED=0 pytest -m slow -n 0 -s tests/campaigns/test_kills.py

A kill is SIGKILL to a whole process group or to one process of several, somewhere between the first file that a run
leaves and its end; resuming is the same command again. Engines of clusters: test_engines.py.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple, Protocol

import forks
import pytest
from assay.harness.commands.program import call
from assay.harness.store import damage
from assay.harness.store.survey import cells

ROOT = Path(__file__).resolve().parents[2]
COUNT, SEED = int(os.environ.get("ASSAY_KILLS", "50")), int(os.environ.get("ASSAY_KILLS_SEED", "0"))
RUN, HARNESS = [sys.executable, str(ROOT / "run.py")], [sys.executable, "-m", "harness"]
LAUNCHER = str(Path(sys.executable).with_name("torchrun"))
TORCHRUN = [LAUNCHER, "--standalone", "--nproc-per-node", "2", RUN[1]]

MAPS = [
    *("method=[gradcam,integrated_gradients,random]", "method.integrated_gradients.steps=16", "limit=12"),
    *("metric=[pointing_game,energy_pointing_game]", "compute.shard_size=2", "compute.batch_size=2"),
]
DETECTORS = ["compute.shard_size=8", "compute.batch_size=8", "dataset.size=48"]
OOD = [
    *("experiment=ood_embedded", *DETECTORS, "train.size=120", "metric.ood.resamples=100"),
    *("ood=[scenes_shapes,scenes_noise]", "ood.scenes_shapes.size=24", "ood.scenes_noise.size=24"),
]
ERRORS = [
    *("experiment=errors_embedded", *DETECTORS, "train.size=120", "validation.size=48"),
    "metric.error_detection.resamples=100",
]
ONE, TWO = "compute.processes=1", "compute.processes=2"
SWEEP = ["-m", "model=scenes_vgg,scenes_resnet"]


class Scenario(NamedTuple):
    """Who is killed in the middle of what.

    asked: what the tables are about. commands: started together. sign: what is on disk when it begins (a pattern below
    the results). begun: whether the results are complete before. alone: whether one process alone is killed.
    """

    name: str
    asked: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...]
    sign: str = "store/*/*/*.parquet"
    begun: bool = False
    alone: bool = False


def scenario(name: str, asked: list[str], *commands: list[str], **more: object) -> Scenario:
    """With the commands of a run that are not given."""
    given = commands or ([*RUN, *asked, ONE],)
    return Scenario(name, tuple(asked), tuple(map(tuple, given)), **more)  # type: ignore[arg-type]


LATER = {"begun": True, "sign": "tidy/.collect.lock"}
REMOVE = [*HARNESS, "gc", "--features", "--unfinished", "--older-than", "0", "--yes"]
SCENARIOS = [
    scenario("one process", MAPS),
    scenario("two runs, one killed", MAPS, [*RUN, *MAPS, ONE], [*RUN, *MAPS, ONE], alone=True),
    scenario("two runs, both killed", MAPS, [*RUN, *MAPS, ONE], [*RUN, *MAPS, ONE]),
    scenario("torchrun", MAPS, [*TORCHRUN, *MAPS]),
    scenario("torchrun, one rank killed", MAPS, [*TORCHRUN, *MAPS], alone=True),
    scenario("sweep", [*SWEEP, *MAPS], [*RUN, *SWEEP, *MAPS, ONE]),
    scenario("helper processes", MAPS, [*RUN, *MAPS, TWO]),
    scenario("detectors", OOD, sign="store/features/*/*/*.parquet"),
    scenario("detectors, fits", OOD, sign="store/fits/*"),
    scenario("errors, fits", ERRORS, sign="store/fits/*"),
    scenario("rows", OOD, sign="store/*/*/DONE-*"),
    scenario("collect", MAPS, [*HARNESS, "collect"], **LATER),
    scenario("report", MAPS, [*HARNESS, "report"], **LATER),
    scenario("gc", OOD, REMOVE, begun=True, sign="removed"),
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test a kill: the scenarios in turn."""
    if "number" in metafunc.fixturenames:
        chosen = list(enumerate(islice(cycle(SCENARIOS), COUNT)))
        names = [f"{number}-{each.name.replace(' ', '-')}" for number, each in chosen]
        metafunc.parametrize(("number", "case"), chosen, ids=names)


class Process(Protocol):
    """What forks.py starts, and what subprocess does."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self) -> int: ...


class Started(NamedTuple):
    """A command under way."""

    process: Process
    said: Callable[[], str]

    def kill(self, pids: list[int]) -> None:
        """SIGKILL."""
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def family(self) -> list[int]:
        """It, and all that it has started, and they: launchers give their workers sessions of their own."""
        found = [self.process.pid]
        for parent in found:  # it grows
            found += children(parent)
        return found


def children(parent: int) -> list[int]:
    """Processes that one has started."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True)
    return [int(pid) for pid in listed.stdout.split()]


def start(command: tuple[str, ...], results: Path, log: Path) -> Started:
    """Start a command on a folder of results; run.py without the three seconds of its imports where nothing else
    starts it."""
    if list(command[:2]) == RUN and "-m" not in command:
        forked = forks.start(*command[2:], f"results={results}", session=True)
        return Started(forked, lambda: forked.output() + forked.errors())
    where = ["--results", str(results)] if "harness" in command[:3] else [f"results={results}"]
    settings = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, *where], cwd=ROOT, env={**settings, "OMP_NUM_THREADS": "1"}, stdout=out, stderr=out,
            start_new_session=True,
        )  # fmt: skip
    return Started(process, log.read_text)


def to_the_end(command: tuple[str, ...], results: Path, log: Path) -> None:
    """A command that must end well."""
    started = start(command, results, log)
    assert started.process.wait() == 0, started.said()


@cache
def reference(asked: tuple[str, ...], scratch: Path) -> Path:
    """The results of the run that nobody kills."""
    results = scratch / f"reference{abs(hash(asked))}"
    to_the_end((*RUN, *asked, ONE), results, scratch / "reference.log")
    return results


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the references."""
    return tmp_path_factory.mktemp("references")


def table(results: Path) -> bytes:
    """results.csv."""
    return (results / "tidy" / "results.csv").read_bytes()


def shown(sign: str, results: Path, started: list[Started]) -> bool:
    """Whether what tells that the work has begun is there, or that it has ended."""
    if any(each.process.poll() is not None for each in started):
        return True
    return "removing" in started[0].said() if sign == "removed" else any(results.glob(sign))


def killed(case: Scenario, results: Path, span: float, draw: random.Random) -> str:
    """Start the commands, kill at a moment; what was on disk then."""
    started = [start(command, results, results.with_name(f"log{n}")) for n, command in enumerate(case.commands)]
    while not shown(case.sign, results, started):
        time.sleep(0.001)
    time.sleep(draw.uniform(0, span))
    victims = [draw.choice(started)] if case.alone else started
    for victim in victims:
        ranks = children(victim.process.pid) if case.alone and case.commands[0][0] == LAUNCHER else []
        victim.kill([draw.choice(ranks)] if ranks else victim.family())
    codes = [each.process.wait() for each in started]
    shards, rows = (len(list(results.glob(f"store/**/{kind}"))) for kind in ("*.parquet", "DONE-*"))
    return f"exit {codes}, {shards} shards, {rows} rows, {leftovers(results)} left"


def leftovers(results: Path) -> int:
    """Temporary files and locks of the dead."""
    return len([*results.glob("**/.*.tmp"), *results.glob("**/*.lock")])


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_tables(
    number: int, case: Scenario, tmp_path: Path, scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed once at a seeded moment, run again: results.csv byte for byte, no damage, nothing left of the dead."""
    draw = random.Random(f"{SEED} {number}")
    expected, results = reference(case.asked, scratch), tmp_path / "results"
    if case.begun:
        shutil.copytree(expected, results)
        shutil.rmtree(results / "tidy")
    span = {"collect": 0.15, "report": 3.0, "gc": 0.05, "rows": 0.6}.get(case.name, 3.0)
    state = killed(case, results, span, draw)
    last = case.commands[-1] if case.name != "gc" else (*RUN, *case.asked, ONE)
    to_the_end(last, results, tmp_path / "resumed.log")
    with capsys.disabled():
        print(f"\nkill {number:2d} {case.name:<26} {state}: {'same' if table(results) == table(expected) else 'OTHER'}")
    assert table(results) == table(expected)
    assert damaged(results) == []
    assert call(["gc", "--yes", "--results", str(results)]) == 0 and leftovers(results) == 0


def damaged(results: Path) -> list[Path]:
    """Files that are not as they were written, read one by one."""
    damage.found.clear()
    for cell in cells(results / "store"):
        for group in map(cell.group, [*cell.groups(), "samples", "score"]):
            if shards := group.shards():
                damage.unless_damaged(partial(group.read, max(shard.stop for shard in shards)))
    return list(damage.found)
