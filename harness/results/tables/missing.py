"""What a table lacks, with the command that fills it, and what to know of what it has."""

import shlex
from collections.abc import Mapping
from functools import cache
from typing import Any

import pandas as pd

from ...config import ConfigError, groups
from ...overrides import compose_config
from .entries import Entry, Table


def missing_lines(table: Table) -> list[str]:
    """For each panel with empty entries the command that fills them, and what has to be built first."""
    known = groups()["method"]
    lines = [_command_line(panel, ready) for panel in table.panels if (ready := _ready(table, panel["label"], known))]
    absent = [entry.asked["method"] for entry in table.missing() if entry.asked["method"] not in known]
    names = ", ".join(dict.fromkeys(absent))
    return lines + ([f"{len(absent)} cells wait for methods that conf/method lacks: {names}"] if absent else [])


def _ready(table: Table, panel: str, methods: list[str]) -> list[Entry]:
    """Empty entries of a panel whose method is there."""
    return [entry for entry in table.missing() if entry.panel == panel and entry.asked["method"] in methods]


def _command_line(panel: Mapping[str, Any], entries: list[Entry]) -> str:
    command = fill_command(panel, entries)
    why = obstacle(command)
    return f"{panel['label']}, {len(entries)} cells: `{command}`" + (f" (not yet: {why})" if why else "")


def fill_command(panel: Mapping[str, Any], entries: list[Entry]) -> str:
    """The panel's command for the methods and metrics of some entries."""
    asked = {name: ",".join(dict.fromkeys(entry.asked[name] for entry in entries)) for name in ("method", "metric")}
    return str(panel["fill"]).format(**panel, methods=asked["method"], metrics=asked["metric"]).strip()


@cache
def obstacle(command: str) -> str:
    """Why a `python run.py ...` cannot be run; empty if it composes."""
    try:
        compose_config(shlex.split(command)[2:])
    except ConfigError as error:
        return str(error).splitlines()[0].split(" Did you mean")[0].split(" Valid:")[0].rstrip(".")
    return ""


def note_lines(table: Table) -> list[str]:
    """The table's notes, those of the published figures with their number, and a choice among several results."""
    printed = pd.Series([entry.note for entry in table.entries if entry.note], dtype=str).value_counts(sort=False)
    notes = [f"published, {number} cells: {note}" for note, number in printed.items()]
    several = sum(bool(entry.ours and entry.ours.others) for entry in table.entries)
    chosen = [f"{several} cells had several results: the one with most samples, then the latest run's, is shown"]
    return [*table.notes, *notes, *(chosen if several else [])]
