"""What a run would be: plan. Its builders import torch, when a command is called and not before."""

from typing import TYPE_CHECKING

import click

from ..config import ConfigError
from ..overrides import compose_config, sweep
from ..places import place
from ..results.terminal import grid, wrapped
from .options import composed, overrides_only, searched

if TYPE_CHECKING:
    from ..engine.job import Job
    from ..launch import Run


def composed_run(words: list[str]) -> "Run":
    """The run that the words ask for, built; nothing is computed or written."""
    from ..launch import build_run

    config = compose_config(words)
    return build_run(config, place(config.results) / "store")


def _whole(_: click.Context, option: click.Parameter, text: str | None) -> int | None:
    """A whole number of at least 1, also as `1e9`."""
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = 0.5
    if not (number >= 1 and number.is_integer()):
        raise click.BadParameter(f"{text}: give a whole number of at least 1, as 50000 or 1e9", param=option)
    return int(number)


@click.command()
@composed()
@click.option("--images", callback=_whole, metavar="N", help="what so many images would take: 50000, 1e9")
@click.option("--workers", callback=_whole, default="1", metavar="N", help="shared by so many; with --images")
@click.option(
    "--measured",
    metavar="FILE",
    help="seconds of maps as in a table of bench/results, of another device; with --images",
)
def plan(words: list[str], images: int | None, workers: int, measured: str | None) -> int:
    """What a run would compute, and how long that would take.

    The cells, what is missing of them, and an estimate of the time; of each job of a sweep. With --images what all of
    it would take on so many images, whatever is there: hours, files and bytes.
    """
    from ..engine.determinism import make_deterministic

    if images is None and (measured or workers != 1):
        raise click.UsageError("--workers and --measured are about a fleet: say how many --images")
    for job in sweep(overrides_only(words)):
        made = composed_run([*searched(), *job])
        config = made.request.config
        make_deterministic(config.compute.threads)
        print(f"# {config.model.name} on {config.dataset.name}")
        print(*map(wrapped, made.describe()), sep="\n")
        print(_forecast(made) if images is None else _forecast_of_a_fleet(made, images, workers, measured))
    return 0


def _forecast(made: "Run") -> str:
    from ..attribution.run import AttributionRun

    return _forecast_of_maps(made.job) if isinstance(made, AttributionRun) else _forecast_of_passes(made)


def _forecast_of_passes(made: "Run") -> str:
    """Of detectors, which take little beside the passes over images."""
    from ..detectors.estimate import forward_seconds
    from ..detectors.run import DetectorRun

    assert isinstance(made, DetectorRun)
    milliseconds = 1000 * forward_seconds(made.detection)
    return wrapped(
        f"{made.detection.unseen()} images through the network, about {milliseconds:.1f} ms each in one process"
    )


def _forecast_of_a_fleet(made: "Run", images: int, workers: int, measured: str | None) -> str:
    from ..attribution.fleet import Fleet, lines, of_a_bench, of_earlier_runs
    from ..attribution.run import AttributionRun

    if not isinstance(made, AttributionRun):
        raise ConfigError("--images: of detectors the passes over images alone are timed, by plan without --images")
    job = made.job
    fleet = Fleet(images, workers, job.config.compute.shard_size)
    runs = place(job.config.results) / "runs"
    parts = of_a_bench(job, place(measured), fleet) if measured else of_earlier_runs(job, runs, fleet)
    rows = [
        (part.method, f"{1000 * part.seconds_per_image:.4g}", f"{part.seconds / 3600:,.4g}", part.source)
        for part in parts
    ]
    table = [grid(["method", "ms each", "hours", "from"], rows)] if rows else []
    return "\n".join([*table, *map(wrapped, lines(job, fleet, parts))])


def _forecast_of_maps(job: "Job") -> str:
    """A line a method that lacks something, and the sum."""
    from ..attribution.estimate import estimate
    from ..engine.processes import process_count
    from ..engine.rank import Rank

    parts = estimate(job, place(job.config.results) / "runs")
    rows = [
        (part.method, str(part.images), f"{1000 * part.seconds_per_image:.1f}", f"{part.seconds:.1f}", part.source)
        for part in parts
    ]
    processes = process_count(job, Rank.of(job.config.compute), len(job.missing()))
    total = sum(part.seconds for part in parts) / processes
    said = f"about {total:.0f} s with {processes} process{'es' * (processes > 1)}, and start-up"
    return "\n".join([*([grid(["method", "images", "ms each", "s", "from"], rows)] if rows else []), said])
