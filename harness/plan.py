"""What a composed config asks for: the network, the data, the cells, and which of their shards are missing."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from harness import identity
from harness.build import build, settings
from harness.config import ConfigError, selected, validate
from harness.network import Network
from harness.store import SAMPLES, CellStore, Group, Shard, shards_of
from harness.types import Attributor, Dataset, Metric


@dataclass(frozen=True, eq=False)
class Cell:
    """One method on one model and dataset; `groups` maps each requested metric to its key in the store."""

    name: str
    attributor: Attributor
    smooth: float  # Gaussian sigma as a share of the map's longer side
    store: CellStore
    groups: dict[str, str]

    def group(self, metric: str) -> Group:
        """The store of one metric's columns (or `SAMPLES`)."""
        return self.store.group(self.groups[metric])


@dataclass(frozen=True, eq=False)
class Job:
    """Everything needed to evaluate one config: built objects, cells, shards."""

    config: DictConfig
    network: Network
    dataset: Dataset
    order: np.ndarray  # dataset index of each position
    metrics: dict[str, Metric]
    cells: list[Cell]
    shards: list[Shard]
    device: torch.device

    @property
    def stop(self) -> int:
        """How many images are evaluated."""
        return self.shards[-1].stop if self.shards else 0

    @cached_property
    def run_id(self) -> str:
        """Digest of what was asked for, the same for every invocation of the same request."""
        asked = sorted((cell.store.key, *sorted(cell.groups.values())) for cell in self.cells)
        return identity.digest([asked, self.stop])[:12]

    @property
    def split(self) -> str:
        """Which images, in slice notation: `test`, `test[:200]`, `test[:200]@seed3`."""
        part = "" if self.stop == len(self.dataset) else f"[:{self.stop}]"
        order = "" if self.config.subset_seed is None else f"@seed{self.config.subset_seed}"
        return f"{self.dataset.split}{part}{order}"

    def missing(self) -> dict[Shard, dict[str, set[str]]]:
        """Shard -> method -> metrics (and `SAMPLES`) whose columns are not in the store."""
        absent: dict[Shard, dict[str, set[str]]] = {}
        for cell in self.cells:
            for metric in cell.groups:
                for shard in cell.group(metric).missing(self.shards):
                    absent.setdefault(shard, {}).setdefault(cell.name, set()).add(metric)
        return dict(sorted(absent.items()))

    def describe(self) -> Iterator[str]:
        """One line a cell: key, method, shards done / total."""
        absent = self.missing()
        for cell in self.cells:
            done = sum(cell.name not in absent.get(shard, {}) for shard in self.shards)
            yield f"{cell.store.key}  {cell.name:<22} {done}/{len(self.shards)} shards of {self.stop} images"


def build_job(config: DictConfig, store_root: Path) -> Job:
    """Build what the config names and compute the keys of its cells. Reads weights, writes nothing."""
    validate(config)
    device = pick_device(config.compute.device)
    network = build(config.model, "model", config.model.name).to(device, getattr(torch, config.precision))
    dataset: Dataset = build(config.dataset, "dataset", config.dataset.name)
    if len(dataset) == 0:
        raise ConfigError(f"dataset {config.dataset.name} has no samples")
    metrics = {name: build(config.metric[name], "metric", name) for name in selected(config.metric)}
    order = _order(len(dataset), config.subset_seed)
    stop = min(len(dataset), config.limit or len(dataset))
    cells = [_cell(config, name, network, dataset, metrics, store_root) for name in selected(config.method)]
    return Job(config, network, dataset, order, metrics, cells, shards_of(stop, config.compute.shard_size), device)


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


def _order(count: int, seed: int | None) -> np.ndarray:
    return np.arange(count) if seed is None else np.random.default_rng(seed).permutation(count)


def _cell(
    config: DictConfig, name: str, network: Network, dataset: Dataset, metrics: dict[str, Metric], root: Path
) -> Cell:
    attributor: Attributor = build(config.method[name], "method", name)
    for layer in attributor.needs().layers:
        try:
            network.check_layer(layer)
        except ValueError as error:
            raise ConfigError(f"method {name}: {error}. Set method.{name}.layer or model.target_layer") from error
    smooth = float(config.protocol.smooth.get(name, 0.0))
    labels = _labels(config, name, network)
    cell = identity.cell_identity(
        names={part: labels[part] for part in ("model", "dataset", "protocol", "method")},
        model=settings(config.model, "model"),
        weights=network.fingerprint,
        dataset=settings(config.dataset, "dataset"),
        data=dataset.fingerprint(),
        order=config.subset_seed,
        protocol={"targets": config.protocol.targets, "smooth": smooth},
        method=settings(config.method[name], "method"),
        version=attributor.VERSION,
        seed=config.seed,
        precision=config.precision,
    )
    key = identity.digest(cell)
    store = CellStore(root, key)
    described = {metric: _group(config, metric, made) for metric, made in metrics.items()}
    groups = {SAMPLES: SAMPLES} | {metric: identity.digest(value["identity"]) for metric, value in described.items()}
    if not config.dry_run:
        store.describe(
            {"identity": cell, "labels": labels},
            {SAMPLES: {"name": SAMPLES}} | {groups[metric]: value for metric, value in described.items()},
        )
    return Cell(name, attributor, smooth, store, groups)


def _group(config: DictConfig, name: str, metric: Metric) -> dict[str, Any]:
    made = identity.metric_identity(settings(config.metric[name], "metric"), metric.VERSION, metric.SUMMARY_SETTINGS)
    return {"identity": made, "name": name, "paired": list(metric.PAIRED)}


def _labels(config: DictConfig, method: str, network: Network) -> dict[str, Any]:
    """The names under which tables show a cell."""
    inner = config.model.get("network", config.model)  # class groups wrap a network
    stem = Path(str(inner.get("weights") or "random")).stem
    return {
        "model": config.model.name,
        "weights": f"{stem}@{network.fingerprint[:8]}",
        "dataset": config.dataset.name,
        "protocol": config.protocol.name,
        "method": method,
        "kind": "attribution",
        "seed": config.seed,
        "precision": config.precision,
    }
