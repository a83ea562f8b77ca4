"""Fits and scores of detectors from stored features; what looks at images is scored in the loop (`evaluate`)."""

import traceback
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..detection import Features, Reading
from ..engine.costs import Clock, Outcome
from ..engine.finite import check_state
from ..forward import ForwardPass
from ..store.damage import Damaged
from ..store.fits import Fit
from ..store.outcomes import Failure
from ..store.store import SAMPLES, SCORE, Shard, shards_of
from ..training import FittedDetector, TrainingSet
from .cells import ScoreCell
from .features import PART, features_of
from .plan import TEST, TRAIN, Detection
from .readings import KeptReading


def training_set(detection: Detection, readings: Collection[Reading] = (), place: str = TRAIN) -> TrainingSet:
    """What fits read: the stored features with some readings, and images where a detector asks for them.

    place: another set, which readings are prepared on.
    """
    chosen = detection.at(place)
    images, features = chosen.images, chosen.features

    def stacked(rows: np.ndarray) -> Tensor:
        every = [images.dataset[int(images.order[row])].image for row in rows]
        return torch.stack(every).to(detection.request.device)

    def of_images(given: Tensor) -> Features:
        inputs, network = given.to(detection.request.device), detection.request.network
        forward = ForwardPass(network, inputs, features.layers, penultimate=features.head is not None)
        return features_of(forward, features.head, features.layers).cpu()

    def parts() -> Iterator[Features]:
        return features.parts(images.stop, readings)

    seed = detection.request.config.seed
    return TrainingSet(parts, images.stop, detection.request.network, stacked, of_images, seed)


def fit(detection: Detection, names: list[str], outcome: Outcome) -> None:
    """Fit detectors on the training set's features and keep their states; a failure ends its detector.

    Nothing is fitted on a part of the set: the state's key speaks of the whole. Detectors of the same readings share
    what is made of the set; the others do not hold readings that they do not read.
    """
    shared: dict[frozenset[Reading], TrainingSet] = {}
    for name in names:
        kept, readings = detection.sets[TEST].cells[name].fit, frozenset(detection.detectors[name].needs().learned)
        assert kept is not None
        training = shared.setdefault(readings, training_set(detection, readings))
        work = partial(_put_fit, detection, name, training, kept)
        _guarded(detection, name, None, f"fit {name}", training.count, work, outcome)


def prepare(detection: Detection, kept: KeptReading, outcome: Outcome) -> None:
    """Prepare a reading on its set's images, and keep what it needs; a failure is that of its values everywhere."""
    assert kept.place is not None
    with Clock(detection.request.network, outcome, f"prepare {kept.title}", len(detection.at(kept.place))):
        try:
            detection.at(kept.place).check_featured(())
            kept.prepare(training_set(detection, place=kept.place))
        except Damaged:
            raise
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            outcome.failures[kept.title] = why
            for each in detection.everywhere():
                if kept.title in each.features.groups:
                    each.features.group(kept.title).fail(Failure(why, traceback.format_exc()))


def _put_fit(detection: Detection, name: str, training: TrainingSet, kept: Fit) -> None:
    detector = cast(FittedDetector, detection.detectors[name])
    detection.at(TRAIN).check_featured(detector.needs().learned)
    state = detector.fit(training)
    check_state(name, state)
    kept.write(state)


def score(detection: Detection, place: str, names: list[str], outcome: Outcome) -> None:
    """Score a set's features with detectors that need nothing else."""
    image_set = detection.sets[place]
    for name in names:
        check = partial(image_set.check_featured, detection.detectors[name].needs().readings)
        _guarded(detection, name, place, name, 0, check, outcome)
    alive = [name for name in names if not image_set.cells[name].group(SCORE).has_failed]
    if alive:
        _score_parts(detection, place, alive, outcome)


def _score_parts(detection: Detection, place: str, names: list[str], outcome: Outcome) -> None:
    image_set = detection.sets[place]
    samples = image_set.features.group(SAMPLES).read(len(image_set))
    shards = shards_of(len(image_set), PART)
    missing = {name: _missing(image_set.cells[name], shards) for name in names}
    readings = detection.readings_of(names)
    for shard, part in zip(shards, image_set.features.parts(len(image_set), readings), strict=True):
        rows = samples[(samples.position >= shard.start) & (samples.position < shard.stop)]
        for name in names:
            cell = image_set.cells[name]
            if shard in missing[name] and not cell.group(SCORE).has_failed:
                work = partial(_put_scores, cell, part, rows)
                _guarded(detection, name, place, name, len(part), work, outcome)


def _missing(cell: ScoreCell, shards: list[Shard]) -> set[Shard]:
    return {shard for group in cell.groups for shard in cell.group(group).missing(shards)}


def _put_scores(cell: ScoreCell, features: Features, rows: pd.DataFrame) -> None:
    scored = cell.scored(features, list(rows["image_id"]))
    shard = Shard(int(rows.position.iloc[0]), int(rows.position.iloc[-1]) + 1)
    names = {column: rows[column].to_numpy() for column in ("position", "sample_id")}
    cell.group(SAMPLES).write(shard, {column: rows[column].to_numpy() for column in rows.columns})
    cell.group(SCORE).write(shard, {**names, **scored})


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
    with Clock(detection.request.network, outcome, work, images):
        try:
            make()
        except Damaged:
            raise  # no fault of the detector's
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            outcome.failures[name] = why
            for each in detection.sets.values() if place is None else [detection.sets[place]]:
                each.cells[name].group(SCORE).fail(Failure(why, traceback.format_exc()))
