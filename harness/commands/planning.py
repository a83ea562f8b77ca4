"""What a run would be: plan. Its builders import torch, when a command is called and not before."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..overrides import compose_config, sweep
from ..results.terminal import grid, wrapped
from .options import composed, overrides_only, searched

if TYPE_CHECKING:
    from ..engine.job import Job
    from ..launch import Run


def composed_run(words: list[str]) -> "Run":
    """The run that the words ask for, built; nothing is computed or written."""
    from ..launch import build_run

    config = compose_config(words)
    return build_run(config, Path(config.results) / "store")


@click.command()
@composed()
def plan(words: list[str]) -> int:
    """What a run would compute, and how long that would take.

    The cells, what is missing of them, and an estimate of the time; of each job of a sweep.
    """
    from ..engine.determinism import make_deterministic

    for job in sweep(overrides_only(words)):
        made = composed_run([*searched(), *job])
        config = made.request.config
        make_deterministic(config.compute.threads)
        print(f"# {config.model.name} on {config.dataset.name}")
        print(*map(wrapped, made.describe()), sep="\n")
        print(_forecast(made))
    return 0


def _forecast(made: "Run") -> str:
    from ..attribution.run import AttributionRun
    from ..detectors.estimate import forward_seconds
    from ..detectors.run import DetectorRun

    if isinstance(made, AttributionRun):
        return _forecast_of_maps(made.job)
    assert isinstance(made, DetectorRun)
    milliseconds = 1000 * forward_seconds(made.detection)
    return wrapped(
        f"{made.detection.unseen()} images through the network, about {milliseconds:.1f} ms each in one process"
    )


def _forecast_of_maps(job: "Job") -> str:
    """A line a method that lacks something, and the sum."""
    from ..attribution.estimate import estimate
    from ..engine.processes import process_count

    parts = estimate(job, Path(job.config.results) / "runs")
    rows = [
        (part.method, str(part.images), f"{1000 * part.seconds_per_image:.1f}", f"{part.seconds:.1f}", part.source)
        for part in parts
    ]
    processes = process_count(job, len(job.missing()))
    total = sum(part.seconds for part in parts) / processes
    said = f"about {total:.0f} s with {processes} process{'es' * (processes > 1)}, and start-up"
    return "\n".join([*([grid(["method", "images", "ms each", "s", "from"], rows)] if rows else []), said])
