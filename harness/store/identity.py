"""What a result's key covers: everything that changes the numbers, and nothing else.

Two levels. A *cell* is (model, dataset, protocol, method, seed, precision); inside it each *metric* has
a key of its own. Both are sha256 digests of canonical JSON, so a key can be traced back by reading it.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

SCHEMA = 4
UNSEALED = (1, 2, 3)  # those of files without checksums
OURS = "assay."  # where a class of ours is imported from

# Where a file lies does not change what is in it: weights and data enter by their fingerprints.
PLACES = frozenset({"weights", "sha256", "class_map", "root", "download"})

# Settings of networks, methods and metrics that are younger than keys: null says what was so before them.
LATER = frozenset({"classes", "create", "groups", "layout", "patch_px"})

# VERSIONs, of others than 1, that parts of methods and metrics had before they were in keys.
SINCE = {"LRP": 3}


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """First 20 hex digits of the sha256 of the canonical JSON (80 bits)."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:20]


def content(settings: Any) -> Any:
    """Settings without the places of files, at any depth."""
    if isinstance(settings, dict):
        return {key: content(value) for key, value in settings.items() if key not in PLACES}
    return [content(value) for value in settings] if isinstance(settings, list) else settings


def by_content(settings: Any, made: object) -> Any:
    """A method's settings without the places of files whose content its readings name, at any depth.

    Which settings say such places, a class has in FILES; a setting that is no more than a place goes altogether.
    """
    files, parts = getattr(made, "FILES", ()), dict(_inside(made))
    if isinstance(settings, dict):
        kept = {key: value for key, value in settings.items() if key not in files or isinstance(value, dict)}
        return {
            key: content(value) if key in files else by_content(value, parts.get(key)) for key, value in kept.items()
        }
    if isinstance(settings, list):
        return [by_content(value, parts.get(place)) for place, value in enumerate(settings)]
    return settings


def named(settings: Any) -> Any:
    """Settings with each class under its name, at any depth: moving a class of ours between modules changes nothing.

    Ours are told apart by their names (which no two share); a class of somebody else's by its whole path.
    """
    if isinstance(settings, dict):
        return {key: _class(value) if key == "_target_" else named(value) for key, value in settings.items()}
    return [named(value) for value in settings] if isinstance(settings, list) else settings


def set_later(settings: Any) -> Any:
    """Settings without those of LATER that are null, at any depth: their keys are those of before."""
    if isinstance(settings, dict):
        kept = {key: value for key, value in settings.items() if value is not None or key not in LATER}
        return {key: set_later(value) for key, value in kept.items()}
    return [set_later(value) for value in settings] if isinstance(settings, list) else settings


def nested_versions(made: object) -> dict[str, Any]:
    """`{"versions": {"scores.conductance": 2}}`: VERSIONs of a method's or metric's parts, by dotted name.

    Those that parts have had since before they were in keys (1; SINCE) are left out, so that keys are those of before.
    """
    every = ((name, type(each).__name__, each.VERSION) for name, each in _parts(made) if hasattr(each, "VERSION"))
    changed = {name: version for name, kind, version in every if version != SINCE.get(kind, 1)}
    return {"versions": changed} if changed else {}


def _parts(made: object, place: str = "") -> Iterator[tuple[str, Any]]:
    """All that a dataclass, mapping or sequence holds, at any depth."""
    for key, value in _inside(made):
        name = f"{place}.{key}".removeprefix(".")
        yield name, value
        yield from _parts(value, name)


def _inside(made: Any) -> Iterator[tuple[Any, Any]]:
    if is_dataclass(made):
        yield from ((each.name, getattr(made, each.name)) for each in fields(made) if hasattr(made, each.name))
    elif isinstance(made, Mapping):
        yield from made.items()
    elif isinstance(made, list | tuple):
        yield from enumerate(made)


def _class(target: str) -> str:
    return target.rpartition(".")[2] if target.startswith(OURS) else target


def data_identity(
    *, model: dict[str, Any], weights: str, dataset: dict[str, Any], data: str, order: int | None, precision: str
) -> dict[str, Any]:
    """The identity of a data set under a network: all that its logits and features depend on.

    Args:
        model, dataset: settings including `_target_`.
        weights, data: fingerprints.
        order: seed of the order of images, None for the dataset's own.
    """
    return {
        "schema": SCHEMA,
        "model": content(named(set_later(model))) | {"fingerprint": weights},
        "dataset": content(named(dataset)) | {"fingerprint": data, "order": order},
        "precision": precision,
    }


def cell_identity(
    data: dict[str, Any],
    *,
    names: dict[str, str],
    protocol: dict[str, Any],
    method: dict[str, Any],
    version: int,
    seed: int,
    nested: Mapping[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    readings: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """The identity of a cell, as stored beside its results.

    Args:
        data: `data_identity`.
        names: of model, dataset, protocol and method, as tables show them: a table row must say what was asked.
        protocol: the conventions that reach this method.
        method: settings including `_target_`. version: the method's VERSION. nested: `nested_versions` of it.
        training: what the method is fitted on, if it is: the `data_identity` (`data`), and how many `images` of it.
        readings: the identities of what it reads of each image beside features.
    """
    fitted = {} if training is None else {"training": training}
    read = {"readings": list(readings)} if readings else {}
    made = {
        "names": names,
        "protocol": protocol,
        "method": named(set_later(method)) | {"version": version} | dict(nested or {}),
        "seed": seed,
    }
    return {**data, **made, **fitted, **read}


def metric_identity(
    metric: dict[str, Any], version: int, summary_only: Sequence[str] = (), nested: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The identity of a metric inside a cell: the settings that decide its columns, not those of its summary."""
    measured = {key: value for key, value in named(set_later(metric)).items() if key not in summary_only}
    return {"schema": SCHEMA, "metric": measured | {"version": version} | dict(nested or {})}
