"""Features of a data set's images, kept on disk: one pass of the network serves every detector.

A set of features is a cell like any other (a row an image; groups `logits`, `penultimate`, `layer <name>`, and one for
each reading, under its own key), in `<store>/features/<key>`, with the same shards, locks and way of resuming. They are
read by parts of fixed size, so that a training set of any length fits in memory and no number depends on how it was cut
into shards.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..detection import Features, LinearHead, Reading, pooled
from ..engine.finite import check_rows
from ..engine.job import Cell
from ..forward import ForwardPass
from ..network import Network
from ..store.store import FEATURES, SAMPLES, CellStore, Group
from ..types import Batch, Needs, Sample
from .readings import KeptReading

PART = 4096  # rows read, and scored, at once
LOGITS, PENULTIMATE = "logits", "penultimate"

Tap = Callable[[ForwardPass, Batch], Tensor]


def _layer_tap(layer: str) -> Tap:
    return lambda forward, _: pooled(forward.activation(layer))


def _group_of(layer: str) -> str:
    return f"layer {layer}"


def linear_head(network: Network, image: Tensor) -> LinearHead | None:
    """The network's last linear layer, if the logits are what it makes; found by one pass of an image [3,H,W]."""
    return head_of(ForwardPass(network, image[None], penultimate=True))


def head_of(forward: ForwardPass) -> LinearHead | None:
    """The linear layer that made the pass's logits from penultimate features that the pass keeps, if one did.

    What stands behind the network's last linear layer (a temperature) is in its weights.
    """
    try:
        head = LinearHead(*forward.last_weights())
        penultimate_of(forward, head)
    except ValueError:
        return None
    return head


def penultimate_of(forward: ForwardPass, head: LinearHead) -> Tensor:
    """Penultimate features [B,D], of which the head makes the pass's logits.

    Raises:
        ValueError: there are none; the head is that of images of another size (of logits that are a sum over the map).
    """
    features, largest = forward.penultimate, float(forward.logits.abs().max())
    if not torch.allclose(head(features), forward.logits, rtol=1e-3, atol=1e-3 * largest):
        raise ValueError(
            f"no penultimate features: images {list(forward.images.shape[2:])} have other weights in the last layer "
            "than those before them, as of a sum over the map: give images of one size (dataset.transform.size=N)"
        )
    return features


def label_of(sample: Sample, predicted: int) -> int:
    """An image's class: the predicted one, if it is among its labels; else its first; -1 without labels.

    So `label != predicted` says of multi-label images, too, that the prediction is wrong.
    """
    return predicted if predicted in sample.targets else next(iter(sample.targets), -1)


def image_columns(batch: Batch, forward: ForwardPass) -> dict[str, np.ndarray]:
    """Who each image is, its class (see `label_of`), and the network's: [B] each."""
    predicted = forward.scores.argmax(1).cpu().numpy()
    labels = [label_of(sample, int(top)) for sample, top in zip(batch.samples, predicted, strict=True)]
    return {
        "image_id": np.array(batch.image_ids, dtype=object),
        "label": np.array(labels, dtype=np.int64),
        "predicted": predicted,
    }


@dataclass(frozen=True, eq=False)
class ImageCell(Cell):
    """A cell whose unit is the image."""

    def units(self, batch: Batch) -> tuple[list[int], list[str]]:
        """Images."""
        return list(range(len(batch.samples))), batch.image_ids

    def samples(self, batch: Batch, forward: ForwardPass) -> dict[str, np.ndarray]:
        """Who each image is."""
        return image_columns(batch, forward)


@dataclass(frozen=True, eq=False)
class FeatureCell(ImageCell):
    """Features of one data set under one network."""

    taps: dict[str, Tap]  # of all groups but the readings'
    layers: tuple[str, ...]
    readings: Mapping[Reading, KeptReading]
    head: LinearHead | None
    sigmoid: bool
    known: bool  # whether its images are of the test set's classes: labels of others say nothing

    @classmethod
    def of(
        cls,
        root: Path,
        key: str,
        network: Network,
        head: LinearHead | None,
        layers: Sequence[str],
        readings: Mapping[Reading, KeptReading] | None = None,
        known: bool = True,
    ) -> "FeatureCell":
        """The cell below a store's root.

        Args:
            head: what the network ends in; with it the penultimate features are kept.
            layers: whose pooled activations are kept.
            readings: which are kept.
            known: whether the images are of the test set's classes.
        """
        taps: dict[str, Tap] = {LOGITS: lambda forward, _: forward.scores}
        if head is not None:
            taps[PENULTIMATE] = lambda forward, _: penultimate_of(forward, head)
        taps |= {_group_of(layer): _layer_tap(layer) for layer in layers}
        groups = {name: name for name in (SAMPLES, *taps)}
        store, sigmoid = CellStore(root / FEATURES, key), network.activation == "sigmoid"
        bare = cls(FEATURES, store, groups, taps, tuple(layers), {}, head, sigmoid, known)
        return bare._with(readings or {})

    def _with(self, readings: Mapping[Reading, KeptReading]) -> "FeatureCell":
        groups = {name: self.groups[name] for name in (SAMPLES, *self.taps)}
        groups |= {kept.title: kept.key for kept in readings.values()}
        about = {kept.key: {"name": kept.title, "identity": kept.identity} for kept in readings.values()}
        return replace(self, groups=groups, readings=readings, about_groups=about)

    def only(self, readings: Collection[Reading]) -> "FeatureCell":
        """The same cell without its other readings."""
        return self._with({each: kept for each, kept in self.readings.items() if each in readings})

    @cached_property
    def titled(self) -> dict[str, KeptReading]:
        """Readings by the names of their groups."""
        return {kept.title: kept for kept in self.readings.values()}

    def needs(self) -> Needs:
        """All taps, and what readings need."""
        passes = [kept.reading.needs().of_pass for kept in self.titled.values()]
        layers = {*self.layers, *(layer for needs in passes for layer in needs.layers)}
        penultimate = self.head is not None or any(needs.penultimate for needs in passes)
        return Needs(tuple(sorted(layers)), any(needs.input_graph for needs in passes), penultimate)

    def cost_of(self, group: str) -> str:
        """A reading's time is its own."""
        return group if group in self.titled else self.name

    def columns(self, group: str, prepared: None, batch: Batch, forward: ForwardPass) -> dict[str, Tensor]:
        """Rows of one tap or reading.

        Raises:
            ValueError: values that are not finite, but logits: those of a class group without members are -inf; an
                image with several labels, of which a reading says nothing, unless it is unknown anyway.
        """
        if group in self.titled:
            if self.known:
                _check_labels(self.titled[group], batch)
            return {"values": self.titled[group].read(forward, batch)}
        values = self.taps[group](forward, batch)
        if group != LOGITS:
            check_rows(f"features ({group}) are", values, batch.image_ids)
        return {"values": values}

    def parts(self, stop: int, readings: Collection[Reading] = ()) -> Iterator[Features]:
        """The features of images 0 .. stop-1 in order, PART rows at a time; with some of the readings."""
        titles = {each: self.readings[each].title for each in readings}
        names, head = [*self.taps, *{*titles.values()}], None if self.head is None else self.head.cpu()
        columns = [_column(self.group(name), "values", stop) for name in names]
        labels = _column(self.group(SAMPLES), "label", stop)
        for label, *values in zip(labels, *columns, strict=True):
            part = dict(zip(names, map(torch.from_numpy, values), strict=True))
            yield Features(
                part[LOGITS],
                torch.from_numpy(label),
                part.get(PENULTIMATE),
                {layer: part[_group_of(layer)] for layer in self.layers},
                head,
                self.sigmoid,
                {each: part[title] for each, title in titles.items()},
            )


def _check_labels(kept: KeptReading, batch: Batch) -> None:
    """Raise ValueError for an image of several labels, where a reading is about those of one."""
    several = [sample.id for sample in batch.samples if len(sample.targets) > 1]
    if several and kept.reading.needs().one_label:
        raise ValueError(
            f"{several[0]} has several labels, and {kept.title} is about images of one: choose a data set of single "
            "labels (of scenes: dataset.objects=[1,1])"
        )


def features_of(forward: ForwardPass, head: LinearHead | None, layers: Sequence[str]) -> Features:
    """The features of one forward pass, on its device, without labels; penultimate ones where there is a head."""
    unknown = torch.full((len(forward.images),), -1, device=forward.logits.device)
    penultimate = None if head is None else penultimate_of(forward, head)
    kept = {layer: pooled(forward.activation(layer)) for layer in layers}
    return Features(forward.scores, unknown, penultimate, kept, head, forward.network.activation == "sigmoid")


def _column(group: Group, name: str, stop: int) -> Iterator[np.ndarray]:
    """A column of a group in arrays of PART rows, however its shards are cut."""
    held: list[np.ndarray] = []
    for columns in group.parts(stop):
        held.append(columns[name])
        while sum(map(len, held)) >= PART:
            whole = np.concatenate(held)
            yield np.ascontiguousarray(whole[:PART])
            held = [whole[PART:]]
    if sum(map(len, held)):
        yield np.ascontiguousarray(np.concatenate(held))
