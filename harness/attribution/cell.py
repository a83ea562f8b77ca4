"""The cell of an attribution method: maps of (image, class) pairs, measured by every metric."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import cast

import numpy as np
from torch import Tensor

from ..config import ConfigError
from ..engine.finite import check_rows
from ..engine.fitting import Fitting
from ..engine.job import Cell
from ..forward import ForwardPass
from ..frames import gaussian_blur
from ..network import Network
from ..reduced import SAME, smaller
from ..training import FittedAttributor
from ..transfer import columns_to_numpy
from ..types import Again, Attribution, Attributor, Batch, FramedMaps, Metric, Needs
from . import rounds
from .parts import measured_in_parts, spans


@dataclass(frozen=True, eq=False)
class AttributionCell(Cell):
    """One method on one model and data set; its groups are metrics.

    fitting: of a method that is fitted. forwards: `forward_precision`, see `harness.reduced`.
    """

    attributor: Attributor
    metrics: dict[str, Metric]
    smooth: float  # Gaussian sigma as a share of the map's longer side
    seed: int
    fitting: Fitting | None = field(default=None, kw_only=True)
    forwards: str = field(default=SAME, kw_only=True)

    @cached_property
    def method(self) -> Attributor:
        """The attributor, with what its fit left, if it is fitted.

        Raises:
            ConfigError: its fit is not there.
        """
        if self.fitting is None:
            return self.attributor
        if not self.fitting.fit.exists():
            raise ConfigError(
                f"{self.name} is not fitted yet: evaluate it first (python run.py with these settings); from Python "
                "evaluate(..., train=...) or samples(..., train=...)"
            )
        state = {name: value.to(self.fitting.device) for name, value in self.fitting.fit.read().items()}
        return cast(FittedAttributor, self.attributor).fitted(state)

    def needs(self) -> Needs:
        """The method's."""
        return self.attributor.needs()

    def units(self, batch: Batch) -> tuple[list[int], list[str]]:
        """Pairs (image, class)."""
        return batch.targets.rows.tolist(), batch.sample_ids

    def samples(self, batch: Batch, forward: ForwardPass) -> dict[str, np.ndarray]:
        """Who each pair is and what the network says of it."""
        image, label = batch.targets
        columns = {
            "label": label,
            "top": forward.scores.argmax(1)[image],
            "predicted": forward.network.predicts(forward.logits)[image, label],
            "logit": forward.scores[image, label],
            "probability": forward.probabilities[image, label],
        }
        names = np.array([sample.id for sample, _ in batch.pairs], dtype=object)
        return {"image_id": names, **columns_to_numpy(columns.items())}

    def prepare(self, batch: Batch, forward: ForwardPass) -> FramedMaps | Attribution:
        """The method's maps in the frames of the batch; at native resolution where they are too large to be held."""
        made = self.attribute(batch, forward)
        if len(list(spans(batch.frames))) > 1:
            return made
        return FramedMaps.of(made, batch, self.again(batch, forward.max_rows))

    def attribute(self, batch: Batch, forward: ForwardPass) -> Attribution:
        """The method's maps [P,h,w] under the protocol's smoothing, at native resolution."""
        passes = smaller(self.forwards, self.attributor)
        made = attributed(self.method, self.needs(), self.name, batch, forward, self.seed, passes)
        if not self.smooth:
            return made
        return replace(made, values=gaussian_blur(made.values, self.smooth * max(made.values.shape[1:])))

    def again(self, batch: Batch, max_rows: int) -> Again:
        """The method on the batch's pairs, for metrics that change images or network."""

        def explain(network: Network, images: Tensor) -> Attribution:
            needs = self.needs()
            forward = ForwardPass(network, images, needs.layers, needs.input_graph, max_rows, needs.penultimate)
            return self.attribute(batch, forward)

        return explain

    def cost_of(self, group: str) -> str:
        """A metric's cost is shown beside the methods'."""
        return f"metric {group}"

    def columns(
        self, group: str, prepared: FramedMaps | Attribution, batch: Batch, forward: ForwardPass
    ) -> dict[str, Tensor]:
        """What the metric measures."""
        if isinstance(prepared, Attribution):
            return measured_in_parts(self.metrics[group], prepared, batch, forward, self.again)
        return self.metrics[group].measure(batch, prepared, forward)


def attributed(
    method: Attributor, needs: Needs, name: str, batch: Batch, forward: ForwardPass, seed: int, forwards: str = ""
) -> Attribution:
    """A method's maps [P,h,w] of a batch's pairs, at native resolution; `name` and `seed` decide what it draws.

    forwards: the type of its passes without gradients, if it is another. The pass that methods share is made before.

    Raises:
        ValueError: the method returned another shape, or values that are not finite; it says that it goes back through
            the network and that it does not.
    """
    if forwards and needs.by_rounds:
        raise ValueError(f"{name} has FORWARD_ONLY and Needs(by_rounds=True): it goes back through the network or not")
    targets = forward.network.outputs_of(batch.targets, forward.logits)
    with forward.network.reduced.of(forwards):
        made = rounds.attribute(method, needs, forward, targets, batch, seed, name)
    values = made.values.float()
    if values.ndim != 3 or len(values) != len(batch.pairs):
        raise ValueError(f"{name} returned maps {list(values.shape)}: expected [{len(batch.pairs)} pairs, h, w]")
    check_rows(f"{name} returned values that are", values, batch.sample_ids)
    return replace(made, values=values)
