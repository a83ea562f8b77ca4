"""Pictures of the samples that the report shows: picked by what is stored, explained again, drawn as in a gallery."""

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from ..config import ConfigError
from ..engine.job import Cell, Job
from ..forward import ForwardPass
from ..results.report.paired import Tables, quantities
from ..results.report.picks import picked, standing
from ..results.report.pictured import Sample, data_uri, write
from ..results.text import headlines
from ..results.tidy import results_table
from ..store.store import SAMPLES
from ..types import Batch, FramedMaps
from .cell import AttributionCell
from .gallery import RING, failing, frame_image, is_hit, overlay, passes

SIDE = 96  # pixels of the longer side of a picture
QUALITY = 45
RUN_FIRST = (
    "no result of these methods has values for each sample: evaluate them first (python run.py with these settings)"
)

Picture = Image.Image


class Pictured(NamedTuple):
    """Where the pictures are, of how many pairs (image, class), and why a method failed."""

    path: Path
    samples: int
    failures: dict[str, str]


def picture_samples(job: Job, report: Path, run_id: str) -> Pictured:
    """Draw what each method does best, worst, and least like the others (`results.report.picks`), under all methods.

    A method that fails is left out from there on.

    Raises:
        ConfigError: the store has no values for each sample of these methods.
    """
    scores = _scores(job)
    if scores.empty:
        raise ConfigError(RUN_FIRST)
    wanted, failures = set(picked(scores)), dict[str, str]()
    made = [sample for place in _positions(job, wanted) for sample in _drawn(job, place, wanted, failures)]
    return Pictured(write(report, run_id, made), len(made), failures)


def _scores(job: Job) -> pd.DataFrame:
    stored = results_table([cell.store for cell in job.cells if cell.store.exists()])
    ours = stored[stored["split"] == job.images.split].assign(called=lambda rows: rows["method"], floor=False)
    return standing(quantities(headlines(ours), Tables(job.request.root)))


def _positions(job: Job, wanted: set[str]) -> list[int]:
    """Of the images of some samples in the run's order; of the first method that has them."""
    for cell in job.cells:
        if not cell.group(SAMPLES).missing(job.shards):
            table = cell.group(SAMPLES).read(job.images.stop)
            return sorted(set(table[table["sample_id"].isin(wanted)]["position"].astype(int)))
    return []


def _drawn(job: Job, position: int, wanted: set[str], failures: dict[str, str]) -> Iterator[Sample]:
    """The wanted classes of one image."""
    sample = job.images.dataset[int(job.images.order[position])]
    found = list(passes(job, sample, [cell for cell in job.cells if cell.name not in failures], failures))
    forwards = [(cell, forward) for _, forward, cells in found for cell in cells if isinstance(cell, AttributionCell)]
    for batch in (
        Batch.of([replace(found[0][0].samples[0], targets=(label,))], job.device) for label in _labels(found)
    ):
        if batch.sample_ids[0] in wanted:
            yield _pictured(job, batch, forwards, failures)


def _labels(found: list[tuple[Batch, ForwardPass, list[Cell]]]) -> tuple[int, ...]:
    return found[0][0].samples[0].targets if found else ()


def _pictured(
    job: Job, batch: Batch, forwards: list[tuple[AttributionCell, ForwardPass]], failures: dict[str, str]
) -> Sample:
    image, maps, hits = frame_image(batch), dict[str, str](), dict[str, bool | None]()
    for cell, forward in forwards:
        with failing(cell, failures):
            if cell.name not in failures:
                made = FramedMaps.of(cell.attribute(batch, forward), batch)
                hits[cell.store.key] = is_hit(job, batch, made)
                maps[cell.store.key] = _map(batch, image, made, hits[cell.store.key])
    label = str(job.images.dataset.classes[int(batch.targets.label[0])])
    truth = _marked(_picture(image), batch, image.shape[:2])
    return Sample(batch.sample_ids[0], label, data_uri(_webp(truth)), maps, hits)


def _map(batch: Batch, image: np.ndarray, made: FramedMaps, hit: bool | None) -> str:
    """A map over its image with boxes and the arg-max: green in a box, black outside, white without one."""
    drawn = _marked(_picture(overlay(image, made.maps[0].cpu().numpy())), batch, image.shape[:2])
    scale, radius = drawn.width / image.shape[1], 0.045 * max(drawn.size)
    x, y = ((float(v) + 0.5) * scale for v in made.peak[0][0].tolist())
    ring = (x - radius, y - radius, x + radius, y + radius)
    ImageDraw.Draw(drawn).ellipse(ring, outline=RING[hit], width=2)
    return data_uri(_webp(drawn))


def _picture(pixels: np.ndarray) -> Picture:
    """[H,W,3] in [0,1] with SIDE pixels on the longer side."""
    made = Image.fromarray(np.rint(pixels * 255).astype(np.uint8))
    scale = SIDE / max(made.size)
    size = (max(1, round(made.width * scale)), max(1, round(made.height * scale)))
    return made.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def _marked(made: Picture, batch: Batch, frame: tuple[int, ...]) -> Picture:
    """With the boxes of the class."""
    scale = made.width / frame[1]
    for x0, y0, x1, y1 in batch.boxes[0].tolist():
        if x1 > x0 and y1 > y0:
            corners = (x0 * scale, y0 * scale, max(x0 * scale, x1 * scale - 1), max(y0 * scale, y1 * scale - 1))
            ImageDraw.Draw(made).rectangle(corners, outline=(255, 225, 0))
    return made


def _webp(made: Picture) -> bytes:
    sink = io.BytesIO()
    made.save(sink, "WEBP", quality=QUALITY, method=4)
    return sink.getvalue()
