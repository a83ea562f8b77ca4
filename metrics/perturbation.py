"""Does the network follow the map? Its answer while pixels are taken away or put in, in the map's order.

All are curves over a number of perturbed pixels or regions, see `metrics.pixel_ranks`. A curve's area is taken by
trapezoids and divided by the curve's range, so that it is the curve's mean height; it is linear, so that the area
under the mean curve is the mean of the pairs' areas.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from assay.harness import stats
from assay.harness.choices import check_choice
from assay.harness.forward import ForwardPass
from assay.harness.seeds import SampleRng
from assay.harness.stats import Array, Estimate, Span
from assay.harness.types import Batch, FramedMaps, ResultRow
from numpy.typing import ArrayLike
from torch import Tensor

from .pixel_ranks import (
    CANVASES,
    DECISIONS,
    READS,
    Blur,
    Order,
    ranks,
    read_along,
    read_clean,
    region_count,
    region_ranks,
)
from .subsets import check_subsets, estimate_row, parts

Unit = Literal["px", "percent", "patch"]
THINGS: Mapping[Unit, str] = {"px": "pixels", "percent": "pixels", "patch": "patches"}  # that have a place
TIES, NOISE = "perturbation ties", "perturbation noise"  # streams: the same draws for every method and metric


def check_common(order: str, steps: int, canvas: str, blur: Blur, read: str, subsets: Sequence[str]) -> None:
    """Raise ValueError, with the valid choices, for settings that mean nothing."""
    check_choice("order", order, ("morf", "lerf"))
    check_choice("canvas", canvas, list(CANVASES))
    check_choice("read", read, list(READS))
    check_subsets(subsets)
    if steps < 1:
        raise ValueError(f"steps={steps}: a curve needs at least one step")
    if blur.kernel_px % 2 == 0 or blur.kernel_px < 1 or blur.sigma_px <= 0:
        raise ValueError(f"blur_kernel_px={blur.kernel_px}, blur_sigma_px={blur.sigma_px:g}: odd and positive")


def canvas_name(canvas: str, blur: Blur) -> str:
    """As it stands in the variant column."""
    return f"blur{blur}" if canvas == "blur" else canvas


def area(curves: Tensor) -> Tensor:
    """Mean height of curves [P,K] of equal steps: float64 [P]."""
    return torch.trapezoid(curves.double()) / (curves.shape[1] - 1)


@dataclass(frozen=True)
class PixelCurve:
    """What `Perturbation` and `Insertion` share: steps over pixels or patches, and the rows of their curves.

    order: morf (most relevant pixels first) or lerf (least, that is most negative, first).
    steps, step, unit: after step k, k * step pixels (px), int(k * step / 100 * pixels) of them (percent), or k * step
        patches (patch): squares of a grid, ordered by the map's mean over them, see `metrics.pixel_ranks.region_ranks`.
    canvas, blur_kernel_px, blur_sigma_px: what stands where the image does not, see `metrics.pixel_ranks`.
    read: accuracy (whether the network predicts the class: softmax: top-1; sigmoid: at least .5), top1 (whatever the
        activation), probability, or score (logit).
    seed: of the order of equal values, and of noise.
    subsets: of `metrics.subsets`.
    patch_px: side of a patch; null for the other units.
    """

    order: Order
    steps: int
    step: float
    unit: Unit
    canvas: str
    blur_kernel_px: int = 11
    blur_sigma_px: float = 5.0
    read: str = "accuracy"
    seed: int = 0
    subsets: Sequence[str] = ("all",)
    patch_px: int | None = None
    PAIRED: ClassVar[tuple[str, ...]] = ("auc",)
    SUMMARY_SETTINGS: ClassVar[tuple[str, ...]] = ("subsets",)
    BEST: ClassVar[Order]  # the order in which a high curve speaks for the map

    def __post_init__(self) -> None:
        check_common(self.order, self.steps, self.canvas, self.blur, self.read, self.subsets)
        check_choice("unit", self.unit, list(THINGS))
        self._check_patch()
        if self.step <= 0 or (self.unit == "percent" and self.steps * self.step > 100):
            raise ValueError(f"steps={self.steps}, step={self.step:g} {self.unit}: above 0, and at most 100 percent")

    def _check_patch(self) -> None:
        given = f"unit={self.unit}, patch_px={self.patch_px}, step={self.step:g}"
        if self.unit != "patch" and self.patch_px is not None:
            raise ValueError(f"{given}: a side of patches is read with unit=patch alone, or set patch_px=null")
        if self.unit == "patch" and (self.patch_px is None or self.patch_px < 1):
            raise ValueError(f"{given}: give the side of a patch in pixels, as patch_px=16")
        if self.unit == "patch" and self.step % 1:
            raise ValueError(f"{given}: patches change whole, set a whole step")

    @property
    def blur(self) -> Blur:
        """Of the canvas `blur`."""
        return Blur(self.blur_kernel_px, self.blur_sigma_px)

    @property
    def variant(self) -> str:
        """As it stands in the variant column."""
        unit = {"px": "px", "percent": "%", "patch": f"patch{self.patch_px}px"}[self.unit]
        return f"{self.order},{self._canvas_name},{self.read},{self.steps}x{self.step:g}{unit}"

    @property
    def _canvas_name(self) -> str:
        return canvas_name(self.canvas, self.blur)

    def counts(self, things: int) -> list[int]:
        """Pixels (or patches) after steps 0, 1, ... of an image of so many.

        Raises:
            ValueError: the steps go beyond the image.
        """
        whole = 100 if self.unit == "percent" else things
        places = (number * self.step * things / whole for number in range(self.steps + 1))
        counts = [int(round(place, 6)) for place in places]  # 3 x 0.7 % of 1000 are 20.999999999999996
        if counts[-1] > things:
            name = THINGS[self.unit] + ("" if self.patch_px is None else f" of {self.patch_px} px")
            mend = "or step=1" if self.unit == "patch" else "or unit=percent"
            raise ValueError(
                f"{self.steps} steps of {self.step:g} {self.unit} are {counts[-1]} {name}, and the image has {things}: "
                f"set fewer steps, {mend}"
            )
        return counts

    def order_and_canvas(self, values: Tensor, batch: Batch, forward: ForwardPass) -> tuple[Tensor, Tensor]:
        """Places [P,h,w] of the pixels of maps [P,h,w], or of their patches, and the canvas of each image [B,3,h,w]."""
        rng = SampleRng.of(self.seed, TIES, batch)
        side = self.patch_px
        places = ranks(values, self.order, rng) if side is None else region_ranks(values, side, self.order, rng)
        return places, CANVASES[self.canvas](forward, self.blur, SampleRng.of(self.seed, NOISE, batch))

    def summarize(self, frame: pd.DataFrame) -> list[ResultRow]:
        """The mean curve with a band (a row a step, x in `unit`) and its area, in each subset."""
        return [row for subset, part in parts(frame, self.subsets) for row in self.rows(subset, part)]

    def rows(self, subset: str, part: pd.DataFrame) -> Iterator[ResultRow]:
        """Rows of one subset."""
        higher, unit = self.order == self.BEST, unit_of(self.read)
        yield from curve_rows(part, self.read, self.xs, self.x_label, self.variant, subset, higher, self.mean)
        auc = stats.mean(part["auc"], part["image_id"], span_of(self.read))
        yield estimate_row(auc, "auc", self.variant, subset, higher, unit)

    @property
    def mean(self) -> Callable[[ArrayLike, ArrayLike], Estimate]:
        """Of the reads, with its interval."""
        return mean_of(self.read)

    @property
    def x_label(self) -> str:
        """What a curve's x counts."""
        return f"{THINGS[self.unit]} changed" + (", %" if self.unit == "percent" else "")

    @property
    def xs(self) -> list[float]:
        """Where the curve's points stand, in `unit`."""
        return [number * self.step for number in range(self.steps + 1)]


@dataclass(frozen=True)
class Perturbation(PixelCurve):
    """The network's answer while pixels give way to a canvas, in the map's order.

    order=lerf: the least relevant pixels first (RAP, Nam et al. 2020: 40 steps of 100 pixels); a good map keeps the
    answer. order=morf: the most relevant first, as in pixel flipping (Bach et al. 2015) and, with unit=percent,
    100 steps and read=probability, in the deletion game (RISE, Petsiuk et al. 2018); a good map loses it.

    Settings: see `PixelCurve`. The default subset, `predicted`, is the images that the network classifies right.
    """

    order: Order = "lerf"
    steps: int = 40
    step: float = 100
    unit: Unit = "px"
    canvas: str = "mean"
    subsets: Sequence[str] = ("predicted",)
    VERSION: ClassVar[int] = 1
    BEST: ClassVar[Order] = "lerf"

    def measure(self, batch: Batch, maps: FramedMaps, forward: ForwardPass) -> dict[str, Tensor]:
        """curve [P,steps+1] (the clean image first), auc float64 [P], n_negative [P] (pixels below zero), difficult."""
        values = maps.over_inputs(batch)
        places, canvas = self.order_and_canvas(values, batch, forward)
        counts = self.counts(region_count(values, self.patch_px or 1))[1:]
        clean = read_clean(forward, batch.targets, self.read)
        after = read_along(forward, batch.targets, places, counts, canvas, forward.inputs, self.read)
        curve = torch.cat([clean[:, None], after], 1)
        negative = (values < 0).flatten(1).sum(1)
        return {"curve": curve, "auc": area(curve), "n_negative": negative, "difficult": batch.difficult}


@dataclass(frozen=True)
class Insertion(PixelCurve):
    """The network's answer while pixels of the image appear on a canvas, in the map's order.

    order=morf: the most relevant first (Gradient Hedging, Sect. 4: 1 to 20 %; RISE, Petsiuk et al. 2018: to 100 %,
    read=probability); a good map brings the answer back with few pixels. Beside the curve: the curve over the
    clean images' mean (accuracy over clean accuracy).

    Settings: see `PixelCurve`. blur_pasted: the composed input is blurred as well ("a blank image to which a
    Gaussian filter is applied", read as: paste on canvas=mean, then blur).
    """

    order: Order = "morf"
    steps: int = 20
    step: float = 1
    unit: Unit = "percent"
    canvas: str = "blur"
    blur_pasted: bool = False
    VERSION: ClassVar[int] = 1
    BEST: ClassVar[Order] = "morf"

    @property
    def _canvas_name(self) -> str:
        return super()._canvas_name + (f"+blur{self.blur}" if self.blur_pasted else "")

    def measure(self, batch: Batch, maps: FramedMaps, forward: ForwardPass) -> dict[str, Tensor]:
        """curve [P,steps+1] (the bare canvas first), auc float64 [P], clean [P] (the whole image), difficult."""
        values = maps.over_inputs(batch)
        places, canvas = self.order_and_canvas(values, batch, forward)
        counts = self.counts(region_count(values, self.patch_px or 1))
        blur = self.blur if self.blur_pasted else None
        curve = read_along(forward, batch.targets, places, counts, forward.inputs, canvas, self.read, blur)
        clean = read_clean(forward, batch.targets, self.read)
        return {"curve": curve, "auc": area(curve), "clean": clean, "difficult": batch.difficult}

    def rows(self, subset: str, part: pd.DataFrame) -> Iterator[ResultRow]:
        """Rows of one subset: the curve and its area, and both over the clean read (not for logits)."""
        yield from super().rows(subset, part)
        higher, clean, images = self.order == self.BEST, part["clean"].to_numpy(float), part["image_id"]
        known, unit = self.mean(clean, images), unit_of(self.read)
        yield estimate_row(known, "clean", self.variant, subset, None, unit, headline=False)
        if self.read == "score":
            return
        for stat, x, values in self._columns(part):
            span = (0.0, 1 / clean.mean()) if clean.any() and self.read in DECISIONS else None
            estimate = stats.cluster_ratio(values, clean, images, span) if clean.any() else stats.mean(values, images)
            row = estimate_row(estimate, f"{stat}_over_clean", self.variant, subset, higher, "ratio", headline=False)
            row = replace(row, x=x, x_label="" if x is None else self.x_label)
            yield row if clean.any() or not len(part) else row.undefined(f"the clean {self.read} is zero")

    def _columns(self, part: pd.DataFrame) -> Iterator[tuple[str, float | None, Array]]:
        for x, values in zip(self.xs, curves_of(part, len(self.xs)).T, strict=True):
            yield self.read, x, values
        yield "auc", None, part["auc"].to_numpy(float)


@dataclass(frozen=True)
class AOPC:
    """Area over the perturbation curve (Samek et al. 2017): 1 / (L+1) sum over k = 0..L of f(x) - f(x^k).

    x^k has the first k regions of the map's order replaced by the canvas; regions are squares of a grid, ordered by
    the map's mean over them. High is good for order=morf, low for order=lerf.

    order, canvas, blur_kernel_px, blur_sigma_px, read, seed, subsets: see `PixelCurve`. steps: L.
    region_px: side of a region. repeats: draws of the noise whose curves are averaged.
    """

    order: Order = "morf"
    steps: int = 100
    region_px: int = 9
    repeats: int = 10
    canvas: str = "noise"
    blur_kernel_px: int = 11
    blur_sigma_px: float = 5.0
    read: str = "probability"
    seed: int = 0
    subsets: Sequence[str] = ("all",)
    VERSION: ClassVar[int] = 1
    PAIRED: ClassVar[tuple[str, ...]] = ("aopc",)
    SUMMARY_SETTINGS: ClassVar[tuple[str, ...]] = ("subsets",)

    def __post_init__(self) -> None:
        check_common(self.order, self.steps, self.canvas, self._blur, self.read, self.subsets)
        if self.region_px < 1 or self.repeats < 1:
            raise ValueError(f"region_px={self.region_px}, repeats={self.repeats}: at least 1 each")
        if self.repeats > 1 and self.canvas != "noise":
            raise ValueError(f"repeats={self.repeats}: with canvas={self.canvas} all are the same, set repeats=1")

    @property
    def _blur(self) -> Blur:
        return Blur(self.blur_kernel_px, self.blur_sigma_px)

    def measure(self, batch: Batch, maps: FramedMaps, forward: ForwardPass) -> dict[str, Tensor]:
        """curve [P,steps+1] (the clean image first), mean over repeats; aopc float64 [P]; difficult.

        Raises:
            ValueError: the image has fewer regions than steps.
        """
        values = maps.over_inputs(batch)
        places = region_ranks(values, self.region_px, self.order, SampleRng.of(self.seed, TIES, batch))
        if (regions := region_count(values, self.region_px)) < self.steps:
            raise ValueError(f"steps={self.steps}: the image has {regions} regions of {self.region_px} px")
        clean, noise = read_clean(forward, batch.targets, self.read), SampleRng.of(self.seed, NOISE, batch)
        counts, total = range(1, self.steps + 1), torch.zeros(())
        for _ in range(self.repeats):
            canvas = CANVASES[self.canvas](forward, self._blur, noise)
            total = total + read_along(forward, batch.targets, places, counts, canvas, forward.inputs, self.read)
        curve = torch.cat([clean[:, None], total / self.repeats], 1)
        aopc = (clean[:, None] - curve).double().mean(1)
        return {"curve": curve, "aopc": aopc, "difficult": batch.difficult}

    def summarize(self, frame: pd.DataFrame) -> list[ResultRow]:
        """The mean curve with a band (x in regions), and mean: of aopc, in each subset."""
        canvas, morf = canvas_name(self.canvas, self._blur), self.order == "morf"
        variant = f"{self.order},{canvas},{self.read},{self.steps}x{self.region_px}px"
        mean, span = partial(stats.mean, span=span_of(self.read)), None if self.read == "score" else (-1.0, 1.0)
        xs, rows = range(self.steps + 1), []
        for subset, part in parts(frame, self.subsets):
            rows += list(curve_rows(part, self.read, xs, "regions changed", variant, subset, not morf, mean))
            estimate = stats.mean(part["aopc"], part["image_id"], span)
            rows.append(estimate_row(estimate, "mean", variant, subset, morf, unit_of(self.read)))
        return rows


def curves_of(part: pd.DataFrame, points: int, column: str = "curve") -> Array:
    """A column of curves as one array [n,points]."""
    return np.array(list(part[column]), dtype=np.float64).reshape(-1, points)


def curve_rows(
    part: pd.DataFrame,
    read: str,
    xs: Sequence[float],
    x_label: str,
    variant: str,
    subset: str,
    higher: bool,
    mean: Callable[[ArrayLike, ArrayLike], Estimate],
) -> Iterator[ResultRow]:
    """The mean over pairs at each point of their curves, with its interval."""
    for x, values in zip(xs, curves_of(part, len(xs)).T, strict=True):
        estimate = mean(values, part["image_id"])
        row = estimate_row(estimate, read, variant, subset, higher, unit_of(read), headline=False)
        yield replace(row, x=float(x), x_label=x_label)


def mean_of(read: str) -> Callable[[ArrayLike, ArrayLike], Estimate]:
    """What estimates the mean of reads over pairs, given their images."""
    return stats.proportion if read in DECISIONS else partial(stats.mean, span=span_of(read))


def span_of(read: str) -> Span | None:
    """What a read can be."""
    return None if read == "score" else stats.SHARE


def unit_of(read: str) -> str:
    """A read's unit."""
    return "logit" if read == "score" else "fraction"
