"""What a value of a config may be: a name that can be a file's, a finite number, what a parameter takes."""

import inspect
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from .config import ConfigError

LONGEST_NAME = 100  # bytes: two names and an ending are one file's name, of which file systems take 255
IN_PATHS = "/\\:"
NO_BEGINNING = ".=+-@"  # of hidden files, and of what a spreadsheet takes for a formula when it opens a table

# What readers of tables (pandas, R) take for a missing value where no one tells them otherwise.
MISSING = frozenset(
    {"", "#N/A", "#N/A N/A", "#NA", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"}
    | {"-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"}
)

# Names


def check_name(key: str, name: Any, allowed: str = "") -> None:
    """Refuse a name that a folder or file could not be called by, or that would lead out of its folder.

    key: of the config, `dataset.name`. allowed: of `IN_PATHS`, in a name that is made a file's before it is one.
    """
    if why := _unfit(name, allowed):
        raise ConfigError(
            f"{key}={shown(name)} {why}: files are called by names, so give a text of 1 to {LONGEST_NAME} printable "
            f"characters, without / \\ : and not beginning with one of {' '.join(NO_BEGINNING)}"
        )


def _unfit(name: Any, allowed: str) -> str:
    """What is wrong with a name; empty if it is a good one."""
    if not isinstance(name, str):
        return "is no text"
    if not name.strip():
        return "is empty"
    if name in MISSING:
        return "is what readers of tables take for no value"
    if not name.isprintable():
        return "holds a character that cannot be printed"
    if not allowed and len(name.encode()) > LONGEST_NAME:
        return f"is {len(name.encode())} bytes long"
    if found := sorted((set(IN_PATHS) - set(allowed)) & set(name)):
        return f"holds {' '.join(found)}"
    if ".." in name.split("/"):
        return "holds .."
    return f"begins with {name[0]}" if name[0] in NO_BEGINNING else ""


def shown(value: Any) -> str:
    """A value as it is typed; what cannot be printed is escaped."""
    words = {"": "''", "None": "null", "True": "true", "False": "false"}
    said = str(value)
    return words.get(said, said if said.isprintable() else repr(value))


# Numbers


def check_finite(key: str, value: Any) -> None:
    """Refuse nan and inf, anywhere below a key: no setting means them, and nothing can be kept under them."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{key}={value}: give a finite number")
    if isinstance(value, Mapping):
        for name, each in value.items():
            check_finite(f"{key}.{name}", each)
    elif isinstance(value, list):
        for place, each in enumerate(value):
            check_finite(f"{key}.{place}", each)


# Types


def check_type(key: str, value: Any, hint: Any) -> None:
    """Refuse a value that is not of a parameter's declared type, as far as that says something about plain values."""
    if not fits(value, hint):
        raise ConfigError(f"{key}={shown(value)}: give {wanted(hint)}")


def fits(value: Any, hint: Any) -> bool:
    """Whether a value of a config, as YAML has them, is of a type; a nested `_target_` may make anything."""
    if isinstance(value, dict) and "_target_" in value:
        return True
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(value, each) for each in inner)
    if origin is Literal:
        return any(value == each and type(value) is type(each) for each in inner)
    if hint in PLAIN or hint is NoneType or hint is None:
        return _is_plain(value, hint)
    kind = origin or hint
    if not inspect.isclass(kind) or kind in (Any, object):
        return True  # or a type variable, something newer than this
    return _is_of(value, kind, inner)


PLAIN: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    Path: "a path",
}


def _is_plain(value: Any, hint: Any) -> bool:
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, str if hint is Path else NoneType if hint is None else hint)


def _is_of(value: Any, kind: type, inner: tuple[Any, ...]) -> bool:
    """Of a container, or of a class."""
    if issubclass(kind, Mapping):
        return isinstance(value, Mapping) and (len(inner) != 2 or all(fits(each, inner[1]) for each in value.values()))
    if issubclass(kind, tuple) and inner and inner[-1] is not ...:
        return isinstance(value, list | tuple) and len(value) == len(inner) and all(map(fits, value, inner))
    if issubclass(kind, Collection) or kind.__module__ == "collections.abc":
        each_is = inner[0] if inner else Any
        return isinstance(value, list | tuple) and all(fits(each, each_is) for each in value)
    return not isinstance(value, (*PLAIN, NoneType, list, dict))  # of a class of ours: made already, or by a `_target_`


def wanted(hint: Any) -> str:
    """What a type asks for, in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(wanted(each) for each in inner))
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if hint in (None, NoneType):
        return "null"
    kind = origin or hint
    if kind in PLAIN:
        return PLAIN[kind]
    if inspect.isclass(kind) and issubclass(kind, Mapping):
        return "a mapping (name: value)"
    if inspect.isclass(kind) and issubclass(kind, Sequence):
        return _list_of(inner)
    return f"a mapping with a _target_ ({getattr(kind, '__name__', kind)})"


def _list_of(inner: tuple[Any, ...]) -> str:
    if not inner:
        return "a list"
    fixed = inner[-1] is not ... and len(inner) > 1
    return f"a list [{', '.join(wanted(each) for each in inner)}]" if fixed else f"a list of {wanted(inner[0])}"
