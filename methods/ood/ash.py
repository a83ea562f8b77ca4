"""ASH: keep a sample's largest activations alone, as they are, evened out, or scaled up; then the energy. SCALE prunes
nothing and scales all."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from assay.harness.choices import check_choice
from assay.harness.detection import DetectorNeeds, Features, State
from torch import Tensor

from .logits import energy_score
from .percentiles import check_percentile

Variant = Literal["s", "p", "b"]
Negative = Literal["refuse", "keep"]


class _Split:
    """A sample's largest (100 - p) % of activations [N,D], and how the sums before and after pruning compare.

    As many are kept as in the authors' code, D - round(p D / 100), and at least one.
    """

    def __init__(self, features: Tensor, percentile: float) -> None:
        width = features.shape[1]
        self.kept = max(1, width - round(width * percentile / 100))
        self.values, self.places = features.topk(self.kept, 1)
        self.before, self.after = features.sum(1, keepdim=True), self.values.sum(1, keepdim=True)
        self.empty = torch.zeros_like(features)

    @property
    def scale(self) -> Tensor:
        """exp(sum before / sum after), [N,1]; 1 for a row of zeros, which stays one."""
        return torch.where(self.after == 0, 0, self.before / self.after).exp()

    def placed(self, values: Tensor) -> Tensor:
        """Values [N,kept] where the largest stood, 0 elsewhere: [N,D]."""
        return self.empty.scatter(1, self.places, values)


SHAPES: dict[Variant, Callable[[_Split], Tensor]] = {
    "s": lambda split: split.placed(split.values * split.scale),
    "p": lambda split: split.placed(split.values),
    "b": lambda split: split.placed((split.before / split.kept).expand_as(split.values)),
}


def shaped(features: Tensor, percentile: float, variant: Variant = "s") -> Tensor:
    """The largest (100 - p) % of each row's entries, 0 elsewhere: [N,D].

    s: times exp(sum before / sum after). p: as they are. b: each the sum before over their number.
    """
    return SHAPES[variant](_Split(features, percentile))


def scaled(features: Tensor, percentile: float) -> Tensor:
    """All of a row times exp(sum of it / sum of its largest (100 - p) %): [N,D]."""
    return features * _Split(features, percentile).scale


def rectified(detector: object, features: Tensor, negative: Negative) -> Tensor:
    """The features [N,D] themselves.

    Raises:
        ValueError: some are negative, and they are to be refused.
    """
    below = features < 0
    if negative == "refuse" and bool(below.any()):
        share = 100 * float(below.float().mean())
        raise ValueError(
            f"{detector} drops the smallest activations as the least active, and {share:.0f} % of these features are "
            "negative (no ReLU before the last layer: ViT, Swin, ConvNeXt, EfficientNet), so the smallest are large "
            "and sums may vanish: the paper defines it on rectified features. negative=keep takes the formula as it "
            "stands, as published rows of such networks do; react, dice, knn, vim are defined there"
        )
    return features


@dataclass(frozen=True)
class ASH:
    """Energy of the last layer on shaped penultimate features (Djurisic et al. 2023).

    percentile: p, the share of a sample's activations to drop: the paper's for ImageNet are 90 with `s`, 60 with `p`,
    65 with `b`. variant: ASH-S scales what is kept by exp(sum before / sum after), ASH-P leaves it, ASH-B makes it all
    one value with the sum before. negative: what to do with features that are not rectified (`rectified`).
    """

    percentile: float = 90
    variant: Variant = "s"
    negative: Negative = "refuse"
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_percentile("percentile", self.percentile)
        check_choice("negative", self.negative, get_args(Negative))
        check_choice("variant", self.variant, SHAPES)

    def needs(self) -> DetectorNeeds:
        """Penultimate features."""
        return DetectorNeeds(penultimate=True)

    def score(self, features: Features, state: State) -> Tensor:
        """[N]."""
        values = rectified(self, features.tap(), self.negative)
        return energy_score(features.linear_head()(shaped(values, self.percentile, self.variant)))


@dataclass(frozen=True)
class SCALE:
    """Energy of the last layer on features times exp(sum / sum of the largest), none of them pruned (Xu et al. 2024).

    percentile: p; the largest (100 - p) % of a sample's activations are summed: the paper's 85 for ResNet-50 on
    ImageNet. negative: what to do with features that are not rectified (`rectified`).
    """

    percentile: float = 85
    negative: Negative = "refuse"
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_percentile("percentile", self.percentile)
        check_choice("negative", self.negative, get_args(Negative))

    def needs(self) -> DetectorNeeds:
        """Penultimate features."""
        return DetectorNeeds(penultimate=True)

    def score(self, features: Features, state: State) -> Tensor:
        """[N]."""
        values = rectified(self, features.tap(), self.negative)
        return energy_score(features.linear_head()(scaled(values, self.percentile)))
