"""Images a second of every method, as the engine calls it, beside the bare passes on the same device."""

import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import pandas as pd
import torch
from assay.harness.types import Attributor
from assay.methods.attribution.floors import Center, Edges, Random
from assay.metrics.perturbation import Insertion, Perturbation

from bench.floors import cams, conductance, features, gradients, perturbation, relevance
from bench.floors.subject import Runs, Subject
from bench.gpu import settings
from bench.timing import race

TARGET = 0.85  # of the floor's images a second
CURVE = 20  # steps
READ: dict[str, Any] = {"canvas": "mean", "read": "probability"}


class Plan(NamedTuple):
    """What is timed: networks, sizes, settings.

    pooled, dense: a ResNet, and a network with a large head and its layer. batch: images of a race; few: of those that
    take hundreds of passes an image. rows: images through the network at once.
    """

    pooled: str
    dense: str
    dense_layer: str
    batch: int
    few: int
    rows: int
    side_px: int
    steps: int
    masks: int


FULL = Plan("resnet50", "vgg16", "features.29", 64, 2, 64, 224, 8, 512)
SMALL = Plan("resnet18", "resnet18", "layer4", 2, 1, 32, 32, 2, 8)


class Family(NamedTuple):
    """Races of one network and number of images; nothing is on the device before `make` is called."""

    name: str
    images: int
    make: Callable[[], dict[str, Runs]]


def families(plan: Plan, device: torch.device) -> Iterator[Family]:
    """All that is timed."""

    def of(architecture: str, layer: str, count: int) -> Subject:
        return Subject.of(architecture, layer, count, plan.side_px, plan.rows, device)

    def pooled(count: int = plan.batch) -> Subject:
        return of(plan.pooled, "layer4", count)

    case = relevance.RESNET50._replace(architecture=plan.pooled)
    masked = partial(cams.of_masked_images, masks=plan.masks)
    yield Family("gradients", plan.batch, lambda: gradients.contests(pooled(), plan.steps))
    yield Family("deeplift", plan.batch, lambda: {"deeplift": gradients.deeplift(pooled())})
    yield Family("relevance", plan.batch, lambda: relevance.contests(pooled(), case))
    yield Family("patterns", plan.batch, lambda: relevance.patterns(pooled()))
    yield Family("cams", plan.batch, lambda: cams.of_pooled(pooled()))
    yield Family("masked images", plan.few, lambda: masked(pooled(plan.few)))
    yield Family("masked channels", plan.few, lambda: cams.of_dense(of(plan.dense, plan.dense_layer, plan.few)))
    yield Family("orders", 1, lambda: cams.shap_cam(of(plan.dense, plan.dense_layer, 1), plan.steps))
    yield Family("features", plan.batch, lambda: features.contests(pooled(), ("layer3", "layer4")))
    yield Family("conductance", plan.batch, lambda: conductances(pooled()))
    yield Family("curves", plan.few, lambda: curves(pooled(plan.few)))
    yield Family("floors", plan.batch, lambda: looks(pooled()))
    yield Family("layouts", plan.batch, lambda: settings.layouts(pooled()))
    yield Family("forward-only settings", plan.few, lambda: settings.forward_only(pooled(plan.few), plan.masks))
    yield Family("batches", plan.batch, lambda: settings.batches(pooled()))


def looks(subject: Subject) -> dict[str, Runs]:
    """The floors of every metric, which do not look at the network; beside the pass that the engine makes for them."""
    pass_alone: Runs = {"floor: 1F": subject.heads()}
    made: dict[str, Attributor] = {"random": Random(), "center": Center(), "edges": Edges()}
    return {name: pass_alone | {"assay": subject.ours(method)} for name, method in made.items()}


def conductances(subject: Subject) -> dict[str, Runs]:
    """Of the last block, and of an inner one."""
    network, images = subject.network, subject.images
    return {
        "conductance layer4": conductance.closed(network, images, "layer4"),
        f"conductance layer3, n={conductance.STEPS}": conductance.stepped(network, images, "layer3"),
    }


def curves(subject: Subject) -> dict[str, Runs]:
    """The first fifth of the pixels."""
    network, batch, rows = subject.network, subject.batch, subject.max_rows
    maps = torch.randn(batch.images.shape[0], *batch.images.shape[2:]).to(batch.images.device)
    step_px = maps[0].numel() // (5 * CURVE)
    return {
        f"{kind.__name__} {CURVE} x {step_px} px": {
            f"floor: {CURVE}F": perturbation.bare(network, batch, CURVE, rows),
            "assay": perturbation.measured(kind("morf", CURVE, step_px, "px", **READ), network, batch, maps, rows),
        }
        for kind in (Perturbation, Insertion)
    }


def timed(plan: Plan, device: torch.device, budget_s: float) -> Iterator[pd.DataFrame]:
    """A table a race, with images a second; what fails is a row that says why, and so is what there was no time for."""
    end = time.perf_counter() + budget_s
    for family in families(plan, device):
        try:
            contests = family.make()
        except Exception:
            yield _failed(family.name, family.images)
            continue
        for task, runs in contests.items():
            yield _race(task, runs, family.images, device, end)


def _race(task: str, runs: Runs, images: int, device: torch.device, end: float) -> pd.DataFrame:
    """One race, unless it fails, or there is no time left for it."""
    if time.perf_counter() > end:
        return _without_times(task, images, "not run: out of time")
    try:
        found = race(task, runs, device=device)
    except Exception:
        return _failed(task, images)
    return found.assign(images=images, images_per_s=images / found["median_s"], status="")


def _failed(task: str, images: int) -> pd.DataFrame:
    """Of the exception that is being handled; its traceback is printed."""
    told = traceback.format_exc()
    print(told, flush=True)
    return _without_times(task, images, f"failed: {told.strip().splitlines()[-1]}")


def _without_times(task: str, images: int, status: str) -> pd.DataFrame:
    return pd.DataFrame([{"task": task, "images": images, "status": status}])


def line(found: pd.DataFrame) -> str:
    """A race on one line: images a second of each contestant, and the share of the floor's that ours reaches."""
    task, *_ = found["task"]
    if "ratio_to_floor" not in found:
        return f"{task}: {found['status'].iloc[0]}"
    rates = "; ".join(
        f"{row.contestant} {row.images_per_s:.1f}/s ({1 / row.ratio_to_floor:.2f})" for row in found.itertuples()
    )
    return f"{task}: {rates}"


def below_target(found: pd.DataFrame) -> list[str]:
    """The tasks in which ours has less than TARGET of the floor's images a second."""
    if "contestant" not in found:  # no race was run to its end
        return []
    ours = found[found["contestant"].astype(str).str.startswith("assay")]
    slow = ours[1 / ours["ratio_to_floor"] < TARGET]
    return [f"{row.task} {1 / row.ratio_to_floor:.2f}" for row in slow.itertuples()]
