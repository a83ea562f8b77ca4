"""The map as a segmentation of the object: pixel accuracy, mean IoU, average precision.

A map becomes a foreground prediction by a threshold of a rule's name; a pixel is marked when it lies strictly above:

- zero; mean, median, p80 (any percentile, linear interpolation as NumPy's): of the map's counted pixels;
- signed_or_mean: zero if the map has a negative value, else its mean: RAP (Nam et al. 2020, "Objectness of
  Positive Attributions") with its two kinds of method told apart map by map.

Accumulated figures sum pixels over the data set before they divide, so that large images and objects
weigh more; the mean over pairs is reported beside them. Pairs without a pixel of their class are left out.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from harness import stats
from harness.network import ForwardPass
from harness.types import Batch, FramedMaps, Region, ResultRow
from metrics.inside_outside import counted_pixels, mean_over
from metrics.subsets import check_subsets, column_rows, estimate_row, parts, undefined_row

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


def cutoffs(maps: Tensor, counted: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Each threshold's level for each map [P,H,W]: float64 [P]. Means in float64: a flat map equals its own."""
    shares = {name: share for name in names if (share := percentile_of(name)) is not None}
    levels = dict(zip(shares, quantiles(maps, counted, list(shares.values())), strict=True)) if shares else {}
    mean = mean_over(maps, counted)
    zero = torch.zeros_like(mean)
    signed = ((maps < 0) & counted).flatten(1).any(1)
    levels |= {"zero": zero, "mean": mean, "signed_or_mean": torch.where(signed, zero, mean)}
    return {name: levels[name] for name in names}


def quantiles(maps: Tensor, counted: Tensor, shares: Sequence[float]) -> Tensor:
    """Quantiles of each map's counted pixels: float64 [Q,P], linear interpolation; nan where none is counted."""
    ordered = sort_rows(maps.masked_fill(~counted, torch.inf).flatten(1))
    last = counted.flatten(1).sum(1) - 1  # [P]
    position = torch.tensor(shares, dtype=torch.float64, device=maps.device)[:, None] * last.clamp(min=0)  # [Q,P]
    low = position.floor().long()
    high = (low + 1).minimum(last.clamp(min=0))
    below, above = (ordered.gather(1, index.T).T.double() for index in (low, high))
    return torch.where(last >= 0, below + (above - below) * (position - low), torch.nan)


def sort_rows(rows: Tensor) -> Tensor:
    """Each row in ascending order. On the CPU by NumPy, whose vectorised sort takes a twentieth of PyTorch's time."""
    on_cpu = rows.device.type == "cpu"
    return torch.from_numpy(np.sort(rows.detach().numpy(), axis=1)) if on_cpu else rows.sort(1).values


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
    counted = counted_pixels(batch, region)
    objects = batch.region(region) & counted
    columns = {"pixels": _number(counted), "object_pixels": _number(objects)}
    for name, level in cutoffs(maps.maps, counted, thresholds).items():
        marked = (maps.maps > level[:, None, None]) & counted
        columns |= {f"marked_{name}": _number(marked), f"both_{name}": _number(marked & objects)}
    return columns


def _number(pixels: Tensor) -> Tensor:
    return pixels.flatten(1).sum(1)


@dataclass(frozen=True)
class PixelAccuracy:
    """Share of pixels that the thresholded map gets right, RAP (Nam et al. 2020), Table 1 "PIX ACC".

    accumulated: correct pixels of all pairs over counted pixels of all pairs; mean: over pairs.

    region: mask or box. thresholds: see `metrics.segmentation`; two methods are compared pair by pair
    under the first. subsets, per_class: parts of the pairs with rows of their own, see `metrics.subsets`.
    """

    region: Region = "mask"
    thresholds: Sequence[str] = THRESHOLDS
    subsets: Sequence[str] = ("all",)
    per_class: bool = False
    VERSION: ClassVar[int] = 1
    PAIRED: ClassVar[tuple[str, ...]] = ("accuracy",)
    SUMMARY_SETTINGS: ClassVar[tuple[str, ...]] = ("subsets", "per_class")

    def __post_init__(self) -> None:
        check_thresholds(self.thresholds)
        check_subsets(self.subsets)

    def measure(self, batch: Batch, maps: FramedMaps, forward: ForwardPass) -> dict[str, Tensor]:
        """Pixel counts [P] (`count_pixels`), accuracy [P] under the first threshold, difficult."""
        columns = count_pixels(batch, maps, self.region, self.thresholds)
        accuracy = pixel_accuracy(Counts.of(columns, self.thresholds[0])).each()
        return {**columns, "accuracy": accuracy, "difficult": batch.difficult}

    def summarize(self, frame: pd.DataFrame) -> list[ResultRow]:
        """accumulated and mean for each threshold, and the number of pairs without an object, in each subset."""
        pieces = parts(frame, self.subsets, self.per_class)
        return [row for piece in pieces for row in _rows(*piece, self.thresholds, self.region, pixel_accuracy)]


@dataclass(frozen=True)
class MeanIoU:
    """Mean over background and foreground of intersection over union, RAP (Nam et al. 2020), Table 1 "mIOU".

    accumulated: intersections and unions are summed over all pairs, then divided, then averaged over the
    two; mean: each pair's own mean of the two (one of them where the other has no pixel), averaged over pairs.

    region, thresholds, subsets, per_class: as in `PixelAccuracy`.
    """

    region: Region = "mask"
    thresholds: Sequence[str] = THRESHOLDS
    subsets: Sequence[str] = ("all",)
    per_class: bool = False
    VERSION: ClassVar[int] = 1
    PAIRED: ClassVar[tuple[str, ...]] = ("iou",)
    SUMMARY_SETTINGS: ClassVar[tuple[str, ...]] = ("subsets", "per_class")

    def __post_init__(self) -> None:
        check_thresholds(self.thresholds)
        check_subsets(self.subsets)

    def measure(self, batch: Batch, maps: FramedMaps, forward: ForwardPass) -> dict[str, Tensor]:
        """Pixel counts [P] (`count_pixels`), iou [P] (mean of the two) under the first threshold, difficult."""
        columns = count_pixels(batch, maps, self.region, self.thresholds)
        iou = intersection_over_union(Counts.of(columns, self.thresholds[0])).each()
        return {**columns, "iou": iou, "difficult": batch.difficult}

    def summarize(self, frame: pd.DataFrame) -> list[ResultRow]:
        """accumulated and mean for each threshold, and the number of pairs without an object, in each subset."""
        pieces = parts(frame, self.subsets, self.per_class)
        return [row for piece in pieces for row in _rows(*piece, self.thresholds, self.region, intersection_over_union)]


def _rows(
    subset: str, part: pd.DataFrame, thresholds: Sequence[str], region: Region, ratio: Callable[[Counts], Ratio]
) -> list[ResultRow]:
    rows, images = [], part["image_id"]
    for name in thresholds:
        made = ratio(Counts.of(part, name))
        accumulated = stats.cluster_ratio(made.above.numpy(), made.below.numpy(), images)
        mean = stats.mean(made.each().numpy(), images)
        for stat, estimate in [("accumulated", accumulated), ("mean", mean)]:
            rows.append(estimate_row(estimate, stat, f"{name},{region}", subset, True))
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
        counted = counted_pixels(batch, self.region)
        counts = Counts.of(count_pixels(batch, maps, self.region, [self.threshold]), self.threshold)
        accuracy = pixel_accuracy(counts).each()
        share = counts.object / counts.pixels
        return {
            "ap": average_precision(maps.maps, batch.region(self.region) & counted, counted),
            "ap_binarised": accuracy.square() + (1 - accuracy) / 2,
            "object_share": torch.where(share > 0, share, torch.nan),
            "difficult": batch.difficult,
        }

    def summarize(self, frame: pd.DataFrame) -> list[ResultRow]:
        """Mean, median and undefined pairs of both variants, and chance, in each subset."""
        rows = []
        for subset, part in parts(frame, self.subsets, self.per_class):
            continuous, binarised = f"continuous,{self.region}", f"binarised:{self.threshold},{self.region}"
            chance = stats.mean(part["object_share"], part["image_id"])
            rows += column_rows(part, "ap", continuous, subset, True)
            rows += [estimate_row(chance, "chance", continuous, subset, None)]
            rows += column_rows(part, "ap_binarised", binarised, subset, True)
        return rows


def average_precision(scores: Tensor, objects: Tensor, counted: Tensor) -> Tensor:
    """Sum over thresholds n of (R_n - R_n-1) P_n for each pair: maps [P,H,W] -> float64 [P], nan without an object.

    Thresholds are the distinct values of the counted pixels, so that tied pixels enter together, as in
    scikit-learn's `average_precision_score`.

    Args:
        scores: float32 [P,H,W].
        objects: bool [P,H,W], only counted pixels.
        counted: bool [P,H,W].
    """
    keys = (2 * _descending(scores) + objects).masked_fill(~counted, 2**62)  # even: the rest is no object
    ordered = sort_rows(keys.flatten(1))
    last = torch.ones_like(ordered, dtype=torch.bool)  # of its tie
    last[:, :-1] = (ordered[:, 1:] >> 1) != (ordered[:, :-1] >> 1)
    found = (ordered & 1).cumsum(1)
    at_last = found * last
    before = torch.zeros_like(found)
    before[:, 1:] = at_last.cummax(1).values[:, :-1]
    rank = torch.arange(1, found.shape[1] + 1, dtype=torch.float64, device=found.device)
    precision_gained = (at_last - before) * at_last / rank  # zero within a tie
    return precision_gained.sum(1) / found[:, -1]  # 0 / 0 without an object


def _descending(scores: Tensor) -> Tensor:
    """Integers in the opposite order of float32 scores, equal for equal scores: int64, magnitude below 2^32."""
    bits = (scores.float() + 0.0).view(torch.int32).long()  # + 0.0: one zero
    return torch.where(bits < 0, bits + 2**31, -1 - bits)
