"""The seam of `compute.engine`, with workers that stand in for Ray's and Slurm's: what dies loses nothing.

With the packages themselves: tests/campaigns/test_engines.py.
"""

import importlib.util
import io
import os
import re
import shlex
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial, reduce
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from assay.harness import launch
from assay.harness.commands.program import call
from assay.harness.config import ENGINES as NAMES
from assay.harness.config import ConfigError
from assay.harness.engine import costs
from assay.harness.engine.costs import Outcome, merge
from assay.harness.engine.engines import ENGINES, Offer, check_engine
from assay.harness.engine.evaluate import evaluate
from assay.harness.engine.fleet import mailbox, watch
from assay.harness.engine.fleet import squeue as module_squeue
from assay.harness.engine.fleet.mailbox import Mailbox
from assay.harness.engine.fleet.orders import Lost, Order, answered
from assay.harness.engine.fleet.orders import turns as turns_of
from assay.harness.engine.fleet.squeue import Squeue
from assay.harness.engine.fleet.tasks import Drive, Reply, Task, tasks_of
from assay.harness.engine.fleet.watch import Watch
from assay.harness.engine.job import Job, Missing
from assay.harness.engine.machine import Where
from assay.harness.engine.processes import Rebuild
from assay.harness.engine.rank import Rank
from assay.harness.overrides import compose_config, sweep
from assay.harness.reading import SCHEDULED, check_folder
from assay.harness.store.damage import Damaged
from assay.harness.store.files import Lock
from assay.harness.store.store import Shard
from plugin_site import forget_example, install_example

ALONE = Rank(0, 1)
WORDS = [
    *("compute.device=cpu", "compute.processes=1", "limit=8", "compute.shard_size=2", "method=[gradient,center]"),
    "metric=[pointing_game]",
]
NAMED = ("partition", "account", "qos", "constraint")  # of `compute.slurm`, texts of a file's
Dies = Callable[[Task], bool]


def evaluated(results: Path, *words: str) -> int:
    """The exit code of a run in this process."""
    return launch.run(compose_config([*WORDS, f"results={results}", *words]), [])


def table(results: Path) -> bytes:
    return (results / "tidy/results.csv").read_bytes()


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The table of the run that no engine has a hand in."""
    results = tmp_path_factory.mktemp("lone")
    assert evaluated(results) == 0
    return table(results)


# Tasks


@dataclass
class StandIn:
    """One worker, in this process; it ends in the middle of some tasks, when it has written a shard of them or none."""

    job: Job
    dies: Dies
    given: list[tuple[object, Task]] = field(default_factory=list)

    def idle(self) -> bool:
        return not self.given

    def give(self, task: Task) -> object:
        self.given.append((key := object(), task))
        return key

    def replies(self) -> Iterator[Reply]:
        key, task = self.given.pop()
        if self.dies(task):
            evaluate(self.job.part(task.shards[: len(task.shards) // 2], task.cells))
            yield Reply(key, None, "killed by the test")
        else:
            yield Reply(key, answered(lambda: evaluate(self.job.part(task.shards, task.cells))))


def use(monkeypatch: pytest.MonkeyPatch, dies: Dies) -> list[Task]:
    """Make `compute.engine=ray` the stand-in; the tasks on which it ended."""
    ended: list[Task] = []

    def noted(task: Task) -> bool:
        if dies(task):
            ended.append(task)
            return True
        return False

    def compute(job: Job, rank: Rank, rebuild: Rebuild, what: str) -> Outcome:
        order = ForkingPickler.loads(ForkingPickler.dumps(Order.of(job, rebuild)))
        worker = StandIn(order.begin(), noted)
        return merge([outcome for outcome, _ in Drive(job, worker, tasks_of(job)).outcomes()])

    monkeypatch.setitem(ENGINES, "ray", Offer(lambda: compute))
    return ended


def test_there_is_an_engine_of_every_name() -> None:
    assert tuple(ENGINES) == NAMES


@pytest.mark.parametrize(("workers", "coordination"), [(0, "locks"), (1, "locks"), (0, "none")])
def test_the_table_is_the_lone_runs_whatever_ends(
    workers: int, coordination: str, lone: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its worker ends in the middle of every task, once; with loader processes a task is several shards."""
    ended = use(monkeypatch, lambda task: task.ended == 0)
    words = [f"compute.workers={workers}", f"compute.coordination={coordination}"]
    assert evaluated(tmp_path, "compute.engine=ray", *words) == 0
    assert table(tmp_path) == lone
    assert len(ended) == (4 if workers == 0 else 1)


def test_what_always_ends_its_worker_is_named_and_nothing_else_is_lost(
    lone: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One method on one shard: three tries, a failure of that method; the other method's rows are a lone run's."""
    poison = Shard(4, 6)
    ended = use(monkeypatch, lambda task: poison in task.shards and "gradient" in task.cells)
    assert evaluated(tmp_path / "one", "compute.engine=ray") == 1
    assert [task.ended for task in ended] == [0, 1, 2] and ended[-1].cells == ("gradient",)
    said = (
        "FAILED gradient: Lost: gradient on images 4 to 5 ended the process that computed it 3 times (memory?): killed"
    )
    assert said in capsys.readouterr().err
    one, other = pd.read_csv(tmp_path / "one/tidy/results.csv"), pd.read_csv(io.BytesIO(lone))
    assert one[one.method == "gradient"].status.str.startswith("failed:Lost").all()
    kept, whole = (frame[frame.method == "center"].reset_index(drop=True) for frame in (one, other))
    pd.testing.assert_frame_equal(kept.drop(columns="run_id"), whole.drop(columns="run_id"), check_dtype=False)


@pytest.mark.slow
def test_detectors_pass_through_the_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Features of three sets by the stand-in, which ends once on every task; fits and scores as ever."""
    few = [
        *("model=scenes_resnet", "dataset.objects=[1,1]", "dataset.size=16", "compute.shard_size=8", "metric=[ood]"),
        *("dataset@train=scenes_train", "train.size=24", "train.objects=[1,1]", "ood=[scenes_noise]"),
        *("ood.scenes_noise.size=8", "method=[msp,knn,odin]", "method.knn.k=3", "metric.ood.resamples=20"),
        *("compute.device=cpu", "compute.processes=1"),
    ]
    tables = []
    for engine in ("local", "ray"):
        ended = use(monkeypatch, lambda task: task.ended == 0)
        config = compose_config([*few, f"compute.engine={engine}", f"results={tmp_path / engine}"])
        assert launch.run(config, []) == 0
        assert bool(ended) == (engine == "ray")
        tables.append(table(tmp_path / engine))
    assert tables[0] == tables[1]


def test_a_worker_sees_the_variables_of_who_asks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And none of its machine's own: where data lie, which plug-ins there are, what a config may name."""
    monkeypatch.chdir(tmp_path)
    names = ("ASSAY_DATA", "ASSAY_WEIGHTS", "ASSAY_PLUGINS", "ASSAY_ALLOW_TARGET")
    for name in names:
        monkeypatch.setenv(name, f"its {name}")
    asked = {"ASSAY_DATA": "/data", "ASSAY_PLUGINS": "none"}
    Order(dict, 1, str(tmp_path), asked).begin()  # type: ignore[arg-type]  # no job is built
    assert {name: os.environ[name] for name in names if name in os.environ} == asked


def test_a_plug_in_is_a_workers_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The example's model, data, method and metric, which no option allows: the lone run's table."""
    install_example(tmp_path)
    forget_example()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("ASSAY_ALLOW_TARGET", "")
    monkeypatch.setenv("ASSAY_PLUGINS", "example")
    words = [
        *("model=example_colours", "dataset=example_discs", "method=[example_occlusion,center]", "limit=4"),
        "metric=[example_mass_centre]",
    ]
    ended = use(monkeypatch, lambda task: task.ended == 0)
    for engine in ("local", "ray"):
        assert evaluated(tmp_path / engine, *words, f"compute.engine={engine}") == 0
    assert ended and table(tmp_path / "ray") == table(tmp_path / "local")
    forget_example()


def test_the_record_names_who_computed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And not who asked: a plan takes the seconds of its own device alone, and times what has none."""

    def plan() -> str:
        capsys.readouterr()
        assert call(["plan", *WORDS, f"results={tmp_path}", "limit=10"]) == 0
        return capsys.readouterr().out

    use(monkeypatch, lambda task: False)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(costs, "where", lambda device: Where("node7", "NVIDIA H100"))
        assert evaluated(tmp_path, "compute.engine=ray") == 0
    frame = pd.read_csv(tmp_path / "tidy/runs.csv")
    assert {*zip(frame.host, frame.device, frame.engine, strict=True)} == {("node7", "NVIDIA H100", "ray")}
    assert "measured now" in (said := plan()) and "earlier runs" not in said
    assert evaluated(tmp_path, "limit=9") == 0
    assert "earlier runs" in (said := plan()) and "measured now" not in said


class Odd(Exception):
    """Not to be made again from its arguments, as unpickling does."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class Holds(Exception):
    """It is made again from them, and holds what no other process can have."""

    def __init__(self) -> None:
        super().__init__()
        self.held = threading.Lock()

    def __str__(self) -> str:
        return "a lock"


def test_an_error_in_a_worker_is_the_runs() -> None:
    """As it was raised, where it can be pickled; else its text. Damage keeps the files that are to be set aside."""

    def raising(error: Exception) -> Callable[[], Outcome]:
        def work() -> Outcome:
            raise error

        return work

    assert isinstance(answered(raising(ConfigError("wrong"))), ConfigError)
    for error, text in {Odd(1, 2): "Odd: 1 and 2", Holds(): "Holds: a lock"}.items():
        told = ForkingPickler.loads(ForkingPickler.dumps(answered(raising(error))))
        assert type(told) is RuntimeError and str(told) == text
        assert "in work\n    raise error" in told.__notes__[0]
    damaged = answered(raising(Damaged([Path("x")], "is torn", "mend it")))
    assert isinstance(damaged, Damaged) and damaged.__reduce__()[1] == ([Path("x")], "is torn", "mend it")


# Workers at a mailbox


@dataclass
class Crew:
    """One worker at a mailbox, who acts when it is looked after: `turns` says what each call of `tend` is."""

    box: Mailbox
    turns: list[Callable[["Crew"], None]]
    last_ended: str = "FAILED, some.log"
    logs: Path = Path("logs")
    count: int = 1
    tended: int = 0
    ended: int = 0

    @property
    def name(self) -> str:
        """Of the worker that there is now."""
        return str(self.ended)

    def names(self) -> set[str]:
        return {self.name}

    def running(self) -> set[str]:
        return {self.name}

    def tend(self) -> int:
        before, self.tended = self.ended, self.tended + 1
        self.turns[min(self.tended, len(self.turns)) - 1](self)
        return self.ended - before


def serves(crew: Crew, place: int = 0, count: int = 1) -> None:
    """The worker, one of `count`, does what there is to do."""
    number = max(crew.box.orders())
    order = crew.box.begin(number, crew.name)
    job = order.begin()
    crew.box.finish(number, crew.name, answered(lambda: evaluate(job, turns_of(job, place, count))))


def ends(crew: Crew) -> None:
    """It has ended, and another one is there."""
    crew.ended += 1


def begins_and_ends(crew: Crew) -> None:
    """It has ended in the middle of its work."""
    crew.box.begin(max(crew.box.orders()), crew.name)
    crew.ended += 1


def sees_nothing(crew: Crew) -> None:
    """The worker answers an order, if there is one for it: nothing is left to do."""
    for number in set(crew.box.orders()) - {n for n in crew.box.orders() if crew.name in crew.box.done(n)}:
        crew.box.finish(number, crew.name, Outcome())


class Clock:
    """Of a test: each look at it takes `step` seconds."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 1000.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def at_mailbox(
    monkeypatch: pytest.MonkeyPatch, folder: Path, *turns: Callable[[Crew], None], step: float = watch.OLD_S
) -> Crew:
    """Make `compute.engine=slurm` such workers; step: of the clock by which the driver is patient."""
    crew = Crew(Mailbox(folder / "box"), list(turns))
    monkeypatch.setattr(watch, "clock", Clock(step))

    def compute(job: Job, rank: Rank, rebuild: Rebuild, what: str) -> Outcome:
        return merge(Watch(job, crew, Order.of(job, rebuild)).outcomes(what))

    monkeypatch.setattr(watch, "POLL_S", 0.0)
    monkeypatch.setitem(ENGINES, "slurm", Offer(lambda: compute))
    return crew


@pytest.mark.parametrize("coordination", ["locks", "none"])
def test_workers_at_a_mailbox_leave_the_lone_runs_table(
    coordination: str, lone: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One ends before it has begun, one in the middle, the third serves; a second job is another order of the same."""
    crew = at_mailbox(monkeypatch, tmp_path, ends, begins_and_ends, serves)
    words = ["compute.engine=slurm", f"compute.coordination={coordination}"]
    assert evaluated(tmp_path / "one", *words) == 0
    assert table(tmp_path / "one") == lone
    assert any((tmp_path / "one").glob("store/*/locks/unlocked")) == (coordination == "none")  # who takes none signs
    assert evaluated(tmp_path / "two", *words, "limit=2") == 0
    assert crew.box.orders() == [1, 2]


def test_a_worker_without_locks_takes_what_others_are_late_with(
    lone: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The second of two computes its own shards and then those of the first, who never comes up. Nobody asks for a
    lock."""

    def acquire(lock: Lock) -> bool:
        raise AssertionError(f"{lock.path} is asked for")

    monkeypatch.setattr(Lock, "acquire", acquire)
    at_mailbox(monkeypatch, tmp_path, partial(serves, place=1, count=2))
    assert evaluated(tmp_path / "one", "compute.engine=slurm", "compute.coordination=none") == 0
    assert table(tmp_path / "one") == lone


def test_a_number_is_refused_beside_an_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`compute.worker` shares a run by hand, an engine has its own workers: which to leave out; nothing is written."""
    use(monkeypatch, lambda task: False)
    words = ["compute.engine=ray", "compute.coordination=none", "compute.worker=0/2"]
    with pytest.raises(
        ConfigError, match=r"compute\.engine=ray in process 0 of 2.*compute\.worker.*leave one of the two"
    ):
        evaluated(tmp_path / "one", *words)
    assert not (tmp_path / "one").exists()


def test_what_ends_every_worker_has_failed_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three of one place; with the state and the log of the last. Where none had begun, no method is to blame."""
    at_mailbox(monkeypatch, tmp_path, begins_and_ends)
    assert evaluated(tmp_path / "one", "compute.engine=slurm") == 1
    said = capsys.readouterr().err
    assert (
        "FAILED center: Lost: 3 workers of Slurm ended while nothing was computed (the last: FAILED, some.log)" in said
    )
    at_mailbox(monkeypatch, tmp_path / "other", ends)
    with pytest.raises(Lost, match=r"some\.log\); none had begun"):
        evaluated(tmp_path / "two", "compute.engine=slurm")


def sees_what_was(monkeypatch: pytest.MonkeyPatch, until_s: float) -> None:
    """The driver's listings are those of the run's beginning, for so long by its clock."""
    real, first = Job.open, list[Missing]()

    def old(job: Job) -> Missing:
        first.append(real(job))
        return first[0] if watch.clock() < 1000 + until_s else first[-1]

    monkeypatch.setattr(Job, "open", old)


def test_a_listing_that_is_old_fails_nothing(lone: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """NFS shows a folder as of a minute ago: workers are asked again, each time they see nothing to do."""
    crew = at_mailbox(monkeypatch, tmp_path, serves, sees_nothing, step=3.0)
    sees_what_was(monkeypatch, until_s=100.0)
    assert evaluated(tmp_path / "one", "compute.engine=slurm") == 0
    assert table(tmp_path / "one") == lone
    assert len(crew.box.orders()) > watch.TRIES


def test_ends_of_workers_that_have_put_all_fail_nothing(
    lone: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As many as would give a method up, meanwhile: each file is asked for by name before."""
    at_mailbox(monkeypatch, tmp_path, serves, begins_and_ends, step=3.0)
    sees_what_was(monkeypatch, until_s=100.0)
    assert evaluated(tmp_path / "one", "compute.engine=slurm") == 0
    assert table(tmp_path / "one") == lone


@pytest.mark.parametrize(
    ("served", "says"), [(serves, r"there when asked for by name, but not in the listing"), (sees_nothing, "not there")]
)
def test_what_only_workers_see_is_no_methods_failure(
    served: Callable[[Crew], None], says: str, lone: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two folders under one path, say: the run ends, by name, and another one goes on from what is there."""
    at_mailbox(monkeypatch, tmp_path, served, sees_nothing, step=3.0)
    with monkeypatch.context() as patch:
        sees_what_was(patch, until_s=1e9)
        with pytest.raises(Lost, match=rf"times that nothing is left to do, but.*{says}.*center.*images 0 to 1.*logs$"):
            evaluated(tmp_path / "one", "compute.engine=slurm")
    assert not list(tmp_path.rglob("FAILED.json"))
    assert evaluated(tmp_path / "one") == 0 and table(tmp_path / "one") == lone


def test_an_answer_is_not_waited_for_without_end(lone: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One that all that is known of says it runs, and that never comes: answers say only what it took."""

    def serves_unsaid(crew: Crew) -> None:
        number = max(crew.box.orders())
        evaluate(crew.box.begin(number, crew.name).begin())

    at_mailbox(monkeypatch, tmp_path, serves_unsaid)
    assert evaluated(tmp_path / "one", "compute.engine=slurm") == 0
    assert table(tmp_path / "one") == lone


# What Slurm says


@pytest.fixture
def squeue(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What it answers, from now on: a text, an exit code or an error; the last one again. A look takes a minute."""
    answers: list[Any] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        code, said = (answer, "") if isinstance(answer, int) else (0, answer)
        return subprocess.CompletedProcess(command, code, said, "no controller")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(module_squeue, "clock", Clock(module_squeue.SILENT_S / 2))
    return answers


def test_what_squeue_says(squeue: list[Any]) -> None:
    """By hand; a held job will not go on, and a line that is cut short says that its job is there."""
    squeue[:] = ["7 RUNNING None\n8 PENDING JobHeldUser\n9 PENDING (Job held, by admin)\n\n10 PENDING\n11\n"]
    made = Squeue().states()
    assert made == {"7": "RUNNING", "8": "GONE", "9": "GONE", "10": "PENDING", "11": ""}


def test_a_squeue_that_does_not_answer_is_named_once(squeue: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    """After a minute, with what it says, whether it fails, hangs or is not there; anew when it has answered since."""
    asked = Squeue()
    squeue[:] = [1, subprocess.TimeoutExpired("squeue", 30), FileNotFoundError("no squeue"), 1]
    assert [asked.states() for _ in range(8)] == [None] * 8
    said = capsys.readouterr()
    assert (said.out + said.err).count("squeue has not answered for 60 s (") == 1
    squeue[:] = ["7 RUNNING None", 1]
    assert asked.states() == {"7": "RUNNING"}
    assert [asked.states() for _ in range(8)] == [None] * 8
    said = capsys.readouterr()
    assert (said.out + said.err).count("squeue has not answered for 60 s (no controller)") == 1


def test_squeue_is_not_asked_all_the_time(squeue: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor where it does not answer: every five seconds, of some hundred and fifty."""
    monkeypatch.setattr(module_squeue, "clock", Clock(1.0))
    asked, squeue[:] = Squeue(), [*range(1, 100)]
    assert [asked.states() for _ in range(50)] == [None] * 50
    assert 5 < 99 - len(squeue) < 25


def test_a_worker_waits_for_orders_until_the_driver_is_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The last of several, once; none after the driver has closed, or no longer says that it lives."""
    box = Mailbox(tmp_path)
    order = Order(launch.build_run, 1, str(tmp_path), {})  # type: ignore[arg-type]  # never begun
    assert [box.put(order), box.put(order)] == [1, 2]
    served = []
    for number in box.orders_for("0"):
        served.append(number)
        assert box.begin(number, "0") == order and box.begun(2) == {"0"} and box.done(2) == set()
        box.finish(number, "0", Outcome())
        monkeypatch.setattr(mailbox, "ABANDONED_S", -1.0)
    assert served == [2] and box.done(2) == {"0"} and list(box.answers(2)) == [Outcome()]
    box.close()
    assert list(box.orders_for("late")) == []


# What is refused


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["compute.engine=rya"], "compute.engine=rya: choose one of local, ray, slurm"),
        (
            ["compute=ray", "compute.device=cuda:1"],
            "cuda:1 with compute.engine=ray: workers see a GPU each",
        ),
        (["compute=ray", "cache=off"], "cache=off with compute.engine=ray: workers meet in the store"),
        (["compute=slurm", "compute.processes=auto"], "say how many workers, compute.processes=N"),
        (["compute=slurm", "compute.slurm.time_min=0"], "compute.slurm.time_min=0: give a whole number of at least 1"),
        (["compute=slurm", "compute.slurm.partition='a b'"], "compute.slurm.partition=a b: give a name"),
        (["compute=slurm", "compute.slurm.partitoin=a"], "partitoin"),
    ],
)
def test_what_no_engine_can_do_is_refused(words: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        compose_config(words)
    assert says in str(refused.value)


def test_a_file_may_not_give_a_shells_lines(tmp_path: Path) -> None:
    """Set or swept by an experiment's file; the command line may."""
    (tmp_path / "experiment").mkdir()
    head = "# @package _global_\n"
    (tmp_path / "experiment/sets.yaml").write_text(head + "compute:\n  slurm:\n    setup: [touch owned]\n")
    (tmp_path / "experiment/sweeps.yaml").write_text(
        head + "hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      +compute.slurm.setup: '[touch owned]'\n"
    )
    where = ["--config-dir", str(tmp_path)]
    with pytest.raises(ConfigError, match=r"compute\.slurm\.setup is run by a shell.*give it as an override"):
        compose_config([*where, "experiment=sets"])
    with pytest.raises(ConfigError, match=r"compute\.slurm\.setup is run by a shell.*may not sweep it"):
        sweep([*where, "experiment=sweeps"])
    made = compose_config(["compute=slurm", "compute.slurm.setup=[module load cuda]"])
    assert made.compute.slurm.setup == ["module load cuda"]


@pytest.mark.parametrize("key", ["results", *(f"compute.slurm.{name}" for name in NAMED)])
def test_nothing_of_a_file_is_a_line_of_a_workers_script(key: str, tmp_path: Path) -> None:
    """Every text of a config that stands in it."""
    settings: dict[str, Any] = {}
    *folders, name = key.split(".")
    reduce(lambda inner, folder: inner.setdefault(folder, {}), folders, settings)[name] = "a'\ntouch owned\n#"
    (tmp_path / "experiment").mkdir()
    made = yaml.safe_dump({"defaults": [{"override /compute": "slurm"}], **settings})
    (tmp_path / "experiment/lines.yaml").write_text(f"# @package _global_\n{made}")
    with pytest.raises(ConfigError, match=re.escape(f"{key}=") + r".*: give a "):
        compose_config(["--config-dir", str(tmp_path), "experiment=lines"])


@pytest.mark.parametrize("end", ["\n", "\r", "\x0b", "\x85", "\u2028", "\0"], ids=ascii)
def test_no_end_of_a_line_is_part_of_a_place(end: str) -> None:
    """Each that a shell, or Python, knows, at the very end too; of a folder, and of names of a cluster's."""
    for text in (f"a{end}b", f"a{end}"):
        with pytest.raises(ConfigError, match=r"results=.*: give a folder"):
            check_folder(text)
        assert not SCHEDULED.fullmatch(text)


def test_what_stands_in_a_workers_script_is_quoted(tmp_path: Path) -> None:
    """By submitit itself, as a shell reads it: quotes and dollars of the folder and of names stay text."""
    slurm = pytest.importorskip("submitit.slurm.slurm", reason="submitit is not installed")
    from assay.harness.engine.fleet.scheduled import parameters

    folder = tmp_path / 'it\'s "$(touch owned)" `touch owned`; touch owned'
    asked = compose_config(["compute=slurm", "compute.slurm.constraint='[a|b]'"]).compute
    text = slurm._make_sbatch_string("true", folder, **parameters(asked))
    settings, _, rest = text.partition("# command\n")
    assert [line for line in settings.splitlines() if line and not line.startswith("#")] == []
    (run,) = [line for line in rest.splitlines() if line.startswith("srun")]
    assert shlex.split(run)[-1] == "true" and all(str(folder) in word for word in shlex.split(run)[3:6:2])


def test_an_engine_that_is_not_here_is_named_before_anything_is_built(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No package: what to install. No sbatch: where to start. torchrun: one of the two."""
    ray, slurm = (compose_config([f"compute={name}", f"results={tmp_path}"]) for name in ("ray", "slurm"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'assay-harness\[ray\]'"):
        launch.run(ray, [])
    with pytest.raises(ConfigError, match=r"pip install 'assay-harness\[slurm\]'"):
        check_engine(slurm, ALONE)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="no sbatch on the PATH"):
        check_engine(slurm, ALONE)
    with pytest.raises(ConfigError, match=r"compute\.engine=ray in process 0 of 2"):
        check_engine(ray, Rank(0, 2))
    assert not list(tmp_path.iterdir())


def test_a_task_in_pieces_is_the_task() -> None:
    """By hand: two shards of two cells are four pieces, each counted once more."""
    task = Task((Shard(0, 2), Shard(2, 3)), ("a", "b"), 1)
    pieces = task.after_a_loss()
    assert Counter((piece.shards, piece.cells, piece.ended) for piece in pieces) == Counter(
        {((shard,), (name,), 2): 1 for shard in task.shards for name in task.cells}
    )
    assert task.images == 3 and str(task) == "a, b on images 0 to 2"
