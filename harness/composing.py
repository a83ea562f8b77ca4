"""Config files composed by Hydra, and kept: the files of a command line's choices are read once. Imports no torch."""

import os
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import fields
from functools import lru_cache
from pathlib import Path

import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from .config import CONF, ConfigError, Settings, register_schema
from .plugins import register_search
from .reading import one_line
from .sources import check_one, clashes, standing
from .untrusted import NO_LAUNCHER, check_hydra, check_shell

KEPT = 64  # compositions, of some 0.5 MB each
Stamps = tuple[tuple[str, int, int, int], ...]


def composed(words: Sequence[str], folders: Sequence[Path]) -> DictConfig:
    """What the files compose to, with Hydra's node, in one piece or not at all, after a look at what Hydra would run.

    It is Hydra's own composition but for what Hydra notes of values that are set (`hydra.overrides`).

    words: overrides. folders: of configs, ours first.

    Raises:
        ConfigError: no such choice or key, two folders that differ in it, or code of a config's choosing.
    """
    register_schema()
    register_search()
    try:
        parsed = OverridesParser.create().parse_overrides(list(words))
        choices, values = _told_apart(parsed, folders)
        config = _chosen([str(each.input_line) for each in choices], folders)
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
        check_hydra(config.hydra)
        check_shell(config, words)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, TypeError, OSError) as error:
        needs = f" ({NO_LAUNCHER})" if "'hydra/launcher'" in str(error) else ""
        raise ConfigError(one_line(error) + needs) from error
    except ValueError as error:
        raise error if isinstance(error, ConfigError) else ConfigError(one_line(error)) from error
    return config


def without_hydra(config: DictConfig) -> DictConfig:
    """The same config, Hydra's node taken out of it."""
    with open_dict(config):
        del config["hydra"]
    return config


def _told_apart(overrides: Sequence[Override], folders: Sequence[Path]) -> tuple[list[Override], list[Override]]:
    """Those that say which files there are, and those that Hydra reads after them: what is set in what they give."""
    is_value = [_is_value(each, folders) for each in overrides]
    choices = [each for each, value in zip(overrides, is_value, strict=True) if not value]
    return choices, [each for each, value in zip(overrides, is_value, strict=True) if value]


def _is_value(override: Override, folders: Sequence[Path]) -> bool:
    """Whether it surely is no choice of a file: a key that is a group's nowhere, or a mapping; none of Hydra's own."""
    key = str(override.key_or_group)
    if override.is_sweep_override() or "/" in key or key.split(".")[0] == "hydra":
        return False
    if isinstance(override.value(), dict):
        return True
    named = "." in key or key in {each.name for each in fields(Settings)}
    return named and not any((folder / key).is_dir() for folder in folders)


def _chosen(choices: Sequence[str], folders: Sequence[Path]) -> DictConfig:
    """What files compose to, before values are set."""
    known = standing()
    is_known = set(folders) <= set(known) and not any("hydra.searchpath" in each for each in choices)
    if is_known:
        return deepcopy(_kept(tuple(choices), tuple(known), _stamps(known)))
    return _read(choices, folders)  # of a user's folder, which may be the whole project's: not looked through


@lru_cache(maxsize=KEPT)
def _kept(choices: tuple[str, ...], folders: tuple[Path, ...], _stamps: Stamps) -> DictConfig:
    return _read(choices, folders)


def _stamps(folders: Iterable[Path | str]) -> Stamps:
    """What changes where a file is added, edited or removed: path, time, size and number of each."""
    found: list[tuple[str, int, int, int]] = []
    for folder in folders:
        with os.scandir(folder) as entries:
            each = sorted(entries, key=lambda entry: entry.name)
        files = [(entry.path, entry.stat()) for entry in each if not entry.is_dir()]
        found += [(path, stat.st_mtime_ns, stat.st_size, stat.st_ino) for path, stat in files]
        found += _stamps(entry.path for entry in each if entry.is_dir())
    return tuple(found)


def _read(choices: Sequence[str], folders: Sequence[Path]) -> DictConfig:
    overrides = [*_search(folders), *choices]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        _check_sources(overrides, folders)
        return compose("config", overrides=overrides, return_hydra_config=True)


def _search(folders: Sequence[Path]) -> list[str]:
    """The override that lets Hydra find configs in folders that it does not know already."""
    known = standing()
    found = ",".join(f"file://{folder.absolute()}" for folder in folders if folder not in known)
    return [f"hydra.searchpath=[{found}]"] if found else []


def _check_sources(overrides: Sequence[str], folders: Sequence[Path]) -> None:
    """Refuse a file, whoever chooses it, that two folders have and not alike."""
    if not (twice := clashes(folders)):
        return
    listed = GlobalHydra.instance().config_loader().compute_defaults_list("config", list(overrides), RunMode.RUN)
    for each in listed.defaults:
        group, _, choice = str(each.config_path).rpartition("/")
        if (group, choice) in twice:
            check_one(group, choice, folders)
