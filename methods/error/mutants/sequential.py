"""Asking mutants one after the other until enough is known: Wald's sequential probability ratio test."""

from dataclasses import dataclass
from math import log
from typing import NamedTuple

import torch
from torch import Tensor


class Walk(NamedTuple):
    """Where each image's test ended: its log-likelihood ratio, float64 [N], and how many mutants were asked, [N]."""

    ratio: Tensor
    asked: Tensor


@dataclass(frozen=True)
class Sprt:
    """Is the rate of changed labels `wrong`, not `right`? (Wald 1945; the test of Wang et al. 2019.)

    right, wrong: label change rates of right and of wrong predictions, right < wrong. alpha, beta: probabilities to
    call a right prediction wrong, and a wrong one right.
    """

    right: float
    wrong: float
    alpha: float = 0.05
    beta: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.right < self.wrong < 1:
            raise ValueError(f"right={self.right:g}, wrong={self.wrong:g}: give rates with 0 < right < wrong < 1")
        if not (0 < self.alpha < 0.5 and 0 < self.beta < 0.5):
            raise ValueError(f"alpha={self.alpha:g}, beta={self.beta:g}: give probabilities between 0 and 0.5")

    @property
    def bounds(self) -> tuple[float, float]:
        """Of the log-likelihood ratio: at most the first, the prediction is right; at least the second, wrong."""
        return log(self.beta / (1 - self.alpha)), log((1 - self.beta) / self.alpha)

    def ratio(self, changed: Tensor, asked: Tensor) -> Tensor:
        """log P(changed | wrong) - log P(changed | right), float64, of counts of the same shape."""
        same = asked - changed
        return changed.double() * log(self.wrong / self.right) + same.double() * log(
            (1 - self.wrong) / (1 - self.right)
        )

    def ended(self, ratio: Tensor) -> Tensor:
        """Whether a ratio decides; bool of its shape."""
        low, high = self.bounds
        return (ratio <= low) | (ratio >= high)

    def walk(self, changed: Tensor) -> Walk:
        """Ask mutants in their order until the test ends, or there are no more.

        changed: [N,M] in {0, 1}; below 0 where a mutant was not asked (all behind the first such).
        """
        asked = (changed >= 0).long().cumsum(1)
        ratios = self.ratio(changed.clamp(min=0).long().cumsum(1), asked)
        going = torch.nn.functional.pad((~self.ended(ratios)).long().cumprod(1), (1, 0), value=1)[:, :-1]
        last = (going.bool() & (changed >= 0)).sum(1) - 1
        return Walk(ratios.gather(1, last[:, None])[:, 0], last + 1)
