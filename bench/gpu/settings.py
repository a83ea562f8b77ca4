"""Settings that change the speed of a run and not what it computes, each beside float32 in the usual layout.

`compute.memory_format`, `forward_precision` and `compute.batch_size=auto`, as the engine applies them.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from assay.harness.engine.memory import AUTO, ON_CPU, together
from assay.harness.networks.loading import torchvision_network
from assay.harness.types import Attributor, Batch
from assay.methods.attribution.cam import GradCAM
from assay.methods.attribution.gradient import Gradient
from assay.methods.attribution.relevance.lrp import LRP
from assay.methods.attribution.relevance.rap import RAP
from assay.methods.attribution.relevance.rules import AlphaBeta
from assay.methods.attribution.rise import RISE
from assay.methods.attribution.score_cam import ScoreCAM

from bench.floors.subject import Runs, Subject

USUAL = "float32, contiguous"  # the first contestant, to which the others are compared
SMALLER = "bfloat16"


def layouts(subject: Subject) -> dict[str, Runs]:
    """Methods with one forward and one backward pass, whole or of the head, and with rules of relevance."""
    made: dict[str, Attributor] = {
        "gradient": Gradient(),
        "GradCAM": GradCAM(subject.layer),
        "lrp_alpha1beta0": LRP(AlphaBeta()),
    }
    usual, last = _in_layout(subject, torch.contiguous_format), _in_layout(subject, torch.channels_last)
    return {
        f"{name} {subject.architecture} by layout": {USUAL: usual.ours(method), "channels_last": last.ours(method)}
        for name, method in made.items()
    }


def forward_only(subject: Subject, masks: int) -> dict[str, Runs]:
    """Methods of many passes without gradients: both layouts, each in float32 and by autocast."""
    made: tuple[Attributor, ...] = (RISE(masks=masks), ScoreCAM(subject.layer))
    usual, last = _in_layout(subject, torch.contiguous_format), _in_layout(subject, torch.channels_last)
    return {
        f"{type(method).__name__} {subject.architecture} by layout and type": {
            USUAL: usual.ours(method),
            "channels_last": last.ours(method),
            SMALLER: _reduced(usual, method),
            f"{SMALLER}, channels_last": _reduced(last, method),
        }
        for method in made
    }


def batches(subject: Subject) -> dict[str, Runs]:
    """All images in batches of `compute=auto`'s size, and of the size that the device has memory for."""
    made: dict[str, Attributor] = {"gradient": Gradient(), "GradCAM": GradCAM(subject.layer), "rap": RAP()}
    found = together(AUTO, subject.network, subject.images[0]).images
    return {
        f"{name} {subject.architecture} by batch": {
            f"batches of {ON_CPU}": _in_batches(subject, method, ON_CPU),
            f"compute.batch_size=auto: batches of {found}": _in_batches(subject, method, found),
        }
        for name, method in made.items()
    }


def _in_layout(subject: Subject, layout: torch.memory_format) -> Subject:
    """The same with a network of its own, whose weights lie so."""
    network = torchvision_network(subject.architecture, weights=None)
    return replace(subject, network=network.to(subject.images.device, memory_format=layout))


def _reduced(subject: Subject, method: Attributor) -> Callable[[], object]:
    run = subject.ours(method)

    def reduced() -> object:
        with subject.network.reduced.of(SMALLER):
            return run()

    return reduced


def _in_batches(subject: Subject, method: Attributor, size: int) -> Callable[[], None]:
    samples, device = subject.batch.samples, subject.images.device
    each = [Batch.of(samples[start : start + size], device) for start in range(0, len(samples), size)]
    runs = [replace(subject, batch=batch, max_rows=size).ours(method) for batch in each]

    def run() -> None:
        for part in runs:
            part()

    return run
