"""Which method to take: rank."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..config import ConfigError
from ..overrides import compose_config, sweep
from ..places import place
from .options import composed, overrides_only, searched

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
    from ..results.ranking.chosen import of_configs
    from ..results.tidy import collect

    chosen = [word for word in overrides_only(words) if word not in searched() and not word.startswith("results=")]
    configs = [compose_config([*searched(), *job]) for job in sweep(words)]
    folder = place(configs[0].results)
    if not (folder / "store").is_dir():
        raise ConfigError(f"no results below {folder}: compute some with python run.py")
    frame = collect(folder)
    return of_configs(frame, configs, any(word.startswith("seed=") for word in chosen)) if chosen else frame


def _printed(made: "list[Ranking]", kind: str) -> str:
    """CSV, a row a method of a ranking, or JSON with the pairs."""
    import json

    import pandas as pd

    from ..results.ranking.told import mapping, records
    from ..results.tidy import csv_of

    if kind == "csv":
        return csv_of(pd.DataFrame([row for each in made for row in records(each)])).decode().rstrip("\n")
    return json.dumps([mapping(each) for each in made], indent=1, allow_nan=False)
