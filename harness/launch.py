"""One run from a composed config to a tidy table: plan, processes, summaries, record."""

import json
import os
import sys
import tempfile
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf

from .attribution.plan import build_job
from .config import ConfigError
from .detectors.plan import detects
from .detectors.run import run_detectors
from .engine.determinism import make_deterministic
from .engine.job import Cell, Job
from .engine.processes import Rank, compute
from .results.record import finish
from .results.tidy import joined
from .store.store import SAMPLES, write_json
from .types import ResultRow

NO_PAIRS = ResultRow("", "mean", None, 0, status="undefined:the protocol leaves no (image, class) pair")


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
    start = run_detectors if detects(config) else run_attribution
    if config.cache == "off":
        with tempfile.TemporaryDirectory(prefix="assay-") as scratch:
            return start(config, overrides, Path(scratch), started, rank)
    return start(config, overrides, Path(config.results) / "store", started, rank)


def run_attribution(config: DictConfig, overrides: list[str], store_root: Path, started: float, rank: Rank) -> int:
    """Attribute and measure what is missing, summarise, and write the tables; returns the exit code."""
    job = build_job(config, store_root)
    if rank.number == 0:
        print(*job.describe(), sep="\n", flush=True)
    if config.dry_run:
        return 0
    _refuse_to_compute(job)
    if rank.number == 0:
        _prepare(job)
    resolved: Any = OmegaConf.to_container(config, resolve=True)
    outcome = compute(job, rank, partial(_rebuild, resolved, store_root), job.run_id)
    if rank.number > 0:
        return int(bool(outcome.failures))
    for cell in job.cells:
        summarise(job, cell)
    groups = [cell.group(metric) for cell in job.cells for metric in job.metrics]
    finish(config, job.run_id, groups, [job.split], outcome, overrides, started, job.device)
    for name, why in outcome.failures.items():
        print(f"FAILED {name}: {why}", file=sys.stderr)
    return int(any(cell.group(metric).failed.exists() for cell in job.cells for metric in cell.groups))


def _rebuild(config: dict[str, Any], store_root: Path) -> Job:
    """The same job in a helper process; identities are written by the parent."""
    return build_job(OmegaConf.create({**config, "dry_run": True}), store_root)


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


def summarise(job: Job, cell: Cell) -> None:
    """Aggregate the metrics whose shards are all present; a DONE marker holds a metric's rows and comes last."""
    samples: pd.DataFrame | None = None
    for name, metric in job.metrics.items():
        group = cell.group(name)
        if group.failed.exists() or group.missing(job.shards):
            continue
        samples = cell.group(SAMPLES).read(job.stop) if samples is None else samples
        table = joined(samples, group.read(job.stop))
        made = metric.summarize(table) if len(table) else [NO_PAIRS]
        rows = [asdict(row) for row in made]
        marker = group.done(job.stop)
        if not marker.exists() or json.loads(marker.read_text())["rows"] != rows:
            write_json(marker, {"run_id": job.run_id, "split": job.split, "rows": rows})
