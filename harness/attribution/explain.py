"""A user's own images explained: the classes and their probabilities, and all methods' maps side by side."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..config import ConfigError
from ..engine.job import Job
from ..forward import ForwardPass
from ..pictures import Size, encoded, panels
from ..store.files import write_atomically
from ..types import Batch, FramedMaps
from .cell import AttributionCell
from .gallery import explained, failing, frame_image, overlay

TOLD = 5  # classes of an image, the most probable ones


class Named(NamedTuple):
    """A class and the network's probability of it."""

    label: int
    name: str
    probability: float


class Explained(NamedTuple):
    """One image. pixels: [H,W,3] in [0,1], in its frame. best: the most probable classes. classes: those explained.

    maps: method -> float32 [classes,H,W] over the image; a method that failed is not there.
    """

    image: Path
    pixels: np.ndarray
    best: list[Named]
    classes: list[Named]
    maps: dict[str, np.ndarray]


def explanations(job: Job, failures: dict[str, str]) -> Iterator[Explained]:
    """The images of a job one by one, with the maps of all methods of the classes under the protocol.

    failures: filled with methods that fail; they are left out from there on.

    Raises:
        ConfigError: the data set names another number of classes than the network has.
    """
    names = job.images.dataset.classes
    for batch, forwards in explained(job, failures):
        forward = next(iter(forwards.values()))
        probabilities = forward.probabilities[0].tolist()
        _check_names(names, len(probabilities))
        every = [Named(i, names[i] if names else f"class {i}", value) for i, value in enumerate(probabilities)]
        best = sorted(every, key=lambda each: -each.probability)[:TOLD]
        classes = [every[label] for label in batch.samples[0].targets]
        image = Path("/") / batch.samples[0].id
        yield Explained(image, frame_image(batch), best, classes, _maps(job, batch, forwards, failures))


def _check_names(names: Sequence[str], outputs: int) -> None:
    if names and len(names) != outputs:
        raise ConfigError(
            f"dataset.classes names {len(names)} classes, and the network has {outputs} outputs: give its own, "
            "dataset.classes=FILE (one name a line, in the order of the outputs), or dataset.classes=null"
        )


def _maps(job: Job, batch: Batch, forwards: dict[str, ForwardPass], failures: dict[str, str]) -> dict[str, np.ndarray]:
    made: dict[str, np.ndarray] = {}
    for cell in job.cells:
        assert isinstance(cell, AttributionCell)
        if cell.name in forwards and cell.name not in failures:
            with failing(cell, failures):
                made[cell.name] = FramedMaps.of(cell.attribute(batch, forwards[cell.name]), batch).maps.cpu().numpy()
    return made


def draw(found: Explained, path: Path) -> None:
    """A picture: a row an explained class, the image and then a column a method."""
    columns = 1 + len(found.maps)
    figure, axes = panels(columns * len(found.classes), columns, Size(2.1, 2.3))
    for row, shown in enumerate(found.classes):
        first, *others = axes[row * columns :][:columns]
        first.imshow(found.pixels)
        first.set_title(f"{shown.name[:24]} {shown.probability:.2f}", fontsize=8)
        for axis, (name, maps) in zip(others, found.maps.items(), strict=True):
            axis.imshow(overlay(found.pixels, maps[row]))
            axis.set_title(name[:24], fontsize=8)
    for axis in axes:
        axis.set_axis_off()
    figure.tight_layout(pad=0.3)
    write_atomically(path, encoded(figure, path.suffix, dpi=110))
