"""Pictures of maps: one row an image, one column a method, with boxes and the arg-max, hit or miss."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..config import ConfigError
from ..engine.job import Job
from ..engine.measure import share
from ..forward import ForwardPass
from ..pictures import Size, encoded, panels
from ..store.files import write_atomically
from ..types import Batch, FramedMaps

FULL_COLOUR = 0.995  # quantile of the modulus: fine-grained maps have a few pixels far above the rest


def draw_gallery(job: Job, path: Path, count: int) -> int:
    """Draw the first `count` images with every method of the job; returns how many were drawn.

    Each image shows its first target. The map is drawn over the image in its frame: red where positive,
    blue where negative, full colour at the 99.5 % quantile of the modulus; a circle marks the arg-max, green inside the
    ground truth (within the data set's tolerance), black outside.
    """
    shown = [(_first_class(batch), forward) for batch, forward in islice(explained(job), count)]
    if not shown:
        raise ConfigError("no image has a class to be explained under this protocol: there is nothing to draw")
    columns = 1 + len(job.cells)
    figure, axes = panels(columns * len(shown), columns, Size(1.7, 1.75))
    for row, (batch, forward) in enumerate(shown):
        first, *others = axes[row * columns :][:columns]
        _draw_truth(job, first, batch)
        for axis, cell in zip(others, job.cells, strict=True):
            _draw_map(job, axis, batch, cell.prepare(batch, forward))
    for axis, cell in zip(axes[1:], job.cells, strict=False):
        axis.set_title(cell.name, fontsize=8)
    for axis in axes:
        axis.set_axis_off()
    figure.tight_layout(pad=0.3)
    write_atomically(path, encoded(figure, path.suffix, dpi=100))
    return len(shown)


def explained(job: Job) -> Iterator[tuple[Batch, ForwardPass]]:
    """Images one by one with their classes under the protocol; those without one are passed over."""
    for index in job.images.order[: job.images.stop]:
        sample = job.images.dataset[int(index)]
        batch, forward = share(job, [sample], job.cells, job.config.compute.batch_size)
        if batch.pairs:
            yield batch, forward


def _first_class(batch: Batch) -> Batch:
    first = replace(batch.samples[0], targets=batch.samples[0].targets[:1])
    return Batch.of([first], batch.images.device)


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


def _draw_map(job: Job, axis: Any, batch: Batch, maps: FramedMaps) -> None:
    values = maps.maps[0].cpu().numpy()
    axis.imshow(overlay(frame_image(batch), values))
    _draw_boxes(axis, batch)
    x, y = maps.peak[0][0].tolist()
    hit = float(batch.distance(maps.peak[0], "box")[0]) < float(job.config.dataset.notes.get("tolerance_px") or 1)
    radius = 0.04 * max(values.shape)
    from matplotlib.patches import Circle

    axis.add_patch(Circle((x, y), radius, fill=False, color="lime" if hit else "black", linewidth=1.8))
