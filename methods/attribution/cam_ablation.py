"""Ablation-CAM: how far the logit falls without a channel."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.seeds import SampleRng
from torch import Tensor

from .cam import ChannelWeighting
from .heads import games


@dataclass(frozen=True)
class AblationCAM(ChannelWeighting):
    """alpha_k = (S - S_k) / S, S_k the logit with A_k set to zero (Desai and Ramaswamy 2020, Eq. 3).

    S keeps its sign, as in the published code: a negative logit turns the map round. Where S is 0, alpha is 0.
    """

    VERSION: ClassVar[int] = 1

    def coefficients(self, forward: ForwardPass, activation: Tensor, targets: Targets, rng: SampleRng) -> Tensor:
        """alpha [P,K]."""
        made = activation.new_zeros(len(targets.image), activation.shape[1])
        with torch.no_grad():
            for game in games(forward, self.place, activation, targets):
                whole = game.coalitions.whole
                drop = whole - game.coalitions.without_each()  # [K,T]
                made[game.pairs] = (drop / whole).masked_fill(whole == 0, 0).T
        return made
