"""What tells results of one name apart: the settings that they do not share."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import pandas as pd

SHOWN = 8  # letters of a key
OF_METHODS = ["settings", "protocol", "weights", "seed", "precision"]  # columns in which results of a method can differ
OF_QUANTITIES = ["settings", "dataset", "split", "metric", "variant", "subset"]  # and those of one quantity
KEYS = ["cell_key", "metric_key"]  # where nothing else tells two results apart

Settings = Mapping[str, Any]  # by dotted name
Read = Callable[..., dict[str, Any]]  # a row's settings from some of its columns


def flat(settings: Any, name: str = "") -> dict[str, Any]:
    """Nested settings by dotted name."""
    if not isinstance(settings, dict):
        return {name: settings}
    inner = [flat(value, f"{name}.{key}".removeprefix(".")) for key, value in settings.items()]
    return {key: value for each in inner for key, value in each.items()}


def apart(several: Sequence[Settings]) -> list[str]:
    """Of each, the settings that not all of them share: `layer=features.28, steps=8`; empty where there are none."""
    every = sorted({name for each in several for name in each})
    differing = [name for name in every if len({repr(each.get(name, "none")) for each in several}) > 1]
    return [", ".join(f"{name}={each.get(name, 'none')}" for name in differing) for each in several]


def remarks(names: Sequence[Any], several: Sequence[Settings]) -> list[str]:
    """Of each, the settings that not all of its name share (`apart`)."""
    groups: dict[Any, list[int]] = {}
    for number, name in enumerate(names):
        groups.setdefault(name, []).append(number)
    said: dict[int, str] = {}
    for group in groups.values():
        said |= zip(group, apart([several[number] for number in group]), strict=True)
    return [said[number] for number in range(len(names))]


def named_apart(names: Sequence[str], several: Sequence[Settings]) -> list[str]:
    """Names; of those that stand there more than once, with the settings that they do not share."""
    return _with(names, remarks(names, several))


def cell_settings(labels: Settings, identity: Settings) -> dict[str, Any]:
    """All that decides a stored cell's numbers but the names of its method, model and data set."""
    kept = {name: identity.get(name, {}) for name in ("protocol", "dataset", "model", "average", "together")}
    if training := identity.get("training"):
        kept["training"] = training["data"]["dataset"] | {"images": training["images"]}
    kept["readings"] = {str(number): each for number, each in enumerate(identity.get("readings", []))}
    names = {name: labels.get(name, "") for name in OF_METHODS[1:]}
    return flat(identity.get("method", {}) | kept) | names


def metric_settings(about: Settings) -> dict[str, Any]:
    """Those of a group of result rows, from its description."""
    made = about.get("identity", {})
    return flat(made.get("metric", {}) | {"compared": made.get("compared", {})})


def method_settings(settings: str, **columns: Any) -> dict[str, Any]:
    """All that decides a row's numbers but its names: of its `settings` column, and of others (weights, seed, ...)."""
    made = nested(settings)
    rest = {name: made[name] for name in ("protocol", "training") if name in made}
    readings = {place: _without_class(each) for place, each in made.get("readings", {}).items()}
    texts = {name: str(value) for name, value in columns.items()}
    return flat(made.get("method", {}) | rest | {"readings": readings}) | texts


def quantity_settings(settings: str, **columns: Any) -> dict[str, Any]:
    """How a row's number was taken, and of which data."""
    made = nested(settings)
    return flat({name: made[name] for name in ("metric", "data") if name in made}) | columns


@cache
def nested(settings: str) -> dict[str, Any]:
    """What a row's `settings` column says, as it was written."""
    return dict(json.loads(settings)) if settings else {}


def _without_class(reading: dict[str, Any]) -> dict[str, Any]:
    """Rows did not always say it; a method's settings decide what it reads."""
    return {name: value for name, value in reading.items() if name != "_target_"}


def told_apart(rows: pd.DataFrame, floors: Collection[str] = ()) -> pd.DataFrame:
    """Rows whose `method` and `column`, as they then stand, mean one result of a model.

    Results of one method with other settings say so (`integrated_gradients (steps=8)`), so do quantities of one name
    that were taken in other ways. floors: methods that every other one has to beat; they are marked.
    """
    texts = [*OF_METHODS, *OF_QUANTITIES, *KEYS]
    made = rows.assign(**{name: "" for name in texts if name not in rows})
    methods = _remarks(made, ["model", "method"], OF_METHODS, method_settings)
    marks = ["floor" if name in floors else "" for name in made["method"]]
    made["column"] = _with(made["column"], _remarks(made, ["model", "column"], OF_QUANTITIES, quantity_settings))
    made["method"] = _with(made["method"], marks, methods)
    return _by_keys(made)


def _by_keys(rows: pd.DataFrame) -> pd.DataFrame:
    """With the keys of results that nothing else tells apart."""
    twice = rows[rows.duplicated(["model", "method", "column", "x"], keep=False)]
    said = [f"{cell[:SHOWN]}/{metric[:SHOWN]}" for cell, metric in zip(*(twice[key] for key in KEYS), strict=True)]
    rows.loc[twice.index, "method"] = _with(twice["method"], said)
    return rows


def _remarks(rows: pd.DataFrame, alike: list[str], columns: list[str], read: Read) -> list[str]:
    """Of each row, how it differs from those whose `alike` are equal."""
    kinds = list(zip(*(rows[name] for name in [*alike, *columns]), strict=True))
    every = list(dict.fromkeys(kinds))
    settings = [read(**dict(zip(columns, kind[len(alike) :], strict=True))) for kind in every]
    said = dict(zip(every, remarks([kind[: len(alike)] for kind in every], settings), strict=True))
    return [said[kind] for kind in kinds]


def _with(names: Iterable[str], *remarks: Iterable[str]) -> list[str]:
    """`name (remark, remark)`, without what is empty."""
    said = [", ".join(filter(None, each)) for each in zip(*remarks, strict=True)]
    return [f"{name} ({text})" if text else name for name, text in zip(names, said, strict=True)]
