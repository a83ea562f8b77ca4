"""What methods say of a data set's images: gallery, samples, maps."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..config import ConfigError
from ..overrides import compose_config
from ..places import place
from .options import composed, overrides_only

if TYPE_CHECKING:
    from ..engine.job import Job

PICTURES = (".png", ".pdf", ".svg")  # what a gallery may be written as

MOST = 10**9  # images that are asked for

images = click.option("--images", type=click.IntRange(1, MOST), default=10, metavar="N", help="how many (default: 10)")


def job_of(words: list[str]) -> "Job":
    """The job that overrides compose to, on a torch that computes the same each time."""
    from ..attribution.plan import build_job
    from ..engine.determinism import make_deterministic

    config = compose_config(overrides_only(words))
    make_deterministic(config.compute.threads)
    return build_job(config, place(config.results) / "store")


def _subject(job: "Job") -> str:
    from ..attribution.maps import file_name

    return file_name(f"{job.config.model.name}-{job.config.dataset.name}")  # a network's may be OWNER/NAME


@click.command()
@composed()
@images
@click.option(
    "--classes", type=click.IntRange(1, MOST), default=1, metavar="N", help="of an image, at most (default: 1)"
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="picture (default: <results>/report/gallery-MODEL-DATASET.png)",
)
def gallery(words: list[str], images: int, classes: int, out: Path | None) -> int:
    """Maps drawn over images: a row an image, a column a method.

    With --classes a row for each class of an image. The exit code is 1 when a method failed; the others are drawn.
    """
    from ..attribution.gallery import draw_gallery

    if out is not None and out.suffix not in PICTURES:
        raise ConfigError(f"--out {out}: give a name that ends in {', '.join(PICTURES)}")
    job = job_of(words)
    path = out or place(job.config.results) / "report" / f"gallery-{_subject(job)}.png"
    made = draw_gallery(job, path, images, classes)
    print(f"{made.images} images: {path.absolute()}" if made.images else "nothing was drawn")
    return failed(made.failures)


@click.command()
@composed()
def samples(words: list[str]) -> int:
    """Samples for the report: each method's best and worst ones.

    And those on which it departs from the others, each drawn under all methods. After a run with the same settings.
    The exit code is 1 when a method failed; the others are drawn.
    """
    from ..attribution.run import AttributionRun
    from ..attribution.samples import picture_samples

    job = job_of(words)
    made = picture_samples(job, place(job.config.results) / "report", AttributionRun(job).run_id)
    print(f"{made.samples} samples: {made.path.absolute()}; python -m harness report shows them")
    return failed(made.failures)


@click.command()
@composed()
@images
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="default: <results>/maps/MODEL-DATASET",
)
@click.option("--format", "formats", default="npz,png", show_default=True, help="npz, png or both")
def maps(words: list[str], images: int, out: Path | None, formats: str) -> int:
    """Maps as files: numbers (npz) and pictures (png).

    The exit code is 1 when a method failed; the others' maps are written.
    """
    from ..attribution.maps import check_formats, export_maps

    kinds = formats.split(",")
    check_formats(kinds)
    job = job_of(words)
    folder = out or place(job.config.results) / "maps" / _subject(job)
    made = export_maps(job, folder, images, kinds)
    print(f"{made.maps} maps of {made.images} images: {folder.absolute()}")
    return failed(made.failures)


def failed(failures: dict[str, str]) -> int:
    """The exit code, after a line for each that failed."""
    for name, why in failures.items():
        print(f"FAILED {name}: {why}", file=sys.stderr)
    return int(bool(failures))
