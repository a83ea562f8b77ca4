"""From configs to objects: the only user of `hydra.utils.instantiate`."""

import inspect
import os
from collections.abc import Iterator
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate

from .config import Choice, ConfigError, suggest

ALLOWED_PREFIXES = ("assay.methods.", "assay.metrics.", "assay.datasets.", "assay.harness.networks.")
ALLOW_VARIABLE = "ASSAY_ALLOW_TARGET"


def build(choice: Choice) -> Any:
    """Instantiate a choice's class with its settings, after checking that it is allowed and that they fit.

    What is made already is returned as it is.

    Raises:
        ConfigError: target not allowed or not importable, unknown or missing setting.
    """
    if choice.made is not None:
        return choice.made
    what = str(choice)
    if "_target_" not in choice.settings:
        raise ConfigError(f"{what} has no _target_: name the class that it builds")
    for node in nodes(choice.settings):
        _check_allowed(node["_target_"], what)
        _check_signature(node, what)
    try:
        return instantiate(choice.settings, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, (ValueError, TypeError, FileNotFoundError, ImportError)):
            raise ConfigError(f"{what}: {cause}") from cause
        raise


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping with a `_target_` in a nested config."""
    if isinstance(value, dict):
        if "_target_" in value:
            yield value
        value = list(value.values())
    if isinstance(value, list):
        for element in value:
            yield from nodes(element)


def _allowed_prefixes() -> tuple[str, ...]:
    return ALLOWED_PREFIXES + tuple(filter(None, os.environ.get(ALLOW_VARIABLE, "").split(",")))


def _check_allowed(target: Any, what: str) -> None:
    if not isinstance(target, str) or not target.startswith(_allowed_prefixes()):
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
    return made


def _check_signature(arguments: dict[str, Any], what: str) -> None:
    target = arguments["_target_"]
    parameters = inspect.signature(_located(target, what)).parameters
    named = {n: p for n, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name in arguments.keys() - named.keys() - {"_target_"}:
        if not takes_any:
            raise ConfigError(f"{what}: " + suggest(name, named, f"setting of {target}"))
    required = {name for name, parameter in named.items() if parameter.default is parameter.empty}
    if missing := sorted(required - arguments.keys()):
        raise ConfigError(f"{what}: {target} needs {', '.join(missing)}")
