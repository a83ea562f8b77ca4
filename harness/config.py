"""The configuration of a run: its schema, and what there is to choose from. Imports no torch."""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

ROOT = Path(__file__).resolve().parent.parent  # the checkout; installed, the package
CONF = ROOT / "conf"
OTHER_FOLDERS = ("table", "recipe")  # of conf/: read by `python -m harness table` and `train`, no part of a run
LIST_GROUPS = ("method", "metric", "ood", "sink")  # selectable as a list; each file is packaged as <group>.<name>
ENGINES = ("local", "ray", "slurm")  # of `compute.engine`
REQUIRED_GROUPS = ("method", "metric")  # of which a run needs at least one choice
NESTED = ("model", "dataset", "train", "validation", "ood")  # checked against what the chosen files compose to


class ConfigError(ValueError):
    """A configuration that cannot be run; the message says what to change."""


@dataclass
class Protocol:
    """Conventions between method and metric.

    targets: which (image, class) pairs are explained: `labels` (every annotated class), `predicted`
        (annotated and predicted), `top1` (the highest logit, annotated or not), `top2`, `top3`, ... (so many).
    smooth: method -> Gaussian sigma as a share of the map's longer side (0 = none).
    """

    name: str = MISSING
    targets: str = "labels"
    smooth: dict[str, float] = field(default_factory=dict)


@dataclass
class Slurm:
    """What each worker of `compute.engine=slurm` asks the scheduler for, null for what the cluster gives anyway.

    time_min: after so long it is requeued and goes on. gpus: GPUs of it. mem_gb: memory. setup: lines of shell before
    its Python, which the command line alone may give (harness/untrusted.py).
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    time_min: int = 240
    gpus: int = 0
    mem_gb: int | None = None
    setup: list[str] = field(default_factory=list)


@dataclass
class Compute:
    """Where and how a run computes; nothing here is part of a result's identity.

    engine: who computes shards: processes of this machine, or workers of a Ray or Slurm cluster. device: auto, cpu or
    cuda. batch_size: images a pass, or auto: as many as a GPU has free memory for (engine/memory.py). workers: loader
    processes. threads: CPU threads of each process. processes: auto, or how many share one device's shards, or how many
    workers a cluster gives. shard_size: images a shard. memory_format: of convolutions, contiguous or channels_last;
    auto: contiguous, but for forward-only loops on the CPU, where channels_last is faster.
    coordination: how processes share shards: through locks in the store, or by number (none), where the store's file
    system has no locks. worker: with none, which of how many this one is, `K/N` from 0 on; null: as the launcher says.
    """

    engine: str = "local"
    device: str = "auto"
    batch_size: Any = 16
    workers: int = 0
    threads: int = 1
    processes: Any = "auto"
    shard_size: int = 32
    memory_format: str = "auto"
    coordination: str = "locks"
    worker: str | None = None
    slurm: Slurm = field(default_factory=Slurm)


@dataclass(kw_only=True)
class Settings:
    """What a run's command line sets beside its groups' choices."""

    protocol: Protocol = field(default_factory=Protocol)
    compute: Compute = field(default_factory=Compute)
    seed: int = 0
    precision: str = "float32"
    forward_precision: str = "same"  # of forward-only loops, see `harness.reduced`
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
    sink: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """One chosen file of conf/: what it is called, and the settings of the class that it names.

    settings: `_target_` and the constructor's arguments. notes: what other configs, tables or the harness read of the
    file, and the constructor does not. limit: how many images of a data set the run takes (None: all). made: the
    object itself, where somebody has it already. key: where it stands in the config, `method.gradcam`.
    """

    group: str
    name: str
    settings: dict[str, Any]
    notes: dict[str, Any] = field(default_factory=dict)
    limit: int | None = None
    made: Any = field(default=None, compare=False, repr=False)
    key: str = ""

    def __str__(self) -> str:
        return f"{self.group} {self.name}"


Choices = dict[str, Choice]  # by name, sorted


@dataclass(kw_only=True)
class RunConfig(Settings):
    """One run, as everything behind the door reads it: model x dataset x methods x metrics under a protocol.

    Detectors read further data sets. train: what they are fitted on; validation: what thresholds are chosen on
    (`dataset@train=NAME`, `dataset@validation=NAME`). ood: the sets to tell from `dataset`, by name. sink: where
    results are sent to, too; no part of any key.
    """

    model: Choice
    dataset: Choice
    train: Choice | None = None
    validation: Choice | None = None
    ood: Choices = field(default_factory=dict)
    method: Choices = field(default_factory=dict)
    metric: Choices = field(default_factory=dict)
    sink: Choices = field(default_factory=dict)


# Keys of a group's YAML that other configs, tables or the harness read, and that are no constructor arguments.
ANNOTATIONS: dict[str, frozenset[str]] = {
    "model": frozenset(
        {"name", "target_layer", "saliency_layer", "contrast_layer", "target_layout", "output", "images"}
    ),
    "dataset": frozenset({"name", "tolerance_px", "limit", "known"}),
    "method": frozenset({"floor"}),
    "metric": frozenset(),
    "sink": frozenset(),
}
SINKS = "assay.harness.results.sinks."  # what results are sent with
NETWORKS = "assay.harness.networks."  # what makes networks, wherever a config names it
NOTES_OF_NETWORKS = ANNOTATIONS["model"] - {"output"}  # of one inside a method; its output would have to be read


@cache
def register_schema() -> None:
    """Make the schema known to Hydra, so that an unknown top-level key is refused."""
    ConfigStore.instance().store(name="run_schema", node=Schema)


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


def folder_here(results: str) -> str:
    """`${here:FOLDER}`: a folder of this machine, where sweeps of Hydra put what they put; else `results`."""
    return results if "://" not in results else "results"


OmegaConf.register_new_resolver("input", input_setting, replace=True)
OmegaConf.register_new_resolver("here", folder_here, replace=True)


def groups(folders: Sequence[Path] = (CONF,)) -> dict[str, list[str]]:
    """Every config group of a run and its choices: what is in conf/ exists, what is not does not."""
    found: dict[str, set[str]] = {}
    for folder in folders:
        for file in folder.glob("*/*.yaml"):
            found.setdefault(file.parent.name, set()).add(file.stem)
    return {name: sorted(found[name]) for name in sorted(found) if name not in OTHER_FOLDERS}


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
