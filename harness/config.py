"""The composed configuration: its schema, and errors that name the nearest valid key. Imports no torch."""

import argparse
import difflib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf

CONF = Path(__file__).resolve().parent.parent / "conf"
CACHE_MODES = ("missing", "refresh", "off", "only")
OTHER_FOLDERS = ("table",)  # of conf/: read by `python -m harness table`, no part of a run
LIST_GROUPS = ("method", "metric", "ood")  # selectable as a list; each file is packaged as <group>.<name>
REQUIRED_GROUPS = ("method", "metric")  # of which a run needs at least one choice
NESTED = ("model", "dataset", "train", "validation", "ood")  # checked against what the chosen files compose to


class ConfigError(ValueError):
    """A configuration that cannot be run; the message says what to change."""


@dataclass
class Protocol:
    """Conventions between method and metric.

    targets: which (image, class) pairs are explained: `labels` (every annotated class), `predicted`
        (annotated and predicted), `top1` (the highest logit, annotated or not).
    smooth: method -> Gaussian sigma as a share of the map's longer side (0 = none).
    """

    name: str = MISSING
    targets: str = "labels"
    smooth: dict[str, float] = field(default_factory=dict)


@dataclass
class Compute:
    """Where and how a run computes; nothing here is part of a result's identity.

    device: auto, cpu or cuda. batch_size: images a pass. workers: loader processes. threads: CPU threads
    of each process. processes: auto, or how many share one device's shards. shard_size: images a shard.
    """

    device: str = "auto"
    batch_size: int = 16
    workers: int = 0
    threads: int = 1
    processes: Any = "auto"
    shard_size: int = 32


@dataclass
class RunConfig:
    """One run: model x dataset x methods x metrics under a protocol.

    Detectors read further data sets. train: what they are fitted on; validation: what thresholds are chosen on
    (`dataset@train=NAME`, `dataset@validation=NAME`; chosen if they have a class, see `is_chosen`; limit: their
    first images alone). ood: the sets to tell from `dataset`, by name.
    """

    model: dict[str, Any] = field(default_factory=dict)
    dataset: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=lambda: {"limit": None})
    validation: dict[str, Any] = field(default_factory=lambda: {"limit": None})
    ood: dict[str, Any] = field(default_factory=dict)
    method: dict[str, Any] = field(default_factory=dict)
    metric: dict[str, Any] = field(default_factory=dict)
    protocol: Protocol = field(default_factory=Protocol)
    compute: Compute = field(default_factory=Compute)
    seed: int = 0
    precision: str = "float32"
    limit: int | None = None
    subset_seed: int | None = None
    cache: str = "missing"
    dry_run: bool = False
    results: str = "results"


def register_schema() -> None:
    """Make the schema known to Hydra, so that an unknown top-level key is refused."""
    ConfigStore.instance().store(name="run_schema", node=RunConfig)


def input_setting(name: str, default: int, *, _root_: DictConfig) -> int:
    """`${input:NAME,DEFAULT}`: a setting of the data set's transform, which its OOD sets take over.

    A part of a data set, or several as one, have their transforms further down; drawn scenes have none: the default.
    """
    found = set(_transform_settings(OmegaConf.to_container(_root_.dataset, resolve=True), name))
    if len(found) > 1:
        raise ConfigError(f"the parts of dataset {_root_.dataset.get('name')} differ in transform.{name}: {found}")
    return found.pop() if found else default


def _transform_settings(settings: Any, name: str) -> Iterator[Any]:
    if isinstance(settings, dict):
        transform = settings.get("transform")
        if isinstance(transform, dict) and name in transform:
            yield transform[name]
        for value in settings.values():
            yield from _transform_settings(value, name)


OmegaConf.register_new_resolver("input", input_setting, replace=True)


def groups(folders: Sequence[Path] = (CONF,)) -> dict[str, list[str]]:
    """Every config group of a run and its choices: what is in conf/ exists, what is not does not."""
    files = sorted(file for folder in folders for file in folder.glob("*/*.yaml"))
    names = sorted({file.parent.name for file in files} - set(OTHER_FOLDERS))
    return {name: sorted({file.stem for file in files if file.parent.name == name}) for name in names}


def config_folders(arguments: Sequence[str]) -> list[Path]:
    """conf/, and the folder that `--config-dir FOLDER` adds to it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd", type=Path)
    added = parser.parse_known_args(list(arguments))[0].config_dir
    return [CONF, *([added] if added else [])]


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """Compose a RunConfig outside of `hydra.main`, with the same errors."""
    check_overrides(overrides)
    return _compose(overrides)


def sweep(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each job that run.py would start: an experiment's sweep, and `key=a,b`, expanded by Hydra."""
    check_overrides(overrides)
    parsed = _parsed(overrides)
    chosen = [o.input_line for o in parsed if not o.is_sweep_override()]
    hydra = _compose(cast(list[str], chosen), return_hydra_config=True).hydra
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


def suggest(word: str, choices: Iterable[str], what: str) -> str:
    """`word is not a <what>; did you mean ...? Valid: ...`."""
    choices = sorted(choices)
    near = difflib.get_close_matches(word, choices, n=2, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return f"{word!r} is not a {what}.{hint} Valid: {', '.join(choices)}"


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


def _parsed(arguments: Sequence[str]) -> list[Override]:
    words = [a for a in arguments if ("=" in a or a.startswith("~")) and not a.startswith("-")]
    shell = {"-sc", "--shell-completion"} & set(arguments)
    try:
        return [] if shell else list(OverridesParser.create().parse_overrides(words))
    except HydraException as error:
        raise ConfigError(f"{' '.join(words)}: {str(error).splitlines()[0]}") from error


def _check_composed(overrides: Sequence[Override], folders: Sequence[Path]) -> None:
    """Check keys below model and data sets against what the chosen files compose to."""
    nested = [key for o in overrides if (key := o.key_or_group or "").split(".")[0] in NESTED and "." in key]
    if not nested:
        return
    selecting = ("model", "dataset", "dataset@train", "dataset@validation", "ood", "experiment")
    chosen = [f"{place}={_first(o)}" for o in overrides if (place := o.get_key_element()) in selecting]
    search = ",".join(f"file://{folder.absolute()}" for folder in folders[1:])
    config = _compose([*chosen, *([f"hydra.searchpath=[{search}]"] if search else [])])
    for key in nested:
        _check_setting_path(key, config)


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
    names = {f.name for f in fields(RunConfig)} | set(known)
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


def validate(config: DictConfig) -> None:
    """Checks that the schema cannot express."""
    _choice("cache", config.cache, CACHE_MODES)
    _choice("precision", config.precision, ("float32", "float64"))
    _choice("protocol.targets", config.protocol.targets, ("labels", "predicted", "top1"))
    for key in ("batch_size", "threads", "shard_size"):
        _at_least(f"compute.{key}", config.compute[key], 1)
    _at_least("compute.workers", config.compute.workers, 0)
    if config.limit is not None:
        _at_least("limit", config.limit, 1)
    if config.subset_seed is not None:
        _at_least("subset_seed", config.subset_seed, 0)
    if config.compute.processes != "auto":
        _at_least("compute.processes", config.compute.processes, 1)
    for name in ("train", "validation"):
        if config[name].limit is not None:
            _at_least(f"{name}.limit", config[name].limit, 1)
    methods = {*groups()["method"], *selected(config.method)}
    if strangers := sorted(set(config.protocol.smooth) - methods):
        raise ConfigError(f"protocol.smooth.{strangers[0]}: " + suggest(strangers[0], methods, "method"))
    for group in REQUIRED_GROUPS:
        if not selected(config[group]):
            raise ConfigError(f"no {group} chosen: {group}=[{','.join(groups()[group][:2])},...]")


def selected(choices: DictConfig) -> list[str]:
    """Names of the chosen methods, metrics or OOD sets, sorted.

    An experiment may tune a method that the command line then does not choose: such an entry has no class.
    """
    return sorted(str(name) for name, settings in choices.items() if is_chosen(settings))


def is_chosen(settings: DictConfig) -> bool:
    """Whether a file was chosen for this place of the config: it names a class."""
    return "_target_" in settings


def _choice(name: str, value: Any, valid: Sequence[str]) -> None:
    if value not in valid:
        raise ConfigError(f"{name}={value}: choose one of {', '.join(valid)}")


def _at_least(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or value < least:
        raise ConfigError(f"{name}={value}: give a whole number of at least {least}")


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
