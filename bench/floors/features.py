"""The features that all detectors of a run share: one forward pass."""

from collections.abc import Callable
from pathlib import Path

import torch
from assay.harness.detectors.features import FeatureCell, linear_head
from assay.harness.forward import ForwardPass
from assay.harness.store.store import SAMPLES
from assay.harness.transfer import columns_to_numpy

from bench.floors.subject import Runs, Subject


def contests(subject: Subject, layers: tuple[str, ...]) -> dict[str, Runs]:
    """Logits, penultimate features and pooled layers of all images, to the CPU; nothing is written."""
    floor = {"floor: 1F": _forward(subject)}
    return {f"features {subject.architecture}": floor | {"assay": _features(subject, layers)}}


def _forward(subject: Subject) -> Callable[[], None]:
    inputs, module = subject.inputs, subject.bare

    def run() -> None:
        with torch.no_grad():
            module(inputs)

    return run


def _features(subject: Subject, layers: tuple[str, ...]) -> Callable[[], object]:
    """As the engine: the pass, its look at the logits apart, and the columns of each group."""
    network, head = subject.network, linear_head(subject.network, subject.images[0])
    cell = FeatureCell.of(Path(), "", network, head, layers)
    need, groups = cell.needs(), [name for name in cell.groups if name != SAMPLES]

    def run() -> object:
        forward = ForwardPass(
            network, subject.images, need.layers, need.input_graph, subject.max_rows, need.penultimate
        )
        made = {group: cell.columns(group, None, subject.batch, forward) for group in groups}
        return [columns_to_numpy(columns.items()) for columns in made.values()]

    return run
