"""The config of a run as a file beside its record: what every setting was, also of what the command line left out."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from ..config import Choice, RunConfig, Settings
from ..store.files import write_atomically


def put_config(config: RunConfig, overrides: Sequence[str], path: Path) -> None:
    """Write it as YAML, the command in the first line."""
    command = " ".join(shlex.join(["python", "run.py", *overrides]).splitlines())
    text = yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True)
    write_atomically(path, f"# {command}\n{text}".encode())


def plain(config: RunConfig) -> dict[str, Any]:
    """Of every group its choices, each with its settings and notes; then the settings of the run."""
    alone = {name: getattr(config, name) for name in ("model", "dataset", "train", "validation")}
    lists = {group: getattr(config, group) for group in ("ood", "method", "metric", "sink")}
    made: dict[str, Any] = {name: _choice(each) for name, each in alone.items() if each is not None}
    made |= {group: {name: _choice(each) for name, each in chosen.items()} for group, chosen in lists.items() if chosen}
    return made | {each.name: _value(getattr(config, each.name)) for each in fields(Settings)}


def _choice(chosen: Choice) -> dict[str, Any]:
    return {"name": chosen.name, **chosen.settings, **chosen.notes}


def _value(setting: Any) -> Any:
    return asdict(setting) if is_dataclass(setting) and not isinstance(setting, type) else setting
