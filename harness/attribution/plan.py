"""From a composed config to a job: the network, the data, the cells and their identities."""

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from ..build import build, settings
from ..config import ConfigError, selected, validate
from ..engine.job import Cell, Job
from ..engine.request import cell_labels, data_identity, image_order, pick_device, shown_names
from ..engine.targets import TARGETS
from ..network import Network
from ..store import identity
from ..store.store import SAMPLES, CellStore, shards_of
from ..types import Attributor, Dataset, Metric
from .cell import AttributionCell


def build_job(config: DictConfig, store_root: Path) -> Job:
    """Build what the config names and compute the keys of its cells. Reads weights, writes nothing."""
    validate(config)
    device = pick_device(config.compute.device)
    network = build(config.model, "model", config.model.name).to(device, getattr(torch, config.precision))
    dataset: Dataset = build(config.dataset, "dataset", config.dataset.name)
    if len(dataset) == 0:
        raise ConfigError(f"dataset {config.dataset.name} has no samples")
    metrics = {name: build(config.metric[name], "metric", name) for name in selected(config.metric)}
    if strangers := [name for name, metric in metrics.items() if not hasattr(metric, "measure")]:
        raise ConfigError(f"metric {', '.join(strangers)} reads detectors' scores, and the methods attribute")
    order = image_order(len(dataset), config.subset_seed)
    stop = min(len(dataset), config.limit or len(dataset))
    cells: list[Cell] = [_cell(config, name, network, dataset, metrics, store_root) for name in selected(config.method)]
    shards = shards_of(stop, config.compute.shard_size)
    targets = TARGETS[config.protocol.targets]
    return Job(config, network, dataset, order, cells, shards, device, targets, metrics)


def _cell(
    config: DictConfig, name: str, network: Network, dataset: Dataset, metrics: dict[str, Metric], root: Path
) -> AttributionCell:
    attributor: Attributor = build(config.method[name], "method", name)
    for layer in attributor.needs().layers:
        try:
            network.check_layer(layer)
        except ValueError as error:
            raise ConfigError(f"method {name}: {error}. Set method.{name}.layer or model.target_layer") from error
    smooth = float(config.protocol.smooth.get(name, 0.0))
    labels = cell_labels(config, network, config.dataset.name, name, config.protocol.name, "attribution")
    cell = identity.cell_identity(
        data_identity(config, network, config.dataset, dataset, config.subset_seed),
        names=shown_names(labels),
        protocol={"targets": config.protocol.targets, "smooth": smooth},
        method=settings(config.method[name], "method"),
        version=attributor.VERSION,
        seed=config.seed,
    )
    store = CellStore(root, identity.digest(cell))
    described = {metric: _group(config, metric, made) for metric, made in metrics.items()}
    groups = {SAMPLES: SAMPLES} | {metric: identity.digest(value["identity"]) for metric, value in described.items()}
    if not config.dry_run:
        store.describe(
            {"identity": cell, "labels": labels},
            {SAMPLES: {"name": SAMPLES}} | {groups[metric]: value for metric, value in described.items()},
        )
    return AttributionCell(name, store, groups, attributor, metrics, smooth, config.seed)


def _group(config: DictConfig, name: str, metric: Metric) -> dict[str, Any]:
    made = identity.metric_identity(settings(config.metric[name], "metric"), metric.VERSION, metric.SUMMARY_SETTINGS)
    return {"identity": made, "name": name, "paired": list(metric.PAIRED)}
