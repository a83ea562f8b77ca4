"""Which method to take: rank."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..arguments import again
from ..config import ConfigError
from ..overrides import compose_config, sweep
from ..places import place
from .options import composed, overrides_only, searched
from .planning import composed_run

if TYPE_CHECKING:
    import pandas as pd

    from ..results.ranking.significance import Ranking

KINDS = (".png", ".pdf", ".svg")


def _picture(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
    if path is not None and path.suffix not in KINDS:
        raise click.BadParameter(f"{path}: give a name that ends in {', '.join(KINDS)}")
    return path


@click.command()
@composed()
@click.option(
    "--where", "conditions", multiple=True, metavar="COLUMN=VALUE", help="of results.csv: only such rows (again)"
)
@click.option("--format", "kind", type=click.Choice(["csv", "json"]), help="print that instead of tables")
@click.option(
    "--picture",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=_picture,
    metavar="FILE",
    help="critical-difference diagrams: .png, .pdf or .svg",
)
def rank(words: list[str], conditions: tuple[str, ...], kind: str | None, picture: Path | None) -> int:
    """Mean ranks of methods over models, sets and seeds.

    Of all that is stored or, with overrides, of what such runs compute (sweeps too; of every seed, unless they name
    some). Friedman's test says whether the ranks are chance; pairs are tested with Holm's correction, where there are
    enough blocks for that. Detectors are ranked by one quantity at a time.
    """
    from ..results.ranking.told import text
    from ..store.files import write_atomically

    made = _rankings(words, conditions)
    print(_printed(made, kind) if kind else "\n\n".join(map(text, made)))
    if picture is not None:
        from ..results.ranking.diagram import picture as drawn

        write_atomically(picture.absolute(), drawn(made, picture.suffix))
        if not kind:
            print(f"picture: {picture.absolute()}")
    return 0


def _rankings(words: list[str], conditions: tuple[str, ...]) -> "list[Ranking]":
    """Raises ConfigError where there is nothing to rank."""
    from ..results.ranking.blocks import blocks
    from ..results.ranking.chosen import where
    from ..results.ranking.significance import ranking

    made = [*blocks(where(_rows(words), conditions))]
    empty = [f"{each.title}: {'; '.join(each.left_out)}" for each in made if each.losses.empty]
    if not made or len(empty) == len(made):
        why = "; ".join(empty) or "no two methods have a number of one quantity whose good direction is known"
        raise ConfigError(f"nothing to rank: {why}")
    return [ranking(each) for each in made if not each.losses.empty]


def _rows(words: list[str]) -> "pd.DataFrame":
    """Tidy rows of all that is stored, or of the runs that the words ask for."""
    from ..results.tidy import collect

    chosen = [word for word in overrides_only(words) if word not in searched() and not word.startswith("results=")]
    jobs = sweep(words)
    folder = place(compose_config([*searched(), *jobs[0]]).results)
    if not (folder / "store").is_dir():
        raise ConfigError(f"no results below {folder}: compute some with python run.py")
    frame = collect(folder)
    return of_configs(frame, jobs) if chosen else frame


def of_configs(results: "pd.DataFrame", jobs: list[list[str]]) -> "pd.DataFrame":
    """Rows of what the jobs of a sweep compute, of every seed that is stored unless they name theirs.

    Raises:
        ConfigError: some of it is not computed under any seed; or its network or images are not here, which say who
            it would be.
    """
    from ..results.ranking.chosen import Job, of_jobs

    made = []
    for words in jobs:
        seeds = [] if any(word.startswith("seed=") for word in words) else _seeds(results)
        runs = [composed_run([*searched(), *words, *seed]) for seed in seeds or [[]]]
        asked = tuple(each for run in runs for each in run.asked())
        made.append(Job(again(["run.py", *searched()], words, len(jobs) > 1), asked))
    return of_jobs(results, made)


def _seeds(results: "pd.DataFrame") -> list[list[str]]:
    """Words for each stored seed."""
    return [[f"seed={seed}"] for seed in sorted(set(map(int, results["seed"])))]


def _printed(made: "list[Ranking]", kind: str) -> str:
    """CSV, a row a method of a ranking, or JSON with the pairs."""
    import json

    import pandas as pd

    from ..results.ranking.told import mapping, records
    from ..results.tidy import csv_of

    if kind == "csv":
        return csv_of(pd.DataFrame([row for each in made for row in records(each)])).decode().rstrip("\n")
    return json.dumps([mapping(each) for each in made], indent=1, allow_nan=False)
