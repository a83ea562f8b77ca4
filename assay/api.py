"""The public functions: a benchmark, a map, a detector, a table, from Python and without a store unless asked for."""

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from torch import Tensor

from assay.given import Chosen, Data, Model, check_pixels, configured
from assay.harness.attribution.cell import attributed
from assay.harness.attribution.run import AttributionRun
from assay.harness.config import ConfigError, RunConfig
from assay.harness.detectors.plan import TEST
from assay.harness.detectors.plan import plan as plan_detection
from assay.harness.detectors.run import DetectorRun
from assay.harness.detectors.scorer import Scorer
from assay.harness.engine.costs import Summary
from assay.harness.engine.determinism import deterministic
from assay.harness.engine.processes import Rank
from assay.harness.engine.request import Request
from assay.harness.forward import ForwardPass
from assay.harness.launch import Run, build_run
from assay.harness.results.tidy import own_rows
from assay.harness.store.store import SAMPLES
from assay.harness.types import Batch, FramedMaps, Sample

ALONE = Rank(0, 1)


def evaluate(
    model: Model,
    dataset: Data,
    methods: Chosen,
    metrics: Chosen,
    *,
    results: str | Path | None = None,
    layer: str | None = None,
    tolerance_px: float | None = None,
    overrides: Sequence[str] = (),
) -> pd.DataFrame:
    """Evaluate methods: one tidy table, a row a number, with intervals.

    Args:
        model: a config's name (`assay ls model`), a `Network`, or (module, mean, std).
        dataset: a config's name, a data set object, or (images [N,3,H,W] in [0,1], classes [N]).
        methods, metrics: configs' names, or a mapping from names of your own to objects (None: the config so called).
        results: folder of a store: what is there is not computed again, what is computed is kept. Configs' names only.
        layer, tolerance_px: what class-activation maps and the pointing game read of a model's and data set's config.
        overrides: everything else, as for run.py: `limit=100`, `seed=1`, `ood=[svhn]`, `compute.batch_size=64`.

    Returns:
        The columns of results.csv; a method that failed has rows whose status says why, and warns.

    Raises:
        ConfigError: as run.py's errors: the thing, the value, the valid choices.
    """
    config = configured(model, dataset, methods, metrics, overrides, layer, tolerance_px)
    with _root(config, results) as root, _computed(config, root) as (_, summary):
        return own_rows(summary)


def samples(
    model: Model,
    dataset: Data,
    methods: Chosen,
    metrics: Chosen,
    *,
    results: str | Path | None = None,
    layer: str | None = None,
    tolerance_px: float | None = None,
    overrides: Sequence[str] = (),
) -> pd.DataFrame:
    """The per-sample table behind `evaluate`, with the same arguments: what every reported number is an aggregate of.

    Returns:
        Attributions: a row a method and (image, class) pair: method, sample_id, image_id, label, top, predicted, logit,
        probability, and `<metric>.<column>` for each column of each metric. Detectors: a row a method, set and image:
        method, dataset, image_id, label, predicted, is_error, score.
    """
    config = configured(model, dataset, methods, metrics, overrides, layer, tolerance_px)
    with _root(config, results) as root, _computed(config, root) as (run, _):
        if isinstance(run, DetectorRun):
            return _score_table(run)
        assert isinstance(run, AttributionRun)
        return _pair_table(run)


class Explanation(NamedTuple):
    """A map of one image. map: [H,W] over the image, signed, zero = no evidence. native: at the method's resolution.

    target: the class that is explained. probability: the network's, of that class.
    """

    map: Tensor
    native: Tensor
    target: int
    probability: float


def explain(
    model: Model,
    image: Tensor,
    method: str | object,
    target: int | None = None,
    *,
    layer: str | None = None,
    overrides: Sequence[str] = (),
) -> Explanation:
    """Which pixels speak for a class?

    Args:
        model: as for `evaluate`.
        image: [3,H,W] in [0,1], RGB, not normalised, of the size that the network takes.
        method: a config's name, or an attributor.
        target: the class; None for the highest.
        layer: where a class-activation map looks, instead of what the model's config says.
        overrides: as for run.py: `method.integrated_gradients.steps=64`, `seed=1`.
    """
    if image.ndim != 3 or len(image) != 3:
        raise ConfigError(f"image {list(image.shape)}: give [3,H,W], RGB in [0,1], not normalised")
    check_pixels(image)
    config = configured(model, "scenes", _named(method), "pointing_game", overrides, layer)
    ((name, chosen),) = config.method.items()
    with deterministic(config.compute.threads), tempfile.TemporaryDirectory(prefix="assay-") as scratch:
        request = Request.of(config, Path(scratch))
        attributor, network = request.methods[chosen.name], request.network
        needs = attributor.needs()
        forward = ForwardPass(network, image[None].to(request.device), needs.layers, needs.input_graph)
        label = int(forward.scores[0].argmax()) if target is None else target
        if not 0 <= label < forward.scores.shape[1]:
            raise ConfigError(f"target={target}: {config.model.name} has classes 0 to {forward.scores.shape[1] - 1}")
        height, width = image.shape[1:]
        batch = Batch.of([Sample("image", image, (label,), (height, width))], request.device)
        made = attributed(attributor, name, batch, forward, config.seed)
        over = FramedMaps.of(made, batch).maps[0]
        return Explanation(over.cpu(), made.values[0].cpu(), label, float(forward.probabilities[0, label]))


def fit(
    detector: str | object,
    model: Model,
    train: Data | None = None,
    *,
    layer: str | None = None,
    overrides: Sequence[str] = (),
) -> Scorer:
    """A failure detector of a model, fitted on training data where it learns.

    Args:
        detector: a config's name (`assay ls method`), or a detector object.
        model, layer, overrides: as for `evaluate`.
        train: what it is fitted on, as `dataset` of `evaluate`; None for detectors that learn nothing (msp, energy).

    Returns:
        `.score(images)`, higher = more likely a failure; `.save(path)`, and `assay.Scorer.load(path, network)`.

    Raises:
        ConfigError: a detector that is fitted, and no training data. RuntimeError: the fit failed.
    """
    metric = "error_detection"
    config = configured(model, "scenes" if train is None else train, _named(detector), metric, overrides, layer)
    if train is not None:
        config = replace(config, train=config.dataset)
    with deterministic(config.compute.threads), tempfile.TemporaryDirectory(prefix="assay-") as scratch:
        request = Request.of(_alone(config), Path(scratch))
        return Scorer.of(request, plan_detection(request))


def _named(thing: str | object) -> Chosen:
    return thing if isinstance(thing, str) else {type(thing).__name__: thing}


def _alone(config: RunConfig) -> RunConfig:
    """In this process: a caller's script need not guard itself against being imported by helpers."""
    return replace(config, compute=replace(config.compute, processes=1))


@contextmanager
def _root(config: RunConfig, results: str | Path | None) -> Iterator[Path]:
    """Of the store: below `results`, or gone afterwards."""
    if results is None:
        with tempfile.TemporaryDirectory(prefix="assay-") as scratch:
            yield Path(scratch)
        return
    given = [config.model, config.dataset, *config.method.values(), *config.metric.values()]
    if objects := [str(chosen) for chosen in given if chosen.made is not None]:
        raise ConfigError(
            f"results={results}: a store's keys say what configs say, and {', '.join(objects)} came as objects: "
            "write configs for them (docs/how-to), or leave `results` out"
        )
    yield Path(results) / "store"


@contextmanager
def _computed(config: RunConfig, root: Path) -> Iterator[tuple[Run, Summary]]:
    """The run, computed and summarised, while its store is there; failures warn."""
    with deterministic(config.compute.threads):
        run = build_run(_alone(config), root)
        run.prepare()
        run.compute(ALONE)
        summary = run.summarise()
    for name, why in summary.failures.items():
        warnings.warn(f"{name} failed: {why}", RuntimeWarning, stacklevel=4)
    yield run, summary


def _pair_table(run: AttributionRun) -> pd.DataFrame:
    tables = []
    for cell in run.job.cells:
        if cell.failed():
            continue
        table = cell.group(SAMPLES).read(run.job.images.stop)
        for name in run.request.metrics:
            columns = cell.group(name).read(run.job.images.stop)
            ids = ["position", "sample_id"]
            table = table.merge(columns.rename(columns=lambda c: c if c in ids else f"{name}.{c}"), on=ids)  # noqa: B023
        tables.append(table.drop(columns="position").assign(method=cell.name))
    return _stacked(tables)


def _score_table(run: DetectorRun) -> pd.DataFrame:
    sets = run.detection.sets.items()
    return _stacked(
        each.table(name).assign(method=name, dataset=each.images.name if place == TEST else place)
        for place, each in sets
        for name in run.detection.detectors
        if name not in each.failed()
    )


def _stacked(tables: Any) -> pd.DataFrame:
    """One table, who it is about first."""
    frame = pd.concat(list(tables), ignore_index=True)
    first = [name for name in ("method", "dataset", "sample_id", "image_id") if name in frame]
    return frame[[*first, *(name for name in frame if name not in first)]]
