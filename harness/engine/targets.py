"""Which (image, class) pairs of a batch are explained, under each protocol."""

from collections.abc import Callable
from dataclasses import replace

from ..forward import ForwardPass
from ..types import Batch


def _with_labels(batch: Batch, labels: list[tuple[int, ...]]) -> Batch:
    samples = [replace(sample, targets=chosen) for sample, chosen in zip(batch.samples, labels, strict=True)]
    return Batch.over(batch.images, samples)


def _check_classes(batch: Batch, forward: ForwardPass) -> None:
    """Raise ValueError for a class that the network does not have."""
    classes = forward.scores.shape[1]
    for sample, label in batch.pairs:
        if not 0 <= label < classes:
            raise ValueError(
                f"sample {sample.id!r} is of class {label}, and the network has classes 0 to {classes - 1}"
            )


def _annotated(batch: Batch, forward: ForwardPass) -> Batch:
    _check_classes(batch, forward)
    explains = forward.network.explains
    if all(explains(label) for _, label in batch.pairs):
        return batch
    return _with_labels(batch, [tuple(c for c in sample.targets if explains(c)) for sample in batch.samples])


def _highest(count: int) -> "Select":
    """The classes with the highest scores, the highest first."""

    def select(batch: Batch, forward: ForwardPass) -> Batch:
        best = forward.scores.topk(min(count, forward.scores.shape[1])).indices.tolist()
        return _with_labels(batch, [tuple(filter(forward.network.explains, labels)) for labels in best])

    return select


def _top1(batch: Batch, forward: ForwardPass) -> Batch:
    return _with_labels(batch, [(label,) for label in forward.scores.argmax(1).tolist()])


def _annotated_and_predicted(batch: Batch, forward: ForwardPass) -> Batch:
    _check_classes(batch, forward)
    pairs = zip(batch.samples, forward.network.predicts(forward.logits).tolist(), strict=True)
    return _with_labels(batch, [tuple(c for c in sample.targets if chosen[c]) for sample, chosen in pairs])


def whole_images(batch: Batch, forward: ForwardPass) -> Batch:
    """No pairs are chosen: what detectors score are images, with all their labels."""
    return batch


Select = Callable[[Batch, ForwardPass], Batch]
TARGETS: dict[str, Select] = {
    "labels": _annotated,
    "predicted": _annotated_and_predicted,
    "top1": _top1,  # of equal scores the first, as accuracy counts them
}


def selection(name: str) -> Select:
    """What `protocol.targets` names: one of `TARGETS`, or topK, the K classes with the highest scores."""
    return TARGETS[name] if name in TARGETS else _highest(int(name.removeprefix("top")))
