"""Fits and scores of detectors from stored features; what looks at images is scored in the loop (`evaluate`)."""

import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save
from torch import Tensor

from ..detection import Features
from ..engine.costs import Clock, Outcome
from ..forward import ForwardPass
from ..store.store import SAMPLES, Shard, shards_of, write_atomically, write_json
from ..training import FittedDetector, TrainingSet
from .features import PART, features_of
from .plan import SCORE, TEST, Detection, ScoreCell, checked_scores


def training_set(detection: Detection) -> TrainingSet:
    """What fits read: the stored features, and images where a detector asks for them."""
    chosen = detection.training
    assert chosen is not None

    def images(rows: np.ndarray) -> Tensor:
        return torch.stack([chosen.dataset[int(chosen.order[row])].image for row in rows]).to(detection.device)

    def of_images(given: Tensor) -> Features:
        head = chosen.features.head
        forward = ForwardPass(
            detection.network, given.to(detection.device), chosen.features.layers, penultimate=head is not None
        )
        return features_of(forward, chosen.features).cpu()

    def parts() -> Iterator[Features]:
        return chosen.features.parts(chosen.stop)

    return TrainingSet(parts, chosen.stop, detection.network, images, of_images, detection.config.seed)


def fit(detection: Detection, names: list[str], outcome: Outcome) -> None:
    """Fit detectors on the training set's features and keep their states; a failure ends its detector."""
    training = training_set(detection)
    for name in names:
        path = detection.sets[TEST].cells[name].fit
        assert path is not None
        detector = cast(FittedDetector, detection.detectors[name])
        _guarded(
            detection, name, None, f"fit {name}", training.count, partial(_put_fit, detector, training, path), outcome
        )


def _put_fit(detector: FittedDetector, training: TrainingSet, path: Path) -> None:
    state = detector.fit(training)
    write_atomically(path, save({key: value.contiguous() for key, value in state.items()}))


def score(detection: Detection, place: str, names: list[str], outcome: Outcome) -> None:
    """Score a set's features with detectors that need nothing else."""
    image_set = detection.sets[place]
    samples = image_set.features.group(SAMPLES).read(image_set.stop)
    shards = shards_of(image_set.stop, PART)
    missing = {
        name: {s for group in (SAMPLES, SCORE) for s in image_set.cells[name].group(group).missing(shards)}
        for name in names
    }
    for number, part in enumerate(image_set.features.parts(image_set.stop)):
        shard = Shard(number * PART, number * PART + len(part))
        rows = samples[(samples.position >= shard.start) & (samples.position < shard.stop)]
        for name in names:
            cell = image_set.cells[name]
            if shard in missing[name] and not cell.group(SCORE).failed.exists():
                _guarded(detection, name, place, name, len(part), partial(_put_scores, cell, part, rows), outcome)


def _put_scores(cell: ScoreCell, features: Features, rows: pd.DataFrame) -> None:
    scores = checked_scores(cell.name, cell.detector.score(features, cell.state), len(features))
    shard = Shard(int(rows.position.iloc[0]), int(rows.position.iloc[-1]) + 1)
    names = {column: rows[column].to_numpy() for column in ("position", "sample_id")}
    cell.group(SAMPLES).write(shard, {column: rows[column].to_numpy() for column in rows.columns})
    cell.group(SCORE).write(shard, {**names, SCORE: scores.numpy()})


def _guarded(
    detection: Detection,
    name: str,
    place: str | None,
    work: str,
    images: int,
    make: Callable[[], None],
    outcome: Outcome,
) -> None:
    """Do a detector's work on the clock; if it raises, the detector has failed on that set, or (None) everywhere."""
    with Clock(detection.network, outcome, work, images):
        try:
            make()
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            outcome.failures[name] = why
            mark_failed(detection, name, place, why, traceback.format_exc())


def mark_failed(detection: Detection, name: str, place: str | None, why: str, trace: str = "") -> None:
    """A detector failed on one set, or (None) on all of them: its rows will say why."""
    for each in detection.sets.values() if place is None else [detection.sets[place]]:
        write_json(each.cells[name].group(SCORE).failed, {"why": why, "traceback": trace})
