"""From configs to objects: the only place where what a config names is imported and called."""

import inspect
import os
from collections.abc import Iterator
from typing import Any, get_type_hints

from hydra.utils import get_object

from .config import NETWORKS, SINKS, Choice, ConfigError, suggest
from .network import Network
from .plugins import installed
from .values import check_type, shown

ALLOWED_PREFIXES = ("assay.methods.", "assay.metrics.", "assay.datasets.", NETWORKS, SINKS)
ALLOW_VARIABLE = "ASSAY_ALLOW_TARGET"


def build(choice: Choice) -> Any:
    """Make a choice's class with its settings, after checking that it is allowed and that they fit.

    What is made already is returned as it is.

    Raises:
        ConfigError: target not allowed or not importable, unknown or missing setting, a value of another type, a value
            that the class refuses.
    """
    if choice.made is not None:
        return choice.made
    check(choice)
    try:
        return _made(choice.settings)
    except (OSError, ImportError) as error:
        raise ConfigError(f"{choice}: {error}") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{choice}: {error}{_meant(str(error), choice)}") from error


def check(choice: Choice) -> None:
    """All that is checked before anything is made: that its classes are allowed and there, that its settings fit."""
    what, placed = str(choice), _of(choice)
    if "_target_" not in choice.settings:
        raise ConfigError(f"{what} has no _target_: name the class that it builds")
    for _, node in placed:
        _check_allowed(node["_target_"], what)
    for place, node in placed:
        _check_settings(node, place, what)


def _meant(said: str, choice: Choice) -> str:
    """The plain settings, where a class complains and names none of them."""
    settings = [(place, *each) for place, node in _of(choice) for each in node.items()]
    plain = [(place, name, value) for place, name, value in settings if name != "_target_"]
    if any(word in said for _, name, value in plain for word in (name, value) if isinstance(word, str) and word):
        return ""
    told = [f"{place}.{name}={shown(value)}" for place, name, value in plain if isinstance(value, (int, float, str))]
    return f" ({', '.join(told)})" if told else ""


def _made(value: Any) -> Any:
    """The object of a mapping with a `_target_`, after those in its settings; anything else as it is, and nothing is
    interpolated: an escaped `${...}` is text."""
    if isinstance(value, list):
        return [_made(each) for each in value]
    if not isinstance(value, dict):
        return value
    settings = {key: _made(each) for key, each in value.items() if key != "_target_"}
    if "_target_" not in value:
        return settings
    made = get_object(value["_target_"])(**settings)
    if isinstance(made, Network):
        made.made_of = value
    return made


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping with a `_target_` in a nested config."""
    return (node for _, node in _placed(value, ""))


def _of(choice: Choice) -> list[tuple[str, dict[str, Any]]]:
    return list(_placed(choice.settings, choice.key or choice.group))


def _placed(value: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The same, each with its key."""
    if isinstance(value, dict) and "_target_" in value:
        yield place, value
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from _placed(each, f"{place}.{key}")


# What may be named


def _allowed_by_user() -> tuple[str, ...]:
    """By the command line or the environment, or by installing a plug-in."""
    named = filter(None, os.environ.get(ALLOW_VARIABLE, "").split(","))
    return (*named, *(each.prefix for each in installed()))


def _check_allowed(target: Any, what: str) -> None:
    if not isinstance(target, str) or not target.startswith(ALLOWED_PREFIXES + _allowed_by_user()):
        raise ConfigError(
            f"{what}: _target_ {target!r} is outside {' '.join(ALLOWED_PREFIXES)}: a config may not name any code. "
            f"To allow a package of yours: --allow-target my_package. (or {ALLOW_VARIABLE}=my_package.)"
        )


def _located(target: str, what: str) -> Any:
    """The class or function; what an allowed module has merely imported is not allowed."""
    try:
        made = get_object(target)
    except Exception as error:
        raise ConfigError(f"{what}: _target_ {target!r} cannot be imported: {error}") from error
    home = f"{getattr(made, '__module__', '')}.{getattr(made, '__qualname__', '')}"
    _check_allowed(home if callable(made) else None, f"{what} ({target})")
    if not home.startswith(_allowed_by_user()) and not _makes_an_object(made):
        raise ConfigError(f"{what}: _target_ {target!r} is neither a class nor a function that makes an object of one")
    return made


def _makes_an_object(made: Any) -> bool:
    """Others, such as one that writes a file, are not for configs to call."""
    if inspect.isclass(made):
        return True
    returned = getattr(made, "__annotations__", {}).get("return")
    return inspect.isfunction(made) and inspect.isclass(returned) and returned.__module__.startswith("assay.")


# What fits


def _check_settings(node: dict[str, Any], place: str, what: str) -> None:
    """All are parameters, none is missing, each is of its parameter's type."""
    target = node["_target_"]
    made = _located(target, what)
    parameters = inspect.signature(made).parameters
    named = {n: p for n, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name in node.keys() - named.keys() - {"_target_"}:
        if not takes_any or name.startswith("_"):  # Hydra's _args_ and _partial_, too
            raise ConfigError(f"{what}: " + suggest(name, named, f"setting of {target}"))
    required = {name for name, parameter in named.items() if parameter.default is parameter.empty}
    if missing := sorted(required - node.keys()):
        raise ConfigError(f"{what}: {target} needs {', '.join(missing)}")
    for name, hint in _hints(made).items():
        if name in node and name in named:
            check_type(f"{place}.{name}", node[name], hint)


def _hints(made: Any) -> dict[str, Any]:
    """Declared types of parameters, as far as they can be looked up."""
    try:
        return get_type_hints(made.__init__ if inspect.isclass(made) else made)
    except (NameError, TypeError):
        return {}
