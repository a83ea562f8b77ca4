"""Does the map lie on the object? Pointing game, energy pointing game, positive ratio.

All read the map resized once to the sample's frame, and the ground-truth region of the pair's class.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch
from assay.harness import stats
from assay.harness.forward import ForwardPass
from assay.harness.pixels import count, count_positive
from assay.harness.transfer import sent
from assay.harness.types import Batch, FramedMaps, Region, ResultRow
from torch import Tensor

from .inside_outside import signed_sums
from .subsets import check_subsets, column_rows, estimate_row, parts


def tolerance_px(absolute: float | None, relative: float | None, frames: Tensor) -> Tensor:
    """Tolerance of each pair in pixels [P], on the host: absolute, or a share of the frame's longer side."""
    if relative is not None:
        return relative * frames.amax(1).float()
    return torch.full((len(frames),), float(absolute or 0.0))


def check_tolerance(absolute: float | None, relative: float | None) -> None:
    """Exactly one of the two must be given, and it must not be negative."""
    if (absolute is None) == (relative is None):
        raise ValueError(
            f"tolerance_px={absolute}, tolerance_rel={relative}: give one of them and set the other to null"
        )
    if (absolute if absolute is not None else relative or 0.0) < 0:
        raise ValueError("a pointing tolerance cannot be negative")


def tolerance_name(absolute: float | None, relative: float | None) -> str:
    """As it stands in the variant column."""
    return f"tol={absolute:g}px" if absolute is not None else f"tol={relative:g}rel"


def is_hit(distance: Tensor, tolerance: Tensor) -> Tensor:
    """On the region itself, or strictly nearer than the tolerance: distance 15 misses at 15 px."""
    return (distance == 0) | (distance < sent(tolerance, distance.device))


@dataclass(frozen=True)
class PointingGame:
    """Share of pairs whose highest pixel lies on the object (Zhang et al. 2018, as TorchRay computes it).

    A hit: the distance from the arg-max (first one on ties) to the nearest pixel of the class' region is
    below the tolerance (strictly). Reported over pairs (`mean`) and as the mean over classes of each class'
    share (`class_mean`, classes without pairs left out), for all pairs and for the difficult ones.

    tolerance_px: pixels of the frame; tolerance_rel: share of its longer side; give one, null the other.
    region: box (union of the class' boxes) or mask.
    subsets: of `metrics.subsets`; per_class: also a row for each class.
    """

    tolerance_px: float | None = 15
    tolerance_rel: float | None = None
    region: Region = "box"
    subsets: Sequence[str] = ("all", "difficult")
    per_class: bool = False
    VERSION: ClassVar[int] = 1
    PAIRED: ClassVar[tuple[str, ...]] = ("hit",)
    SUMMARY_SETTINGS: ClassVar[tuple[str, ...]] = ("subsets", "per_class")

    def __post_init__(self) -> None:
        check_tolerance(self.tolerance_px, self.tolerance_rel)
        check_subsets(self.subsets)

    def measure(self, batch: Batch, maps: FramedMaps, forward: ForwardPass) -> dict[str, Tensor]:
        """hit [P], point_x, point_y, distance_px, ties (pixels that share the maximum), difficult, has_region."""
        points, ties = maps.peak
        distance = batch.distance(points, self.region)
        return {
            "hit": is_hit(distance, tolerance_px(self.tolerance_px, self.tolerance_rel, batch.frames)),
            "point_x": points[:, 0],
            "point_y": points[:, 1],
            "distance_px": distance,
            "ties": ties,
            "difficult": batch.difficult,
            "has_region": distance.isfinite(),
        }

    def summarize(self, frame: pd.DataFrame) -> list[ResultRow]:
        """mean and class_mean of hit, for all and for difficult pairs; pairs without a region are left out."""
        variant = f"{tolerance_name(self.tolerance_px, self.tolerance_rel)},{self.region}"
        annotated = frame[frame["has_region"]]
        rows = []
        for subset, part in parts(annotated, self.subsets, self.per_class):
            hits = part["hit"].to_numpy(float)
            estimates = {
                "mean": stats.proportion(hits, part["image_id"]),
                "class_mean": stats.cluster_bootstrap(hits, part["image_id"], part["label"], stats.SHARE),
            }
            rows += [
                estimate_row(estimate, stat, variant, subset, True, headline=stat == "mean")
                for stat, estimate in estimates.items()
            ]
        return rows


@dataclass(frozen=True)
class EnergyPointingGame:
    """Share of the positive map that lies inside the object (Wang et al. 2020, Score-CAM, Sect. 4.3).

    Sum over the region of max(m, 0), divided by its sum over the frame; undefined where the map has no
    positive value (counted).

    largest_region: leave out pairs whose region covers more than this share of the frame (the paper: .5); null for
    none. single_box: leave out pairs whose class has several boxes (the paper does).
    """

    region: Region = "box"
    largest_region: float | None = None
    single_box: bool = False
    VERSION: ClassVar[int] = 2
    PAIRED: ClassVar[tuple[str, ...]] = ("inside_share",)
    SUMMARY_SETTINGS: ClassVar[tuple[str, ...]] = ("largest_region", "single_box")

    def __post_init__(self) -> None:
        if self.largest_region is not None and not 0 < self.largest_region <= 1:
            raise ValueError(f"largest_region={self.largest_region:g}: a share of the frame, in (0,1], or null")

    @property
    def variant(self) -> str:
        """As it stands in the variant column."""
        largest = "" if self.largest_region is None else f",region<={self.largest_region:g}"
        return self.region + largest + (",single_box" if self.single_box else "")

    def measure(self, batch: Batch, maps: FramedMaps, forward: ForwardPass) -> dict[str, Tensor]:
        """inside_share [P] in [0,1], nan where the positive mass is zero; region_share of the frame; boxes (number)."""
        region = batch.region(self.region)
        return {
            "inside_share": positive_share(maps, region),
            "region_share": count(region) / count(batch.valid),
            "boxes": (batch.boxes[..., 2:] > batch.boxes[..., :2]).all(2).sum(1),
        }

    def summarize(self, frame: pd.DataFrame) -> list[ResultRow]:
        """Mean over the pairs that are not left out, median, and the number of undefined pairs among them."""
        kept = pd.Series(True, index=frame.index)
        if self.largest_region is not None:
            kept &= frame["region_share"] <= self.largest_region
        if self.single_box:
            kept &= frame["boxes"] == 1
        return column_rows(frame[kept], "inside_share", self.variant, "all", True, span=stats.SHARE)


@dataclass(frozen=True)
class PositiveRatio:
    """Share of the frame's pixels whose map is above zero (Gradient Hedging, Sect. 4), before any clamp.

    Small is sparse: a method that marks everything reaches 1. No direction is better on its own account. A map that is
    positive by construction (a distance, noise) has 1 for every image: `ci_method` says `constant`.

    subsets: of `metrics.subsets`.
    """

    subsets: Sequence[str] = ("all",)
    VERSION: ClassVar[int] = 2
    PAIRED: ClassVar[tuple[str, ...]] = ("positive_ratio",)
    SUMMARY_SETTINGS: ClassVar[tuple[str, ...]] = ("subsets",)

    def __post_init__(self) -> None:
        check_subsets(self.subsets)

    def measure(self, batch: Batch, maps: FramedMaps, forward: ForwardPass) -> dict[str, Tensor]:
        """positive_ratio [P] in [0,1], difficult."""
        above = count_positive(maps.maps)  # the padding is zero
        return {"positive_ratio": above / count(maps.valid), "difficult": batch.difficult}

    def summarize(self, frame: pd.DataFrame) -> list[ResultRow]:
        """Mean over pairs and median of each subset."""
        named = parts(frame, self.subsets)
        return [row for name, part in named for row in column_rows(part, "positive_ratio", "map>0", name, None)]


def positive_share(maps: FramedMaps, region: Tensor) -> Tensor:
    """Sum of max(map, 0) inside the region over its whole sum: [P], nan where the latter is zero or no region is."""
    (inside, _), (whole, _) = signed_sums(maps, region), signed_sums(maps, maps.valid)
    return torch.where((whole > 0) & (count(region) > 0), inside / whole, torch.nan)
