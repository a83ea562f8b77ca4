"""Grids of images of different classes: where the evidence for a class is, is known without any annotation."""

import hashlib
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from assay.harness.types import Dataset, Sample
from torch import Tensor

CANDIDATES = 4  # images looked at for a place in a grid, on average, where the number of grids is not given


class Grid:
    """Images of one class each, side by side: `cells` x `cells` of them, all of different classes.

    Each class has one box, its cell. Grid i is decided by (data set, seed, size, i): the images are permuted by the
    seed and cut into as many equal parts as there are grids; a grid takes the first images of its part that have one
    label and are of different classes, row by row. So no image is in two grids, and only images that are looked at are
    read.

    Args:
        whole: the data set; images of several labels or none are passed over.
        cells: images a side.
        size: number of grids; null: as many as leave 4 candidates for each cell.
        seed: of the permutation.
        heads: for networks of one head a cell (`networks.disconnected`): class c in cell k is class k C + c of these.

    Raises:
        ValueError: settings out of range, fewer classes than images in a grid; (of a grid) too few classes among its
            candidates, images of unequal size.
    """

    def __init__(
        self, whole: Dataset, cells: int = 2, size: int | None = None, seed: int = 0, heads: bool = False
    ) -> None:
        most = len(whole) // cells**2 if cells > 1 else 0
        chosen = max(1, most // CANDIDATES) if size is None else size
        if cells < 2 or seed < 0 or not 1 <= chosen <= most:
            raise ValueError(
                f"cells={cells}, size={chosen}, seed={seed}: of {len(whole)} images, give at least 2 cells a side, "
                f"1 to {most} grids, and a seed of at least 0"
            )
        if len(whole.classes) < cells**2:
            raise ValueError(
                f"cells={cells}: a grid is of {cells**2} classes, the data set has {len(whole.classes)}: give fewer "
                "images a side, or choose another data set"
            )
        self.whole, self.cells, self.size, self.seed, self.heads = whole, cells, chosen, seed, heads
        self.split = f"{whole.split}[{cells}x{cells}@seed{seed}]"
        self.skipped, self.remarks = (tuple(getattr(whole, name, ())) for name in ("skipped", "remarks"))
        self._parts = np.array_split(np.random.default_rng(seed).permutation(len(whole)), chosen)

    @cached_property
    def classes(self) -> Sequence[str]:
        """The data set's; with one head a cell, each with its cell."""
        if not self.heads:
            return self.whole.classes
        return [f"{name} in cell {cell}" for cell in range(self.cells**2) for name in self.whole.classes]

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.size:
            raise IndexError(f"index {index} of {self.size} grids")
        chosen = self._chosen(index)
        images = [sample.image for sample in chosen]
        if len({image.shape for image in images}) > 1:
            raise ValueError(f"grid {index}: images of unequal size, give all one (transform.mode=squash or crop)")
        height, width = (int(side) for side in images[0].shape[1:])
        labels = [self._label(sample, cell) for cell, sample in enumerate(chosen)]
        return Sample(
            id=f"grid-{index:06d}",
            image=side_by_side(images, self.cells),
            targets=tuple(labels),
            size0=(self.cells * height, self.cells * width),
            boxes={label: box_of(cell, self.cells, height, width) for cell, label in enumerate(labels)},
        )

    def _chosen(self, index: int) -> list[Sample]:
        """The grid's images, row by row."""
        found: dict[int, Sample] = {}
        for candidate in self._parts[index]:
            sample = self.whole[int(candidate)]
            if len(sample.targets) == 1:
                found.setdefault(sample.targets[0], sample)
            if len(found) == self.cells**2:
                return [*found.values()]
        raise ValueError(
            f"grid {index}: its {len(self._parts[index])} candidates have {len(found)} classes, and a grid needs "
            f"{self.cells**2}: {self._more_candidates()}"
        )

    def _more_candidates(self) -> str:
        """What mends a grid of too few classes; the only grid has looked at all images."""
        if self.size == 1:
            return f"give fewer images a side than dataset.cells={self.cells}, or choose another data set"
        return f"make fewer grids (dataset.size={self.size // 2}), or try another dataset.seed"

    def _label(self, sample: Sample, cell: int) -> int:
        return sample.targets[0] + (cell * len(self.whole.classes) if self.heads else 0)

    def fingerprint(self) -> str:
        """Of the whole, and how grids are made of it."""
        rule = f"{self.whole.fingerprint()} {self.cells} {self.size} {self.seed} {self.heads}"
        return hashlib.sha256(rule.encode()).hexdigest()[:20]


def side_by_side(images: Sequence[Tensor], cells: int) -> Tensor:
    """Images [3,h,w], row by row -> [3, cells h, cells w]."""
    rows = [torch.cat([*images[start : start + cells]], 2) for start in range(0, len(images), cells)]
    return torch.cat(rows, 1)


def box_of(cell: int, cells: int, height: int, width: int) -> Tensor:
    """x0, y0, x1, y1 of one cell, [1,4]."""
    row, column = divmod(cell, cells)
    return torch.tensor([[column * width, row * height, (column + 1) * width, (row + 1) * height]]).float()
