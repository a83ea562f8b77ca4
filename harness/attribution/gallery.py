"""Pictures of maps: one row an image, one column a method, with boxes and the arg-max, hit or miss."""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ..config import ConfigError
from ..engine.job import Cell, Job
from ..engine.measure import share
from ..engine.probe import probe
from ..forward import ForwardPass
from ..pictures import Size, encoded, panels
from ..store.files import write_atomically
from ..types import Batch, FramedMaps, Sample

WIDTH, TITLE = 1.7, 0.23  # of a panel and above it, in inches
RING = {True: "lime", False: "black", None: "white"}  # of the arg-max, by `is_hit`
FULL_COLOUR = 0.995  # quantile of the modulus: fine-grained maps have a few pixels far above the rest


class Drawn(NamedTuple):
    """How many images were drawn, and why a method was not (to the end)."""

    images: int
    failures: dict[str, str]


def draw_gallery(job: Job, path: Path, count: int, classes: int = 1) -> Drawn:
    """Draw the first `count` images with every method of the job; a method that fails is left out from there on.

    Each image has a row for each of its first `classes` targets. The map is drawn over the image in its frame: red
    where positive, blue where negative, full colour at the 99.5 % quantile of the modulus; a circle marks the arg-max,
    green inside the class' boxes (within the data set's tolerance), black outside, white where it has none.
    """
    failures: dict[str, str] = {}
    found = list(islice(explained(job, failures), count))
    shown = [(each, forwards) for batch, forwards in found for each in _class_by_class(batch, classes)]
    if not shown and not failures:
        raise ConfigError(NOTHING_TO_SHOW)
    if not shown:
        return Drawn(0, failures)
    columns = 1 + len(job.cells)
    heights = [TITLE + WIDTH * _height_of(batch) for batch, _ in shown]
    figure, axes = panels(columns * len(shown), columns, Size(WIDTH, WIDTH), heights=heights)
    for row, (batch, forwards) in enumerate(shown):
        first, *others = axes[row * columns :][:columns]
        _draw_truth(job, first, batch)
        for axis, cell in zip(others, job.cells, strict=True):
            with failing(cell, failures):
                if cell.name in forwards and cell.name not in failures:
                    _draw_map(job, axis, batch, cell.prepare(batch, forwards[cell.name]))
    for axis, cell in zip(axes[1:], job.cells, strict=False):
        axis.set_title(f"{cell.name}{' (failed)' if cell.name in failures else ''}", fontsize=8)
    for axis in axes:
        axis.set_axis_off()
    figure.tight_layout(pad=0.5, h_pad=1.0)
    write_atomically(path, encoded(figure, path.suffix, dpi=100))
    return Drawn(len(found), failures)


NOTHING_TO_SHOW = "no image has a class to be explained under this protocol: there is nothing to show"


def explained(job: Job, failures: dict[str, str]) -> Iterator[tuple[Batch, dict[str, ForwardPass]]]:
    """Images one by one with their classes under the protocol, and the forward pass of each method.

    Those without a class are passed over. The network is looked at first (`engine.probe`).

    failures: of methods, which are left out; those are added whose forward pass fails.
    """
    probe(job.request, job.images, say=lambda caution: print(f"caution: {caution}", file=sys.stderr))
    for index in job.images.order[: job.images.stop]:
        sample = job.images.dataset[int(index)]
        made = list(passes(job, sample, [cell for cell in job.cells if cell.name not in failures], failures))
        if made and made[0][0].pairs:
            yield made[0][0], {cell.name: forward for _, forward, cells in made for cell in cells}


def passes(
    job: Job, sample: Sample, cells: list[Cell], failures: dict[str, str]
) -> Iterator[tuple[Batch, ForwardPass, list[Cell]]]:
    """One forward pass for all methods; where it fails, one for each, so that one's layers do not fail another."""
    try:
        yield (*share(job, [sample], cells, job.config.compute.batch_size), cells)
    except Exception as error:
        if len(cells) == 1:
            failures[cells[0].name] = why(error)
        else:
            for cell in cells:
                yield from passes(job, sample, [cell], failures)


@contextmanager
def failing(cell: Cell, failures: dict[str, str]) -> Iterator[None]:
    """Whatever stops a method, kept under its name; the others go on."""
    try:
        yield
    except Exception as error:
        failures[cell.name] = why(error)


def why(error: Exception) -> str:
    """In one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _class_by_class(batch: Batch, classes: int) -> list[Batch]:
    """The image once for each of its first targets."""
    sample = batch.samples[0]
    return [Batch.of([replace(sample, targets=(label,))], batch.images.device) for label in sample.targets[:classes]]


def _height_of(batch: Batch) -> float:
    """Of the image's frame, in widths of a panel; what is higher than two is drawn narrower."""
    height, width = batch.frames[0].tolist()
    return min(2.0, float(height / width))


def frame_image(batch: Batch) -> np.ndarray:
    """The first image in its frame: [H,W,3] in [0,1]."""
    height, width = (int(v) for v in batch.frames[0])
    image = torch.nn.functional.interpolate(batch.images[:1], (height, width), mode="bilinear", antialias=True)
    return image[0].permute(1, 2, 0).clamp(0, 1).cpu().numpy()


def overlay(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A map [H,W] over its image [H,W,3], made grey: red where positive, blue where negative, [H,W,3] in [0,1]."""
    scale = float(np.quantile(np.abs(values), FULL_COLOUR)) or 1.0
    strength = np.clip(np.abs(values)[..., None] / scale, 0, 1)
    grey = image.mean(2, keepdims=True).repeat(3, 2) * 0.5 + 0.5
    colour = np.where(values[..., None] >= 0, [0.85, 0.0, 0.0], [0.0, 0.1, 0.85])
    return np.clip(grey * (1 - strength) + colour * strength, 0, 1)


def _draw_boxes(axis: Any, batch: Batch) -> None:
    from matplotlib.patches import Rectangle

    for x0, y0, x1, y1 in batch.boxes[0].tolist():
        if x1 > x0:
            axis.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, color="yellow", linewidth=1))


def _draw_truth(job: Job, axis: Any, batch: Batch) -> None:
    axis.imshow(frame_image(batch))
    _draw_boxes(axis, batch)
    axis.set_title(str(job.images.dataset.classes[int(batch.targets.label[0])])[:18], fontsize=7)


def is_hit(job: Job, batch: Batch, maps: FramedMaps) -> bool | None:
    """Whether the first pair's arg-max lies in its boxes, within the data set's tolerance; None where it has none."""
    away = float(batch.distance(maps.peak[0], "box")[0])
    return None if math.isinf(away) else away < float(job.config.dataset.notes.get("tolerance_px") or 1)


def _draw_map(job: Job, axis: Any, batch: Batch, maps: FramedMaps) -> None:
    values = maps.maps[0].cpu().numpy()
    axis.imshow(overlay(frame_image(batch), values))
    _draw_boxes(axis, batch)
    x, y = maps.peak[0][0].tolist()
    radius = 0.04 * max(values.shape)
    from matplotlib.patches import Circle

    axis.add_patch(Circle((x, y), radius, fill=False, color=RING[is_hit(job, batch, maps)], linewidth=1.8))
