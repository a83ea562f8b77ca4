"""A method: a class with `attribute()`."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.seeds import SampleRng
from assay.harness.types import Attribution, Needs


@dataclass(frozen=True)
class Occlusion:
    """How far the class' logit falls when a square becomes grey (Zeiler and Fergus 2014); squares do not overlap.

    side: of a square, in pixels.
    """

    side: int
    VERSION: ClassVar[int] = 1  # part of every result's key: raise it when the numbers change

    def needs(self) -> Needs:
        """Nothing of the shared pass but the logits, which are always there."""
        return Needs()

    def attribute(self, forward: ForwardPass, targets: Targets, rng: SampleRng) -> Attribution:
        """A value a square, [P,h,w]: the map is resized to the image once, for all metrics."""
        height, width = forward.inputs.shape[2:]
        before = forward.scores[targets.image, targets.label]
        falls = []
        for y in range(0, height, self.side):
            for x in range(0, width, self.side):
                hidden = forward.inputs.clone()
                hidden[:, :, y : y + self.side, x : x + self.side] = 0  # the mean colour, once normalised
                scores = forward.network.scores(forward.network.infer(hidden))
                falls.append(before - scores[targets.image, targets.label])
        return Attribution(torch.stack(falls, 1).unflatten(1, (-(-height // self.side), -1)))
