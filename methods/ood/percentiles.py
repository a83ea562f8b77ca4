"""Where detectors clip and prune: percentiles of activations and of contributions."""

import numpy as np
import torch
from assay.harness.training import TrainingSet
from torch import Tensor


def check_percentile(name: str, value: float) -> None:
    """Raise ValueError unless the value is a percentile."""
    if not 0 <= value <= 100:
        raise ValueError(f"{name}={value}: a percentile lies between 0 and 100")


def percentile(values: Tensor, rank: float) -> Tensor:
    """np.percentile of all entries (linear between neighbours), float64 [].

    With `values > percentile(values, 0)` the smallest entry is still left out.
    """
    return torch.tensor(float(np.percentile(values.numpy(), rank)), dtype=torch.float64)


def clip_point(training: TrainingSet, clip: float | None, rank: float) -> Tensor:
    """Where activations are clipped: as given, or that percentile of the bank's penultimate features; float64 []."""
    return percentile(training.bank.tap(), rank) if clip is None else torch.tensor(clip, dtype=torch.float64)


def clipped(features: Tensor, point: Tensor | float) -> Tensor:
    """min(a, c): [N,D]."""
    return features.clamp(max=float(point))
