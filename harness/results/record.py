"""What a run leaves: its rows, the record of what happened, the rebuilt tidy tables, and a table to read."""

import resource
import time
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from ..engine.costs import SHARED, Cost, Outcome
from ..heads import Passes
from ..store.store import CellStore, Group, write_json
from .environment import environment
from .text import terminal_table
from .tidy import collect, results_table, write_csv


def finish(
    config: DictConfig,
    run_id: str,
    groups: Collection[Group],
    splits: Collection[str],
    outcome: Outcome,
    overrides: list[str],
    started: float,
    device: torch.device,
) -> None:
    """Write a run's rows and record, rebuild the tidy tables, print a small table and where it all is.

    groups: where this run's rows are; a cell may hold other runs' rows beside them. splits: parts of the data sets,
        in slice notation, whose rows belong to this run.
    """
    results = Path(config.results)
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    folder = results / "runs" / run_id
    about = _record(config, outcome, overrides, started, device)
    write_json(folder / f"{moment}.json", {"run_id": run_id, "split": " ".join(sorted(splits)), **about})
    keys = {(group.path.parent.name, group.path.name) for group in groups}
    frame = results_table([CellStore(path.parent, path.name) for path in sorted({g.path.parent for g in groups})])
    ours = [pair in keys for pair in zip(frame.cell_key, frame.metric_key, strict=True)]
    frame = frame[np.array(ours, dtype=bool) & frame.split.isin([*splits, ""])]
    write_csv(frame, folder / "results.csv")
    collect(results)
    print(terminal_table(frame))
    seconds = time.time() - started
    print(f"{outcome.shards} shards computed, {seconds:.1f} s; rows: {(folder / 'results.csv').absolute()}")
    print(f"all results: {(results / 'tidy' / 'results.csv').absolute()}")


def _record(
    config: DictConfig, outcome: Outcome, overrides: list[str], started: float, device: torch.device
) -> dict[str, Any]:
    """Everything that happened to be true of this invocation; one entry a method."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    gpu = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else 0.0
    shared = outcome.costs.get(SHARED, Cost(passes=Passes()))
    return {
        "started": datetime.fromtimestamp(started, UTC).isoformat(),
        "wall_s": round(time.time() - started, 3),
        **environment(device),
        "model": config.model.name,
        "dataset": config.dataset.name,
        "overrides": " ".join(overrides),
        "batch_size": outcome.batch_size,
        "threads": config.compute.threads,
        "processes": str(config.compute.processes),
        "workers": config.compute.workers,
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
