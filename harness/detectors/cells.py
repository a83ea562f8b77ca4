"""The tables of failure detectors: a data set with its features, and the scores that are asked of it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

import numpy as np
import pandas as pd
from torch import Tensor

from ..detection import Detector, Features, ImageDetector, Reading, State
from ..engine.finite import check_rows
from ..engine.request import Images
from ..engine.samples import check_ids
from ..forward import ForwardPass
from ..results.pairs import joined
from ..store.fits import Fit
from ..store.store import SAMPLES, SCORE, Shard
from ..types import Batch, Needs
from .features import FeatureCell, ImageCell, features_of

# Columns of the table of scores.
TAKEN = frozenset({"position", "sample_id", "image_id", "label", "predicted", "is_error", "known", SCORE})


def checked_scores(name: str, scores: Tensor, images: Sequence[str]) -> Tensor:
    """The scores [N]; ValueError unless there is a finite one for each of the images, which are named."""
    if scores.shape != (len(images),):
        raise ValueError(f"{name} returned scores {list(scores.shape)} for {len(images)} images: give one an image")
    check_rows(f"{name} returned scores that are", scores, images)
    return scores


@dataclass(frozen=True, eq=False)
class ScoreCell(ImageCell):
    """One detector on one data set; the loop fills it only if the detector looks at images."""

    detector: Detector
    features: FeatureCell
    fit: Fit | None  # the detector's state

    def needs(self) -> Needs:
        """The graph to the input, and what the detector's features consist of."""
        return Needs(self.detector.needs().layers, input_graph=True, penultimate=self.features.head is not None)

    @cached_property
    def state(self) -> State:
        """What the fit left; empty without one."""
        return {} if self.fit is None else self.fit.read()

    def columns(self, group: str, prepared: None, batch: Batch, forward: ForwardPass) -> dict[str, Tensor]:
        """Scores of a batch of images."""
        detector = cast(ImageDetector, self.detector)
        features = features_of(forward, self.features.head, self.detector.needs().layers)
        scores = detector.score_images(forward, features, self.state)
        return {SCORE: checked_scores(self.name, scores, batch.image_ids)}

    def scored(self, features: Features, images: Sequence[str]) -> dict[str, np.ndarray]:
        """Scores of stored features, checked, and what else the detector says of these images: a column each."""
        scores = checked_scores(self.name, self.detector.score(features, self.state), images)
        details = getattr(self.detector, "details", None)  # a `DetailedDetector`'s
        more: dict[str, Tensor] = {} if details is None else details(features, self.state)
        if taken := sorted(more.keys() & TAKEN):
            raise ValueError(f"{self.name}: details {', '.join(taken)}: the table of scores has such a column already")
        return {name: values.numpy() for name, values in (more | {SCORE: scores}).items()}


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A data set of the run, with its features and the scores that are asked of it."""

    images: Images
    features: FeatureCell
    cells: dict[str, ScoreCell] = field(default_factory=dict)  # detector -> its scores

    def __len__(self) -> int:
        return self.images.stop

    def check_featured(self, readings: Collection[Reading]) -> None:
        """Raise ValueError unless all features of the set, and these readings, are there."""
        features, every = self.features.only(readings), [Shard(0, len(self))]
        groups = [features.group(name) for name in features.groups]
        failures = [failure.why for group in groups if (failure := group.failure())]
        if failures or any(group.missing(every) for group in groups):
            why = failures[0] if failures else "some are missing; run again"
            raise ValueError(f"no features of all {len(self)} images of {self.images.name}: {why}")

    def read_fits(self, detectors: list[str]) -> None:
        """Read what these detectors' fits left: a damaged one is found before anything is computed with it."""
        for name in detectors:
            _ = self.cells[name].state

    def incomplete(self, detector: str) -> bool:
        """Whether scores of the detector are missing, failed or not."""
        cell = self.cells[detector]
        return any(cell.group(name).missing([Shard(0, len(self))]) for name in cell.groups)

    def lacks(self, detector: str) -> bool:
        """Whether scores of the detector are missing, and it did not fail."""
        return not self.cells[detector].group(SCORE).has_failed and self.incomplete(detector)

    def failed(self) -> set[str]:
        """Detectors that failed on this set."""
        return {name for name, cell in self.cells.items() if cell.group(SCORE).has_failed}

    def table(self, detector: str) -> pd.DataFrame:
        """image_id, label, predicted, is_error, score, and what else the detector says; a row an image.

        Raises:
            RuntimeError: some images have none.
        """
        cell = self.cells[detector]
        samples = cell.group(SAMPLES).read(len(self))
        check_ids(samples)
        table = joined(samples, cell.group(SCORE).read(len(self)))
        if len(table) != len(self):
            raise RuntimeError(f"{len(table)} of {len(self)} images have scores: compute anew with cache=refresh")
        wrong = (table["label"] >= 0) & (table["label"] != table["predicted"])
        return table.drop(columns="sample_id").assign(is_error=wrong)
