"""What is not ranked beside other rows: results of an older VERSION, and parts of a set beside a larger one."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from ...store.identity import canonical
from ..settings import nested

PART = re.compile(r"\[:(\d+)\]")  # of a split, `test[:200]@seed3`, and of a reference, `scenes test[:200]`
VERSIONS = ("version", "versions")
PARTS = ["split", "reference"]
WHOLE = float("inf")

Version = tuple[Any, ...]
Level = Callable[[dict[str, Any]], tuple[str, Version]]  # of settings: what has one VERSION, and which


def newest(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Of each method and metric the highest VERSION, and in sentences what that leaves out."""
    said: list[str] = []
    for part in ("method", "metric"):
        for level in (_own, _of_parts):
            rows, older = _newest(rows, part, level)
            said += older
    return rows, said


def _newest(rows: pd.DataFrame, part: str, level: Level) -> tuple[pd.DataFrame, list[str]]:
    of = [level(nested(each).get(part, {})) for each in rows["settings"]]
    names = [(name, key) for name, (key, _) in zip(rows[part], of, strict=True)]
    highest: dict[tuple[str, str], Version] = {}
    for name, (_, version) in zip(names, of, strict=True):
        highest[name] = max(version, highest.get(name, version))
    is_new = [version == highest[name] for name, (_, version) in zip(names, of, strict=True)]
    kept = pd.Series(is_new, index=rows.index, dtype=bool)
    return rows[kept], [*_outdated(rows[~kept], part)]


def _own(settings: dict[str, Any]) -> tuple[str, Version]:
    return "", (int(settings.get("version", 0)),)


def _of_parts(settings: dict[str, Any]) -> tuple[str, Version]:
    """By name; a part that has had one VERSION alone says none."""
    rest = {name: value for name, value in settings.items() if name not in VERSIONS}
    return canonical(rest), tuple(sorted(settings.get("versions", {}).items()))


def _outdated(rows: pd.DataFrame, part: str) -> Iterator[str]:
    for name, group in rows.groupby(part, sort=True):
        old = {canonical({key: of[key] for key in VERSIONS if key in of}) for of in _settings(group, part)}
        yield f"{name}: {len(group)} results of an older version ({', '.join(sorted(old))})"


def _settings(rows: pd.DataFrame, part: str) -> list[dict[str, Any]]:
    return [nested(each).get(part, {}) for each in rows["settings"]]


def largest(losses: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Of blocks those of the largest part of each set, whatever the seed: the images of smaller ones are among its.

    losses: a row a block; its index has `split`, `reference`, `dataset` and `seed`.
    """
    places = losses.index.to_frame(index=False).astype(str)
    sizes = [*zip(*(places[name].map(_size) for name in PARTS), strict=True)]
    named = places.drop(columns="seed").assign(**{name: places[name].map(_name) for name in PARTS})
    sets = [*named.itertuples(index=False, name=None)]
    most: dict[tuple[str, ...], tuple[float, ...]] = {}
    for each, size in zip(sets, sizes, strict=True):
        most[each] = max(size, most.get(each, size))
    is_most = np.array([size == most[each] for each, size in zip(sets, sizes, strict=True)], dtype=bool)
    return losses[is_most], [*_smaller(places[~is_most])]


def _smaller(places: pd.DataFrame) -> Iterator[str]:
    every = places[["dataset", "split", "reference"]].drop_duplicates().itertuples(index=False, name=None)
    for dataset, split, reference in sorted(every):
        beside = f" beside {reference}" if reference else ""
        yield f"{dataset} {split}{beside}: some of the images of a larger part, which is ranked"


def _name(text: str) -> str:
    """A split or a reference without its part; images in another order, `@seed3`, are other images."""
    return PART.sub("", text)


def _size(text: str) -> float:
    found = PART.search(text)
    return float(found[1]) if found else WHOLE
