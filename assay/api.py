"""The public functions: a benchmark, a map, a detector, a table, from Python and without a store unless asked for.

They leave torch's settings (threads, determinism, precision, autocast, generators) as they find them, and so they are
not to be called from several threads at once. Progress and cautions go to stderr; nothing is written but what
`results` asks for.
"""

import inspect
import operator
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec

import pandas as pd
import torch
from torch import Tensor

from assay.composed import REFUSED, Chosen, configured
from assay.given import Data, Model
from assay.harness.attribution.cell import AttributionCell
from assay.harness.attribution.run import AttributionRun
from assay.harness.build import build
from assay.harness.config import ConfigError, RunConfig
from assay.harness.detectors.plan import TEST
from assay.harness.detectors.run import DetectorRun
from assay.harness.detectors.scorer import Scorer
from assay.harness.engine.costs import Summary
from assay.harness.engine.determinism import deterministic
from assay.harness.engine.job import Cell
from assay.harness.engine.measure import share
from assay.harness.engine.probe import probe_once, understood
from assay.harness.engine.rank import Rank
from assay.harness.engine.request import Request
from assay.harness.engine.samples import check_pixels
from assay.harness.forward import ForwardPass
from assay.harness.launch import Run, build_run, check_place, complete, refuse_to_compute
from assay.harness.places import place
from assay.harness.reading import check_folder
from assay.harness.results.pairs import joined
from assay.harness.results.tidy import own_rows
from assay.harness.store.store import SAMPLES
from assay.harness.types import Batch, FramedMaps

NOWHERE = Path("nowhere")  # the root of a store that is not written to
P = ParamSpec("P")
Table = Callable[P, pd.DataFrame]


# Benchmarks


@contextmanager
def evaluation(
    model: Model,
    dataset: Data,
    methods: Chosen,
    metrics: Chosen,
    *,
    train: Data | None = None,
    ood: Chosen = (),
    results: str | Path | None = None,
    layer: str | None = None,
    tolerance_px: float | None = None,
    overrides: Sequence[str] = (),
) -> Iterator[tuple[Run, Summary]]:
    """The run, computed and summarised, while its store is there."""
    sets, lists = {"dataset": dataset, "train": train}, {"method": methods, "metric": metrics, "ood": ood}
    config = _in_this_process(configured(model, sets, lists, overrides, {"layer": layer, "tolerance_px": tolerance_px}))
    if not config.method or not config.metric:
        raise ConfigError(f"no {'metric' if config.method else 'method'} chosen: `assay ls method metric` lists them")
    with _root(config, results) as root:
        run = build_run(config, root)
        refuse_to_compute(run)
        with redirect_stdout(sys.stderr):  # cautions are the command line's to print
            said: list[str] = []
            run.examine(said.append)
            rank = Rank.alone(config.compute)
            run.prepare(rank)
            _, summary = complete(run, rank)
        yield run, summary._replace(cautions=(*said, *summary.cautions))


def asked_as(model: Callable[P, Any]) -> Callable[[Callable[..., pd.DataFrame]], Table[P]]:
    """Declare that a function takes what another one takes, to type checkers and to `help` alike."""

    def declare(function: Callable[..., pd.DataFrame]) -> Table[P]:
        signature = inspect.signature(model).replace(return_annotation=pd.DataFrame)
        function.__signature__ = signature  # type: ignore[attr-defined]
        return function

    return declare


@asked_as(evaluation)
@deterministic()
def evaluate(*asked: Any, **more: Any) -> pd.DataFrame:
    """Evaluate methods: one tidy table, a row a number, with intervals.

    Args:
        model: a config's name (`assay ls model`), a `Network`, or (module, mean, std): a copy of a module that takes
            images normalised by mean and std and gives logits of classes that exclude each other (softmax). An object
            computes in the precision and on the device that it has.
        dataset: a config's name, (images [N,3,H,W] in [0,1], classes [N]), images alone (for `protocol=top1`, or to be
            scored), or a data set object (docs/how-to/own-dataset.md).
        methods, metrics: names of configs; or a mapping from names of your own to objects (None: the config so called).
            All methods attribute, or all are detectors.
        train: what detectors are fitted on, as `dataset`.
        ood: sets that detectors are to tell from `dataset`: names of configs, or a mapping from names of your own to
            images or data sets.
        results: folder of results, as run.py's: what its store holds is not computed again, what is computed is kept.
            For names of configs only. `assay collect` brings its tables up to date.
        layer: where class-activation maps look, instead of what the model's config says.
        tolerance_px: the pointing game's, instead of what the data set's config says.
        overrides: everything else, as for run.py: `limit=100`, `seed=1`, `protocol=top1`, `model.weights=FILE`,
            `method.knn.k=10`, `train.limit=1000`, `compute.batch_size=64`, `compute.threads=8` (other last digits).

    Returns:
        The columns of results.csv (docs/structure.md). A method or metric that failed has a row whose status says why,
        and warns; so does what the images forbid to conclude, outputs that look like probabilities, and an accuracy of
        guesses.

    Raises:
        ConfigError: (a ValueError) as run.py's errors: the thing, the value, the valid choices.
        ValueError, TypeError: an object that is not what it should be.
    """
    with evaluation(*asked, **more) as (run, summary):
        _warn(run, summary)
        return own_rows(summary).reset_index(drop=True)


@asked_as(evaluation)
@deterministic()
def samples(*asked: Any, **more: Any) -> pd.DataFrame:
    """The per-sample table behind `evaluate`, with the same arguments: what every reported number is an aggregate of.

    Returns:
        Attributions: a row a method and (image, class) pair: method, sample_id, image_id, label, top, predicted, logit,
        probability, and `<metric>.<column>` for each column of each metric (a curve is an array). Detectors: a row a
        method, set and image: method, dataset, image_id, label, predicted, score, is_error. What failed has none.
    """
    with evaluation(*asked, **more) as (run, summary):
        _warn(run, summary)
        return _stacked(_scores(run) if isinstance(run, DetectorRun) else _pairs(run))


def _in_this_process(config: RunConfig) -> RunConfig:
    """In this process, and on as many threads as the config says.

    A caller's script need not guard itself against being imported by helper processes.
    """
    if config.compute.engine != "local":
        raise ConfigError(f"compute.engine={config.compute.engine}: {REFUSED['compute.engine']}")
    torch.set_num_threads(config.compute.threads)
    return replace(config, compute=replace(config.compute, processes=1))


@contextmanager
def _root(config: RunConfig, results: str | Path | None) -> Iterator[Path]:
    """Of the store: below `results`, or gone afterwards."""
    if results is None or config.cache == "off":
        with tempfile.TemporaryDirectory(prefix="assay-") as scratch:
            yield Path(scratch)
        return
    sets = [config.dataset, *([config.train] if config.train else []), *config.ood.values()]
    given = [config.model, *sets, *config.method.values(), *config.metric.values()]
    if objects := [str(chosen) for chosen in given if chosen.made is not None]:
        raise ConfigError(
            f"results={str(results)!r}: a store's keys say what configs say, and {', '.join(objects)} came as objects: "
            "write configs for them (docs/how-to), or leave `results` out"
        )
    check_folder(str(results))
    check_place(config, str(results))
    yield place(results) / "store"


def _warn(run: Run, summary: Summary) -> None:
    """Of failures and cautions, in the caller's line: a public function and its wrapper are between."""
    for name, why in summary.failures.items():
        warnings.warn(f"{name} failed: {why}", RuntimeWarning, stacklevel=4)
    for caution in (*run.cautions(), *summary.cautions):
        warnings.warn(caution, stacklevel=4)


def _pairs(run: Run) -> Iterator[pd.DataFrame]:
    """A method's pairs with the columns of every metric that did not fail."""
    assert isinstance(run, AttributionRun)
    for cell in run.job.cells:
        if SAMPLES not in cell.failed():
            yield _wide(cell, run.job.images.stop, set(run.request.metrics) - cell.failed())


def _wide(cell: Cell, stop: int, metrics: Iterable[str]) -> pd.DataFrame:
    samples = cell.group(SAMPLES).read(stop)
    tables = {name: joined(samples, cell.group(name).read(stop)) for name in sorted(metrics)}
    added = [
        table.drop(columns=samples.columns, errors="ignore").add_prefix(f"{name}.") for name, table in tables.items()
    ]
    return pd.concat([samples.drop(columns="position"), *added], axis=1).assign(method=cell.name)


def _scores(run: DetectorRun) -> Iterator[pd.DataFrame]:
    for where, each in run.detection.sets.items():
        shown = each.images.name if where == TEST else where
        for name in run.detection.detectors:
            if not each.incomplete(name):
                yield each.table(name).assign(method=name, dataset=shown)


def _stacked(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """One table, who it is about first."""
    first = ["method", "dataset", "sample_id", "image_id"]
    frame = pd.concat([*tables] or [pd.DataFrame(columns=first)], ignore_index=True)
    return frame[[*(name for name in first if name in frame), *(name for name in frame if name not in first)]]


# One image


class Explanation(NamedTuple):
    """A map of one image and class.

    map: float32 [H,W] over the image, signed (unless the method clamps), zero = no evidence. native: the map at the
    method's own resolution [h,w]. target: the class that is explained. probability: the network's, of that class.
    """

    map: Tensor
    native: Tensor
    target: int
    probability: float


@deterministic()
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
        model, layer: as for `evaluate`. A `Network` is not read anew in each call.
        image: [3,H,W] in [0,1], RGB, not normalised, of the size that the network takes.
        method: a config's name (`assay ls method`), or an attributor.
        target: the class; None for the highest.
        overrides: as for run.py: `method.integrated_gradients.steps=64`, `seed=1`, `protocol=pointing_game`.

    Raises:
        ConfigError: (a ValueError) no such name, no such class, a layer that is not there, a detector.
        ValueError, TypeError: the image is not [3,H,W] in [0,1]; a network that cannot be traced for methods that read
            a layer.
    """
    check_pixels(image)
    if image.ndim != 3 or len(image) != 3:
        raise ValueError(f"image {list(image.shape)}: give [3,H,W]; of a batch [N,3,H,W], one: images[0]")
    lists, readings = {"method": _named(method)}, {"layer": layer}
    run = AttributionRun.of(
        Request.of(_in_this_process(configured(model, {"dataset": image[None]}, lists, overrides, readings)), NOWHERE)
    )
    said = list(run.cautions())
    probe_once(run.request, run.job.images, said.append)
    for caution in said:
        warnings.warn(caution, stacklevel=3)
    (cell,), sample = run.job.cells, run.job.images.dataset[0]
    assert isinstance(cell, AttributionCell)
    with understood(run.request, run.job.images):
        _, forward = share(run.job, [sample], [cell], run.request.config.compute.batch_size)
    label = _target(target, forward, run.request.config.model.name)
    batch = Batch.of([replace(sample, targets=(label,))], run.request.device)
    made = cell.attribute(batch, forward)
    over = FramedMaps.of(made, batch).maps[0]
    return Explanation(over.cpu(), made.values[0].cpu(), label, float(forward.probabilities[0, label]))


def _target(asked: int | None, forward: ForwardPass, model: str) -> int:
    """The class that is asked for, or the highest.

    Raises:
        ConfigError: the network has no such class, or no output for it.
    """
    classes = forward.scores.shape[1]
    label = int(forward.scores[0].argmax()) if asked is None else operator.index(asked)
    if not 0 <= label < classes:
        raise ConfigError(f"target={label}: {model} has classes 0 to {classes - 1}")
    if not forward.network.explains(label):
        raise ConfigError(f"target={label}: {model} has no output for this class, which can so not be explained")
    return label


def _named(thing: str | object) -> Chosen:
    return thing if isinstance(thing, str) else {type(thing).__name__: thing}


# Detectors


@deterministic()
def fit(detector: str | object, model: Model, train: Data | None = None, *, overrides: Sequence[str] = ()) -> Scorer:
    """A failure detector of a model, fitted on training data where it learns.

    Args:
        detector: a config's name (`assay ls method`), or a detector object.
        model: as for `evaluate`.
        train: what it is fitted on, as `dataset` of `evaluate`; not read by detectors that learn nothing (msp, energy).
        overrides: as for run.py: `method.knn.k=10`, `train.limit=1000` (a random sample), `compute.threads=8`.

    Returns:
        `.score(images)`, higher = more likely a failure; `.save(path)`, to be read again by `assay.load`.

    Raises:
        ConfigError: (a ValueError) as for `evaluate`; a detector that learns, and no `train`; a method that makes maps.
        RuntimeError: the fit failed.
    """
    config = _in_this_process(configured(model, {"train": train}, {"method": _named(detector)}, overrides))
    if config.train is not None:  # what a run would score is not read: it may as well be what is fitted on
        data = replace(config.train, made=build(config.train))
        config = replace(config, dataset=data, train=data)
    elif config.validation is not None:
        config = replace(config, dataset=config.validation)
    with tempfile.TemporaryDirectory(prefix="assay-") as scratch, redirect_stdout(sys.stderr):
        return Scorer.of(Request.of(config, Path(scratch)))


@deterministic()
def load(path: str | Path, model: Model, *, overrides: Sequence[str] = ()) -> Scorer:
    """The detector that `Scorer.save` kept, for the same model.

    Args:
        path: a file that `save` wrote. It is read without pickle, and names no code but detectors of Assay.
        model, overrides: as for `fit`.

    Raises:
        ConfigError: (a ValueError) no such file, another kind of file, a detector of another network or version.
    """
    request = Request.of(_in_this_process(configured(model, {}, {}, overrides)), NOWHERE)
    return Scorer.load(path, request.network, request.config.compute)
