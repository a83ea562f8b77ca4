"""Removed pixels replaced by what surrounds them, so that their outline tells nothing."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csc_array
from scipy.sparse.linalg import splu
from torch import Tensor

Cut = tuple[slice, slice]
ACROSS, DIAGONAL = 1 / 6, 1 / 12  # weights of a pixel's neighbours


def impute(images: Tensor, removed: Tensor) -> Tensor:
    """Images [R,C,h,w] with the removed pixels [R,h,w] at the weighted mean of their neighbours.

    Noiseless part of the noisy linear imputation of Rong et al. 2022 (ROAD, Sect. 4.2): a removed pixel is the mean of
    its eight neighbours, removed ones among them (1/6 across, 1/12 diagonally; at the border over those that there
    are). One sparse system an image, on the CPU: as many unknowns as removed pixels, .3 s for 45,000 of them.

    Raises:
        ValueError: nothing of an image is left to begin from.
    """
    pixels, masks = images.double().cpu().numpy(), removed.cpu().numpy()
    if masks.all((1, 2)).any():
        raise ValueError("all pixels of an image are removed, and nothing is left to impute them from: fewer steps")
    made = [_imputed(image, mask) for image, mask in zip(pixels, masks, strict=True)]
    return torch.from_numpy(np.stack(made)).to(images)


def _imputed(image: NDArray[np.float64], removed: NDArray[np.bool_]) -> NDArray[np.float64]:
    """One image [C,h,w]."""
    if not removed.any():
        return image
    count, numbers = int(removed.sum()), np.cumsum(removed).reshape(removed.shape) - 1
    weight, wanted = np.zeros(removed.shape), np.zeros_like(image)
    entries: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = []
    for (here, there), share in _neighbours(removed.shape):
        weight[here] += share
        wanted[:, *here] += share * np.where(removed[there], 0, image[:, *there])
        both = removed[here] & removed[there]
        entries.append((np.full(int(both.sum()), -share), numbers[here][both], numbers[there][both]))
    entries.append((weight[removed], np.arange(count), np.arange(count)))
    values, rows, columns = (np.concatenate(each) for each in zip(*entries, strict=True))
    system = csc_array((values, (rows, columns)), shape=(count, count))
    solver = splu(system, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    filled = image.copy()
    filled[:, removed] = solver.solve(wanted[:, removed].T).T
    return filled


def _neighbours(size: tuple[int, ...]) -> Iterator[tuple[tuple[Cut, Cut], float]]:
    """Pixels that have a neighbour in a direction, those neighbours, and their weight, for each of eight directions."""
    for down, across in product((-1, 0, 1), repeat=2):
        if down or across:
            (rows, rows_there), (columns, columns_there) = _shifted(size[0], down), _shifted(size[1], across)
            yield ((rows, columns), (rows_there, columns_there)), DIAGONAL if down and across else ACROSS


def _shifted(length: int, by: int) -> tuple[slice, slice]:
    """Places that have another one `by` further on, and those."""
    return slice(max(0, -by), length - max(0, by)), slice(max(0, by), length + min(0, by))
