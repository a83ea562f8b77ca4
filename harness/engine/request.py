"""What a request is about: its device, its data under its network, and the names that tables show."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from ..build import settings
from ..config import ConfigError
from ..network import Network
from ..store import identity
from ..types import Dataset


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
