"""Numbers that the code of today would not give: rows of an older VERSION of their method, metric, a part or a reading.

VERSIONs are read from the sources' text: a table imports no method.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from ... import config as configs
from ...store.identity import OURS, SINCE
from ..settings import nested

SOURCES = ("methods", "metrics")  # folders of the classes that have a VERSION


def older(rows: pd.DataFrame) -> list[str]:
    """For each method or metric of the rows that has changed since, or rests on what has, a line that says so."""
    known = rows[["method", "metric", "settings"]].drop_duplicates().itertuples(index=False, name=None)
    said = {line for row in known for line in _changes(*row)}
    return sorted(said)


def _changes(method: str, metric: str, settings: str) -> Iterator[str]:
    made = nested(settings)
    for group, name in (("method", method), ("metric", metric)):
        held = made.get(group, {})
        if (now := _newer(held.get("version"), version_of(group, name))) is not None:
            yield f"numbers of {name} are those of its VERSION {held['version']}, the code has {now}: compute them anew"
        yield from _of_parts(name, held)
    for reading in made.get("readings", {}).values():
        yield from _of_reading(method, reading)


def _of_parts(name: str, held: dict[str, Any]) -> Iterator[str]:
    """Of the objects that a method, metric or reading is made of; one that is not in `versions` is as it was before."""
    versions = held.get("versions", {})
    for place, kind in _parts(held):
        yield from _of_part(name, kind, versions.get(place, SINCE.get(kind, 1)))


def _of_reading(method: str, reading: dict[str, Any]) -> Iterator[str]:
    """Rows did not always say a reading's class: of those, what is no part of the method stays unsaid."""
    if "_target_" in reading:
        yield from _of_part(method, reading["_target_"], reading.get("version"))
    yield from _of_parts(method, reading)


def _of_part(name: str, kind: str, version: int | None) -> Iterator[str]:
    if (now := _newer(version, version_of_class(kind))) is not None:
        yield f"numbers of {name} rest on {kind} of VERSION {version}, the code has {now}: compute them anew"


def _newer(version: int | None, now: int | None) -> int | None:
    """The code's VERSION, if it is above that of the rows."""
    return now if version is not None and now is not None and version < now else None


def _parts(settings: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Dotted name and class of all that settings hold, at any depth."""
    inside = settings.items() if isinstance(settings, dict) else enumerate(settings)
    for key, value in inside:
        place = f"{name}.{key}".removeprefix(".")
        if isinstance(value, dict) and "_target_" in value:
            yield place, value["_target_"]
        if isinstance(value, dict | list):
            yield from _parts(value, place)


def version_of(group: str, name: str) -> int | None:
    """What the class of conf/<group>/<name>.yaml has; None where it is not ours, or its text does not say."""
    return _version_of(configs.CONF / group / f"{name}.yaml")


@cache
def version_of_class(kind: str) -> int | None:
    """What a class of ours has, by its name, which no two share; None where it is another's, or does not say."""
    source = _sources().get(kind)
    return _version_in(ast.parse(source.read_text()), kind) if source else None


@cache
def _sources() -> dict[str, Path]:
    """The file of each class."""
    files = sorted(path for folder in SOURCES for path in (configs.ROOT / folder).rglob("*.py"))
    return {kind: path for path in files for kind in re.findall(r"^class (\w+)", path.read_text(), re.MULTILINE)}


@cache
def _version_of(file: Path) -> int | None:
    target = str(OmegaConf.select(OmegaConf.load(file), "_target_")) if file.is_file() else ""
    module, _, kind = target.removeprefix(OURS).rpartition(".")
    source = configs.ROOT / Path(*module.split(".")).with_suffix(".py") if target.startswith(OURS) else None
    return _version_in(ast.parse(source.read_text()), kind) if source and source.is_file() else None


def _version_in(tree: ast.Module, kind: str) -> int | None:
    """Of a class, or of the first of its bases in the same file that has one."""
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    if kind not in classes:
        return None
    own = [value for node in classes[kind].body if (value := _assigned(node)) is not None]
    bases = (base.id for base in classes[kind].bases if isinstance(base, ast.Name))
    return own[0] if own else next(filter(None, (_version_in(tree, base) for base in bases)), None)


def _assigned(node: ast.stmt) -> Any:
    """The number in `VERSION: ClassVar[int] = 3`."""
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "VERSION":
        return ast.literal_eval(node.value) if node.value else None
    return None
