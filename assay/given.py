"""What a caller gives, by name or as an object, as the choices of a run."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from assay.harness.config import Choice, Choices, ConfigError, RunConfig
from assay.harness.network import Network, fingerprint
from assay.harness.overrides import compose_config
from assay.harness.types import Dataset, Sample

Module = tuple[nn.Module, Sequence[float], Sequence[float]]  # with the mean and deviation of its inputs' channels
Model = str | Network | Module
Data = str | Dataset | tuple[Tensor, Sequence[int]]
Chosen = str | Iterable[str] | Mapping[str, Any]  # names of configs, or names of your own with their objects

ASKED = "TO_BE_GIVEN"  # stands for what a config reads of a model or data set that has no config
READ = {
    "model.target_layer": "layer",
    "model.saliency_layer": "layer",
    "model.contrast_layer": "layer",
    "dataset.tolerance_px": "tolerance_px",
}


@dataclass(eq=False)
class InMemory:
    """Images [N,3,H,W] in [0,1] with one class each, as a data set."""

    images: Tensor
    labels: Sequence[int]
    classes: Sequence[str]
    split: str = "given"

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        height, width = self.images.shape[-2:]
        return Sample(f"image{index:06d}", self.images[index], (int(self.labels[index]),), (height, width))

    def fingerprint(self) -> str:
        """Of pixels and labels."""
        return fingerprint({"images": self.images, "labels": torch.as_tensor(self.labels)})


def data_of(given: Data) -> str | Dataset:
    """A data set's name, or the data set itself; (images, labels) become one.

    Raises:
        ConfigError: shapes that do not fit, or pixels outside [0,1].
    """
    if not isinstance(given, tuple):
        return given
    images, labels = given
    if images.ndim != 4 or images.shape[1] != 3 or len(images) != len(labels):
        raise ConfigError(f"images {list(images.shape)} and {len(labels)} labels: give [N,3,H,W] and N classes")
    check_pixels(images)
    return InMemory(images, labels, [str(label) for label in range(max(map(int, labels), default=-1) + 1)])


def check_pixels(images: Tensor) -> None:
    """Raise ConfigError unless all pixels are in [0,1]."""
    low, high = images.min().item(), images.max().item()
    if not (low >= 0 and high <= 1):
        raise ConfigError(f"pixels from {low:g} to {high:g}: give RGB in [0,1], not normalised (image / 255)")


def network_of(given: Network | Module) -> Network:
    """A `Network`: as it is, or from a module with the mean and standard deviation that its inputs are normalised by.

    Raises:
        ConfigError: a module without its normalisation.
    """
    if isinstance(given, nn.Module):
        raise ConfigError("a module without its normalisation: give (module, mean, std), or assay.Network(module, ...)")
    network = given if isinstance(given, Network) else Network(*given)
    network.fingerprint = network.fingerprint or fingerprint(network.module.state_dict())
    return network


def configured(
    model: Model,
    dataset: Data,
    methods: Chosen,
    metrics: Chosen,
    overrides: Sequence[str] = (),
    layer: str | None = None,
    tolerance_px: float | None = None,
) -> RunConfig:
    """The config of a run, with what was given as an object in its place.

    Args:
        overrides: as for run.py (`model.weights=FILE`).
        layer, tolerance_px: what methods and metrics read of a model's or data set's config, instead of it.

    Raises:
        ConfigError: as run.py's; a method or metric that reads what was not given.
    """
    network, data = (model if isinstance(model, str) else network_of(model)), data_of(dataset)
    groups = {"method": _by_name(methods), "metric": _by_name(metrics)}
    words = [f"{group}={name}" for group, name in (("model", network), ("dataset", data)) if isinstance(name, str)]
    for group, chosen in groups.items():
        names = [name for name, made in chosen.items() if made is None]
        words += [f"{group}=[{','.join(names)}]"] if names else []
    words += _readings(network, data, {"layer": layer, "tolerance_px": tolerance_px})
    config = compose_config([*words, *overrides])
    for group, chosen in groups.items():
        setattr(config, group, _choices(group, chosen, getattr(config, group)))
    if not isinstance(network, str):
        config.model = Choice("model", type(network.module).__name__, _about(network), made=network)
    if not isinstance(data, str):
        config.dataset = _in_place_of(config.dataset, data, tolerance_px)
    _check_readings(config)
    return config


def _by_name(chosen: Chosen) -> dict[str, Any]:
    """Name -> None (a config's) or the object."""
    return (
        dict(chosen) if isinstance(chosen, Mapping) else dict.fromkeys([chosen] if isinstance(chosen, str) else chosen)
    )


def _readings(network: str | Network, data: str | Dataset, asked: Mapping[str, Any]) -> Iterator[str]:
    """Overrides for what configs of methods and metrics read of the model's and data set's."""
    for key, name in READ.items():
        is_object = not isinstance(network if key.startswith("model.") else data, str)
        if is_object or asked[name] is not None:
            given = ASKED if asked[name] is None else asked[name]
            yield f"++{key}={given!r}"  # quoted, where it is text: layers have names such as '4'


def _check_readings(config: RunConfig) -> None:
    for chosen in [*config.method.values(), *config.metric.values()]:
        if ASKED in str(chosen.settings):
            what = "layer=NAME (a layer of the network)" if chosen.group == "method" else "tolerance_px=PIXELS"
            raise ConfigError(f"{chosen} reads a setting that only a config's model or data set has: give {what}")


def _choices(group: str, chosen: Mapping[str, Any], composed: Choices) -> Choices:
    made = {name: Choice(group, name, _about(thing), made=thing) for name, thing in chosen.items() if thing is not None}
    return dict(sorted({**{name: composed[name] for name in chosen if name in composed}, **made}.items()))


def _in_place_of(composed: Choice, data: Dataset, tolerance_px: float | None) -> Choice:
    notes = {} if tolerance_px is None else {"tolerance_px": tolerance_px}
    return Choice("dataset", type(data).__name__, _about(data), notes, composed.limit, made=data)


def _about(thing: Any) -> dict[str, Any]:
    """What a key says of an object: its class, and its settings as far as they can be told."""
    return {"_target_": f"{type(thing).__module__}.{type(thing).__qualname__}", "settings": repr(thing)}
