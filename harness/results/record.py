"""What a run leaves: its rows, the record of what happened, the rebuilt tidy tables, and a table to read."""

import errno
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ..arguments import without_variables
from ..engine.costs import SHARED, Cost, Outcome, Summary, peak_gpu_mb
from ..engine.processes import peak_memory_mb
from ..engine.rank import Rank
from ..engine.request import Request
from ..heads import Passes
from ..places import place
from ..store.damage import Incomplete
from ..store.files import write_atomically
from ..store.store import Group
from .composed import put_config
from .environment import environment
from .kept_rows import FILE, ROWS, mark
from .sinks.contract import Left
from .text import terminal_table
from .tidy import csv_of, own_rows, put_record, update
from .words import kept

READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


def finish(
    request: Request,
    run_id: str,
    summary: Summary,
    outcome: Outcome,
    overrides: list[str],
    started: float,
    again: str,
) -> Left:
    """Write a run's rows and record, bring the tidy tables up to date, print a small table and where it all is.

    again: the command that asks for the same; where there is none, one of its overrides is kept.
    The cells of the summary's groups may hold other runs' rows beside this run's. Returns what can be sent elsewhere.
    """
    results = place(request.config.results)
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f") + _worker(request)
    folder = results / "runs" / run_id
    about = {"split": " ".join(sorted(summary.splits)), **_record(request, outcome, summary, overrides, started)}
    rows = own_rows(summary)
    data = csv_of(rows)
    with _written_if_it_can_be(results, request.config.cache):
        put_record(results, run_id, moment, {**about, ROWS: mark(data)})
        asked = without_variables(again) if again else shlex.join(["python", "run.py", *overrides])
        put_config(request.config, asked, folder / f"{moment}.yaml")
        if outcome.costs and summary.draw is not None:
            summary.draw(folder)
        write_atomically(folder / FILE, data)
        update(results, locked=request.config.compute.coordination == "locks")
    floors = [name for name, chosen in request.config.method.items() if chosen.notes.get("floor")]
    print(terminal_table(rows, floors))
    for caution in summary.cautions:
        print(f"caution: {caution}")
    if outcome.unstable:
        print(f"caution: another run may differ in last bits; not deterministic: {', '.join(sorted(outcome.unstable))}")
    seconds = time.time() - started
    print(f"{outcome.shards} shards computed, {seconds:.1f} s; rows: {(folder / FILE).absolute()}")
    print(f"all results: {(results / 'tidy' / 'results.csv').absolute()}")
    return Left(f"{run_id}.{moment}", {"run_id": run_id, **about}, rows)


def check_rows(summary: Summary, rows: pd.DataFrame) -> None:
    """Raise Incomplete where the run's own rows lack a metric that has neither failed nor ended without any."""
    shown = {*zip(rows["cell_key"], rows["metric_key"], strict=True)}
    gone = [group for group in summary.groups if (group.cell.key, group.key) not in shown and not _has_ended(group)]
    if gone:
        raise Incomplete(
            f"{gone[0].path} has no rows (nor have {len(gone) - 1} others of this run): somebody has removed what was "
            "computed there, as gc does: run again"
        )


def _has_ended(group: Group) -> bool:
    return group.cell.exists() and group.key in group.cell.groups() and (group.has_failed or bool(group.stops()))


def _worker(request: Request) -> str:
    """What tells the records of workers apart that end at the same moment."""
    rank = Rank.of(request.config.compute)
    return "" if rank.locked else f"-worker{rank.number}"


@contextmanager
def _written_if_it_can_be(results: Path, cache: str) -> Iterator[None]:
    """What only reads the store (`cache=only`) goes on where nothing may be written."""
    try:
        yield
    except OSError as error:
        if cache != "only" or error.errno not in READ_ONLY:
            raise
        print(f"{results.absolute()} cannot be written ({error.strerror}): no record, and tables stay as they are")


def _record(
    request: Request, outcome: Outcome, summary: Summary, overrides: list[str], started: float
) -> dict[str, Any]:
    """Everything that happened to be true of this invocation; one entry a method."""
    config, device, failures = request.config, request.device, outcome.failures | summary.failures
    shared = outcome.costs.get(SHARED, Cost(passes=Passes()))
    return {
        "started": datetime.fromtimestamp(started, UTC).isoformat(),
        "wall_s": round(time.time() - started, 3),
        **environment(device),
        **_places(outcome),
        "model": config.model.name,
        "cut_by": request.network.cut_by,  # fx, export: what made the graph of the network's layers
        "dataset": config.dataset.name,
        "overrides": " ".join(kept(overrides)),
        "batch_size": outcome.batch_size,
        "forward_precision": config.forward_precision,
        "memory_format": config.compute.memory_format,
        "threads": config.compute.threads,
        "engine": config.compute.engine,
        "processes": str(config.compute.processes),
        "workers": config.compute.workers,
        "shared_wall_s": round(shared.wall_s, 4),
        "peak_memory_mb": round(peak_memory_mb() + sum(outcome.helpers_mb.values()), 1),
        "peak_gpu_memory_mb": round(outcome.gpu_mb if outcome.places else peak_gpu_mb(device), 1),
        "deterministic": torch.are_deterministic_algorithms_enabled() and not outcome.unstable,
        "methods": {
            name: {
                "method_wall_s": round(cost.wall_s, 4),
                "images": cost.images,
                "pairs": cost.pairs,
                "images_per_s": round(cost.images / cost.wall_s, 3) if cost.wall_s else None,
                "forward_passes": cost.passes.forward,
                "backward_passes": cost.passes.backward,
                "head_passes": cost.passes.head,
                "status": f"failed:{failures[name]}" if name in failures else "ok",
            }
            for name, cost in sorted(outcome.costs.items())
        },
    }


def _places(outcome: Outcome) -> dict[str, str]:
    """Host and device where something was computed, which may be workers' alone; several of either, by name."""
    named = (("host", {place.host for place in outcome.places}), ("device", {place.device for place in outcome.places}))
    return {name: ", ".join(sorted(values)) for name, values in named if values}
