"""The map as a segmentation of the object: pixel accuracy, mean IoU, average precision.

A map becomes a foreground prediction by a threshold of a rule's name; a pixel is marked when it lies strictly above:

- zero; mean, median, p80 (any percentile, linear interpolation as NumPy's): of the map's counted pixels;
- signed_or_mean: zero if the map has a negative value, else its mean: RAP (Nam et al. 2020, "Objectness of
  Positive Attributions") with its two kinds of method told apart map by map.

Accumulated figures sum pixels over the data set before they divide, so that large images and objects
weigh more; the mean over pairs is reported beside them. Pairs without a pixel of their class are left out.
"""

import re
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
import torch
from assay.harness import stats
from assay.harness.forward import ForwardPass
from assay.harness.types import Batch, FramedMaps, Region, ResultRow
from torch import Tensor

from .inside_outside import counted_pixels, object_pixels
from .sorted_pixels import Ranking, ranked
from .subsets import check_subsets, column_rows, estimate_row, parts, undefined_row

RULES = ("zero", "mean", "median", "signed_or_mean")
THRESHOLDS = ("signed_or_mean", "zero", "mean", "median", "p80")
_PERCENTILE = re.compile(r"p(\d{1,2}(?:\.\d+)?)")


def check_thresholds(names: Sequence[str]) -> None:
    """Every name must be a rule or a percentile, once."""
    unknown = [name for name in names if name not in RULES and not _PERCENTILE.fullmatch(name)]
    if unknown or not names or len(set(names)) < len(names):
        raise ValueError(f"thresholds={list(names)}: give some of {', '.join(RULES)} or a percentile (p80), each once")


def percentile_of(name: str) -> float | None:
    """The share of pixels that a named percentile leaves below it, in [0,1); None for another rule."""
    match = _PERCENTILE.fullmatch("p50" if name == "median" else name)
    return float(match[1]) / 100 if match else None


_RANKED: "WeakKeyDictionary[FramedMaps, dict[Region, Ranking]]" = WeakKeyDictionary()


def ranking(batch: Batch, maps: FramedMaps, region: Region) -> Ranking:
    """Made once for all metrics of a batch."""
    made = _RANKED.setdefault(maps, {})
    if region not in made:
        made[region] = ranked(maps.maps, object_pixels(batch, region), counted_pixels(batch, region))
    return made[region]


def cutoffs(order: Ranking, names: Sequence[str]) -> dict[str, Tensor]:
    """Each threshold's level for each map: float64 [P]."""
    shares = {name: share for name in names if (share := percentile_of(name)) is not None}
    levels = dict(zip(shares, order.quantiles(list(shares.values())), strict=True)) if shares else {}
    zero = torch.zeros_like(order.mean)
    levels |= {"zero": zero, "mean": order.mean, "signed_or_mean": torch.where(order.signed, zero, order.mean)}
    return {name: levels[name] for name in names}


class Counts(NamedTuple):
    """Numbers of pixels of P pairs, float64 [P]: counted, of the object, marked, and both of the object and marked."""

    pixels: Tensor
    object: Tensor
    marked: Tensor
    both: Tensor

    @classmethod
    def of(cls, columns: Mapping[str, Tensor] | pd.DataFrame, threshold: str) -> "Counts":
        """From `count_pixels`, or from a sample table with its columns."""
        names = ("pixels", "object_pixels", f"marked_{threshold}", f"both_{threshold}")
        if isinstance(columns, pd.DataFrame):
            columns = {name: torch.from_numpy(columns[name].to_numpy(np.float64)) for name in names}
        return cls(*(columns[name].double() for name in names))

    @property
    def correct(self) -> Tensor:
        """Pixels of the object that are marked and others that are not: [P]."""
        return self.pixels - self.object - self.marked + 2 * self.both


class Ratio(NamedTuple):
    """Numerators and denominators [P,K]; their ratio is averaged over K. Numerators are nan without an object."""

    above: Tensor
    below: Tensor

    def each(self) -> Tensor:
        """The ratio of every pair, [P]; of the K those whose denominator is zero are left out."""
        return (self.above / self.below).nanmean(1)


def pixel_accuracy(counts: Counts) -> Ratio:
    """Correct over counted pixels: K = 1."""
    return _of_objects(counts, counts.correct[:, None], counts.pixels[:, None])


def intersection_over_union(counts: Counts) -> Ratio:
    """Intersection over union of the background and of the foreground: K = 2."""
    above = torch.stack([counts.correct - counts.both, counts.both], 1)
    below = torch.stack([counts.pixels - counts.both, counts.object + counts.marked - counts.both], 1)
    return _of_objects(counts, above, below)


def _of_objects(counts: Counts, above: Tensor, below: Tensor) -> Ratio:
    return Ratio(above.masked_fill((counts.object == 0)[:, None], torch.nan), below)


def count_pixels(batch: Batch, maps: FramedMaps, region: Region, thresholds: Sequence[str]) -> dict[str, Tensor]:
    """pixels, object_pixels and, by each threshold, marked_<name> and both_<name>: int64 [P]."""
    order = ranking(batch, maps, region)
    levels = cutoffs(order, thresholds)
    columns = {"pixels": order.pixels, "object_pixels": order.objects}
    marked, both = order.above(torch.stack(list(levels.values()), 1))
    for column, name in enumerate(levels):
        columns |= {f"marked_{name}": marked[:, column], f"both_{name}": both[:, column]}
    return columns


@dataclass(frozen=True)
class _ThresholdedMap:
    """A ratio of pixel counts of the thresholded map: over all pairs (`accumulated`) and pair by pair (`mean`)."""

    region: Region = "mask"
    thresholds: Sequence[str] = THRESHOLDS
    subsets: Sequence[str] = ("all",)
    per_class: bool = False
    VERSION: ClassVar[int] = 1
    PAIRED: ClassVar[tuple[str, ...]]  # the one column of the ratio
    SUMMARY_SETTINGS: ClassVar[tuple[str, ...]] = ("subsets", "per_class")

    def __post_init__(self) -> None:
        check_thresholds(self.thresholds)
        check_subsets(self.subsets)

    @staticmethod
    @abstractmethod
    def ratio(counts: Counts) -> Ratio:
        """Of one map, or of all together."""

    def measure(self, batch: Batch, maps: FramedMaps, forward: ForwardPass) -> dict[str, Tensor]:
        """Pixel counts [P] (`count_pixels`), the ratio [P] under the first threshold, difficult."""
        columns = count_pixels(batch, maps, self.region, self.thresholds)
        each = self.ratio(Counts.of(columns, self.thresholds[0])).each()
        return {**columns, self.PAIRED[0]: each, "difficult": batch.difficult}

    def summarize(self, frame: pd.DataFrame) -> list[ResultRow]:
        """accumulated and mean for each threshold, and the number of pairs without an object, in each subset."""
        pieces = parts(frame, self.subsets, self.per_class)
        return [row for piece in pieces for row in _rows(*piece, self.thresholds, self.region, self.ratio)]


class PixelAccuracy(_ThresholdedMap):
    """Share of pixels that the thresholded map gets right, RAP (Nam et al. 2020), Table 1 "PIX ACC".

    accumulated: correct pixels of all pairs over counted pixels of all pairs; mean: over pairs.

    region: mask or box. thresholds: see `metrics.segmentation`; two methods are compared pair by pair
    under the first. subsets, per_class: parts of the pairs with rows of their own, see `metrics.subsets`.
    """

    ratio = staticmethod(pixel_accuracy)
    PAIRED: ClassVar[tuple[str, ...]] = ("accuracy",)


class MeanIoU(_ThresholdedMap):
    """Mean over background and foreground of intersection over union, RAP (Nam et al. 2020), Table 1 "mIOU".

    accumulated: intersections and unions are summed over all pairs, then divided, then averaged over the
    two; mean: each pair's own mean of the two (one of them where the other has no pixel), averaged over pairs.

    region, thresholds, subsets, per_class: as in `PixelAccuracy`.
    """

    ratio = staticmethod(intersection_over_union)
    PAIRED: ClassVar[tuple[str, ...]] = ("iou",)


def _rows(
    subset: str, part: pd.DataFrame, thresholds: Sequence[str], region: Region, ratio: Callable[[Counts], Ratio]
) -> list[ResultRow]:
    rows, images = [], part["image_id"]
    for name in thresholds:
        made = ratio(Counts.of(part, name))
        accumulated = stats.cluster_ratio(made.above.numpy(), made.below.numpy(), images, stats.SHARE)
        mean = stats.mean(made.each().numpy(), images, stats.SHARE)
        for stat, estimate in [("accumulated", accumulated), ("mean", mean)]:
            rows.append(estimate_row(estimate, stat, f"{name},{region}", subset, True, headline=stat == "mean"))
    return [*rows, undefined_row(part["object_pixels"] == 0, region, subset)]


@dataclass(frozen=True)
class MeanAP:
    """Average precision of the map against the object's pixels, averaged over pairs.

    - continuous: the map's values rank the pixels, no threshold (scikit-learn's `average_precision_score`);
      a map without information scores the object's share of the pixels, which is reported as `chance`.
    - binarised: as AGF's code (Gur et al. 2021) computes it, from the thresholded map as two channels
      (not marked, marked) of ones and zeros against two channels of truth. For a pixel accuracy a that is
      a^2 + (1 - a) / 2: half of the values are ones and a share a of them is right (precision and
      recall a); the rest has precision 1/2. A map without information scores about 1/2.

    region: mask or box. threshold: of the binarised variant, see `metrics.segmentation`.
    subsets, per_class: parts of the pairs with rows of their own, see `metrics.subsets`.
    """

    region: Region = "mask"
    threshold: str = "signed_or_mean"
    subsets: Sequence[str] = ("all",)
    per_class: bool = False
    VERSION: ClassVar[int] = 1
    PAIRED: ClassVar[tuple[str, ...]] = ("ap", "ap_binarised")
    SUMMARY_SETTINGS: ClassVar[tuple[str, ...]] = ("subsets", "per_class")

    def __post_init__(self) -> None:
        check_thresholds([self.threshold])
        check_subsets(self.subsets)

    def measure(self, batch: Batch, maps: FramedMaps, forward: ForwardPass) -> dict[str, Tensor]:
        """ap, ap_binarised, object_share: float64 [P] in [0,1], nan without a pixel of the object; difficult."""
        counts = Counts.of(count_pixels(batch, maps, self.region, [self.threshold]), self.threshold)
        accuracy = pixel_accuracy(counts).each()
        share = counts.object / counts.pixels
        return {
            "ap": ranking(batch, maps, self.region).average_precision(),
            "ap_binarised": accuracy.square() + (1 - accuracy) / 2,
            "object_share": torch.where(share > 0, share, torch.nan),
            "difficult": batch.difficult,
        }

    def summarize(self, frame: pd.DataFrame) -> list[ResultRow]:
        """Mean, median and undefined pairs of both variants, and chance, in each subset."""
        rows = []
        for subset, part in parts(frame, self.subsets, self.per_class):
            continuous, binarised = f"continuous,{self.region}", f"binarised:{self.threshold},{self.region}"
            chance = stats.mean(part["object_share"], part["image_id"], stats.SHARE)
            rows += column_rows(part, "ap", continuous, subset, True, span=stats.SHARE)
            rows += [estimate_row(chance, "chance", continuous, subset, None, headline=False)]
            rows += column_rows(part, "ap_binarised", binarised, subset, True, span=stats.SHARE)
        return rows
