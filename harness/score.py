"""Detectors on data sets: which scores are asked for, fits, and scores, from features wherever they suffice."""

import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file, save
from torch import Tensor

from harness import identity
from harness.build import build, settings
from harness.collect import joined
from harness.config import ConfigError, is_chosen, selected, validate
from harness.detection import (
    DetectionMetric,
    Detector,
    Features,
    FittedDetector,
    ImageDetector,
    LinearHead,
    State,
    TrainingSet,
)
from harness.evaluate import Cost, Outcome
from harness.features import PART, FeatureCell, ImageCell, features_of, linear_head
from harness.job import Cell, Job, split_name
from harness.network import ForwardPass, Network
from harness.plan import image_order, pick_device
from harness.store import SAMPLES, CellStore, Shard, shards_of, write_atomically, write_json
from harness.targets import whole_images
from harness.types import Batch, Dataset, Needs

SCORE = "score"
FEW_A_CLASS, FEW = 10, 500  # images below which a run says so
TEST, TRAIN, VALIDATION = "test", "train", "validation"  # places of data sets in the config, beside the ood sets
RESERVED = frozenset({TEST, TRAIN, VALIDATION, "average"})


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
        return {SCORE: _checked(self.name, scores, len(batch.samples))}


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A data set of the run, with its features and the scores that are asked of it."""

    name: str
    dataset: Dataset
    order: np.ndarray
    stop: int
    features: FeatureCell
    features_identity: dict[str, Any]
    cells: dict[str, ScoreCell] = field(default_factory=dict)  # detector -> its scores

    @property
    def split(self) -> str:
        """Which images, in slice notation."""
        return split_name(self.dataset, self.stop, self.features_identity["dataset"]["order"])

    @property
    def label(self) -> str:
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
        """image_id, label, predicted, is_error, score; a row an image."""
        cell = self.cells[detector]
        table = joined(*(cell.group(name).read(self.stop) for name in (SAMPLES, SCORE)))
        if len(table) != self.stop:
            raise RuntimeError(f"{len(table)} of {self.stop} images have scores: compute anew with cache=refresh")
        return table.drop(columns="sample_id")


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
    head = _head(network, config, device)
    for name, detector in detectors.items():
        if detector.needs().penultimate and head is None:
            raise ConfigError(
                f"method {name} reads penultimate features, and {config.model.name} does not end in a linear layer: "
                "choose detectors on the logits (msp, max_logit, entropy, margin, energy, gen)"
            )
    maker = _Maker(config, network, root, layers, head)
    training = None
    if any(detector.needs().training for detector in detectors.values()):
        training = maker.image_set(config.train, TRAIN)
    sets = {place: maker.scored(node, place, detectors, training) for place, node in places.items()}
    return Detection(config, network, device, root, detectors, metrics, sets, training)


def _head(network: Network, config: DictConfig, device: torch.device) -> LinearHead | None:
    dataset: Dataset = build(config.dataset, "dataset", config.dataset.name)
    if len(dataset) == 0:
        raise ConfigError(f"dataset {config.dataset.name} has no samples")
    return linear_head(network, dataset[0].image.to(device))


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

    def image_set(self, node: DictConfig, place: str) -> ImageSet:
        """A set with its features."""
        resolved = cast(dict[str, Any], OmegaConf.to_container(node, resolve=True))
        bare = OmegaConf.create({key: value for key, value in resolved.items() if key != "limit"})
        dataset: Dataset = build(bare, "dataset", node.name)
        if len(dataset) == 0:
            raise ConfigError(f"dataset {node.name} has no samples")
        limit = node.limit if "limit" in node else self.config.limit
        order = self.config.subset_seed
        if place == TRAIN:  # files are often sorted by class: a limited training set is a random one
            order = None if limit is None else self.config.seed
        about = identity.features_identity(
            model=settings(self.config.model, "model"),
            weights=self.network.fingerprint,
            dataset=settings(bare, "dataset"),
            data=dataset.fingerprint(),
            order=order,
            precision=self.config.precision,
        )
        features = FeatureCell.of(self.root, identity.digest(about), self.network, self.head, self.layers)
        stop = min(len(dataset), limit or len(dataset))
        return ImageSet(node.name, dataset, image_order(len(dataset), order), stop, features, about)

    def scored(
        self, node: DictConfig, place: str, detectors: dict[str, Detector], training: ImageSet | None
    ) -> ImageSet:
        """A set with its features and a cell for the scores of each detector."""
        made = self.image_set(node, place)
        for name, detector in detectors.items():
            made.cells[name] = self._cell(made, name, detector, training)
        return made

    def _cell(self, image_set: ImageSet, name: str, detector: Detector, training: ImageSet | None) -> ScoreCell:
        about, method = image_set.features_identity, settings(self.config.method[name], "method")
        fitted, fit = None, None
        if detector.needs().training:
            assert training is not None
            fitted = {"features": training.features_identity, "images": training.stop}
            key = identity.digest({"method": method, "version": detector.VERSION, "seed": self.config.seed} | fitted)
            fit = self.root / "fits" / f"{key}.safetensors"
        labels = _labels(self.config, self.network, image_set.name, name)
        cell = {
            **about,
            **({"training": fitted} if fitted else {}),
            "names": {part: labels[part] for part in ("model", "dataset", "protocol", "method")},
            "protocol": {},
            "method": method | {"version": detector.VERSION},
            "seed": self.config.seed,
        }
        store = CellStore(self.root, identity.digest(cell))
        if not self.config.dry_run:
            store.describe({"identity": cell, "labels": labels}, {})
        return ScoreCell(name, store, {SAMPLES: SAMPLES, SCORE: SCORE}, detector, image_set.features, fit)


def _labels(config: DictConfig, network: Network, dataset: str, method: str) -> dict[str, Any]:
    """The names under which tables show a cell."""
    stem = Path(str(config.model.get("network", config.model).get("weights") or "random")).stem
    return {
        "model": config.model.name,
        "weights": f"{stem}@{network.fingerprint[:8]}",
        "dataset": dataset,
        "protocol": "detection",
        "method": method,
        "kind": "ood",
        "seed": config.seed,
        "precision": config.precision,
    }


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
        return _on_cpu(features_of(forward, chosen.features))

    def parts() -> Iterator[Features]:
        return chosen.features.parts(chosen.stop)

    return TrainingSet(parts, chosen.stop, detection.network, images, of_images, detection.config.seed)


def _on_cpu(features: Features) -> Features:
    return Features(
        features.logits.cpu(),
        features.labels.cpu(),
        None if features.penultimate is None else features.penultimate.cpu(),
        {name: values.cpu() for name, values in features.layers.items()},
        None if features.head is None else LinearHead(*(value.cpu() for value in features.head)),
        features.sigmoid,
    )


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
    scores = _checked(cell.name, cell.detector.score(features, cell.state), len(features))
    shard = Shard(int(rows.position.iloc[0]), int(rows.position.iloc[-1]) + 1)
    names = {column: rows[column].to_numpy() for column in ("position", "sample_id")}
    cell.group(SAMPLES).write(shard, {column: rows[column].to_numpy() for column in rows.columns})
    cell.group(SCORE).write(shard, {**names, SCORE: scores.numpy()})


def _checked(name: str, scores: Tensor, images: int) -> Tensor:
    if scores.shape != (images,) or not bool(scores.isfinite().all()):
        raise ValueError(f"{name} returned {list(scores.shape)} scores for {images} images, or not finite")
    return scores


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
    start, passes = time.perf_counter(), detection.network.passes
    before = type(passes)(passes.forward, passes.backward, passes.head)
    try:
        make()
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        outcome.failures[name] = why
        mark_failed(detection, name, place, why, traceback.format_exc())
    cost = outcome.costs.setdefault(work, Cost())
    cost.wall_s += time.perf_counter() - start
    cost.images += images
    cost.passes += detection.network.passes - before


def mark_failed(detection: Detection, name: str, place: str | None, why: str, trace: str = "") -> None:
    """A detector failed on one set, or (None) on all of them: its rows will say why."""
    for each in detection.sets.values() if place is None else [detection.sets[place]]:
        write_json(each.cells[name].group(SCORE).failed, {"why": why, "traceback": trace})
