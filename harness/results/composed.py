"""The config of a run as a file beside its record: what every setting was, also of what the command line left out."""

import math
import re
import shlex
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from ..config import Choice, RunConfig, Settings
from ..store.files import write_atomically
from .words import kept, without_credentials

SINKS = re.compile(r"(?m)^sink:\n(?:(?:[ -].*)?\n)*")  # of an earlier version, which kept them


def put_config(config: RunConfig, command: str, path: Path) -> None:
    """Write it as YAML, the command in the first line; sinks are left out, and credentials in addresses."""
    text = yaml.safe_dump(as_mapping(config), sort_keys=False, allow_unicode=True, width=math.inf)
    write_atomically(path, f"# {_told(command)}\n{without_credentials(text)}".encode())


def _told(command: str) -> str:
    """In one line, without what is not kept of overrides."""
    return " ".join(shlex.join(kept(shlex.split(command))).splitlines())


def told_config(text: str) -> str:
    """What `put_config` writes, of a file that an earlier version has written."""
    first, _, body = text.partition("\n")
    return f"# {_told(first.removeprefix('# '))}\n{without_credentials(SINKS.sub('', body))}"


def as_mapping(config: RunConfig) -> dict[str, Any]:
    """Of every group its choices, each with its settings and notes; then the settings of the run."""
    alone = {name: getattr(config, name) for name in ("model", "dataset", "train", "validation")}
    lists = {group: getattr(config, group) for group in ("ood", "method", "metric")}
    made: dict[str, Any] = {name: _choice(each) for name, each in alone.items() if each is not None}
    made |= {group: {name: _choice(each) for name, each in chosen.items()} for group, chosen in lists.items() if chosen}
    return made | {each.name: _value(getattr(config, each.name)) for each in fields(Settings)}


def _choice(chosen: Choice) -> dict[str, Any]:
    return {"name": chosen.name, **chosen.settings, **chosen.notes}


def _value(setting: Any) -> Any:
    return asdict(setting) if is_dataclass(setting) and not isinstance(setting, type) else setting
