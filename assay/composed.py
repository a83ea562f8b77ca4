"""From what a caller gives, by name or as an object, to the config of a run."""

import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from assay.given import Data, Model, data_of, home_of, network_of
from assay.harness.config import Choice, ConfigError, RunConfig
from assay.harness.network import Network
from assay.harness.overrides import compose_config
from assay.harness.reading import check_names
from assay.harness.types import Dataset

Chosen = str | Iterable[str] | Mapping[str, Any]  # names of configs, or names of your own with their objects

PLACEHOLDER = "scenes"  # composed where a data set is an object, and then replaced
UNGIVEN = "not given: "  # stands, with the key, for what configs read of a model or data set that has no config
READ = {  # such keys: the argument that sets each, and how to ask for it
    "model.target_layer": ("layer", "layer=NAME"),
    "model.saliency_layer": ("layer", "layer=NAME"),
    "model.contrast_layer": ("", "overrides=['model.contrast_layer=NAME']"),
    "dataset.tolerance_px": ("tolerance_px", "tolerance_px=PIXELS"),
}
REFUSED = {  # settings of the command line that mean nothing here
    "limit": "train.limit=N limits what a detector is fitted on",  # but where there is a data set
    "results": "give results=FOLDER as an argument",
    "sink": "nothing is sent from Python; `assay run` and `assay publish` do so",
    "dry_run": "leave it out; `assay plan` says what a run would compute",
    "compute.engine": "one process computes here; `assay run` has other engines",
    "compute.processes": "one process computes here; compute.threads=N uses more cores, and so does `assay run`",
}


def configured(
    model: Model,
    sets: Mapping[str, Data | None],
    lists: Mapping[str, Any],
    overrides: Sequence[str] = (),
    readings: Mapping[str, Any] | None = None,
) -> RunConfig:
    """The config of a run, with what was given as an object in its place.

    Args:
        sets: data sets by place, `dataset` and `train`.
        lists: what is chosen of `method`, `metric` and `ood`; no method and no metric but those.
        overrides: as for run.py (`model.weights=FILE`).
        readings: `layer`, `tolerance_px`: what methods and metrics read of a model's or data set's config.

    Raises:
        ConfigError: as run.py's; a method or metric that reads what was not given. ValueError, TypeError: an object
            that is none of those that can be given.
    """
    given = Given(
        model if isinstance(model, str) else network_of(model),
        {place: data_of(each) for place, each in sets.items() if each is not None},
        {group: _by_name(group, lists.get(group, ())) for group in ("method", "metric", "ood")},
        dict(readings or {}),
    )
    words = [overrides] if isinstance(overrides, str) else list(overrides)
    given.check(words)
    config = compose_config([*given.words(), *words], [*given.told()])
    given.put(config)
    check_names(config)
    _check_readings(config)
    return config


@dataclass(frozen=True)
class Given:
    """A model, data sets by place, and the choices of each list: name -> its object, or None for a config's."""

    model: str | Network
    sets: dict[str, str | Dataset]
    lists: dict[str, dict[str, Any]]
    readings: dict[str, Any] = field(default_factory=dict)

    @property
    def objects(self) -> dict[str, Any]:
        """Objects by the key under which a config would stand."""
        made: dict[str, Any] = {"model": self.model, **self.sets}
        made |= {f"{group}.{name}": each for group, chosen in self.lists.items() for name, each in chosen.items()}
        return {key: each for key, each in made.items() if each is not None and not isinstance(each, str)}

    def words(self) -> Iterator[str]:
        """Overrides that choose what has a config, and leave a network where it is."""
        if isinstance(self.model, str):
            yield f"model={self.model}"
        else:
            yield from (f"{key}={value!r}" for key, value in home_of(self.model).items())
        for place, each in self.sets.items():
            yield f"{_key(place)}={each if isinstance(each, str) else PLACEHOLDER}"
        for group, chosen in self.lists.items():
            if names := [name for name, made in chosen.items() if made is None]:
                yield f"{group}=[{','.join(names)}]"

    def told(self) -> Iterator[str]:
        """Overrides that say what there is to read of a model's and data set's config, where that is an object."""
        for key, (argument, _) in READ.items():
            value = self.readings.get(argument)
            if value is None and key.split(".")[0] in self.objects:
                value = f"{UNGIVEN}{key}"
            if value is not None:
                number = argument == "tolerance_px"
                yield f"++{key}={value if number else str(value)!r}"  # layers have names such as '4'

    def check(self, words: Iterable[str]) -> None:
        """Raise ConfigError for an override that would change nothing, or something that is given as an argument."""
        arguments = {
            "model",
            "method",
            "metric",
            *map(_key, self.sets),
            *(name for name in self.lists if self.lists[name]),
        }
        for word in words:
            if not isinstance(word, str):
                raise TypeError(f"override {word!r}: give texts, 'KEY=VALUE'")
            key, is_setting, _ = word.lstrip("+").partition("=")
            is_folder = word.startswith(("--config-dir=", "-cd="))
            if (word.startswith("-") and not is_folder) or not (is_setting or word.startswith("~")):
                raise ConfigError(f"override {word!r}: write KEY=VALUE, or --config-dir=FOLDER")
            if why := "given as an argument" if key in arguments else self._fixed(key):
                raise ConfigError(f"override {word!r}: {why}")

    def _fixed(self, key: str) -> str | None:
        """Why a setting cannot be overridden, if it cannot."""
        if key in REFUSED and not (key == "limit" and "dataset" in self.sets):
            return REFUSED[key]
        below = [each for each in self.objects if key.startswith(f"{each}.") and key not in (*READ, "train.limit")]
        return f"{below[0]} is an object: set this where you make it" if below else None

    def put(self, config: RunConfig) -> None:
        """Put objects in their places, and leave no method and no metric but those given."""
        if isinstance(self.model, Network):
            config.model = _choice("model", type(self.model.module).__name__, _at_home(self.model, config))
        for place, each in self.sets.items():
            if not isinstance(each, str):
                setattr(config, place, _choice("dataset", type(each).__name__, each, getattr(config, place).limit))
        for group, chosen in self.lists.items():
            composed = getattr(config, group)
            kept = composed if group == "ood" else {name: composed[name] for name in chosen if name in composed}
            made = {name: _choice(group, name, each, config.limit) for name, each in chosen.items() if each is not None}
            setattr(config, group, dict(sorted({**kept, **made}.items())))


def _key(place: str) -> str:
    """The command line's name of a place of data sets."""
    return place if place == "dataset" else f"dataset@{place}"


def _by_name(group: str, chosen: Any) -> dict[str, Any]:
    """Name -> None for a config's, or the object; of `Chosen`.

    Raises:
        TypeError: an object without a name, or a name where an object should be.
    """
    if isinstance(chosen, str):
        chosen = [chosen]
    made = dict(chosen) if isinstance(chosen, Mapping) else dict.fromkeys(chosen)
    for name, each in made.items():
        if not isinstance(name, str) or isinstance(each, str):
            raise TypeError(
                f"{group}: {name if each is None else each!r}: give names of configs, or {{'a name of yours': object}}"
            )
    return made if group != "ood" else {name: None if each is None else data_of(each) for name, each in made.items()}


def _choice(group: str, name: str, made: Any, limit: int | None = None) -> Choice:
    """What a key says of an object: its class, and its settings as far as they can be told."""
    of = type(made.module if isinstance(made, Network) else made)
    about = {"_target_": f"{of.__module__}.{of.__qualname__}"}
    if isinstance(made, Network):
        about["weights"] = "given"
    elif of.__repr__ is not object.__repr__:  # else it says where in memory the object is, which is another each time
        about["settings"] = repr(made)
    return Choice(group, name, about, limit=limit, made=made, key=f"{group}.{name}")


def _at_home(network: Network, config: RunConfig) -> Network:
    """The network itself, if it may stay what and where it is; a copy of it, if overrides say otherwise."""
    asked = {"precision": config.precision, "compute.device": config.compute.device}
    stays = asked.items() >= home_of(network).items() and config.compute.memory_format == "auto"
    return network if stays else copy.deepcopy(network)


def _check_readings(config: RunConfig) -> None:
    for chosen in [*config.method.values(), *config.metric.values()]:
        if missing := re.search(f"{UNGIVEN}([a-z_.]+)", str(chosen.settings)):
            raise ConfigError(f"{chosen} reads {missing[1]}, which an object does not say: give {READ[missing[1]][1]}")
