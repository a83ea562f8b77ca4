"""What a table lacks, with the commands that fill it, and what to know of what it has."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from ... import config as configs
from ...config import ConfigError, groups
from ...overrides import check_overrides
from .entries import Entry, Table, in_override

OF_A_RUN = ("seed", "precision")  # settings that are no method's


def missing_lines(table: Table) -> list[str]:
    """For each panel with empty entries the commands that fill them, and what has to be built first."""
    known = groups()["method"]
    lines = [line for panel in table.panels for line in _command_lines(panel, _ready(table, panel["label"], known))]
    absent = [entry.asked["method"] for entry in table.missing() if entry.asked["method"] not in known]
    names = ", ".join(dict.fromkeys(absent))
    return lines + ([f"{len(absent)} cells wait for methods that conf/method lacks: {names}"] if absent else [])


def _ready(table: Table, panel: str, methods: list[str]) -> list[Entry]:
    """Empty entries of a panel whose method is there."""
    return [entry for entry in table.missing() if entry.panel == panel and entry.asked["method"] in methods]


def _command_lines(panel: Mapping[str, Any], entries: list[Entry]) -> Iterator[str]:
    for alike in by_runs(entries):
        command = fill_command(panel, alike)
        why = obstacle(command)
        yield f"{panel['label']}, {len(alike)} cells: `{command}`" + (f" (not yet: {why})" if why else "")


def by_runs(entries: list[Entry]) -> list[list[Entry]]:
    """Those of one run, and those of several over each kind of seed: no command repeats what draws nothing."""
    parts: dict[str, list[Entry]] = {}
    for entry in entries:
        parts.setdefault(entry.runs.over if entry.runs else "", []).append(entry)
    return list(parts.values())


def fill_command(panel: Mapping[str, Any], entries: list[Entry]) -> str:
    """The panel's command for the methods, metrics, settings and runs of some entries; a sweep where they need one."""
    asked = {name: ",".join(dict.fromkeys(entry.asked[name] for entry in entries)) for name in ("method", "metric")}
    made = str(panel["fill"]).format(**panel, methods=asked["method"], metrics=asked["metric"]).strip()
    wanted = _wanted(entries)
    words = [shlex.quote(f"{key}={','.join(values)}") for key, values in wanted.items()]
    program, script, *rest = made.split(" ", 2)
    sweeps = ["-m"] if any(len(values) > 1 for values in wanted.values()) else []
    return " ".join([program, script, *sweeps, *rest, *words])


def _wanted(entries: Sequence[Entry]) -> dict[str, list[str]]:
    """The values of each setting that entries ask for and a command line can set."""
    wanted: dict[str, list[str]] = {}
    for key, value in (pair for entry in entries for pair in _overrides(entry)):
        wanted.setdefault(key, []).append(value)
    return {key: list(dict.fromkeys(values)) for key, values in wanted.items()}


def _overrides(entry: Entry) -> Iterator[tuple[str, str]]:
    method = entry.asked["method"]
    for name, value in entry.settings.items():
        if name.endswith("_target_"):
            continue  # results know a class by its name alone: the panel's command has it whole
        if name in OF_A_RUN or name.split(".")[0] in _settings_of(method):
            yield name if name in OF_A_RUN else f"method.{method}.{name}", in_override(value)
    if entry.runs:
        yield from ((entry.runs.over, str(seed)) for seed in entry.runs.seeds)


@cache
def _settings_of(method: str) -> frozenset[str]:
    return frozenset(map(str, OmegaConf.load(configs.CONF / "method" / f"{method}.yaml")))


@cache
def obstacle(command: str) -> str:
    """Why a `python run.py ...` cannot be run: a choice or a key that does not exist; empty without one.

    Values are not looked at, which would compose the whole config: a page of tables has over a hundred commands.
    """
    try:
        check_overrides(shlex.split(command)[2:])
    except ConfigError as error:
        return str(error).splitlines()[0].split(" Did you mean")[0].split(" Valid:")[0].rstrip(".")
    return ""


def note_lines(table: Table) -> list[str]:
    """The table's notes, those of the published figures with their number, what several results there are."""
    printed = _counted([entry.note for entry in table.entries if entry.note])
    notes = [f"published, {number} cells: {note}" for note, number in printed]
    doubtful = _counted([" | ".join(entry.found.several) for entry in table.ambiguous()])
    refused = [
        f"{number} cells fit several results, of which none is taken: {several}. Name one in `settings:`, `split:` or "
        f"`runs:` of conf/table/{table.name}.yaml"
        for several, number in doubtful
    ]
    return [*table.notes, *notes, *refused]


def _counted(texts: list[str]) -> Iterator[tuple[str, int]]:
    yield from ((str(text), int(n)) for text, n in pd.Series(texts, dtype=str).value_counts(sort=False).items())
