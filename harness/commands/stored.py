"""What runs have left: status, collect, compare, table, check, report, gc."""

import math
import sys
import time
from pathlib import Path

import click

from ..config import ConfigError
from ..console import FAILED
from ..places import is_remote
from ..results.terminal import wrapped
from ..store import damage
from .options import results, searched


@click.command()
@results()
def status(results: Path) -> int:
    """What the store holds, and which jobs failed.

    Cells, their images and metrics; of each failed job why, the command that does it again, and the file with its
    traceback.
    """
    from ..results.jobs import failed_jobs
    from ..results.overview import listed, overview

    print(overview(results / "store"))
    for line in listed(failed_jobs(results)):
        print(line)
    return 0


@click.command()
@results()
def collect(results: Path) -> int:
    """Rebuild the tidy tables from the store."""
    from ..results.tidy import collect

    if not (results / "store").is_dir():
        raise ConfigError(f"no results below {results.absolute()}: compute some with python run.py")
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
    from ..results.compare import compare, left_out
    from ..results.text import differences

    frame = compare(results / "store", first, second)
    print(wrapped(f"{first} - {second}, 95 % intervals"), differences(frame), sep="\n")
    if names := left_out(results / "store", first, second):
        print(wrapped(f"not compared: {'; '.join(names)}"))
    return 0


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--format", "kind", type=click.Choice(["md", "csv", "tex"]), help="also print them")
@click.option("--strict", is_flag=True, help="fail, and name the cells, where some have no number of ours")
@results()
def table(names: tuple[str, ...], kind: str | None, strict: bool, results: Path) -> int:
    """The papers' tables, ours beside the published figures.

    A cell is: ours ± half of its interval | reported | difference | n | verdict. NAME is a file of conf/table (default:
    all). --strict: exit code 1 where cells are empty.
    """
    from ..results import tables

    made = tables.regenerate(names, results)
    for each in made:
        print(tables.render(each, kind) if kind else tables.summary(each, results))
    empty = [line for each in made for line in tables.empty_lines(each)] if strict else []
    for line in empty:
        print(f"empty: {line}", file=sys.stderr)
    return FAILED if empty else 0


@click.command()
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path), metavar="[BEFORE NOW]")
@click.option(
    "--baseline",
    type=click.Path(path_type=Path),
    default="results/baselines/embedded.csv.gz",
    metavar="FILE",
    show_default=True,
    help="what to compare with",
)
@click.option("--update", is_flag=True, help="make the results the baseline; refuses failed rows")
@click.option("--reason", default="", metavar="TEXT", help="of --update: why; kept beside the baseline")
@click.option("--junit", type=click.Path(path_type=Path), metavar="FILE", help="write a JUnit XML report")
@click.option("--markdown", type=click.Path(path_type=Path), metavar="FILE", help="write a Markdown summary")
@results("results/check")
def check(
    runs: tuple[Path, ...],
    baseline: Path,
    update: bool,
    reason: str,
    junit: Path | None,
    markdown: Path | None,
    results: Path,
) -> int:
    """A run against the gate's baseline, or one against another.

    BEFORE and NOW are folders of results, or files of baselines. What changed is named; exit codes: 0 same, 1 changed
    (better is a change too), 2 cannot compare, 3 missing or failed rows.
    """
    from ..results import gate
    from ..store.files import write_atomically

    if len(runs) not in (0, 2) or (runs and update):
        raise click.UsageError("give two runs to compare, BEFORE NOW, or none of both: the baseline and the results")
    if update:
        print(gate.update(baseline, results, reason))
        return gate.SAME
    made = gate.check(*(runs or (baseline, results)))
    for path, text in [(junit, gate.junit(made)), (markdown, gate.markdown(made).encode())]:
        if path:
            write_atomically(path, text)
    print(*gate.lines(made), sep="\n")  # a finding a line, however long: logs are searched
    return made.code or (gate.INCOMPARABLE if damage.found else gate.SAME)


@click.command()
@results()
def report(results: Path) -> int:
    """One page of tables and charts that needs nothing else.

    It is <results>/report/index.html.
    """
    from ..arguments import config_folders
    from ..results.floors import floors
    from ..results.report.page import write_report
    from ..results.tidy import collect

    frame = collect(results)
    if frame.empty:
        raise ConfigError(f"no results below {results.absolute()}: compute some with python run.py")
    page = write_report(frame, results / "report", floors(config_folders(searched())))
    print(f"report: {page.absolute()}")
    return 0


@click.command()
@click.option("--yes", is_flag=True, help="really remove")
@click.option("--unfinished", is_flag=True, help="also cells without any finished metric, and what nothing reads")
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
    from ..store.signs import signed

    if is_remote(results):
        raise ConfigError(
            f"gc --results {results}: of what lies in an object store nobody knows who is computing it: remove it with "
            "the store's own tools, when no worker runs"
        )
    if older_than is not None and not math.isfinite(older_than):
        raise ConfigError(f"--older-than {older_than}: give a number of days")
    root = results / "store"
    horizon = None if older_than is None else time.time() - 86400 * older_than
    places = [results / name for name in ("store", "tidy", "runs", "report", "tables")]
    leftovers = sum(map(remove_leftovers, places)) if yes else 0  # first: an abandoned lock protects nothing
    doomed = find(root, unfinished, features, horizon)
    if busy := list(signed(root)):
        print(f"{len(busy)} stay: a worker without locks was at work there within the last hour ({', '.join(busy)})")
    for each in doomed:
        print(f"{'removing' if yes else 'would remove'} {each.path.stem} ({each.what})")
        if yes:
            each.remove()
    print(f"{len(doomed)} found, {leftovers} leftovers" + ("" if yes else "; nothing removed: add --yes"))
    return 0
