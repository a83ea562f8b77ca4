"""Maps as files: of each (image, class) and method, the numbers as .npz and a picture as .png."""

import hashlib
import io
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from PIL import Image

from ..config import ConfigError, suggest
from ..engine.job import Job
from ..store.files import write_atomically
from ..types import Attribution, Batch, FramedMaps
from .cell import AttributionCell
from .gallery import NOTHING_TO_SHOW, explained, failing, frame_image, overlay

FORMATS = ("npz", "png")
LONGEST_NAME = 200  # file systems take 255 bytes


class Exported(NamedTuple):
    """How many images and maps were written, and why a method was not (to the end)."""

    images: int
    maps: int
    failures: dict[str, str]


def export_maps(job: Job, folder: Path, count: int, formats: Sequence[str] = FORMATS) -> Exported:
    """Write the maps of the first `count` images that have a class to explain: <folder>/<method>/<sample id>.<format>.

    npz, to be read with allow_pickle=False: `values` float32 [h,w] at the method's native resolution, under the
    protocol's smoothing; `map` float32 [H,W] in the frame, as metrics read it; `boxes` [N,4] of the class in the frame
    (x0, y0, x1, y1, half-open); `frame` (height, width); sample_id, image_id, label, method, model, dataset.
    png: the map over the image in its frame, as in a gallery. A method that fails is left out from there on.
    """
    check_formats(formats)
    if count < 1:
        raise ConfigError(f"--images {count}: give at least 1")
    images, maps, failures = 0, 0, dict[str, str]()
    for batch, forwards in islice(explained(job, failures), count):
        images += 1
        for cell in job.cells:
            if not isinstance(cell, AttributionCell):
                raise ConfigError(f"{cell.name} is no attribution method: it has no maps")
            if cell.name not in forwards or cell.name in failures:
                continue
            with failing(cell, failures):
                made = cell.attribute(batch, forwards[cell.name])
            if cell.name not in failures:
                _write(job, folder / cell.name, batch, made, cell.name, formats)
                maps += len(batch.pairs)
    if not images and not failures:
        raise ConfigError(NOTHING_TO_SHOW)
    return Exported(images, maps, failures)


def check_formats(formats: Sequence[str]) -> None:
    """Raise ConfigError unless every format is known and there is one."""
    for name in formats:
        if name not in FORMATS:
            raise ConfigError(suggest(name, FORMATS, "format of maps"))
    if not formats:
        raise ConfigError(f"no format: --format {','.join(FORMATS)}")


def _write(job: Job, folder: Path, batch: Batch, made: Attribution, method: str, formats: Sequence[str]) -> None:
    """Files of all classes of one image."""
    framed, image = FramedMaps.of(made, batch).maps.cpu().numpy(), frame_image(batch)
    about = {"method": method, "model": str(job.config.model.name), "dataset": str(job.config.dataset.name)}
    for row, name in enumerate(batch.sample_ids):
        if "npz" in formats:
            maps = {"values": made.values[row].cpu().numpy(), "map": framed[row]}
            write_atomically(folder / f"{file_name(name)}.npz", _archive({**maps, **_truth(batch, row), **about}))
        if "png" in formats:
            write_atomically(folder / f"{file_name(name)}.png", picture(overlay(image, framed[row])))


def _truth(batch: Batch, row: int) -> dict[str, Any]:
    """Who a pair is, its frame and its boxes."""
    sample, label = batch.pairs[row]
    boxes = np.asarray(sample.boxes.get(label, np.zeros((0, 4))), np.float32)
    names = {"sample_id": batch.sample_ids[row], "image_id": sample.id, "label": label}
    return {**names, "frame": sample.size0, "boxes": boxes}


def _archive(values: dict[str, Any]) -> bytes:
    sink = io.BytesIO()
    np.savez_compressed(sink, **{name: np.asarray(v) for name, v in values.items()})  # type: ignore[arg-type]
    return sink.getvalue()


def picture(pixels: np.ndarray) -> bytes:
    """Pixels [H,W,3] in [0,1] as a PNG file."""
    sink = io.BytesIO()
    Image.fromarray(np.rint(pixels * 255).astype(np.uint8)).save(sink, "PNG")
    return sink.getvalue()


def file_name(sample_id: str) -> str:
    """A sample's name as one part of a path, percent-encoded; a very long one ends in a digest of the whole."""
    name = quote(sample_id, safe="")
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}-{hashlib.sha256(sample_id.encode()).hexdigest()[:12]}"
