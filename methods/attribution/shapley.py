"""Class-activation maps whose coefficients explain the logit as a game of channels: SHAP-, KSHAP- and LIME-CAM.

A coalition is a set of channels that are present, the others being zero; F(a') is the logit with coalition a'. All
classes of an image are explained by the same coalitions, drawn for the image.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.seeds import SampleRng
from torch import Tensor

from .cam import ChannelWeighting
from .heads import Game, games

DRAWN = 64  # coalitions or orders drawn at once: fixed, so that numbers do not depend on the batch


def drawn(rng: SampleRng, count: int, width: int) -> Iterator[Tensor]:
    """`count` rows of uniform numbers an image, in parts: [B,n,width]."""
    for start in range(0, count, DRAWN):
        yield rng.uniform((min(DRAWN, count - start), width))


def check_count(name: str, count: float, least: float = 1) -> None:
    """Raise ValueError for fewer than `least`."""
    if not count >= least:
        raise ValueError(f"{name}={count:g}: give at least {least:g}")


def coalition_count(samples_per_channel: float, channels: int) -> int:
    """Coalitions an image: the nearest whole number of samples_per_channel * K, and at least one."""
    return max(1, round(samples_per_channel * channels))


@dataclass(frozen=True)
class ShapCAM(ChannelWeighting):
    """alpha_k = Shapley value of channel k: the mean, over orders in which channels enter, of what k then adds.

    LIFT-CAM's paper (Jung and Oh 2021) takes SHAP-CAM with 10,000 orders for the truth (supplement, Table 1). A head
    that is linear in masks needs no order: what a channel adds is always the same.

    permutations: orders drawn for each image.
    """

    permutations: int = 1000
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_count("permutations", self.permutations)

    def coefficients(self, forward: ForwardPass, activation: Tensor, targets: Targets, rng: SampleRng) -> Tensor:
        """alpha [P,K]."""
        made = activation.new_zeros(len(targets.image), activation.shape[1])
        with torch.no_grad():
            sampled = []
            for game in games(forward, self.place, activation, targets):
                if game.coalitions.additive is None:
                    sampled.append(game)
                else:
                    made[game.pairs] = game.coalitions.additive.T
            for game, total in zip(sampled, self._totals(sampled, activation.shape[1], rng), strict=True):
                made[game.pairs] = (total / self.permutations).T.to(made)
        return made

    def _totals(self, sampled: list[Game], channels: int, rng: SampleRng) -> list[Tensor]:
        """What each channel adds, summed over the orders: float64 [K,T] each."""
        totals = [game.coalitions.empty.new_zeros(channels, len(game.pairs), dtype=torch.float64) for game in sampled]
        for uniform in drawn(rng, self.permutations, channels) if sampled else ():
            for game, total in zip(sampled, totals, strict=True):
                orders = uniform[game.image].argsort(1).to(total.device)
                total += game.coalitions.added(orders).sum(0, dtype=torch.float64)
        return totals


@dataclass(frozen=True)
class KernelShapCAM(ChannelWeighting):
    """Shapley values by weighted least squares over sampled coalitions (LIFT-CAM's supplement, Eq. 4; KernelSHAP).

    The kernel (K - 1) / (C(K,s) s (K - s)) is what coalitions are drawn from (their size s, then one of that size), so
    that each counts once. Those of size 0 and K, of infinite weight, are constraints: Sum alpha = F(A) - F(0). Where
    coalitions are too few to tell channels apart, the solution of least norm.

    samples_per_channel: coalitions an image, as a multiple of K (at least one); the paper has 1 and 10.
    """

    samples_per_channel: float = 1
    VERSION: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_count("samples_per_channel", self.samples_per_channel, 0.01)

    def coefficients(self, forward: ForwardPass, activation: Tensor, targets: Targets, rng: SampleRng) -> Tensor:
        """alpha [P,K]."""
        made, channels = activation.new_zeros(len(targets.image), activation.shape[1]), activation.shape[1]
        samples = coalition_count(self.samples_per_channel, channels)
        with torch.no_grad():
            masks = torch.cat([of_kernel_sizes(part) for part in drawn(rng, samples, channels + 1)], 1)
            for game in games(forward, self.place, activation, targets):
                each, empty = masks[game.image].to(activation), game.coalitions.empty
                gains, total = game.coalitions.logits(each) - empty, game.coalitions.whole - empty
                made[game.pairs] = kernel_shap(each, gains, total).T.to(made)
        return made


def of_kernel_sizes(uniform: Tensor) -> Tensor:
    """Coalitions whose sizes have P(s) ~ 1 / (s (K - s)), s = 1 .. K - 1: uniform [...,K+1] -> bool [...,K]."""
    channels = uniform.shape[-1] - 1
    sizes = torch.arange(1, max(2, channels), dtype=torch.float64)
    shares = (1 / (sizes * (channels - sizes).clamp(min=1))).cumsum(0)
    size = 1 + torch.searchsorted(shares / shares[-1], uniform[..., 0].double(), right=True)
    places = uniform[..., 1:].argsort(-1).argsort(-1)
    return places < size[..., None]


def kernel_shap(masks: Tensor, gains: Tensor, total: Tensor, weights: Tensor | None = None) -> Tensor:
    """Least squares of gains on masks under Sum alpha = total; of several solutions the one of least norm.

    alpha = total / K + b, Sum b = 0: rows of masks act on b as they do less their mean, and then the least b has sum 0
    by itself. No channel is singled out to take what is left.

    Args:
        masks: [N,K] of zeros and ones. gains: F(a') - F(0), [N,T]. total: F(A) - F(0), [T].
        weights: [N]; None for ones.

    Returns:
        float64 [K,T] on the CPU.
    """
    masks, gains, total = (values.double().cpu() for values in (masks, gains, total))
    even = total / masks.shape[1]
    features, left = masks - masks.mean(1, keepdim=True), gains - masks.sum(1, keepdim=True) * even
    if weights is not None:
        root = weights.double().cpu().sqrt()[:, None]
        features, left = features * root, left * root
    # gelsy reveals the rank (CUDA has no such driver); equal shares b are in the null space but for rounding.
    return even + torch.linalg.lstsq(features, left, rcond=1e-10, driver="gelsy").solution


@dataclass(frozen=True)
class LimeCAM(ChannelWeighting):
    """Weighted Lasso over random coalitions, each channel in with probability 1/2 (LIFT-CAM's supplement, Eq. 2-3).

    min 1/N Sum psi (F(a') - g(a'))^2 + beta |alpha|_1, g(a') = alpha_0 + alpha a',
    psi = exp(-|A - h_A(a')|^2 / (gamma^2 |A|^2)), with |A_k|^2 summed over the channels that are out.

    samples_per_channel: coalitions an image, as a multiple of K (at least one); the paper has 1 and 10.
    """

    samples_per_channel: float = 1
    gamma: float = 0.5
    beta: float = 0.01
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_count("samples_per_channel", self.samples_per_channel, 0.01)
        if not (self.gamma > 0 and self.beta >= 0):
            raise ValueError(f"gamma={self.gamma:g}, beta={self.beta:g}: give gamma above 0, and beta of 0 or more")

    def coefficients(self, forward: ForwardPass, activation: Tensor, targets: Targets, rng: SampleRng) -> Tensor:
        """alpha [P,K]."""
        made, channels = activation.new_zeros(len(targets.image), activation.shape[1]), activation.shape[1]
        samples = coalition_count(self.samples_per_channel, channels)
        energy = activation.double().square().sum((2, 3)).cpu()
        shares = energy / energy.sum(1, keepdim=True).clamp(min=1e-300)
        with torch.no_grad():
            masks = torch.cat([part < 0.5 for part in drawn(rng, samples, channels)], 1)
            for game in games(forward, self.place, activation, targets):
                each = masks[game.image]
                proximity = torch.exp((each.double() @ shares[game.image] - 1) / self.gamma**2)
                logits = game.coalitions.logits(each.to(activation))
                made[game.pairs] = lasso(each, logits, proximity, self.beta).T.to(made)
        return made


def lasso(masks: Tensor, logits: Tensor, weights: Tensor, beta: float) -> Tensor:
    """argmin 1/N Sum_n w_n (y_n - alpha_0 - alpha a_n)^2 + beta |alpha|_1 for each column of logits.

    Args:
        masks: [N,K]. logits: [N,T]. weights: [N], not all zero.

    Returns:
        float64 [K,T] on the CPU.
    """
    from sklearn.linear_model import Lasso

    features, each = masks.double().cpu().numpy(), weights.double().cpu().numpy()
    # scikit-learn scales the weights to sum to N and halves the squares.
    alpha = beta * len(features) / (2 * each.sum())
    columns = [
        Lasso(alpha=alpha, max_iter=10_000, tol=1e-6).fit(features, column, sample_weight=each).coef_
        for column in logits.double().cpu().numpy().T
    ]
    return torch.from_numpy(np.stack(columns, 1))
