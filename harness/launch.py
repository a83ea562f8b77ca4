"""One run from a composed config to a tidy table: plan, processes, summaries, record."""

import json
import multiprocessing as mp
import os
import queue
import resource
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from harness.collect import collect, joined, results_table, write_csv
from harness.config import ConfigError
from harness.evaluate import SHARED, Cost, Outcome, evaluate
from harness.network import Passes
from harness.plan import Cell, Job, build_job
from harness.report import terminal_table
from harness.repro import environment, make_deterministic
from harness.store import SAMPLES, write_json
from harness.types import ResultRow

NO_PAIRS = ResultRow("", "mean", None, 0, status="undefined:the protocol leaves no (image, class) pair")


class Rank(NamedTuple):
    """Which of several cooperating processes this is (torchrun's RANK and WORLD_SIZE)."""

    number: int
    world: int

    @classmethod
    def from_environment(cls) -> "Rank":
        """Rank 0 of 1 outside of torchrun."""
        return cls(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))


def run(config: DictConfig, overrides: list[str]) -> int:
    """Evaluate a config; returns the exit code (0, or 1 when something failed)."""
    started, rank = time.time(), Rank.from_environment()
    if rank.world > 1 and config.cache in ("refresh", "off"):
        raise ConfigError(
            f"cache={config.cache} under torchrun: the {rank.world} processes meet in the store, so they can neither "
            "clear it nor do without it; use cache=missing, with results=NEW_FOLDER to compute all anew"
        )
    _use_local_gpu(config)
    make_deterministic(config.compute.threads)
    if config.cache == "off":
        with tempfile.TemporaryDirectory(prefix="assay-") as scratch:
            return _run(config, overrides, Path(scratch), started, rank)
    return _run(config, overrides, Path(config.results) / "store", started, rank)


def _run(config: DictConfig, overrides: list[str], store_root: Path, started: float, rank: Rank) -> int:
    job = build_job(config, store_root)
    if rank.number == 0:
        print(*job.describe(), sep="\n", flush=True)
    if config.dry_run:
        return 0
    _refuse_to_compute(job)
    if rank.number == 0:
        _prepare(job)
    outcome = _evaluate(job, rank)
    if rank.number > 0:
        return int(bool(outcome.failures))
    for cell in job.cells:
        for metric in job.metrics:
            _summarise(job, cell, metric)
    _finish(job, outcome, overrides, started)
    for name, why in outcome.failures.items():
        print(f"FAILED {name}: {why}", file=sys.stderr)
    return int(any(cell.group(metric).failed.exists() for cell in job.cells for metric in cell.groups))


def _use_local_gpu(config: DictConfig) -> None:
    """Under torchrun every process takes the GPU of its local rank."""
    local = os.environ.get("LOCAL_RANK")
    if local is not None and config.compute.device in ("auto", "cuda") and torch.cuda.is_available():
        config.compute.device = f"cuda:{int(local) % torch.cuda.device_count()}"


def _refuse_to_compute(job: Job) -> None:
    """`cache=only`: nothing may be missing."""
    if job.config.cache == "only" and (missing := job.missing()):
        names = sorted({name for wanted in missing.values() for name in wanted})
        raise ConfigError(
            f"cache=only, but {len(missing)} of {len(job.shards)} shards are missing for {', '.join(names)}: "
            "run with cache=missing to compute them"
        )


def _prepare(job: Job) -> None:
    """Forget what `cache=refresh` asks to forget, and earlier failures: they are tried again."""
    for cell in job.cells:
        for metric in cell.groups:
            if job.config.cache == "refresh" and metric != SAMPLES:
                cell.group(metric).clear(job.stop)
            cell.group(metric).failed.unlink(missing_ok=True)


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


def _evaluate(job: Job, rank: Rank) -> Outcome:
    missing = job.missing()
    images = sum(shard.stop - shard.start for shard in missing)
    if not missing:
        return Outcome(batch_size=job.config.compute.batch_size)
    count = process_count(job, len(missing))
    context = mp.get_context("spawn")
    counter, results = context.Value("q", 0), context.Queue()
    arguments = (OmegaConf.to_container(job.config, resolve=True), str(job.cells[0].store.path.parent), os.getpid())
    others = [
        context.Process(target=_help, args=(*arguments, len(missing) * k // count, counter, results))
        for k in range(1, count)
    ]
    for process in others:
        process.start()
    with tqdm(total=images, unit="image", desc=job.run_id, disable=rank.number > 0, smoothing=0.1) as bar:

        def report(done: int) -> None:
            with counter.get_lock():
                counter.value += done
                bar.update(min(counter.value, images) - bar.n)

        outcome = evaluate(job, len(missing) * rank.number // rank.world, report)
        bar.update(images - bar.n)
    return _merge([outcome, *_results_of(others, results)])


def _results_of(others: list[Any], results: Any) -> list[Outcome]:
    """The outcomes of helper processes that ended well; what a dead one left was computed by the others."""
    outcomes = []
    while any(process.is_alive() for process in others) or not results.empty():
        try:
            outcomes.append(results.get(timeout=0.05))
        except queue.Empty:
            continue
    return outcomes


def _help(config: dict[str, Any], store_root: str, parent: int, first: int, counter: Any, results: Any) -> None:
    """A helper process: the same job, from another place in the list of shards."""
    made = OmegaConf.create(config)
    make_deterministic(made.compute.threads)
    made.dry_run = True  # identities are written by the parent
    job = build_job(made, Path(store_root))

    def report(done: int) -> None:
        with counter.get_lock():
            counter.value += done

    results.put(evaluate(job, first, report, parent))


def _merge(outcomes: list[Outcome]) -> Outcome:
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


def sample_table(cell: Cell, metric: str, stop: int) -> pd.DataFrame:
    """The per-sample table of one metric: who each pair is, and the metric's columns."""
    return joined(cell.group(SAMPLES).read(stop), cell.group(metric).read(stop))


def _summarise(job: Job, cell: Cell, metric: str) -> None:
    """Aggregate a metric whose shards are all present; its DONE marker holds the rows and comes last."""
    group = cell.group(metric)
    if group.failed.exists() or group.missing(job.shards):
        return
    table = sample_table(cell, metric, job.stop)
    made = job.metrics[metric].summarize(table) if len(table) else [NO_PAIRS]
    rows = [asdict(row) for row in made]
    marker = group.done(job.stop)
    value = {"run_id": job.run_id, "split": job.split, "rows": rows}
    if not marker.exists() or json.loads(marker.read_text())["rows"] != rows:
        write_json(marker, value)


def _finish(job: Job, outcome: Outcome, overrides: list[str], started: float) -> None:
    """Write this run's rows and record, rebuild the tidy tables, print a small table and where it all is."""
    results = Path(job.config.results)
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    folder = results / "runs" / job.run_id
    write_json(folder / f"{moment}.json", _record(job, outcome, overrides, started))
    frame = results_table([cell.store for cell in job.cells])
    frame = frame[frame.metric.isin(list(job.metrics)) & frame.split.isin([job.split, ""])]
    write_csv(frame, folder / "results.csv")
    collect(results)
    print(terminal_table(frame))
    seconds = time.time() - started
    print(f"{outcome.shards} shards computed, {seconds:.1f} s; rows: {(folder / 'results.csv').absolute()}")
    print(f"all results: {(results / 'tidy' / 'results.csv').absolute()}")


def _record(job: Job, outcome: Outcome, overrides: list[str], started: float) -> dict[str, Any]:
    """Everything that happened to be true of this invocation; one entry a method."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    gpu = torch.cuda.max_memory_allocated(job.device) / 2**20 if job.device.type == "cuda" else 0.0
    shared = outcome.costs.get(SHARED, Cost(passes=Passes()))
    return {
        "run_id": job.run_id,
        "started": datetime.fromtimestamp(started, UTC).isoformat(),
        "wall_s": round(time.time() - started, 3),
        **environment(job.device),
        "model": job.config.model.name,
        "dataset": job.config.dataset.name,
        "split": job.split,
        "overrides": " ".join(overrides),
        "batch_size": outcome.batch_size,
        "threads": job.config.compute.threads,
        "processes": str(job.config.compute.processes),
        "workers": job.config.compute.workers,
        "shared_wall_s": round(shared.wall_s, 4),
        "peak_memory_mb": round(usage.ru_maxrss / 1024, 1),
        "peak_gpu_memory_mb": round(gpu, 1),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "methods": {
            name: {
                "method_wall_s": round(cost.wall_s, 4),
                "images": cost.images,
                "pairs": cost.pairs,
                "images_per_s": round(cost.images / cost.wall_s, 3) if cost.wall_s else None,
                "forward_passes": cost.passes.forward,
                "backward_passes": cost.passes.backward,
                "head_passes": cost.passes.head,
                "status": f"failed:{outcome.failures[name]}" if name in outcome.failures else "ok",
            }
            for name, cost in sorted(outcome.costs.items())
        },
    }
