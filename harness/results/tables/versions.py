"""Numbers that the code of today would not give: rows of an older VERSION of their method or metric.

VERSIONs are read from the sources' text: a table imports no method.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from ... import config as configs
from ..settings import method_settings, quantity_settings

OURS = "assay."


def older(rows: pd.DataFrame) -> list[str]:
    """For each method or metric of the rows that has changed since, a line that says so."""
    known = rows[["method", "metric", "settings"]].drop_duplicates().itertuples(index=False, name=None)
    said = {line for row in known for line in _changes(*row)}
    return sorted(said)


def _changes(method: str, metric: str, settings: str) -> Iterator[str]:
    held = method_settings(settings) | quantity_settings(settings)
    for group, name, key in (("method", method, "version"), ("metric", metric, "metric.version")):
        version, now = held.get(key), version_of(group, name)
        if version is not None and now is not None and version < now:
            yield f"numbers of {name} are those of its VERSION {version}, the code has {now}: compute them anew"


def version_of(group: str, name: str) -> int | None:
    """What the class of conf/<group>/<name>.yaml has; None where it is not ours, or its text does not say."""
    return _version_of(configs.CONF / group / f"{name}.yaml")


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
