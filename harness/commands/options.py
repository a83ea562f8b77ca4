"""Arguments and options that commands share; each command takes those that it obeys."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from ..places import NoPlace, place, reach

Handler = Callable[..., int]
FOLDER_KEY = "assay.config_dir"  # of click's notes about a call


def results(default: str = "results") -> Callable[[Handler], Handler]:
    """`--results`, of a command that reads what runs have left."""
    return click.option(
        "--results",
        default=default,
        metavar="FOLDER",
        callback=_folder,
        help=f"default: {default}",
    )


def _folder(_: click.Context, __: click.Parameter, results: str | None) -> Path | None:
    from ..reading import check_folder  # it imports Hydra: not for --help

    if results is None:
        return None
    check_folder(results)
    try:
        reach(place(results))
    except NoPlace as error:
        raise click.BadParameter(f"{error}: look at the credentials and the endpoint") from error
    return place(results)


def composed(metavar: str = "[KEY=VALUE]...") -> Callable[[Handler], Handler]:
    """Overrides as for run.py, of a command that composes a config; `--results X` is the override `results=X`.

    The command is called with `words`: what stands on the command line, and overrides for the options.
    """

    def decorate(handler: Handler) -> Handler:
        @click.argument("words", nargs=-1, metavar=metavar)
        @click.option("--results", metavar="FOLDER", help="the same as results=FOLDER")
        @wraps(handler)
        def command(words: tuple[str, ...], results: str | None, **options: Any) -> int:
            return handler([*searched(), *words, *_results_of(words, results)], **options)

        return command

    return decorate


def _results_of(words: tuple[str, ...], results: str | None) -> list[str]:
    if results is None:
        return []
    if given := [word for word in words if word.startswith("results=")]:
        raise click.UsageError(f"--results {results} and {given[0]}: give one of the two")
    return [f"results={results}"]


def overrides_only(words: list[str]) -> list[str]:
    """The words, which must all be overrides.

    Raises:
        click.UsageError: one is not.
    """
    for word in words:
        if "=" not in word and not word.startswith("~"):
            raise click.UsageError(f"{word!r} is no override: write KEY=VALUE, as for run.py")
    return words


def searched() -> list[str]:
    """The words that make the folder of `--config-dir` known to who composes a config."""
    folder = added_folder()
    return [] if folder is None else [f"--config-dir={folder}"]


def added_folder() -> str | None:
    """The folder of `--config-dir`."""
    folder = click.get_current_context().meta.get(FOLDER_KEY)
    return None if folder is None else str(folder)


def everywhere() -> list[click.Parameter]:
    """What every command takes."""
    return [
        click.Option(
            ["--config-dir", "-cd"],
            metavar="FOLDER",
            type=click.Path(exists=True, file_okay=False, path_type=Path),
            callback=_search,
            expose_value=False,
            help="find configs there, too",
        ),
        click.Option(
            ["--allow-target"],
            metavar="PREFIX",
            multiple=True,
            callback=_allow,
            expose_value=False,
            help="let configs name classes of your own package",
        ),
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_version,
            help="print the versions of Assay and torch, and stop",
        ),
    ]


def _search(context: click.Context, _: click.Parameter, folder: Path | None) -> None:
    if folder is not None:
        context.meta[FOLDER_KEY] = folder.absolute()


def _allow(_: click.Context, __: click.Parameter, prefixes: tuple[str, ...]) -> None:
    if not all(prefixes):
        raise click.BadParameter("give a package's prefix, for example my_methods.")
    if prefixes:
        from ..arguments import take_allow_flag  # it imports Hydra: not for --help

        take_allow_flag([f"--allow-target={prefix}" for prefix in prefixes])


def _version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        from assay.version import __version__

        click.echo(f"assay {__version__}, torch {metadata.version('torch')}")
        context.exit()
