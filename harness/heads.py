"""What of a network runs on its own: heads from a layer to the logits, their gradients, and the counted passes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .graph import Crossing, Cut
from .transfer import sent


class _Pairs(NamedTuple):
    image: Tensor
    label: Tensor


class Targets(_Pairs):
    """P pairs to be explained: `image` [P] is the row in the batch, `label` [P] the class; both int64."""

    @classmethod
    def of(cls, pairs: Sequence[tuple[int, int]], device: torch.device) -> "Targets":
        """Pairs (row, class) that the host knows."""
        made = cls(*sent(torch.tensor(pairs, dtype=torch.int64).view(-1, 2), device).unbind(1))
        made.__dict__["rows"] = np.array([row for row, _ in pairs], dtype=np.int64)
        return made

    @cached_property
    def rows(self) -> np.ndarray:
        """`image` on the host, which waits for the device here, once, unless it has made these pairs."""
        return self.image.cpu().numpy()

    def by_image(self) -> dict[int, Tensor]:
        """Pair indices of each image that has pairs, by its row."""
        each = {int(row): np.flatnonzero(self.rows == row) for row in np.unique(self.rows)}
        return {row: sent(torch.from_numpy(pairs), self.image.device) for row, pairs in each.items()}

    def part(self, start: int, stop: int) -> "Targets":
        """Pairs `start` to `stop`."""
        made = Targets(self.image[start:stop], self.label[start:stop])
        made.__dict__["rows"] = self.rows[start:stop]
        return made

    def chosen(self, pairs: np.ndarray) -> "Targets":
        """Pairs by their numbers."""
        numbers = sent(torch.from_numpy(pairs), self.image.device)
        made = Targets(self.image[numbers], self.label[numbers])
        made.__dict__["rows"] = self.rows[pairs]
        return made

    def of_rows(self) -> "Targets":
        """The same classes of a batch in which each pair has an image of its own, in the pairs' order."""
        made = Targets(torch.arange(len(self.rows), device=self.image.device), self.label)
        made.__dict__["rows"] = np.arange(len(self.rows))
        return made

    def labelled(self, label: Tensor) -> "Targets":
        """The same images with other classes."""
        made = Targets(self.image, label)
        made.__dict__.update(self.__dict__)
        return made

    def rounds(self) -> list[Tensor]:
        """Pair indices split so that each round holds an image at most once (one backward pass a round)."""
        return self._rounds

    @cached_property
    def ranks(self) -> np.ndarray:
        """How many pairs of its image come before each pair: its round; on the host."""
        return pd.Series(self.rows).groupby(self.rows).cumcount().to_numpy()

    @cached_property
    def _rounds(self) -> list[Tensor]:
        each = [np.flatnonzero(self.ranks == r) for r in range(self.ranks.max(initial=-1) + 1)]
        return [sent(torch.from_numpy(pairs), self.image.device) for pairs in each]


@dataclass
class Passes:
    """Images sent through the network: whole forwards, whole backwards, and head passes of either kind."""

    forward: int = 0
    backward: int = 0
    head: int = 0

    def __sub__(self, other: "Passes") -> "Passes":
        return Passes(self.forward - other.forward, self.backward - other.backward, self.head - other.head)

    def __add__(self, other: "Passes") -> "Passes":
        return Passes(self.forward + other.forward, self.backward + other.backward, self.head + other.head)


class LayerValues(NamedTuple):
    """A layer's activation and the other values that its head reads."""

    activation: Tensor
    constants: tuple[Any, ...]


NO_GRADIENT = (
    "the logits have no gradient here: the network computes them without autograd (torch.no_grad, detach, NumPy, a "
    "quantized layer). Methods that only run the network explain it: rise, and scorecam where it can be traced"
)


def target_gradients(
    outputs: Tensor, wrt: Tensor, targets: Targets, copies: int = 1, keep_graph: bool = False
) -> Tensor:
    """Gradient of each pair's logit with respect to `wrt`: one backward pass for each round of targets.

    Args:
        outputs: logits [S*B,C] with a graph back to `wrt` [S*B,...]: S stacked copies of the batch.
        targets: P pairs that index the B images.
        copies: S.
        keep_graph: keep the graph for another call.

    Returns:
        [S,P,...], copy by copy and pair by pair.

    Raises:
        ValueError: no graph leads from `wrt` to the outputs.
    """
    if not outputs.requires_grad:
        raise ValueError(NO_GRADIENT)
    batch, rounds = len(outputs) // copies, targets.rounds()
    parts = [wrt.new_zeros(copies, 0, *wrt.shape[1:])] if not rounds else []
    for number, pairs in enumerate(rounds):
        start = torch.zeros_like(outputs).view(copies, batch, -1)
        start[:, targets.image[pairs], targets.label[pairs]] = 1
        keep = keep_graph or number + 1 < len(rounds)
        (gradient,) = torch.autograd.grad(outputs, wrt, start.view_as(outputs), retain_graph=keep, allow_unused=True)
        if gradient is None:
            raise ValueError(NO_GRADIENT)
        parts.append(gradient.view(copies, batch, *wrt.shape[1:])[:, targets.image[pairs]])
    made = parts[0] if len(parts) == 1 else torch.cat(parts, 1)[:, torch.cat(rounds).argsort()]
    return made.contiguous()  # in whatever layout the backward pass gave it: sums downstream are made in one order


class Head:
    """The sub-network from a layer's activation to the logits, for one batch.

    `rows` picks the image that each activation row belongs to, when an image has several rows.
    """

    def __init__(self, cut: Cut, constants: tuple[Any, ...], passes: Passes) -> None:
        self.module, self.crossing, self.constants, self.passes = cut.head, cut.crossing, constants, passes

    def __call__(self, activation: Tensor, rows: Tensor | None = None) -> Tensor:
        """Logits [R,C] of activations [R,...]."""
        self.passes.head += len(activation)
        return self.module(activation, *self.others(rows))

    def others(self, rows: Tensor | None = None) -> list[Any]:
        """What is read beside the activation, where its rows are of these images."""
        pairs = zip(self.crossing, self.constants, strict=True)
        return [_picked(crossing, value, rows) for crossing, value in pairs]

    def gradient(self, activation: Tensor, targets: Targets) -> Tensor:
        """Gradient of each pair's logit with respect to the activation [B,...]: [P,...]."""
        leaf = activation.detach().requires_grad_()
        with torch.enable_grad():
            logits = self(leaf)
        self.passes.head += len(activation) * len(targets.rounds())
        return target_gradients(logits, leaf, targets)[0]

    def row_gradient(self, activation: Tensor, labels: Tensor, rows: Tensor | None = None) -> Tensor:
        """Gradient of one logit of each row, int64 [R], with respect to its activation [R,...]: [R,...]."""
        leaf = activation.detach().requires_grad_()
        with torch.enable_grad():
            logits = self(leaf, rows)
            chosen = logits.gather(1, labels[:, None]).sum()
        if not chosen.requires_grad:
            raise ValueError(NO_GRADIENT)
        self.passes.head += len(activation)
        (gradient,) = torch.autograd.grad(chosen, leaf)
        return gradient


def _picked(crossing: Crossing, value: Any, rows: Tensor | None) -> Any:
    """A crossing value for other rows than the batch's own images."""
    if rows is None or not crossing.per_image:
        return value
    if isinstance(value, Tensor):
        return value[rows] if value.ndim else value
    return len(rows) if crossing.is_count else value
