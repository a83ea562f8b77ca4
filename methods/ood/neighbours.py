"""Where detectors look for neighbours: training images of the bank, and queries in parts that fit in memory."""

from collections.abc import Iterator

import numpy as np
import torch
from assay.harness.detection import Features
from assay.harness.training import TrainingSet
from torch import Tensor
from torch.nn.functional import normalize

PAIRS = 2**24  # similarities held at once: 64 MiB
ROWS = 4096  # normalised at once


def check_search(k: int, share: float) -> None:
    """Raise ValueError unless k and the share of training images make a search."""
    if k < 1:
        raise ValueError(f"k={k}: the nearest neighbour is k=1")
    if not 0 < share <= 1:
        raise ValueError(f"share={share}: choose a share of the training images above 0 and up to 1")


def searched(training: TrainingSet, k: int, share: float) -> Features:
    """A share of the training images, drawn uniformly by the training set's seed; at most its bank.

    Raises:
        ValueError: these are fewer than k.
    """
    bank = training.bank
    rows = min(len(bank), round(share * training.count))
    if k > rows:
        raise ValueError(
            f"k={k} is more than the {rows} training images searched (share={share} of {training.count}, "
            f"at most {training.BANK}): choose a smaller k or a larger share"
        )
    if rows == len(bank):
        return bank
    drawn = np.random.default_rng([training.seed, rows]).choice(len(bank), rows, replace=False)
    return bank.rows(torch.from_numpy(np.sort(drawn)))


def directions(values: Tensor) -> Tensor:
    """Rows [N,D] of length 1 (of zeros: of length 0), in a tensor of their own, made so many rows at a time."""
    made = torch.empty_like(values)
    for rows, place in zip(values.split(ROWS), made.split(ROWS), strict=True):
        place.copy_(normalize(rows))
    return made


def in_parts(queries: Tensor, neighbours: Tensor) -> Iterator[Tensor]:
    """Rows of the queries, so many at once that at most PAIRS similarities are held."""
    return iter(queries.split(max(1, PAIRS // len(neighbours))))
