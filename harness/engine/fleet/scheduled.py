"""The engine `slurm`: a few jobs of the scheduler are workers, which serve one command, all of its jobs, to its end.

A worker takes shards of the job at hand as any process of a run does. Slurm requeues it when it is preempted, its time
is over or its machine is gone; one that ended otherwise is replaced here. Interrupting the command cancels its workers;
when it is killed, they finish the job at hand and leave.
"""

import atexit
import subprocess
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import submitit

from ...config import Compute, ConfigError, RunConfig, folder_here
from ...store.damage import say
from ..costs import Outcome, merge
from ..evaluate import evaluate
from ..job import Job
from ..processes import Rebuild, own_peak
from ..rank import Rank
from .mailbox import Mailbox
from .orders import Order, answered, turns
from .squeue import Squeue
from .watch import Watch

# Of Slurm's states those that a job does not come back from; a requeued one is PENDING.
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL", "DEADLINE", "GONE"}
REQUEUES = 10_000  # when its time is over; submitit's own limit is 3


@dataclass(frozen=True)
class Worker:
    """What a job of Slurm runs: the orders of a mailbox, until there are no more. Requeued, it begins anew."""

    folder: Path
    name: str
    place: int  # of `count` workers, each of which begins with its own part of a job's shards
    count: int

    def __call__(self) -> None:
        """Serve."""
        box = Mailbox(self.folder)
        for number in box.orders_for(self.name):
            order = box.begin(number, self.name)
            box.finish(number, self.name, answered(partial(self._do, order)))

    def _do(self, order: Order) -> Outcome:
        job = order.begin()
        outcome = evaluate(job, turns(job, self.place, self.count))
        outcome.helpers_mb = own_peak()
        return outcome

    def checkpoint(self) -> Any:
        """What submitit requeues when a worker's time is over: itself, as all that is done is in the store."""
        return submitit.helpers.DelayedSubmission(self)


class Crew:
    """The workers of this process."""

    def __init__(self, config: RunConfig) -> None:
        made = f"{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() % 10**6:06d}"
        folder = (Path(folder_here(config.results)) / "runs" / "workers" / made).absolute()
        self.asked, self.box = config.compute, Mailbox(folder)
        self.logs = folder / "logs"
        self.jobs: dict[str, Any] = {}  # by the worker's name
        self.places: dict[str, int] = {}  # likewise
        self.waiting: set[str] = set()
        self.hired = 0
        self.last_ended = ""
        self.squeue = Squeue()
        self.closed = self.box.beat()
        self.executor = submitit.SlurmExecutor(folder=self.logs, max_num_timeout=REQUEUES)
        self.executor.update_parameters(**parameters(config.compute))
        for place in range(self.count):
            self._hire(place)
        atexit.register(self.leave)

    @property
    def count(self) -> int:
        """How many there are to be."""
        return int(self.asked.processes)

    def names(self) -> set[str]:
        """Of the workers there are, or that wait for a machine."""
        return {*self.jobs}

    def running(self) -> set[str]:
        """Of those that do not wait for one, as far as is known."""
        return {*self.jobs} - self.waiting

    def _hire(self, place: int) -> None:
        name = str(self.hired)
        worker = Worker(self.box.folder, name, place, self.count)
        self.places[name] = place
        self.hired += 1
        try:
            self.jobs[name] = self.executor.submit(worker)
        except submitit.core.utils.FailedJobError as error:
            said = " ".join(str(error).split())[-400:]
            raise ConfigError(f"compute.engine=slurm: sbatch refuses ({said})") from error

    def tend(self) -> int:
        """Replace workers that have ended; how many had."""
        if (states := self.squeue.states()) is None:
            return 0
        ended = 0
        self.waiting = {name for name, job in self.jobs.items() if states.get(job.job_id) == "PENDING"}
        for name, job in list(self.jobs.items()):
            state = states.get(job.job_id, "GONE")
            if state in ENDED:
                self.last_ended = f"{state}, {job.paths.stderr}"
                say(f"a worker has ended ({self.last_ended}): another one is asked for")
                del self.jobs[name]
                self._hire(self.places.pop(name))
                ended += 1
        return ended

    def leave(self) -> None:
        """No more orders; who waits for a machine need not come."""
        if not self.closed.is_set():
            self.closed.set()
            self.box.close()
            self._cancel("--state=PENDING")

    def end(self) -> None:
        """End them now: their locks die with them, what they have written stays."""
        self.leave()
        self._cancel()

    def _cancel(self, *options: str) -> None:
        if numbers := [job.job_id for job in self.jobs.values()]:
            subprocess.run(["scancel", *options, *numbers], capture_output=True)


def parameters(compute: Compute) -> dict[str, Any]:
    """What sbatch is given, in submitit's words."""
    asked = compute.slurm
    made = {
        "job_name": "assay",
        "time": asked.time_min,
        "cpus_per_task": compute.threads + compute.workers,
        "gpus_per_node": asked.gpus or None,
        "mem": None if asked.mem_gb is None else f"{asked.mem_gb}GB",
        "setup": list(asked.setup) or None,
        "additional_parameters": {"requeue": True},
        **{name: getattr(asked, name) for name in ("partition", "account", "qos", "constraint")},
    }
    return {name: value for name, value in made.items() if value is not None}


crews: list[Crew] = []  # of this process, at most one


def _crew(config: RunConfig) -> Crew:
    """The workers that there are, if they are what the config asks for; else new ones."""
    if crews and (crews[0].asked != config.compute or crews[0].closed.is_set()):
        crews.pop().leave()
    if not crews:
        crews.append(Crew(config))
    return crews[0]


def compute(job: Job, rank: Rank, rebuild: Rebuild, what: str) -> Outcome:
    """Evaluate what is missing of a job on workers of Slurm.

    Raises:
        Lost: no worker comes up. ConfigError: Slurm takes no such job.
    """
    nothing = Outcome(batch_size=job.config.compute.batch_size)
    if not job.open():
        return nothing
    crew = _crew(job.config)
    try:
        return merge([nothing, *Watch(job, crew, Order.of(job, rebuild)).outcomes(what)])
    except BaseException:
        crew.end()
        raise
