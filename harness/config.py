"""The configuration of a run: its schema, and the door behind which it is typed. Imports no torch."""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

ROOT = Path(__file__).resolve().parent.parent  # the checkout; installed, the package
CONF = ROOT / "conf"
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


@dataclass(kw_only=True)
class Settings:
    """What a run's command line sets beside its groups' choices."""

    protocol: Protocol = field(default_factory=Protocol)
    compute: Compute = field(default_factory=Compute)
    seed: int = 0
    precision: str = "float32"
    limit: int | None = None
    subset_seed: int | None = None
    cache: str = "missing"
    dry_run: bool = False
    results: str = "results"


@dataclass(kw_only=True)
class Schema(Settings):
    """What Hydra composes: the choices of groups are whatever their files say."""

    model: dict[str, Any] = field(default_factory=dict)
    dataset: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=lambda: {"limit": None})
    validation: dict[str, Any] = field(default_factory=lambda: {"limit": None})
    ood: dict[str, Any] = field(default_factory=dict)
    method: dict[str, Any] = field(default_factory=dict)
    metric: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """One chosen file of conf/: what it is called, and the settings of the class that it names.

    settings: `_target_` and the constructor's arguments. notes: what other configs, tables or the harness read of the
    file, and the constructor does not. limit: how many images of a data set the run takes (None: all). made: the
    object itself, where somebody has it already.
    """

    group: str
    name: str
    settings: dict[str, Any]
    notes: dict[str, Any] = field(default_factory=dict)
    limit: int | None = None
    made: Any = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.group} {self.name}"


Choices = dict[str, Choice]  # by name, sorted


@dataclass(kw_only=True)
class RunConfig(Settings):
    """One run, as everything behind the door reads it: model x dataset x methods x metrics under a protocol.

    Detectors read further data sets. train: what they are fitted on; validation: what thresholds are chosen on
    (`dataset@train=NAME`, `dataset@validation=NAME`). ood: the sets to tell from `dataset`, by name.
    """

    model: Choice
    dataset: Choice
    train: Choice | None = None
    validation: Choice | None = None
    ood: Choices = field(default_factory=dict)
    method: Choices = field(default_factory=dict)
    metric: Choices = field(default_factory=dict)


# Keys of a group's YAML that other configs, tables or the harness read, and that are no constructor arguments.
ANNOTATIONS: dict[str, frozenset[str]] = {
    "model": frozenset({"name", "target_layer", "saliency_layer", "contrast_layer", "target_layout", "output"}),
    "dataset": frozenset({"name", "tolerance_px", "limit"}),
    "method": frozenset({"floor"}),
    "metric": frozenset(),
}


def register_schema() -> None:
    """Make the schema known to Hydra, so that an unknown top-level key is refused."""
    ConfigStore.instance().store(name="run_schema", node=Schema)


def read_config(composed: DictConfig) -> RunConfig:
    """The composed config as typed objects, interpolations resolved, checked. Nothing behind this door is untyped.

    Raises:
        ConfigError: a value that the schema cannot refuse by its type, or a reference that leads nowhere.
    """
    try:
        read = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error.__cause__ if isinstance(error.__cause__, ConfigError) else error)) from error
    assert isinstance(read, Schema)
    config = RunConfig(
        **{each.name: getattr(read, each.name) for each in fields(Settings)},
        model=choice("model", read.model["name"], read.model),
        dataset=_data(read.dataset, read.limit),
        train=_data(read.train, None) if is_chosen(read.train) else None,
        validation=_data(read.validation, None) if is_chosen(read.validation) else None,
        ood={name: _data(read.ood[name], read.limit) for name in selected(read.ood)},
        method=_choices("method", read.method),
        metric=_choices("metric", read.metric),
    )
    _check(config, {"train.limit": read.train["limit"], "validation.limit": read.validation["limit"]})
    return config


def choice(group: str, name: str, settings: Mapping[str, Any]) -> Choice:
    """A file's settings, those of the class told apart from the notes."""
    notes = {key: settings[key] for key in ANNOTATIONS[group] if key in settings}
    return Choice(group, name, _without(settings, ANNOTATIONS[group]), notes, notes.get("limit"))


def _data(settings: dict[str, Any], limit: int | None) -> Choice:
    """limit: of the run, which a data set with a limit of its own does not take over."""
    return choice("dataset", settings["name"], {"limit": limit, **settings})


def _choices(group: str, settings: dict[str, Any]) -> Choices:
    return {name: choice(group, name, settings[name]) for name in selected(settings)}


def _without(settings: Mapping[Any, Any], names: frozenset[str]) -> dict[str, Any]:
    """Leave keys out of an object's settings and of the objects nested in it."""
    dropped = names if "_target_" in settings else frozenset()
    return {
        str(key): _without(value, names) if isinstance(value, dict) else value
        for key, value in settings.items()
        if key not in dropped
    }


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


def suggest(word: str, choices: Iterable[str], what: str) -> str:
    """`word is not a <what>; did you mean ...? Valid: ...`."""
    choices = sorted(choices)
    near = difflib.get_close_matches(word, choices, n=2, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return f"{word!r} is not a {what}.{hint} Valid: {', '.join(choices)}"


def selected(choices: Mapping[str, Any]) -> list[str]:
    """Names of the chosen methods, metrics or OOD sets, sorted.

    An experiment may tune a method that the command line then does not choose: such an entry has no class.
    """
    return sorted(str(name) for name, settings in choices.items() if is_chosen(settings))


def is_chosen(settings: Mapping[str, Any]) -> bool:
    """Whether a file was chosen for this place of the config: it names a class."""
    return "_target_" in settings


def _check(config: RunConfig, limits: Mapping[str, Any]) -> None:
    """What the schema cannot express."""
    _one_of("cache", config.cache, CACHE_MODES)
    _one_of("precision", config.precision, ("float32", "float64"))
    _one_of("protocol.targets", config.protocol.targets, ("labels", "predicted", "top1"))
    for key in ("batch_size", "threads", "shard_size"):
        _at_least(f"compute.{key}", getattr(config.compute, key), 1)
    _at_least("compute.workers", config.compute.workers, 0)
    if config.compute.processes != "auto":
        _at_least("compute.processes", config.compute.processes, 1)
    for name, value in {"limit": config.limit, **limits}.items():
        if value is not None:
            _at_least(name, value, 1)
    if config.subset_seed is not None:
        _at_least("subset_seed", config.subset_seed, 0)
    methods = {*groups()["method"], *config.method}
    if strangers := sorted(set(config.protocol.smooth) - methods):
        raise ConfigError(f"protocol.smooth.{strangers[0]}: " + suggest(strangers[0], methods, "method"))
    for group in REQUIRED_GROUPS:
        if not getattr(config, group):
            raise ConfigError(f"no {group} chosen: {group}=[{','.join(groups()[group][:2])},...]")


def _one_of(name: str, value: Any, valid: Sequence[str]) -> None:
    if value not in valid:
        raise ConfigError(f"{name}={value}: choose one of {', '.join(valid)}")


def _at_least(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or value < least:
        raise ConfigError(f"{name}={value}: give a whole number of at least {least}")
