"""The engine `ray`: an actor a GPU, or a core, holds the network and computes one task after the other.

The Ray of this process is that of RAY_ADDRESS, or one of this machine; it and its actors serve every job of a sweep.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import ray
from tqdm import tqdm

from ...store.damage import say
from ..costs import Outcome, merge
from ..evaluate import evaluate
from ..job import Job
from ..processes import Rebuild, cores, own_peak
from ..rank import Rank
from .orders import Answer, Lost, Order, answered, turns
from .tasks import Drive, Reply, Task, tasks_of

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
WAIT_S = 1.0
ROOM_S = 30.0
COMING_UP = 3  # deaths, for each actor asked for, of actors that had not come up


class Size(NamedTuple):
    """What one actor takes of the cluster."""

    cpus: int
    gpus: int

    def __str__(self) -> str:
        return f"CPU {self.cpus}, GPU {self.gpus}"


class Hand:
    """What an actor does: it keeps the job that it was given last, with its network."""

    def __init__(self) -> None:
        self.job: Job | None = None

    def take(self, order: Order) -> Answer:
        """Build an order's job; nothing done."""
        return answered(lambda: self._taken(order))

    def _taken(self, order: Order) -> Outcome:
        self.job = order.begin()
        return Outcome(batch_size=self.job.config.compute.batch_size)

    def do(self, task: Task) -> Answer:
        """Compute a task's shards."""
        assert self.job is not None
        part = self.job.part(task.shards, task.cells)
        made = answered(partial(evaluate, part, turns(part)))
        if isinstance(made, Outcome):
            made.helpers_mb = own_peak()
        return made


@dataclass
class Crew:
    """The actors of this process; between jobs they wait."""

    size: Size
    idle: list[Any] = field(default_factory=list)

    def take(self, count: int) -> list[Any]:
        """So many, those that wait first."""
        taken, self.idle = self.idle[:count], self.idle[count:]
        return [*taken, *(self.hire() for _ in range(count - len(taken)))]

    def hire(self) -> Any:
        """A new one; it comes up when the cluster has room for it."""
        return ray.remote(Hand).options(num_cpus=self.size.cpus, num_gpus=self.size.gpus).remote()


crews: list[Crew] = []  # of this process, at most one


def _crew(size: Size) -> Crew:
    """The actors that there are, if they are of this size; others make room."""
    if crews and crews[0].size != size:
        for actor in crews.pop().idle:
            ray.kill(actor)
    if not crews:
        crews.append(Crew(size))
    return crews[0]


def compute(job: Job, rank: Rank, rebuild: Rebuild, what: str) -> Outcome:
    """Evaluate what is missing of a job on actors, one task at a time each.

    Raises:
        Lost: actors end before they have built the job.
    """
    tasks = tasks_of(job)
    if not tasks:
        return Outcome(batch_size=job.config.compute.batch_size)
    start(job)
    size, most = _share(job)
    gang = Gang(_crew(size), ray.put(Order.of(job, rebuild)), min(most, len(tasks)))
    try:
        images = sum(task.images for task in tasks)
        with tqdm(total=images, unit="image", desc=what, smoothing=0.1) as bar:
            outcomes = []
            for outcome, done in Drive(job, gang, tasks).outcomes():
                outcomes.append(outcome)
                bar.update(done)
            bar.update(images - bar.n)
    except BaseException:
        gang.end()
        raise
    gang.leave()
    return merge(outcomes)


def start(job: Job) -> None:
    """Ray, once a process: that of RAY_ADDRESS, or a new one with this process's cores."""
    if ray.is_initialized():
        return
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    there = _here(job) if not os.environ.get("RAY_ADDRESS") else _elsewhere()
    ray.init(log_to_driver=False, logging_level="ERROR", **there)


def _here(job: Job) -> dict[str, Any]:
    """A Ray of this machine, with its cores, or with as many as the config's actors take."""
    asked = job.config.compute.processes
    wanted = 0 if asked == "auto" else int(asked) * job.config.compute.threads
    return {"address": "local", "num_cpus": max(cores(), wanted), "include_dashboard": False}


def _elsewhere() -> dict[str, Any]:
    """A cluster, whose workers are to find our modules where this process does."""
    path = os.environ.get("PYTHONPATH", "")
    return {"runtime_env": {"env_vars": {"PYTHONPATH": path}}} if path else {}


def _share(job: Job) -> tuple[Size, int]:
    """What one actor takes, and how many the config asks for."""
    compute, there = job.config.compute, ray.cluster_resources()
    gpus = 0 if compute.device == "cpu" else int(there.get("GPU", 0))
    room = gpus or int(there.get("CPU", 1)) // compute.threads
    count = room if compute.processes == "auto" else int(compute.processes)
    return Size(compute.threads, min(gpus, 1)), max(1, count)


def _got(reference: Any) -> Answer | str:
    """An actor's answer; a text, of what is known, where it has ended without one."""
    try:
        made: Answer = ray.get(reference)
        return made
    except ray.exceptions.RayTaskError:
        raise  # a fault of ours: what a job raises is an answer
    except ray.exceptions.RayError as error:
        return " ".join(str(error).split())[:400]


def _there() -> str:
    return ", ".join(f"{name} {count:g}" for name, count in sorted(ray.cluster_resources().items()) if ":" not in name)


class Gang:
    """The actors of one job; one that ends is replaced."""

    def __init__(self, crew: Crew, order: Any, count: int) -> None:
        self.crew, self.order = crew, order
        self.coming: dict[Any, Any] = {}  # reference -> actor that builds the job
        self.ready: list[Any] = []
        self.busy: dict[Any, Any] = {}
        self.patience = COMING_UP * count
        self.since: float | None = time.monotonic()  # nobody has come up; None: that is not so, or has been said
        for actor in crew.take(count):
            self._call_in(actor)

    def _call_in(self, actor: Any) -> None:
        self.coming[actor.take.remote(self.order)] = actor

    def idle(self) -> bool:
        """Whether one is ready and has nothing to do."""
        return bool(self.ready)

    def give(self, task: Task) -> object:
        """Hand a task to a ready one; returns its reference."""
        actor = self.ready.pop()
        reference = actor.do.remote(task)
        self.busy[reference] = actor
        return reference

    def replies(self) -> Iterator[Reply]:
        """Those that have come meanwhile, after a second at most."""
        self._say_waiting()
        done, _ = ray.wait([*self.coming, *self.busy], timeout=WAIT_S)
        for reference in done:
            if reference in self.coming:
                self._come_up(reference)
            else:
                yield self._reply(reference)

    def _say_waiting(self) -> None:
        if self.ready or self.busy:
            self.since = None
        if self.since is not None and time.monotonic() - self.since > ROOM_S:
            self.since = None
            say(f"waiting for room in the Ray cluster: an actor takes {self.crew.size}, and there is {_there()}")

    def _come_up(self, reference: Any) -> None:
        actor = self.coming.pop(reference)
        made = _got(reference)
        if isinstance(made, str):
            self.patience -= 1
            if self.patience < 0:
                raise Lost(f"actors of Ray end before they have built the job (memory?): {made}")
            self._call_in(self.crew.hire())
            return
        if isinstance(made, Exception):
            raise made
        self.ready.append(actor)

    def _reply(self, reference: Any) -> Reply:
        actor = self.busy.pop(reference)
        made = _got(reference)
        if isinstance(made, str):
            self._call_in(self.crew.hire())
            return Reply(reference, None, made)
        self.ready.append(actor)
        return Reply(reference, made)

    def leave(self) -> None:
        """Wait for the next job; what has not come up is not waited for."""
        self.crew.idle += self.ready
        for actor in self.coming.values():
            ray.kill(actor)

    def end(self) -> None:
        """End them now: their locks die with them, what they have written stays."""
        for actor in [*self.ready, *self.coming.values(), *self.busy.values()]:
            ray.kill(actor)
