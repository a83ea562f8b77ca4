"""What runs have left: status, collect, compare, table, check, report, gc."""

import time
from pathlib import Path

import click

from ..config import ConfigError
from ..results.terminal import wrapped
from .options import results


@click.command()
@results()
def status(results: Path) -> int:
    """What the store holds: cells, their images and metrics."""
    from ..results.overview import overview

    print(overview(results / "store"))
    return 0


@click.command()
@results()
def collect(results: Path) -> int:
    """Rebuild the tidy tables from the store."""
    from ..results.tidy import collect

    frame = collect(results)
    print(f"{len(frame)} rows: {(results / 'tidy' / 'results.csv').absolute()}")
    return 0


@click.command()
@click.argument("first")
@click.argument("second")
@results()
def compare(first: str, second: str, results: Path) -> int:
    """Paired differences of two methods, with intervals.

    FIRST and SECOND are methods, or beginnings of cell keys.
    """
    from ..results.compare import compare
    from ..results.text import differences

    frame = compare(results / "store", first, second)
    print(wrapped(f"{first} - {second}, 95 % intervals"), differences(frame), sep="\n")
    return 0


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--format", "kind", type=click.Choice(["md", "csv", "tex"]), help="also print them")
@results()
def table(names: tuple[str, ...], kind: str | None, results: Path) -> int:
    """The papers' tables, ours beside the published figures.

    A cell is: ours ± half of its interval | reported | difference | n. NAME is a file of conf/table (default: all).
    """
    from ..results import tables

    for made in tables.regenerate(names, results):
        print(tables.render(made, kind) if kind else tables.summary(made, results))
    return 0


@click.command()
@click.option(
    "--baseline",
    type=click.Path(path_type=Path),
    default="results/baselines/embedded.csv",
    metavar="FILE",
    show_default=True,
    help="what to compare with",
)
@click.option("--update", is_flag=True, help="make the results the baseline; refuses failed rows")
@click.option("--junit", type=click.Path(path_type=Path), metavar="FILE", help="write a JUnit XML report")
@click.option("--markdown", type=click.Path(path_type=Path), metavar="FILE", help="write a Markdown summary")
@results("results/check")
def check(baseline: Path, update: bool, junit: Path | None, markdown: Path | None, results: Path) -> int:
    """An embedded run against the committed baseline.

    What changed is named; exit codes: 0 same, 1 changed (better is a change too), 2 cannot compare, 3 missing or
    failed rows.
    """
    from ..results import gate
    from ..store.files import write_atomically

    if update:
        print(gate.update(baseline, results))
        return gate.SAME
    made = gate.check(baseline, results)
    for path, text in [(junit, gate.junit(made)), (markdown, gate.markdown(made).encode())]:
        if path:
            write_atomically(path, text)
    print(*gate.lines(made), sep="\n")  # a finding a line, however long: logs are searched
    return made.code


@click.command()
@results()
def report(results: Path) -> int:
    """Charts, and one page with all of them."""
    from ..results.page import write_report
    from ..results.tidy import collect

    frame = collect(results)
    if frame.empty:
        raise ConfigError(f"no results below {results.absolute()}: compute some with python run.py")
    print(f"report: {write_report(frame, results / 'report').absolute()}")
    return 0


@click.command()
@click.option("--yes", is_flag=True, help="really remove")
@click.option("--unfinished", is_flag=True, help="also cells without any finished metric")
@click.option("--features", is_flag=True, help="also cached features and fits; scores stay")
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    metavar="DAYS",
    help="also cells, and of caches only those, of longer ago",
)
@results()
def gc(yes: bool, unfinished: bool, features: bool, older_than: float | None, results: Path) -> int:
    """Remove leftovers of killed runs and, if asked, old cells.

    On request also cells that are unfinished or old, and cached features. Nothing goes without --yes.
    """
    from ..store.files import remove_leftovers
    from ..store.garbage import find

    root = results / "store"
    horizon = None if older_than is None else time.time() - 86400 * older_than
    leftovers = remove_leftovers(root) if yes else 0  # first: an abandoned lock protects nothing
    doomed = find(root, unfinished, features, horizon)
    for each in doomed:
        print(f"{'removing' if yes else 'would remove'} {each.path.stem} ({each.what})")
        if yes:
            each.remove()
    print(f"{len(doomed)} found, {leftovers} leftovers" + ("" if yes else "; nothing removed: add --yes"))
    return 0
