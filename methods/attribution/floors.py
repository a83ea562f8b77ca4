"""Floors that every table needs: maps that do not look at the network."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.seeds import SampleRng
from assay.harness.transfer import sent
from assay.harness.types import Attribution, Needs


@dataclass(frozen=True)
class Random:
    """Independent uniform numbers in [0,1) at each pixel of the input, from (seed, sample)."""

    VERSION: ClassVar[int] = 1

    def needs(self) -> Needs:
        """Nothing."""
        return Needs()

    def attribute(self, forward: ForwardPass, targets: Targets, rng: SampleRng) -> Attribution:
        """[P,H,W]."""
        drawn = rng.uniform(forward.images.shape[2:], per="pair")
        return Attribution(sent(drawn, forward.images.device).to(forward.images))


@dataclass(frozen=True)
class Center:
    """A Gaussian at the centre of the image; its arg-max is the centre point.

    sigma: standard deviation as a share of each side.
    """

    sigma: float = 0.25
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.sigma <= 0:
            raise ValueError(f"sigma={self.sigma}: give a share of each side, above 0")

    def needs(self) -> Needs:
        """Nothing."""
        return Needs()

    def attribute(self, forward: ForwardPass, targets: Targets, rng: SampleRng) -> Attribution:
        """[P,H,W]."""
        profiles = []
        for side in forward.images.shape[2:]:
            offset = (2 * torch.arange(side, device=forward.images.device) + 1 - side) / (2 * side)
            profiles.append(torch.exp(-0.5 * (offset / self.sigma) ** 2))
        values = profiles[0][:, None] * profiles[1][None, :]
        return Attribution(values.expand(len(targets.image), -1, -1))


@dataclass(frozen=True)
class Edges:
    """Sobel gradient magnitude of the grey image (mean of the channels), borders replicated."""

    VERSION: ClassVar[int] = 1

    def needs(self) -> Needs:
        """Nothing."""
        return Needs()

    def attribute(self, forward: ForwardPass, targets: Targets, rng: SampleRng) -> Attribution:
        """[P,H,W]."""
        grey = F.pad(forward.images.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
        smooth, difference = torch.tensor([1.0, 2.0, 1.0]), torch.tensor([-1.0, 0.0, 1.0])
        sobel = torch.stack([smooth[:, None] * difference, difference[:, None] * smooth])[:, None]
        kernels = sent(sobel, grey.device).to(grey)
        magnitude = F.conv2d(grey, kernels).square().sum(1).sqrt()  # [B,H,W]
        return Attribution(magnitude[targets.image])
