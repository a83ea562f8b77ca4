"""From a request to a job: the cells of attribution methods, with their identities."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import ConfigError, RunConfig
from ..engine.fitting import Fitting, check_training, training_images
from ..engine.job import Cell, Job
from ..engine.probe import understood
from ..engine.request import Images, Request, shown_names
from ..engine.targets import selection
from ..reduced import SAME, smaller
from ..store import identity
from ..store.store import SAMPLES, CellStore
from ..types import Attributor, Metric
from .cell import AttributionCell


def build_job(config: RunConfig, root: Path) -> Job:
    """The job of a config whose methods attribute; `root`: of the store. Reads weights, writes nothing."""
    return plan(Request.of(config, root))


def plan(request: Request) -> Job:
    """The job of a request, with a cell a method.

    Raises:
        ConfigError: a method or metric of detectors, a layer that is not there.
    """
    if strangers := [name for name, made in request.methods.items() if not hasattr(made, "attribute")]:
        raise ConfigError(f"method {', '.join(strangers)} scores images and makes no maps: choose attribution methods")
    if strangers := [name for name, made in request.metrics.items() if not hasattr(made, "measure")]:
        raise ConfigError(f"metric {', '.join(strangers)} reads detectors' scores, and the methods attribute")
    learning = [name for name, made in request.methods.items() if made.needs().training]
    for name in learning:
        check_training(request.config, name)
    images = Images.of(request, request.config.dataset, request.config.subset_seed)
    with understood(request, images):
        request = request.settled(images)
    request = replace(request, notes=(*request.notes, *_said(request)))
    training = training_images(request) if learning else None
    cells: list[Cell] = [
        _cell(request, images, name, training if name in learning else None) for name in request.methods
    ]
    return Job(request, images, cells, selection(request.config.protocol.targets))


def _said(request: Request) -> Iterator[str]:
    """Whose passes `forward_precision` is for, by name, and whose not."""
    asked, made = request.config.forward_precision, {**request.methods, **request.metrics}
    if asked != SAME:
        ours = [name for name, each in request.methods.items() if smaller(asked, each)]
        others = [name for name in made if name not in ours]
        yield (
            f"forward_precision={asked}: forward passes of {', '.join(ours) or 'none'}; all of "
            f"{', '.join(others) or 'none'} in {request.config.precision}"
        )


def _cell(request: Request, images: Images, name: str, training: Images | None) -> AttributionCell:
    config, attributor = request.config, request.methods[name]
    with understood(request, images):
        _check_layers(request, name, attributor)
    smooth = float(config.protocol.smooth.get(name, 0.0))
    nested = identity.nested_versions(attributor)
    fitting = None if training is None else Fitting.of(request, training, {"fit": attributor.fit_settings()} | nested)
    forwards = smaller(config.forward_precision, attributor)
    labels = request.labels(images.name, name, config.protocol.name, "attribution")
    labels |= {"precision": f"{config.precision}+{forwards}"} if forwards else {}
    cell = identity.cell_identity(
        images.identity,
        names=shown_names(labels),
        protocol={"targets": config.protocol.targets, "smooth": smooth},
        method=config.method[name].settings | ({"forwards": forwards} if forwards else {}),
        version=attributor.VERSION,
        seed=config.seed,
        nested=nested,
        training=None if fitting is None else fitting.identity,
    )
    described = {metric: _group(config, metric, made) for metric, made in request.metrics.items()}
    groups = {SAMPLES: SAMPLES} | {metric: identity.digest(value["identity"]) for metric, value in described.items()}
    return AttributionCell(
        name,
        CellStore(request.root, identity.digest(cell)),
        groups,
        attributor,
        request.metrics,
        smooth,
        config.seed,
        fitting=fitting,
        forwards=config.forward_precision,
        about={"identity": cell, "labels": labels},
        about_groups={SAMPLES: {"name": SAMPLES}} | {groups[metric]: value for metric, value in described.items()},
    )


def _check_layers(request: Request, name: str, attributor: Attributor) -> None:
    for layer in attributor.needs().layers:
        try:
            request.network.check_layer(layer)
        except ValueError as error:
            raise ConfigError(f"method {name}: {error}. Set method.{name}.layer or model.target_layer") from error


def _group(config: RunConfig, name: str, metric: Metric) -> dict[str, Any]:
    nested = identity.nested_versions(metric)
    made = identity.metric_identity(config.metric[name].settings, metric.VERSION, metric.SUMMARY_SETTINGS, nested)
    return {"identity": made, "name": name, "paired": list(metric.PAIRED)}
