"""Does the map find the cell of a grid that holds its class? On networks that see the grid, or one cell a head."""

import math
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch
from assay.harness import stats
from assay.harness.forward import ForwardPass
from assay.harness.frames import cells_apart
from assay.harness.pixels import total
from assay.harness.types import Batch, FramedMaps, ResultRow, Sample
from torch import Tensor

from .subsets import estimate_row, undefined_row

MEND = "choose a data set of grids (dataset=scenes_grid, or assay.datasets.grid.Grid of your own)"


def cells_of(sample: Sample) -> list[int]:
    """The classes of a grid's cells, row by row.

    Raises:
        ValueError: its boxes are not the n x n cells of its frame.
    """
    boxes = {label: torch.as_tensor(each).tolist() for label, each in sample.boxes.items()}
    side = math.isqrt(len(boxes))
    height, width = (length / side if side else 0 for length in sample.size0)
    wanted = [[c * width, r * height, (c + 1) * width, (r + 1) * height] for r in range(side) for c in range(side)]
    labels = {tuple(each[0]): label for label, each in boxes.items() if len(each) == 1}
    if side < 2 or side**2 != len(boxes) or {*labels} != {*map(tuple, wanted)}:
        raise ValueError(f"sample {sample.id!r} is no grid, whose classes have a cell each of n x n: {MEND}")
    return [labels[tuple(box)] for box in wanted]


def grid_labels(batch: Batch) -> Tensor:
    """The classes of each image's cells, row by row: int64 [B,n n].

    Raises:
        ValueError: an image is no grid, or they are of unlike numbers of cells.
    """
    labels = [cells_of(sample) for sample in batch.samples]
    if len({len(each) for each in labels}) > 1:
        raise ValueError("grids of unlike numbers of cells in one batch: evaluate them as data sets of their own")
    return torch.tensor(labels, device=batch.images.device)


def own_cell(batch: Batch) -> Tensor:
    """Which cell each pair's class is in, row by row: int64 [P].

    Raises:
        ValueError: a class is in none of them, as one that is predicted may be.
    """
    (image, label), labels = batch.targets, grid_labels(batch)
    is_own = labels[image] == label[:, None]
    if not is_own.any(1).all():
        pair = batch.sample_ids[int((~is_own.any(1)).int().argmax())]
        raise ValueError(f"{pair}: the class is in no cell of the grid: explain annotated classes (protocol=standard)")
    return is_own.int().argmax(1)


@dataclass(frozen=True)
class GridPointing:
    """Share of the map's positive sum in the cell of its class (GridPG; Böhle et al. 2021, Rao et al. 2022).

    Grids of images of different classes, as of `datasets.grid`; a map that knows nothing of the classes has 1 / cells.
    A map without a positive value has 0, as in the authors' code, and is counted.

    confidence: grids count of which the network gives each image, seen alone, at least this probability of its class
    (the papers take images that are classified confidently); null: all.
    """

    confidence: float | None = 0.99
    VERSION: ClassVar[int] = 1
    PAIRED: ClassVar[tuple[str, ...]] = ("share",)
    SUMMARY_SETTINGS: ClassVar[tuple[str, ...]] = ("confidence",)

    def __post_init__(self) -> None:
        if self.confidence is not None and not 0 < self.confidence <= 1:
            raise ValueError(f"confidence={self.confidence:g}: a probability above 0, or null for all grids")

    def measure(self, batch: Batch, maps: FramedMaps, forward: ForwardPass) -> dict[str, Tensor]:
        """share [P] in [0,1]; empty (no positive value); confidence, the least probability of the grid's images."""
        own_cell(batch)
        inside, whole = total(maps.positive, batch.region("box")), total(maps.positive)
        return {
            "share": (inside / whole).masked_fill(whole == 0, 0),
            "empty": whole == 0,
            "confidence": confidence_alone(batch, forward)[batch.targets.image],
        }

    def summarize(self, frame: pd.DataFrame) -> list[ResultRow]:
        """Mean over the pairs of the grids that count, and how many of these have an empty map."""
        sure = frame if self.confidence is None else frame[frame["confidence"] >= self.confidence]
        variant = "all grids" if self.confidence is None else f"confidence>={self.confidence:g}"
        mean = stats.mean(sure["share"], sure["image_id"], stats.SHARE)
        return [
            estimate_row(mean, "mean", variant, "all", True),
            ResultRow(variant, "empty_pairs", float(sure["empty"].sum()), len(sure), unit="count", headline=False),
        ]


def confidence_alone(batch: Batch, forward: ForwardPass) -> Tensor:
    """The least probability that an image of the grid has of its class when the network sees it alone: [B].

    Raises:
        ValueError: the network takes grids alone.
    """
    if forward.network.cells > 1:
        raise ValueError(
            "grid_pointing is for a network of whole images, and each cell of this one's is seen by a head of its own: "
            "measure disconnection, or choose the network itself"
        )
    labels = grid_labels(batch)
    what = ("least confidence alone", *labels.flatten().tolist())
    return forward.once(what, lambda: _least_confidence(forward, labels))


def _least_confidence(forward: ForwardPass, labels: Tensor) -> Tensor:
    """Over the images of each grid, of labels [B,n n]: [B]."""
    network, alone = forward.network, cells_apart(forward.inputs, math.isqrt(labels.shape[1]))  # [B n n,3,h,w]
    logits = torch.cat([network.infer(part) for part in alone.split(forward.max_rows)])
    return network.probabilities(logits).gather(1, labels.flatten()[:, None]).view_as(labels).amin(1)


@dataclass(frozen=True)
class Disconnection:
    """Share of a map's absolute sum in the cell of its class, where no other cell reaches its logit: 1 is right.

    DiFull of Rao et al. 2022: a network that has a head for each cell, which sees that cell alone (models
    `..._disconnected`). Every other value is the method's own invention, `exact` the share of maps without any. Taken
    at the method's own resolution, as a resize would smear over the cells' edges. That the other cells do not reach the
    logit is tried in each image: they are blanked, and it must stay.
    """

    VERSION: ClassVar[int] = 1
    PAIRED: ClassVar[tuple[str, ...]] = ("share", "exact")
    SUMMARY_SETTINGS: ClassVar[tuple[str, ...]] = ()

    def measure(self, batch: Batch, maps: FramedMaps, forward: ForwardPass) -> dict[str, Tensor]:
        """share [P] in [0,1], nan for maps of zeros; exact (all other cells are 0), nan for these too."""
        own, side = own_cell(batch), math.isqrt(grid_labels(batch).shape[1])
        _check_apart(batch, forward, own, side)
        mass = mass_by_cell(maps.attribution.values, side)  # [P,n n]
        inside, whole = mass.gather(1, own[:, None])[:, 0], mass.sum(1)
        others = mass.scatter(1, own[:, None], 0).sum(1)
        values = {"share": inside / whole, "exact": (others == 0).double()}
        return {name: value.masked_fill(whole == 0, torch.nan) for name, value in values.items()}

    def summarize(self, frame: pd.DataFrame) -> list[ResultRow]:
        """Mean share, the share of maps that are exact, and the number of maps of zeros."""
        share = stats.mean(frame["share"], frame["image_id"], stats.SHARE)
        exact = stats.proportion(frame["exact"], frame["image_id"])
        return [
            estimate_row(share, "mean", "native", "all", True),
            estimate_row(exact, "exact", "native", "all", True),
            undefined_row(frame["share"].isna(), "native", "all"),
        ]


def mass_by_cell(values: Tensor, side: int) -> Tensor:
    """Sum of |map| in each of side x side cells, row by row: [P,h,w] -> float64 [P, side side].

    Raises:
        ValueError: its resolution does not divide into cells.
    """
    if any(length % side for length in values.shape[1:]):
        raise ValueError(
            f"maps of {list(values.shape[1:])} cannot be cut in {side} x {side} cells: the layer's resolution must be "
            "a multiple (a layer that `shown` puts together has it)"
        )
    return cells_apart(values[:, None].double().abs(), side).flatten(1).sum(1).unflatten(0, (-1, side**2))


def _check_apart(batch: Batch, forward: ForwardPass, own: Tensor, side: int) -> None:
    """Raise ValueError where a logit changes when the other cells are blanked."""
    image, label = batch.targets
    what = ("logits alone", side, *torch.stack([image, label, own]).flatten().tolist())
    alone = forward.once(what, lambda: _logits_alone(batch, forward, own, side))
    tolerance = torch.finfo(alone.dtype).eps ** 0.5 * float(forward.scores.abs().max())
    moved = (alone - forward.scores[image, label]).abs() > tolerance
    if moved.any():
        raise ValueError(
            f"{batch.sample_ids[int(moved.int().argmax())]}: the logit changes with the other cells, so no map of it "
            "has a known answer: choose a network whose heads see a cell each (model=scenes_vgg_disconnected, "
            "...) and the grids labelled for it (dataset=scenes_disconnected; Grid with heads=true)"
        )


def _logits_alone(batch: Batch, forward: ForwardPass, own: Tensor, side: int) -> Tensor:
    """Each pair's logit where all cells but its own [P] are blanked: [P]."""
    image, label = batch.targets
    shape = [length // side for length in forward.inputs.shape[2:]]
    kept = torch.nn.functional.one_hot(own, side**2).view(-1, side, side)
    kept = kept.repeat_interleave(shape[0], 1).repeat_interleave(shape[1], 2)[:, None]  # [P,1,H,W]
    rows = torch.arange(len(image), device=image.device).split(forward.max_rows)
    logits = torch.cat([forward.network.infer(forward.inputs[image[row]] * kept[row]) for row in rows])
    return forward.network.scores(logits).gather(1, label[:, None])[:, 0]
