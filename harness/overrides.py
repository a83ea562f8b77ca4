"""The command line: overrides checked against what exists, configs composed, sweeps expanded. Imports no torch."""

import re
from collections.abc import Collection, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from .arguments import config_folders, parsed_options
from .composing import composed, without_hydra
from .config import (
    LIST_GROUPS,
    NESTED,
    Compute,
    ConfigError,
    Protocol,
    RunConfig,
    Schema,
    groups,
    is_chosen,
    selected,
    suggest,
)
from .plugins import left_out
from .reading import read_config
from .sources import check_one
from .untrusted import check_swept

# Composing


def compose_config(overrides: Sequence[str], unchecked: Sequence[str] = ()) -> RunConfig:
    """A run's config from overrides, outside of `hydra.main`, with the same errors.

    `--config-dir FOLDER` may stand among them. unchecked: overrides of a program, before those of a user: for keys that
    no file has, and faster, as what the files compose to is not looked at.
    """
    check_overrides(overrides)
    return read_config(without_hydra(composed([*unchecked, *_words(overrides)], config_folders(overrides))))


def sweep(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each job that run.py would start: an experiment's sweep, and `key=a,b`, expanded by Hydra."""
    check_overrides(overrides)
    parsed = _parsed(overrides)
    swept = _own_sweep(_unswept(overrides))
    every = [*_parsed([f"{key}={values}" for key, values in swept.items()]), *parsed]
    return [job for batch in BasicSweeper.split_arguments(every, None) for job in batch]


def _own_sweep(config: DictConfig) -> dict[str, Any]:
    """What an experiment sweeps."""
    swept = (config.hydra.sweeper.get("params") or {}) if config.hydra.mode == RunMode.MULTIRUN else {}
    check_swept(swept)
    return swept


def _unswept(overrides: Sequence[str]) -> DictConfig:
    """What the overrides that are not swept compose to, with Hydra's node."""
    chosen = [str(o.input_line) for o in _parsed(overrides) if not o.is_sweep_override()]
    return composed(chosen, config_folders(overrides))


def check_jobs(arguments: Sequence[str]) -> None:
    """Compose every job of a command line of run.py, so that the last one is refused before the first one computes.

    Raises:
        ConfigError: some job's config cannot be run, or would have Hydra run code.
    """
    words, folders, first = _words(arguments), config_folders(arguments), _unswept(arguments)
    if parsed_options(arguments).multirun or first.hydra.mode == RunMode.MULTIRUN:
        for job in sweep(arguments):
            read_config(without_hydra(composed(job, folders)))
    elif any(override.is_sweep_override() for override in _parsed(arguments)):
        composed(words, folders)  # Hydra says how to sweep
    else:
        read_config(without_hydra(first))


def quoted(text: str) -> str:
    """A text, a path say, as a value of an override that is read back as it is, whatever is in it."""
    plain = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # no interpolation
    return '"' + re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + found[2].replace('"', '\\"'), plain) + '"'


# Checking


def check_overrides(arguments: Sequence[str]) -> None:
    """Refuse overrides whose key or group choice does not exist, with a suggestion."""
    folders = config_folders(arguments)
    known = groups(folders)
    for word in parsed_options(arguments).overrides:
        if "=" not in word and not word.startswith("~"):
            raise ConfigError(
                f"{word!r} is no override: write KEY=VALUE, with quotes around it where the value holds a space"
            )
    overrides = [o for o in _parsed(arguments) if not (o.key_or_group or "").startswith("hydra") and not o.is_add()]
    for override in overrides:
        key = (override.key_or_group or "").split("@")[0]
        if key in known:
            _check_choices(key, override, known[key], folders)
        else:
            _check_key(key, override, known, folders)
    _check_placed(overrides, folders)
    _check_composed(overrides, known, folders)


def _words(arguments: Sequence[str]) -> list[str]:
    """The overrides of a command line, without its options."""
    return list(parsed_options(arguments).overrides)


def _parsed(arguments: Sequence[str]) -> list[Override]:
    words = _words(arguments)
    return [] if parsed_options(arguments).shell_completion else [_parse(word) for word in words]


def _parse(word: str) -> Override:
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException as error:
        key, _, value = word.partition("=")
        is_list = "[" in value and key in LIST_GROUPS
        hint = f"; if that is a text, quote it twice: '{key}=\"{value}\"'" if value and not is_list else ""
        raise ConfigError(f"{word}: {str(error).splitlines()[0]}{hint}") from error


def _check_composed(overrides: Sequence[Override], known: Collection[str], folders: Sequence[Path]) -> None:
    """Check keys below model and data sets against what the chosen files compose to."""
    nested = [key for o in overrides if (key := o.key_or_group or "").split(".")[0] in NESTED and "." in key]
    if not nested:
        return
    chosen = [_once(o) for o in overrides if (o.key_or_group or "") in known and not o.is_delete()]
    config = composed(chosen, folders)
    for key in nested:
        _check_setting_path(key, config)


def _check_placed(overrides: Sequence[Override], folders: Sequence[Path]) -> None:
    """Refuse a file for a place inside a method that is not chosen (model@method.NAME.larger=FILE): nobody reads it."""
    placed = [o for o in overrides if (o.package or "").startswith("method.")]
    if not placed:
        return
    chosen = [f"{o.key_or_group}={_first(o)}" for o in overrides if o.get_key_element() in ("method", "experiment")]
    methods = selected(composed(chosen, folders).method)
    for override in placed:
        name = str(override.package).split(".")[1]
        if name not in methods:
            raise ConfigError(
                f"{override.input_line}: method {name} is not chosen: method=[{','.join([*methods, name])}], or leave "
                f"out {override.get_key_element()}"
            )


def _check_choices(group: str, override: Override, choices: list[str], folders: Sequence[Path]) -> None:
    value = override.value()
    if override.is_sweep_override():
        chosen = [element for v in _sweep_values(override) for element in (v if isinstance(v, list) else [v])]
    else:
        chosen = value if isinstance(value, list) else [value]
    for choice in chosen:
        if choice is None and override.is_delete():
            continue
        if not isinstance(choice, (str, int)):
            leave = f"~{override.get_key_element()} leaves it out; " if choice is None else ""
            raise ConfigError(f"{override.input_line}: {leave}name a choice of {group}: {', '.join(choices)}")
        if str(choice) not in choices:
            raise ConfigError("; ".join([suggest(str(choice), choices, group), *left_out()]))
        check_one(group, str(choice), folders)
        if isinstance(value, list) and group not in LIST_GROUPS and not override.is_sweep_override():
            raise ConfigError(f"{group}=[...]: only {', '.join(LIST_GROUPS)} take a list; sweep with -m {group}=a,b")


def _sweep_values(override: Override) -> list[Any]:
    from hydra.core.override_parser.types import Transformer

    return list(override.sweep_iterator(transformer=Transformer.identity))


def _check_key(key: str, override: Override, known: dict[str, list[str]], folders: Sequence[Path]) -> None:
    top, *rest = key.split(".")
    names = {f.name for f in fields(Schema)} | set(known)
    if top not in names:
        raise ConfigError(suggest(top, names, "top-level key"))
    if top in LIST_GROUPS and rest:
        if rest[0] not in known[top]:
            raise ConfigError(suggest(rest[0], known[top], top))
        check_one(top, rest[0], folders)
        if len(rest) == 1 and not override.is_delete():
            raise ConfigError(f"{override.input_line}: name one of its settings, for example {key}.SETTING=VALUE")
    if top in LIST_GROUPS and top not in NESTED and len(rest) > 1:
        file = next(path for path in (folder / top / f"{rest[0]}.yaml" for folder in folders) if path.is_file())
        _check_setting(key, rest[1], OmegaConf.load(file))
    elif top in ("protocol", "compute") and rest:
        schema = {"protocol": Protocol, "compute": Compute}[top]
        _check_setting(key, rest[0], {f.name: None for f in fields(schema)})


def _check_setting(key: str, name: str, settings: Any) -> None:
    valid = [str(k) for k in settings if not str(k).startswith("_")]
    if name not in valid:
        raise ConfigError(f"{key}: " + suggest(name, valid, "setting"))


def _once(override: Override) -> str:
    """As it stands, or its first value."""
    if override.is_sweep_override():
        return f"{override.get_key_element()}={_first(override)}"
    return str(override.input_line)


def _first(override: Override) -> Any:
    return _sweep_values(override)[0] if override.is_sweep_override() else override.value()


def _check_setting_path(key: str, config: Any) -> None:
    top = key.split(".")[0]
    if top in ("train", "validation") and key != f"{top}.limit" and not is_chosen(config[top]):
        raise ConfigError(f"{key}: no {top} set is chosen: dataset@{top}=NAME")
    if top == "ood" and (name := key.split(".")[1]) not in selected(config.ood):
        raise ConfigError(f"{key}: {name} is not chosen: ood=[{','.join([*selected(config.ood), name])}]")
    for name in key.split("."):
        if not OmegaConf.is_dict(config):
            return
        if name not in config:
            _check_setting(key, name, config)
        config = OmegaConf.to_container(config, resolve=False).get(name)  # type: ignore[union-attr]
        config = OmegaConf.create(config) if isinstance(config, dict) else config
