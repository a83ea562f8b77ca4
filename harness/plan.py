"""From a composed config to a job: the network, the data, the cells and their identities."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from harness import identity
from harness.attribute import AttributionCell
from harness.build import build, settings
from harness.config import ConfigError, selected, validate
from harness.job import Cell, Job
from harness.network import Network
from harness.store import SAMPLES, CellStore, shards_of
from harness.targets import TARGETS
from harness.types import Attributor, Dataset, Metric


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


def pick_device(name: str) -> torch.device:
    """`auto` is the GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"compute.device={name}: torch {torch.__version__} sees no GPU; use compute.device=cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"compute.device={name}: choose auto, cpu, cuda or cuda:N") from error


def image_order(count: int, seed: int | None) -> np.ndarray:
    """Dataset index of each position: the data set's own order, or a seeded permutation."""
    return np.arange(count) if seed is None else np.random.default_rng(seed).permutation(count)


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


def data_identity(
    config: DictConfig, network: Network, node: DictConfig, dataset: Dataset, order: int | None
) -> dict[str, Any]:
    """The identity of a data set, built from `node`, under the config's network."""
    return identity.data_identity(
        model=settings(config.model, "model"),
        weights=network.fingerprint,
        dataset=settings(node, "dataset"),
        data=dataset.fingerprint(),
        order=order,
        precision=config.precision,
    )


def cell_labels(
    config: DictConfig, network: Network, dataset: str, method: str, protocol: str, kind: str
) -> dict[str, Any]:
    """The names under which tables show a cell."""
    inner = config.model.get("network", config.model)  # class groups wrap a network
    stem = Path(str(inner.get("weights") or "random")).stem
    return {
        "model": config.model.name,
        "weights": f"{stem}@{network.fingerprint[:8]}",
        "dataset": dataset,
        "protocol": protocol,
        "method": method,
        "kind": kind,
        "seed": config.seed,
        "precision": config.precision,
    }


def shown_names(labels: dict[str, Any]) -> dict[str, str]:
    """Those of the labels that are part of a cell's identity."""
    return {part: labels[part] for part in ("model", "dataset", "protocol", "method")}
