"""What a bundle says of itself: how each file was made, and the commands that make it again."""

import shlex
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pandas as pd

from assay.version import __version__

from ..composed import told_config
from ..environment import LIBRARIES
from ..words import WORD
from .hiding import without_paths

ABOUT = {
    "results/results.csv": "every number: value, interval, n, and every convention it was taken under; a line a number",
    "results/results.parquet": "the same with types, for programs",
    "results/runs.csv": "what happened to be true of each run: machine, versions, overrides, wall times",
    "tables/": "papers' tables with numbers of these results beside the printed ones (`python -m harness table`)",
    "report/index.html": "everything in one page that needs nothing else (`python -m harness report`)",
    "configs/": "each run's config as it was composed; its first line is the command",
    "environment/requirements.txt": "exact versions of all that was installed where this bundle was made",
    "environment/environment.json": "Python, Assay, torch and the processor there, and (not for the blind) the commit",
    "samples/": "the per-sample tables behind the numbers: a folder a `cell_key`, a file a metric (`metric_key`)",
    "SHA256SUMS": "checksums: `sha256sum -c SHA256SUMS`",
}
PATHS = "Paths and addresses stand as `PATH/NAME`: put your own there. Where results were sent (`sink`) is left out."


def readme(
    files: Collection[str], runs: pd.DataFrame, again: list[str], here: Mapping[str, str], anonymous: bool
) -> str:
    """The bundle's README.md. here: versions where it is made."""
    kept = [name for name in ABOUT if name == "SHA256SUMS" or any(file.startswith(name) for file in files)]
    lines = ["# Results of Assay", "", f"Written by `python -m harness export`, Assay {__version__}.", ""]
    lines += ["| file | what |", "|---|---|", *(f"| `{name}` | {ABOUT[name]} |" for name in kept), ""]
    lines += ["## Made again", "", *_code(runs), "```", *again, "python -m harness export", "```", ""]
    lines += [PATHS, "", _who(anonymous), *_others(runs, here)]
    return "\n".join(lines) + "\n"


def commands(results: Path, runs: pd.DataFrame) -> list[str]:
    """What computed the results, each once, in the order of the runs."""
    if runs.empty:
        return []
    each = runs.drop_duplicates("record").sort_values("started", kind="stable")
    return list(dict.fromkeys(_command(results, row.record, row.overrides) for row in each.itertuples()))


def _command(results: Path, record: str, overrides: str) -> str:
    """As the config's first line has it; of a run of an earlier version, from the words in its record."""
    run, _, moment = record.partition(".")
    path = results / "runs" / run / f"{moment}.yaml"
    if path.is_file():
        return without_paths(told_config(path.read_text()).partition("\n")[0].removeprefix("# "))
    return shlex.join(["python", "run.py", *WORD.split(str(overrides))])


def _code(runs: pd.DataFrame) -> Iterator[str]:
    """Which state of the code, where that is known and may be said."""
    known = [] if "git_sha" not in runs else sorted(set(runs["git_sha"].dropna()) - {""})
    if known:
        dirty = " (edited)" if (runs["git_dirty"].astype(str) == "True").any() else ""
        yield f"With the code of commit {', '.join(known)}{dirty}, and `pip install -r environment/requirements.txt`:"
        yield ""


def _who(anonymous: bool) -> str:
    if anonymous:
        return "For a double-blind review, hosts, commits and plug-ins are left out."
    return (
        "The column `host` of runs.csv, also in the report, names machines; `--anonymous` leaves it and the commit out."
    )


def _others(runs: pd.DataFrame, here: Mapping[str, str]) -> Iterator[str]:
    """What runs had in another version than there is where the bundle is made."""
    for column in ("assay", *LIBRARIES):
        others = sorted(set(runs[column].dropna().astype(str)) - {here.get(column, "")}) if column in runs else []
        if others:
            name, now = column.replace("_", "-"), here.get(column, "none")
            yield f"\nSome runs had {name} {', '.join(others)}; where this bundle was made there is {now}."
