"""The command line: overrides checked against what exists, configs composed, sweeps expanded. Imports no torch."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from .config import (
    CONF,
    LIST_GROUPS,
    NESTED,
    Compute,
    ConfigError,
    Protocol,
    RunConfig,
    Schema,
    groups,
    is_chosen,
    read_config,
    register_schema,
    selected,
    suggest,
)


def config_folders(arguments: Sequence[str]) -> list[Path]:
    """conf/, and the folder that `--config-dir FOLDER` adds to it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd", type=Path)
    added = parser.parse_known_args(list(arguments))[0].config_dir
    return [CONF, *([added] if added else [])]


def compose_config(overrides: Sequence[str], unchecked: Sequence[str] = ()) -> RunConfig:
    """A run's config from overrides, outside of `hydra.main`, with the same errors.

    `--config-dir FOLDER` may stand among them. unchecked: overrides of a program, before those of a user: for keys that
    no file has, and faster, as what the files compose to is not looked at.
    """
    check_overrides(overrides)
    return read_config(_compose([*_search(config_folders(overrides)[1:]), *unchecked, *_words(overrides)]))


def _search(folders: Sequence[Path]) -> list[str]:
    """The override that lets Hydra find configs in further folders."""
    found = ",".join(f"file://{folder.absolute()}" for folder in folders)
    return [f"hydra.searchpath=[{found}]"] if found else []


def sweep(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each job that run.py would start: an experiment's sweep, and `key=a,b`, expanded by Hydra."""
    check_overrides(overrides)
    parsed = _parsed(overrides)
    chosen = [o.input_line for o in parsed if not o.is_sweep_override()]
    searched = _search(config_folders(overrides)[1:])
    hydra = _compose([*searched, *cast(list[str], chosen)], return_hydra_config=True).hydra
    swept = (hydra.sweeper.params or {}) if hydra.mode == RunMode.MULTIRUN else {}
    every = [*_parsed([f"{key}={values}" for key, values in swept.items()]), *parsed]
    return [job for batch in BasicSweeper.split_arguments(every, None) for job in batch]


def _compose(overrides: Sequence[str], return_hydra_config: bool = False) -> DictConfig:
    register_schema()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            return compose("config", overrides=list(overrides), return_hydra_config=return_hydra_config)
        except HydraException as error:
            raise ConfigError(str(error)) from error


def check_overrides(arguments: Sequence[str]) -> None:
    """Refuse overrides whose key or group choice does not exist, with a suggestion."""
    folders = config_folders(arguments)
    known = groups(folders)
    overrides = [o for o in _parsed(arguments) if not (o.key_or_group or "").startswith("hydra") and not o.is_add()]
    for override in overrides:
        key = (override.key_or_group or "").split("@")[0]
        if key in known:
            _check_choices(key, override, known[key])
        else:
            _check_key(key, override, known, folders)
    _check_composed(overrides, folders)


def _words(arguments: Sequence[str]) -> list[str]:
    """The overrides of a command line, without its options."""
    return [a for a in arguments if ("=" in a or a.startswith("~")) and not a.startswith("-")]


def _parsed(arguments: Sequence[str]) -> list[Override]:
    words = _words(arguments)
    shell = {"-sc", "--shell-completion"} & set(arguments)
    return [] if shell else [_parse(word) for word in words]


def _parse(word: str) -> Override:
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException as error:
        key, _, value = word.partition("=")
        hint = f"; if that is a text, quote it twice: '{key}=\"{value}\"'" if value and "[" not in value else ""
        raise ConfigError(f"{word}: {str(error).splitlines()[0]}{hint}") from error


def _check_composed(overrides: Sequence[Override], folders: Sequence[Path]) -> None:
    """Check keys below model and data sets against what the chosen files compose to."""
    nested = [key for o in overrides if (key := o.key_or_group or "").split(".")[0] in NESTED and "." in key]
    if not nested:
        return
    selecting = ("model", "dataset", "dataset@train", "dataset@validation", "ood", "experiment")
    chosen = [f"{place}={_first(o)}" for o in overrides if (place := o.get_key_element()) in selecting]
    config = _compose([*chosen, *_search(folders[1:])])
    for key in nested:
        _check_setting_path(key, config)


def _check_choices(group: str, override: Override, choices: list[str]) -> None:
    value = override.value()
    if override.is_sweep_override():
        chosen = [element for v in _sweep_values(override) for element in (v if isinstance(v, list) else [v])]
    else:
        chosen = value if isinstance(value, list) else [value]
    for choice in chosen:
        if isinstance(choice, str) and choice not in choices:
            raise ConfigError(suggest(choice, choices, group))
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
        if len(rest) == 1 and not override.is_delete():
            raise ConfigError(f"{key}={override.value()}: name one of its settings, for example {key}.SETTING=VALUE")
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


def take_allow_flag(arguments: list[str]) -> list[str]:
    """Strip `--allow-target PREFIX` from a command line; it lets configs name classes of your own package."""
    rest: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        if argument.split("=")[0] != "--allow-target":
            rest.append(argument)
            continue
        prefix = argument.partition("=")[2] or next(waiting, "")
        if not prefix:
            sys.exit("--allow-target needs a package prefix, for example --allow-target my_methods.")
        os.environ["ASSAY_ALLOW_TARGET"] = ",".join(filter(None, [os.environ.get("ASSAY_ALLOW_TARGET"), prefix]))
    return rest


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
