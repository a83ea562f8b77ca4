"""The door: a composed config becomes typed objects, checked. Imports no torch."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .config import (
    ANNOTATIONS,
    ENGINES,
    NETWORKS,
    NOTES_OF_NETWORKS,
    REQUIRED_GROUPS,
    Choice,
    Choices,
    Compute,
    ConfigError,
    Protocol,
    RunConfig,
    Schema,
    Settings,
    groups,
    is_chosen,
    selected,
    suggest,
)
from .places import is_remote, place
from .sources import standing
from .values import check_finite, check_name, shown

TARGETS = re.compile(r"labels|predicted|top[1-9]\d{0,5}")
DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
COORDINATION = ("locks", "none")
FORWARDS = ("same", "bfloat16")  # of harness/reduced.py
MEMORY_FORMATS = ("auto", "contiguous", "channels_last")
WORKER = re.compile(r"(\d{1,6})/(\d{1,6})")
SCHEDULED = re.compile(r"[\w.,:@&|*()\[\]+-]{1,200}")  # of Slurm's partitions, accounts, constraints: no white space
CACHE_MODES = ("missing", "refresh", "off", "only")
MOST = 1024  # threads, loaders, processes: more is a slip, and tens of thousands of threads end the process unsaid
LARGEST_SEED = 2**63 - 1  # of torch's generators, of columns of tables


def read_config(composed: DictConfig) -> RunConfig:
    """The composed config as typed objects, interpolations resolved, checked. Nothing behind this door is untyped.

    Raises:
        ConfigError: a value that the schema cannot refuse by its type, or a reference that leads nowhere.
    """
    _check_keys(composed)
    try:
        read = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise ConfigError(one_line(error)) from error
    assert isinstance(read, Schema)
    config = RunConfig(
        **{each.name: getattr(read, each.name) for each in fields(Settings)},
        model=choice("model", "model", read.model, read.model.get("name")),
        dataset=_data("dataset", read.dataset, read.limit),
        train=_data("train", read.train, None) if is_chosen(read.train) else None,
        validation=_data("validation", read.validation, None) if is_chosen(read.validation) else None,
        ood={name: _data(f"ood.{name}", read.ood[name], read.limit) for name in selected(read.ood)},
        method=_choices("method", read.method),
        metric=_choices("metric", read.metric),
        sink=_choices("sink", read.sink),
    )
    _check(config, {"train.limit": read.train.get("limit"), "validation.limit": read.validation.get("limit")})
    return config


def _check_keys(composed: DictConfig) -> None:
    """Refuse what an added key (`+key=value`, or an experiment) would say to nobody: the typed objects drop it."""
    for prefix, schema in (("", Schema), ("protocol.", Protocol), ("compute.", Compute)):
        node = composed if not prefix else composed.get(prefix[:-1])
        known = {each.name for each in fields(schema)}
        for key in sorted(set(map(str, node or ())) - known):
            raise ConfigError(f"{prefix}{key}: {suggest(key, known, 'key')}")


def one_line(error: Exception) -> str:
    """What Hydra or OmegaConf says, in a line, with the key that it is about."""
    cause = error.__cause__ or error
    if isinstance(cause, ConfigError):
        return str(cause)
    key = getattr(cause, "full_key", None)
    said = str(cause.msg if isinstance(cause, OmegaConfBaseException) and cause.msg else cause)
    lines = [line.strip() for line in said.partition("Config search path")[0].splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("full_key:", "object_type=", "reference_type="))]
    about = str(error).splitlines()[0] if isinstance(error, HydraException) and cause is not error else ""
    about = about.removeprefix("Error merging override ").removesuffix(".")
    return ": ".join(filter(None, [about or (str(key) if key else ""), " ".join(told)]))


def choice(group: str, key: str, settings: Mapping[str, Any], name: Any) -> Choice:
    """A file's settings, those of the class told apart from the notes. key: where they stand, `method.gradcam`."""
    if not is_chosen(settings):
        raise ConfigError(f"no {group} chosen: {key}=NAME (python -m harness ls {group})")
    notes = {note: settings[note] for note in ANNOTATIONS[group] if note in settings}
    return Choice(group, name, _without(settings, ANNOTATIONS[group]), notes, notes.get("limit"), key=key)


def _data(key: str, settings: dict[str, Any], limit: int | None) -> Choice:
    """limit: of the run, which a data set with a limit of its own does not take over."""
    return choice("dataset", key, {"limit": limit, **settings}, settings.get("name"))


def _choices(group: str, settings: dict[str, Any]) -> Choices:
    return {name: choice(group, f"{group}.{name}", settings[name], name) for name in selected(settings)}


def _without(settings: Mapping[Any, Any], names: frozenset[str]) -> dict[str, Any]:
    """Leave keys out of an object's settings and of the objects nested in it; a network of ours has its own notes."""
    names = names | NOTES_OF_NETWORKS if str(settings.get("_target_")).startswith(NETWORKS) else names
    dropped = names if "_target_" in settings else frozenset()
    return {
        str(key): _without(value, names) if isinstance(value, dict) else value
        for key, value in settings.items()
        if key not in dropped
    }


def _check(config: RunConfig, limits: Mapping[str, Any]) -> None:
    """What the schema cannot express."""
    _one_of("cache", config.cache, CACHE_MODES)
    _one_of("precision", config.precision, ("float32", "float64"))
    _check_forward_precision(config)
    if not TARGETS.fullmatch(str(config.protocol.targets)):
        raise ConfigError(
            f"protocol.targets={shown(config.protocol.targets)}: choose one of labels, predicted, top1, top2, ..."
        )
    _whole("seed", config.seed, 0, LARGEST_SEED)
    if config.subset_seed is not None:
        _whole("subset_seed", config.subset_seed, 0, LARGEST_SEED)
    for name, value in {"limit": config.limit, **limits}.items():
        if value is not None:
            _whole(name, value, 1)
    check_folder(config.results)
    _check_compute(config)
    _check_smoothing(config)
    for group in REQUIRED_GROUPS:
        if not getattr(config, group):
            raise ConfigError(f"no {group} chosen: {group}=[{','.join(groups()[group][:2])},...]")
    check_names(config)
    for each in _every(config):
        check_finite(each.key, {**each.settings, **each.notes})


def check_folder(results: str) -> None:
    """Refuse a place for results that is a file, below one, or can be none.

    Also one with a line feed, say: it stands in the scripts of Slurm's workers, where a shell would run what follows.
    """
    if not results.isprintable():
        raise ConfigError(
            f"results={shown(results)} holds a character that cannot be printed: give a folder, results=FOLDER"
        )
    try:
        path = place(results)
        if is_remote(path):
            return  # what is there is asked when it is needed: that takes credentials
        there = next((each for each in (path, *path.parents) if each.exists()), path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"results={shown(results)}: {error}: give a folder, results=FOLDER") from error
    if not results.strip() or (there.exists() and not there.is_dir()):
        why = f"{there} is a file: " if results.strip() else ""
        raise ConfigError(f"results={shown(results)}: {why}give a folder, results=FOLDER")


def _check_compute(config: RunConfig) -> None:
    if not DEVICE.fullmatch(config.compute.device):
        raise ConfigError(f"compute.device={shown(config.compute.device)}: choose auto, cpu, cuda or cuda:N")
    _check_batch_size(config.compute)
    _whole("compute.shard_size", config.compute.shard_size, 1)
    _one_of("compute.memory_format", config.compute.memory_format, MEMORY_FORMATS)
    _one_of("compute.coordination", config.compute.coordination, COORDINATION)
    _check_worker(config.compute)
    _whole("compute.threads", config.compute.threads, 1, MOST)
    _whole("compute.workers", config.compute.workers, 0, MOST)
    if config.compute.processes != "auto":
        _whole("compute.processes", config.compute.processes, 1, MOST)
    _one_of("compute.engine", config.compute.engine, ENGINES)
    if config.compute.engine != "local":
        _check_elsewhere(config)


def _check_forward_precision(config: RunConfig) -> None:
    _one_of("forward_precision", config.forward_precision, FORWARDS)
    if config.forward_precision != "same" and config.precision != "float32":
        raise ConfigError(
            f"forward_precision={config.forward_precision} with precision={config.precision}: one asks for fewer "
            "digits and one for more: leave one of them out"
        )


def _check_batch_size(compute: Compute) -> None:
    if compute.batch_size != "auto":
        _whole("compute.batch_size", compute.batch_size, 1, otherwise="auto")
    elif compute.coordination == "none" or compute.engine != "local":
        what = f"engine={compute.engine}" if compute.engine != "local" else "coordination=none"
        raise ConfigError(
            f"compute.batch_size=auto with compute.{what}: the memory of this machine's device says nothing about that "
            "of others, and what two of them compute must be the same bytes: give a number, compute.batch_size=16"
        )


def _check_elsewhere(config: RunConfig) -> None:
    """What workers on other machines cannot do, and what Slurm is asked for."""
    compute, asked = config.compute, f"compute.engine={config.compute.engine}"
    if compute.device.startswith("cuda:"):
        raise ConfigError(f"compute.device={compute.device} with {asked}: workers see a GPU each; choose auto or cuda")
    if config.cache == "off":
        raise ConfigError(
            f"cache=off with {asked}: workers meet in the store, so they cannot do without it; use cache=missing, with "
            "results=NEW_FOLDER to compute all anew"
        )
    if compute.engine == "slurm":
        _check_slurm(config)


def _check_slurm(config: RunConfig) -> None:
    if config.compute.processes == "auto":
        raise ConfigError("compute.processes=auto with compute.engine=slurm: say how many workers, compute.processes=N")
    _whole("compute.slurm.time_min", config.compute.slurm.time_min, 1)
    _whole("compute.slurm.gpus", config.compute.slurm.gpus, 0, MOST)
    if config.compute.slurm.mem_gb is not None:
        _whole("compute.slurm.mem_gb", config.compute.slurm.mem_gb, 1)
    for name in ("partition", "account", "qos", "constraint"):
        value = getattr(config.compute.slurm, name)
        if value is not None and not SCHEDULED.fullmatch(value):
            raise ConfigError(f"compute.slurm.{name}={shown(value)}: give a name of the cluster's, without white space")


def _check_worker(compute: Compute) -> None:
    if compute.worker is not None and compute.coordination == "locks":
        raise ConfigError(
            f"compute.worker={compute.worker}: workers that share locks need no number: leave it out, or add "
            "compute.coordination=none"
        )
    worker_of(compute.worker)


def worker_of(text: str | None) -> tuple[int, int] | None:
    """Number and count of `K/N`; None where nothing is said.

    Raises:
        ConfigError: it is no such thing.
    """
    if text is None:
        return None
    found = WORKER.fullmatch(str(text))
    if not found or int(found[1]) >= int(found[2]):
        raise ConfigError(f"compute.worker={shown(text)}: give K/N with K from 0 to N - 1, as 0/2 and 1/2")
    return int(found[1]), int(found[2])


def _check_smoothing(config: RunConfig) -> None:
    methods = {*groups(standing())["method"], *config.method}
    for name, share in config.protocol.smooth.items():
        if name not in methods:
            raise ConfigError(f"protocol.smooth.{name}: " + suggest(name, methods, "method"))
        if not 0 <= share <= 1:
            raise ConfigError(f"protocol.smooth.{name}={share}: give a share of the map's longer side, 0 to 1")


def check_names(config: RunConfig) -> None:
    """Raise ConfigError for a name that could be no file's; a network's may be its place on a hub, or a folder."""
    check_name("protocol.name", config.protocol.name)
    check_name("model.name", config.model.name, "/:")
    for each in _every(config):
        if each.group != "model":
            check_name(f"{each.key}.name" if each.group == "dataset" else each.key, each.name)
    for name in config.ood:
        check_name(f"ood.{name}", name)


def _every(config: RunConfig) -> Iterator[Choice]:
    alone = (config.model, config.dataset, config.train, config.validation)
    yield from (each for each in alone if each is not None)
    for group in ("ood", "method", "metric", "sink"):
        yield from getattr(config, group).values()


def _one_of(name: str, value: Any, valid: Sequence[str]) -> None:
    if value not in valid:
        raise ConfigError(f"{name}={value}: choose one of {', '.join(valid)}")


def _whole(name: str, value: Any, least: int, most: int | None = None, otherwise: str = "") -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        other = f", or {otherwise}" if otherwise else ""
        raise ConfigError(f"{name}={shown(value)}: give a whole number of at least {least}{other}")
    if most is not None and value > most:
        raise ConfigError(f"{name}={value}: give a whole number of at most {most}")
