"""From a composed config to a detection: the data sets, their features, and the scores that are asked of them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file
from torch import Tensor

from ..build import build, settings
from ..config import ConfigError, is_chosen, selected, validate
from ..detection import AVERAGE, DetectionMetric, Detector, ImageDetector, LinearHead, State
from ..engine.job import Cell, Job, split_name
from ..engine.request import cell_labels, data_identity, image_order, pick_device, shown_names
from ..engine.targets import whole_images
from ..forward import ForwardPass
from ..network import Network
from ..results.tidy import joined
from ..store import identity
from ..store.store import SAMPLES, CellStore, Shard, shards_of
from ..types import Batch, Dataset, Needs
from .features import FeatureCell, ImageCell, features_of, linear_head

SCORE = "score"
FEW_A_CLASS, FEW = 10, 500  # images below which a run says so
TEST, TRAIN, VALIDATION = "test", "train", "validation"  # places of data sets in the config, beside the ood sets
RESERVED = frozenset({TEST, TRAIN, VALIDATION, AVERAGE})


def checked_scores(name: str, scores: Tensor, images: int) -> Tensor:
    """The scores [N]; ValueError unless there is a finite one for each image."""
    if scores.shape != (images,) or not bool(scores.isfinite().all()):
        raise ValueError(f"{name} returned {list(scores.shape)} scores for {images} images, or not finite")
    return scores


@dataclass(frozen=True, eq=False)
class ScoreCell(ImageCell):
    """One detector on one data set; the loop fills it only if the detector looks at images."""

    detector: Detector
    features: FeatureCell
    fit: Path | None  # where the detector's state is

    def needs(self) -> Needs:
        """The graph to the input, and what the detector's features consist of."""
        return Needs(self.detector.needs().layers, input_graph=True, penultimate=self.features.head is not None)

    @cached_property
    def state(self) -> State:
        """What the fit left; empty without one."""
        return {} if self.fit is None else load_file(self.fit)

    def columns(self, group: str, prepared: None, batch: Batch, forward: ForwardPass) -> dict[str, Tensor]:
        """Scores of a batch of images."""
        detector = cast(ImageDetector, self.detector)
        scores = detector.score_images(forward, features_of(forward, self.features), self.state)
        return {SCORE: checked_scores(self.name, scores, len(batch.samples))}


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A data set of the run, with its features and the scores that are asked of it."""

    name: str
    dataset: Dataset
    order: np.ndarray
    stop: int
    features: FeatureCell
    identity: dict[str, Any]  # of the data under the network
    cells: dict[str, ScoreCell] = field(default_factory=dict)  # detector -> its scores

    @property
    def split(self) -> str:
        """Which images, in slice notation."""
        return split_name(self.dataset, self.stop, self.identity["dataset"]["order"])

    @property
    def title(self) -> str:
        """Its name, with the split if that is a part."""
        return self.name if self.split == self.dataset.split else f"{self.name} {self.split}"

    def incomplete(self, detector: str) -> bool:
        """Whether scores of the detector are missing, failed or not."""
        cell = self.cells[detector]
        return any(cell.group(name).missing([Shard(0, self.stop)]) for name in cell.groups)

    def lacks(self, detector: str) -> bool:
        """Whether scores of the detector are missing, and it did not fail."""
        return not self.cells[detector].group(SCORE).failed.exists() and self.incomplete(detector)

    def table(self, detector: str) -> pd.DataFrame:
        """image_id, label, predicted, is_error, score; a row an image.

        Raises:
            RuntimeError: some images have none.
        """
        cell = self.cells[detector]
        table = joined(*(cell.group(name).read(self.stop) for name in (SAMPLES, SCORE)))
        if len(table) != self.stop:
            raise RuntimeError(f"{len(table)} of {self.stop} images have scores: compute anew with cache=refresh")
        wrong = (table["label"] >= 0) & (table["label"] != table["predicted"])
        return table.drop(columns="sample_id").assign(is_error=wrong)


@dataclass(frozen=True, eq=False)
class Detection:
    """A composed config of detectors, built: the sets to be scored, and the one that fits are made on."""

    config: DictConfig
    network: Network
    device: torch.device
    root: Path
    detectors: dict[str, Detector]
    metrics: dict[str, DetectionMetric]
    sets: dict[str, ImageSet]  # `test`, `validation`, and the ood sets by name
    training: ImageSet | None

    @cached_property
    def run_id(self) -> str:
        """Digest of what was asked for, the same for every invocation of the same request."""
        every = self.sets.items()
        scores = sorted((place, cell.store.key, each.stop) for place, each in every for cell in each.cells.values())
        return identity.digest([scores, [settings(self.config.metric[name], "metric") for name in self.metrics]])[:12]

    @property
    def ood(self) -> dict[str, ImageSet]:
        """The sets that are to be told from the test set."""
        return {name: each for name, each in self.sets.items() if name not in (TEST, VALIDATION)}

    def wanted(self) -> list[str]:
        """Detectors that lack scores somewhere."""
        return [name for name in self.detectors if any(each.lacks(name) for each in self.sets.values())]

    def incomplete(self) -> list[str]:
        """Detectors without scores somewhere, failed ones among them."""
        return [name for name in self.detectors if any(each.incomplete(name) for each in self.sets.values())]

    def unfitted(self) -> list[str]:
        """Detectors that lack scores and the state to make them with."""
        fits = {name: self.sets[TEST].cells[name].fit for name in self.wanted()}
        return [name for name, path in fits.items() if path is not None and not path.exists()]

    def job(self, image_set: ImageSet, names: list[str]) -> Job:
        """The pass over a set's images that these detectors need: features, and scores of those that look at images."""
        looking = [name for name in names if self.detectors[name].needs().images]
        cells: list[Cell] = [image_set.features] if len(looking) < len(names) else []
        return self._job(image_set, [*cells, *(image_set.cells[name] for name in looking)])

    def features_job(self, image_set: ImageSet) -> Job:
        """The pass over a set's images that leaves its features."""
        return self._job(image_set, [image_set.features])

    def _job(self, image_set: ImageSet, cells: list[Cell]) -> Job:
        shards = shards_of(image_set.stop, self.config.compute.shard_size)
        return Job(
            self.config, self.network, image_set.dataset, image_set.order, cells, shards, self.device, whole_images
        )

    def unseen(self) -> int:
        """Images that missing scores need the network for."""
        jobs = [self.features_job(self.training)] if self.training is not None and self.unfitted() else []
        for each in self.sets.values():
            if names := [name for name in self.detectors if each.incomplete(name)]:
                jobs.append(self.job(each, names))
        return sum(shard.stop - shard.start for job in jobs for shard in job.missing())

    def cautions(self) -> Iterator[str]:
        """What the numbers of images forbid to conclude."""
        if self.training is not None:
            images, classes = self.training.stop, len(self.training.dataset.classes)
            if images < FEW_A_CLASS * classes:
                yield f"{images} training images for {classes} classes: class means and percentiles are rough"
        for name, each in self.sets.items():
            if each.stop < FEW:
                yield f"{name}: {each.stop} images, a rate moves by {100 / each.stop:.1f} % at once: see the intervals"

    def describe(self) -> Iterator[str]:
        """One line a detector on each set: key, and whether its scores are there; then cautions."""
        for place, each in self.sets.items():
            kept = sum(shard.stop - shard.start for shard in each.features.group(SAMPLES).shards())
            yield f"{place}: {each.name}, {each.stop} images, features of {min(kept, each.stop)}"
            for name, cell in each.cells.items():
                yield f"{cell.store.key}  {name:<22} {'to do' if each.incomplete(name) else 'done'}"
        yield from (f"caution: {each}" for each in self.cautions())


def detects(config: DictConfig) -> bool:
    """Whether the chosen methods are detectors.

    Raises:
        ConfigError: some are, and some attribute.
    """
    built = {name: build(config.method[name], "method", name) for name in selected(config.method)}
    scoring = [name for name, made in built.items() if hasattr(made, "score")]
    if scoring and len(scoring) < len(built):
        others = ", ".join(sorted(set(built) - set(scoring)))
        raise ConfigError(f"{', '.join(scoring)} score images and {others} attribute: evaluate them in two runs")
    return bool(scoring)


def build_detection(config: DictConfig, root: Path) -> Detection:
    """Build what the config names and compute the keys of its cells. Reads weights, writes nothing but identities.

    Raises:
        ConfigError: a detector without the training set that it is fitted on, a metric without its data sets.
    """
    validate(config)
    device = pick_device(config.compute.device)
    network: Network = build(config.model, "model", config.model.name)
    network.to(device, getattr(torch, config.precision))
    detectors = {name: build(config.method[name], "method", name) for name in selected(config.method)}
    metrics = {name: build(config.metric[name], "metric", name) for name in selected(config.metric)}
    _check(config, network, detectors, metrics)
    layers = sorted({layer for detector in detectors.values() for layer in detector.needs().layers})
    places = {TEST: config.dataset, **({VALIDATION: config.validation} if is_chosen(config.validation) else {})}
    places |= {name: config.ood[name] for name in selected(config.ood)}
    built = {place: _dataset(node) for place, node in places.items()}
    head = linear_head(network, built[TEST][0].image.to(device))
    for name, detector in detectors.items():
        if detector.needs().penultimate and head is None:
            raise ConfigError(
                f"method {name} reads penultimate features, and {config.model.name} does not end in a linear layer: "
                "choose detectors on the logits (msp, max_logit, entropy, margin, energy, gen)"
            )
    maker = _Maker(config, network, root, layers, head)
    training = None
    if any(detector.needs().training for detector in detectors.values()):
        limit = config.train.limit  # files are often sorted by class: a limited training set is a random one
        training = maker.image_set(config.train, _dataset(config.train), None if limit is None else config.seed)
    sets = {place: maker.scored(places[place], dataset, detectors, training) for place, dataset in built.items()}
    return Detection(config, network, device, root, detectors, metrics, sets, training)


def _settings(node: DictConfig) -> DictConfig:
    """A data set's settings, without how many of its images the run takes."""
    resolved = cast(dict[str, Any], OmegaConf.to_container(node, resolve=True))
    return OmegaConf.create({key: value for key, value in resolved.items() if key != "limit"})


def _dataset(node: DictConfig) -> Dataset:
    made: Dataset = build(_settings(node), "dataset", node.name)
    if len(made) == 0:
        raise ConfigError(f"dataset {node.name} has no samples")
    return made


def _check(
    config: DictConfig, network: Network, detectors: dict[str, Detector], metrics: dict[str, DetectionMetric]
) -> None:
    for name, detector in detectors.items():
        if detector.needs().training and not is_chosen(config.train):
            raise ConfigError(f"method {name} is fitted on a training set: dataset@train=NAME (python -m harness ls)")
        for layer in detector.needs().layers:
            try:
                network.check_layer(layer)
            except ValueError as error:
                raise ConfigError(f"method {name}: {error}. Set method.{name}.layers") from error
    if reserved := sorted(set(selected(config.ood)) & RESERVED):
        raise ConfigError(f"ood={reserved}: these names mean something else; give the file of the set another name")
    shown = [config.dataset.name, *(config.ood[place].name for place in selected(config.ood))]
    if repeated := sorted({name for name in shown if shown.count(name) > 1}):
        raise ConfigError(f"two data sets are called {', '.join(repeated)}: give them names (ood.SET.name=...)")
    for name, metric in metrics.items():
        if not hasattr(metric, "PARTNERS"):
            raise ConfigError(f"metric {name} measures attributions, and the methods are detectors: metric=[ood]")
        if metric.PARTNERS == "ood" and not selected(config.ood):
            raise ConfigError(f"metric {name} needs sets to be told from {config.dataset.name}: ood=[NAME,...]")


@dataclass(frozen=True, eq=False)
class _Maker:
    """Builds the image sets of a run."""

    config: DictConfig
    network: Network
    root: Path
    layers: list[str]
    head: LinearHead | None

    def image_set(self, node: DictConfig, dataset: Dataset, order: int | None) -> ImageSet:
        """A set, built from `node`, with its features; order: seed of the order of its images."""
        about = data_identity(self.config, self.network, _settings(node), dataset, order)
        features = FeatureCell.of(self.root, identity.digest(about), self.network, self.head, self.layers)
        limit = node.limit if "limit" in node else self.config.limit
        stop = min(len(dataset), limit or len(dataset))
        return ImageSet(node.name, dataset, image_order(len(dataset), order), stop, features, about)

    def scored(
        self, node: DictConfig, dataset: Dataset, detectors: dict[str, Detector], training: ImageSet | None
    ) -> ImageSet:
        """A set with its features and a cell for the scores of each detector."""
        made = self.image_set(node, dataset, self.config.subset_seed)
        for name, detector in detectors.items():
            made.cells[name] = self._cell(made, name, detector, training)
        return made

    def _cell(self, image_set: ImageSet, name: str, detector: Detector, training: ImageSet | None) -> ScoreCell:
        method = settings(self.config.method[name], "method")
        fitted, fit = None, None
        if detector.needs().training:
            assert training is not None
            fitted = {"data": training.identity, "images": training.stop}
            key = identity.digest({"method": method, "version": detector.VERSION, "seed": self.config.seed} | fitted)
            fit = self.root / "fits" / f"{key}.safetensors"
        labels = cell_labels(self.config, self.network, image_set.name, name, "detection", "ood")
        cell = identity.cell_identity(
            image_set.identity,
            names=shown_names(labels),
            protocol={},
            method=method,
            version=detector.VERSION,
            seed=self.config.seed,
            training=fitted,
        )
        store = CellStore(self.root, identity.digest(cell))
        if not self.config.dry_run:
            store.describe({"identity": cell, "labels": labels}, {})
        return ScoreCell(name, store, {SAMPLES: SAMPLES, SCORE: SCORE}, detector, image_set.features, fit)
