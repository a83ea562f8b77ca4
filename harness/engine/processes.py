"""The processes of one run: they share a job's missing shards through locks, and each says what it did."""

import multiprocessing as mp
import os
import queue
from collections.abc import Callable
from typing import Any, NamedTuple

from tqdm import tqdm

from .costs import Cost, Outcome
from .determinism import make_deterministic
from .evaluate import evaluate
from .job import Job

Rebuild = Callable[[], Job]  # makes the same job in another process


class Rank(NamedTuple):
    """Which of several cooperating processes this is (torchrun's RANK and WORLD_SIZE)."""

    number: int
    world: int

    @classmethod
    def from_environment(cls) -> "Rank":
        """Rank 0 of 1 outside of torchrun."""
        return cls(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def process_count(job: Job, todo: int) -> int:
    """Processes of this run: `auto` is one a core (its threads apart) on the CPU, one on a GPU or under torchrun."""
    wanted = job.config.compute.processes
    if wanted == "auto":
        alone = job.device.type == "cuda" or Rank.from_environment().world > 1
        wanted = 1 if alone else cores() // int(job.config.compute.threads)
    return max(1, min(int(wanted), todo))


def compute(job: Job, rank: Rank, rebuild: Rebuild, what: str) -> Outcome:
    """Evaluate what is missing of a job, in as many processes as the config asks for.

    rebuild: makes the job anew in a helper process; it is pickled. what: shown beside the progress bar.
    """
    missing = job.missing()
    images = sum(shard.stop - shard.start for shard in missing)
    if not missing:
        return Outcome(batch_size=job.config.compute.batch_size)
    count = process_count(job, len(missing))
    context = mp.get_context("spawn")
    counter, results = context.Value("q", 0), context.Queue()
    arguments = (rebuild, int(job.config.compute.threads), os.getpid())
    others = [
        context.Process(target=_help, args=(*arguments, len(missing) * k // count, counter, results))
        for k in range(1, count)
    ]
    for process in others:
        process.start()
    with tqdm(total=images, unit="image", desc=what, disable=rank.number > 0, smoothing=0.1) as bar:

        def report(done: int) -> None:
            with counter.get_lock():
                counter.value += done
                bar.update(min(counter.value, images) - bar.n)

        outcome = evaluate(job, len(missing) * rank.number // rank.world, report)
        bar.update(images - bar.n)
    return merge([outcome, *_results_of(others, results)])


def _results_of(others: list[Any], results: Any) -> list[Outcome]:
    """The outcomes of helper processes that ended well; what a dead one left was computed by the others."""
    outcomes = []
    while any(process.is_alive() for process in others) or not results.empty():
        try:
            outcomes.append(results.get(timeout=0.05))
        except queue.Empty:
            continue
    return outcomes


def _help(rebuild: Rebuild, threads: int, parent: int, first: int, counter: Any, results: Any) -> None:
    """A helper process: the same job, from another place in the list of shards."""
    make_deterministic(threads)
    job = rebuild()

    def report(done: int) -> None:
        with counter.get_lock():
            counter.value += done

    results.put(evaluate(job, first, report, parent))


def merge(outcomes: list[Outcome]) -> Outcome:
    """What several processes, or several jobs, did together."""
    merged = Outcome(batch_size=min(outcome.batch_size for outcome in outcomes))
    for outcome in outcomes:
        merged.shards += outcome.shards
        merged.failures.update(outcome.failures)
        for name, cost in outcome.costs.items():
            total = merged.costs.setdefault(name, Cost())
            total.wall_s += cost.wall_s
            total.images += cost.images
            total.pairs += cost.pairs
            total.passes += cost.passes
    return merged
