"""Results for other places: publish, export."""

from pathlib import Path

import click

from ..arguments import options_again
from ..config import ConfigError
from ..console import FAILED
from ..overrides import compose_config
from ..places import place
from .options import added_folder, composed, results, searched


@click.command()
@composed("[RECORD]... [KEY=VALUE]...")
def publish(words: list[str]) -> int:
    """Send results to MLflow or Weights & Biases.

    What a run with sink=[NAME] does at its end, later. A RECORD is one of runs.csv (default: the last one of each
    run). The exit code is 1 when something could not be sent.
    """
    from ..engine.request import build_all
    from ..results.sinks.sending import Later, left_by, records, send

    named = [word for word in words if "=" not in word and not word.startswith(("~", "-"))]
    settings = [word for word in words if word not in named]
    config = compose_config(settings)
    if not config.sink:
        raise ConfigError("no sink chosen: sink=[NAME] (python -m harness ls sink)")
    folder = place(config.results)
    wanted = records(folder, named)
    sinks = build_all(config.sink)
    failed = list[str]()
    for left in left_by(folder, wanted):
        failed += send(sinks, left, Later(config.results, settings, options_again(added_folder())))
    return FAILED if failed else 0


@click.command()
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False), required=False, metavar="[OUT.zip]")
@click.option("--samples", is_flag=True, help="also the per-sample tables behind the numbers")
@click.option("--anonymous", is_flag=True, help="for double-blind review: no hosts, no commits, nobody's name")
@click.option("--allow", multiple=True, metavar="WORD", help="a word that is no name there, after a refusal (again)")
@results()
def export(out: Path | None, samples: bool, anonymous: bool, allow: tuple[str, ...], results: Path) -> int:
    """One file for a paper's supplement: tables, report, environment.

    Tables that have numbers of ours, the report, tidy results, configs, versions, and how all of it was made. Equal
    results give equal bytes. OUT.zip is <results>/assay-results.zip if not given.
    """
    from ..arguments import config_folders
    from ..results.bundle.archive import write_archive
    from ..results.bundle.contents import Asked, contents
    from ..results.floors import floors

    if out is not None and out.suffix != ".zip":
        raise ConfigError(f"{out}: give a name that ends in .zip")
    files = contents(Asked(results, floors(config_folders(searched())), samples, anonymous, allow))
    path = out or results / "assay-results.zip"
    write_archive(files, path)
    print(f"{len(files) + 1} files, {path.stat().st_size / 1e6:.1f} MB: {path.absolute()}")
    return 0
