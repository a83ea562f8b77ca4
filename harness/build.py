"""From configs to objects: the only user of `hydra.utils.instantiate`."""

import inspect
import os
from collections.abc import Iterator
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_class, get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from harness.config import ConfigError, suggest

ALLOWED_PREFIXES = ("methods.", "metrics.", "datasets.", "harness.models.")
ALLOW_VARIABLE = "ASSAY_ALLOW_TARGET"

# Keys of a group's YAML that other configs or tables read, and that are no constructor arguments.
ANNOTATIONS: dict[str, frozenset[str]] = {
    "model": frozenset({"name", "target_layer"}),
    "dataset": frozenset({"name", "tolerance_px"}),
    "method": frozenset(),
    "metric": frozenset(),
}


def settings(config: DictConfig, group: str) -> dict[str, Any]:
    """`_target_` and the constructor's arguments, interpolations resolved, the group's annotations left out."""
    resolved = OmegaConf.to_container(config, resolve=True)
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items() if key not in ANNOTATIONS[group]}


def build(config: DictConfig, group: str, name: str) -> Any:
    """Instantiate `_target_` with its settings, after checking that it is allowed and that they fit.

    Args:
        config: one choice of `group`, composed.
        group, name: how errors name it, for example method gradcam.

    Raises:
        ConfigError: target not allowed or not importable, unknown or missing setting.
    """
    arguments, what = settings(config, group), f"{group} {name}"
    for target in _targets(arguments):
        _check_allowed(target, what)
    if "_target_" not in arguments:
        raise ConfigError(f"{what} has no _target_: name the class that it builds")
    _check_signature(arguments, what)
    try:
        return instantiate(arguments, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, (ValueError, TypeError, FileNotFoundError, ImportError)):
            raise ConfigError(f"{what}: {cause}") from cause
        raise


def _targets(value: Any) -> Iterator[Any]:
    """Every `_target_` in a nested config."""
    if isinstance(value, dict):
        yield from (v for k, v in value.items() if k == "_target_")
        value = list(value.values())
    if isinstance(value, list):
        for element in value:
            yield from _targets(element)


def _check_allowed(target: Any, what: str) -> None:
    extra = tuple(filter(None, os.environ.get(ALLOW_VARIABLE, "").split(",")))
    if not isinstance(target, str) or not target.startswith(ALLOWED_PREFIXES + extra):
        raise ConfigError(
            f"{what}: _target_ {target!r} is outside {' '.join(ALLOWED_PREFIXES)}: a config may not name any code. "
            f"To allow a package of yours: --allow-target my_package. (or {ALLOW_VARIABLE}=my_package.)"
        )


def _check_signature(arguments: dict[str, Any], what: str) -> None:
    target = arguments["_target_"]
    try:
        made = get_class(target) if target.rpartition(".")[2][:1].isupper() else get_object(target)
    except Exception as error:
        raise ConfigError(f"{what}: _target_ {target!r} cannot be imported: {error}") from error
    parameters = inspect.signature(made).parameters
    for name in arguments.keys() - parameters.keys() - {"_target_"}:
        raise ConfigError(f"{what}: " + suggest(name, parameters, f"setting of {target}"))
    required = {n for n, p in parameters.items() if p.default is p.empty and p.kind is not p.VAR_KEYWORD}
    if missing := sorted(required - arguments.keys()):
        raise ConfigError(f"{what}: {target} needs {', '.join(missing)}")
