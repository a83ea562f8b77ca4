"""Which (image, class) pairs of a batch are explained, under each protocol."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from harness.network import ForwardPass
from harness.types import Batch


def _with_labels(batch: Batch, labels: list[tuple[int, ...]]) -> Batch:
    samples = [replace(sample, targets=chosen) for sample, chosen in zip(batch.samples, labels, strict=True)]
    return Batch.of(samples, batch.images.device)


def predicted(forward: ForwardPass) -> Tensor:
    """Which classes the network predicts, bool [B,C]: the best one (softmax), those of at least 0.5 (sigmoid).

    Grouped outputs are not exclusive, so a group is predicted when either is true.
    """
    best = torch.nn.functional.one_hot(forward.scores.argmax(1), forward.scores.shape[1]).bool()
    likely = forward.probabilities >= 0.5
    if forward.network.groups is not None:
        return best | likely
    return best if forward.network.activation == "softmax" else likely


def _annotated(batch: Batch, forward: ForwardPass) -> Batch:
    explains = forward.network.explains
    if all(explains(label) for _, label in batch.pairs):
        return batch
    return _with_labels(batch, [tuple(c for c in sample.targets if explains(c)) for sample in batch.samples])


def _top1(batch: Batch, forward: ForwardPass) -> Batch:
    return _with_labels(batch, [(int(label),) for label in forward.scores.argmax(1)])


def _annotated_and_predicted(batch: Batch, forward: ForwardPass) -> Batch:
    pairs = zip(batch.samples, predicted(forward).tolist(), strict=True)
    return _with_labels(batch, [tuple(c for c in sample.targets if chosen[c]) for sample, chosen in pairs])


def whole_images(batch: Batch, forward: ForwardPass) -> Batch:
    """No pairs are chosen: what detectors score are images, with all their labels."""
    return batch


Select = Callable[[Batch, ForwardPass], Batch]
TARGETS: dict[str, Select] = {
    "labels": _annotated,
    "predicted": _annotated_and_predicted,
    "top1": _top1,
}
