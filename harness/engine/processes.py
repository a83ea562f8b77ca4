"""The processes of one run: they share a job's missing shards through locks, and each says what it did."""

import multiprocessing as mp
import os
import platform
import queue
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from tqdm import tqdm

from .costs import Outcome, merge
from .determinism import make_deterministic, watched
from .evaluate import Report, evaluate
from .job import Job
from .rank import Rank
from .turns import Turns

Rebuild = Callable[[], Job]  # makes the same job in another process
LAST_WORDS_S = 0.5  # what helpers get to stop their loaders when a run is interrupted


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def process_count(job: Job, rank: Rank, todo: int) -> int:
    """Processes of this run: `auto` is one a core (its threads apart) on the CPU, one on a GPU or under torchrun."""
    wanted = job.config.compute.processes
    if wanted == "auto":
        alone = job.device.type == "cuda" or (rank.locked and rank.world > 1)
        wanted = 1 if alone else cores() // job.config.compute.threads
    return max(1, min(int(wanted), todo))


def peak_memory_mb() -> float:
    """Of this process, so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def own_peak() -> dict[str, float]:
    """The same under the process' name: who is told of it twice counts it once."""
    return {f"{platform.node()} {os.getpid()}": peak_memory_mb()}


def compute(job: Job, rank: Rank, rebuild: Rebuild, what: str) -> Outcome:
    """Evaluate what is missing of a job, in as many processes as the config asks for.

    rebuild: makes the job anew in a helper process; it is pickled. what: shown beside the progress bar.
    """
    missing = list(job.open())
    if not missing:
        return Outcome(batch_size=job.config.compute.batch_size)
    images = sum(shard.stop - shard.start for shard in missing)
    count = process_count(job, rank, len(missing))
    turns, *theirs = rank.turns(count)
    with _helpers(rebuild, job.config.compute.threads, theirs) as helpers:
        with tqdm(total=images, unit="image", desc=what, disable=rank.number > 0, smoothing=0.1) as bar:
            report = _shown(helpers.counter, bar)
            outcome = evaluate(job, turns, report)
            bar.update(images - bar.n)
        return merge([outcome, *helpers.outcomes()])


def _shown(counter: Any, bar: Any) -> Report:
    """Reports to the bar what all processes have done together."""

    def report(done: int) -> None:
        with counter.get_lock():
            counter.value += done
            bar.update(min(counter.value, bar.total) - bar.n)

    return report


class _Helpers(NamedTuple):
    """Helper processes, where they count images, and where they leave what they did."""

    processes: list[Any]
    counter: Any
    results: Any

    def outcomes(self) -> list[Outcome]:
        """The outcomes of those that ended well; what a dead one left was computed by the others."""
        outcomes = []
        while any(process.is_alive() for process in self.processes) or not self.results.empty():
            try:
                outcomes.append(self.results.get(timeout=0.05))
            except queue.Empty:
                continue
        return outcomes

    def stop(self) -> None:
        """End them now: their locks die with them, what they have written stays."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.join(LAST_WORDS_S)
            process.kill()


@contextmanager
def _helpers(rebuild: Rebuild, threads: int, turns: list[Turns]) -> Iterator[_Helpers]:
    """Processes that evaluate the same job, each in its turns; gone when the block fails."""
    context = mp.get_context("spawn")
    counter, results = context.Value("q", 0), context.Queue()
    common = (rebuild, threads, os.getpid(), counter, results)
    helpers = _Helpers([context.Process(target=_help, args=(*common, each)) for each in turns], counter, results)
    try:
        with _interrupts_ignored():  # Ctrl-C reaches the whole group: helpers leave it to us to end them
            for process in helpers.processes:
                process.start()
        yield helpers
    except BaseException:
        helpers.stop()
        raise


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """For this process, and for good in those that are started meanwhile."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _help(rebuild: Rebuild, threads: int, parent: int, counter: Any, results: Any, turns: Turns) -> None:
    """A helper process: the same job, other shards first."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that its loader processes end with it
    make_deterministic(threads)

    def report(done: int) -> None:
        with counter.get_lock():
            counter.value += done

    with watched() as unstable:
        outcome = evaluate(rebuild(), turns, report, parent)
    outcome.helpers_mb = own_peak()
    outcome.unstable = unstable
    results.put(outcome)
