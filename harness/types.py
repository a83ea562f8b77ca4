"""What flows through a run: samples, batches, attributions and result rows, and who makes them.

Everything here is data and Protocols. Shapes: B images in a batch, P pairs (image, target class) to be
explained, H x W the frame (see `harness.frames`), h x w a map's native resolution.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from typing import ClassVar, Literal, NamedTuple, Protocol

import pandas as pd
import torch
from torch import Tensor

from .forward import ForwardPass
from .frames import argmax_points, distance_to_region, rasterise_boxes, resize_to_frames, valid_pixels
from .heads import Targets
from .network import Network
from .seeds import SampleRng
from .transfer import sent

Region = Literal["box", "mask"]


@dataclass(frozen=True, eq=False)
class Sample:
    """One image with its ground truth.

    image: [3,H,W] float32 in [0,1], not normalised. size0: (height, width) of the frame in which boxes, masks and
    tolerances are measured (the original image, unless the transform crops). boxes: class -> [N,4] as x0, y0, x1, y1,
    half-open pixel edges in the frame. mask: bool [size0], one for every class or one a class. ignore: bool [size0],
    pixels that metrics on masks leave out (PASCAL's 255 border). difficult: the pointing game's flag of each class.
    """

    id: str
    image: Tensor
    targets: tuple[int, ...]
    size0: tuple[int, int]
    boxes: Mapping[int, Tensor] = field(default_factory=dict)
    mask: Tensor | Mapping[int, Tensor] | None = None
    difficult: Mapping[int, bool] = field(default_factory=dict)
    ignore: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Batch:
    """Images of one shape and the (image, class) pairs to be explained in them."""

    samples: tuple[Sample, ...]
    images: Tensor  # [B,3,h,w]
    targets: Targets

    @classmethod
    def of(cls, samples: Sequence[Sample], device: torch.device | str = "cpu") -> "Batch":
        """Stack samples of equal image shape; the pairs are each sample's targets, in order."""
        return cls.over(sent(torch.stack([s.image for s in samples]), torch.device(device)), samples)

    @classmethod
    def over(cls, images: Tensor, samples: Sequence[Sample]) -> "Batch":
        """The pairs of samples whose images [B,3,h,w] are on the device."""
        rows = [(row, label) for row, sample in enumerate(samples) for label in sample.targets]
        return cls(tuple(samples), images, Targets.of(rows, images.device))

    @cached_property
    def pairs(self) -> list[tuple[Sample, int]]:
        """The P pairs as (sample, class)."""
        return [(sample, label) for sample in self.samples for label in sample.targets]

    @property
    def image_ids(self) -> list[str]:
        """B names of images."""
        return [sample.id for sample in self.samples]

    @property
    def sample_ids(self) -> list[str]:
        """P names `image_id#class`: the unit of evaluation."""
        return [f"{sample.id}#{label}" for sample, label in self.pairs]

    @cached_property
    def frames(self) -> Tensor:
        """Frame of each pair: int64 [P,2], (height, width), on the host."""
        sizes = [sample.size0 for sample, _ in self.pairs]
        return torch.tensor(sizes, dtype=torch.int64).view(-1, 2)

    @cached_property
    def valid(self) -> Tensor:
        """Pixels inside each pair's frame: bool [P,H,W]."""
        return valid_pixels(self.frames, self.images.device)

    @cached_property
    def difficult(self) -> Tensor:
        """The pointing game's difficult flag of each pair: bool [P]."""
        return self._sent(torch.tensor([bool(s.difficult.get(c, False)) for s, c in self.pairs]))

    @cached_property
    def boxes(self) -> Tensor:
        """Boxes of each pair's class: float32 [P,N,4], padded with empty boxes (zeros)."""
        each = [torch.as_tensor(s.boxes.get(c, torch.zeros(0, 4)), dtype=torch.float32) for s, c in self.pairs]
        return self._sent(torch.nn.utils.rnn.pad_sequence([*each, torch.zeros(1, 4)], batch_first=True)[:-1])

    @cached_property
    def _masks(self) -> Tensor:
        stacked = torch.zeros_like(valid_pixels(self.frames))
        for row, (sample, label) in enumerate(self.pairs):
            mask = sample.mask.get(label) if isinstance(sample.mask, Mapping) else sample.mask
            if mask is None:
                raise ValueError(
                    f"sample {sample.id!r} has no mask of class {label}: use region=box, or a dataset with masks"
                )
            stacked[row, : mask.shape[0], : mask.shape[1]] = mask
        return self._sent(stacked)

    @cached_property
    def _box_pixels(self) -> Tensor:
        return rasterise_boxes(self.boxes, self.frames)

    def region(self, kind: Region) -> Tensor:
        """Ground-truth pixels of each pair's class: bool [P,H,W], from its boxes or its mask."""
        return self._masks if kind == "mask" else self._box_pixels

    @cached_property
    def counted(self) -> Tensor:
        """Pixels that metrics on masks count: inside the frame and not to be ignored, bool [P,H,W]."""
        counted = valid_pixels(self.frames)
        for row, (sample, _) in enumerate(self.pairs):
            if sample.ignore is not None:
                height, width = sample.ignore.shape
                counted[row, :height, :width] &= ~sample.ignore
        return self._sent(counted)

    def _sent(self, values: Tensor) -> Tensor:
        return sent(values, self.images.device)

    def part(self, start: int, stop: int) -> "Batch":
        """The same images with pairs `start` to `stop` alone: the forward pass of the batch is that of its part."""
        ends = accumulate(len(sample.targets) for sample in self.samples)
        cut = [
            replace(sample, targets=sample.targets[max(0, start - end) : max(0, stop - end)])
            for sample, end in zip(self.samples, [0, *ends], strict=False)
        ]
        return Batch(tuple(cut), self.images, self.targets.part(start, stop))

    def of_class(self, label: int) -> "Batch":
        """The same pairs, annotated with one class in place of their own: where that class is in their images."""
        shown = tuple(
            replace(
                sample,
                boxes={c: sample.boxes.get(label, torch.zeros(0, 4)) for c in sample.targets},
                mask={c: sample.mask[label] for c in sample.targets if label in sample.mask}
                if isinstance(sample.mask, Mapping)
                else sample.mask,
            )
            for sample in self.samples
        )
        return Batch(shown, self.images, self.targets)

    def distance(self, points: Tensor, kind: Region) -> Tensor:
        """Distance in pixels [P] of points [P,2] (x, y) to the pair's region; inf where there is none."""
        return distance_to_region(points, self.region(kind))


@dataclass(frozen=True, eq=False)
class Attribution:
    """P maps: values float32 [P,h,w] at the method's native resolution, signed unless the method clamps.

    coefficients: [P,K] channel weights and their layer, where the method is a class-activation map.
    """

    values: Tensor
    coefficients: Tensor | None = None
    layer: str | None = None


Again = Callable[[Network, Tensor], Attribution]  # (network, images [B,3,h,w]) -> the same pairs explained there


@dataclass(frozen=True, eq=False)
class FramedMaps:
    """An attribution resized once to the frames of its batch, for all metrics."""

    maps: Tensor  # [P,H,W], zero outside the frame
    valid: Tensor  # [P,H,W]
    attribution: Attribution
    again: Again | None = None  # the method, with the same draws, on other images or by another network

    @classmethod
    def of(cls, attribution: Attribution, batch: Batch, again: Again | None = None) -> "FramedMaps":
        """Bilinear resize of the native maps to the frames of the batch."""
        return cls(resize_to_frames(attribution.values, batch.frames), batch.valid, attribution, again)

    def explained(self, network: Network, images: Tensor) -> Attribution:
        """The method's maps of the same pairs on other images [B,3,h,w], or by another network."""
        if self.again is None:
            raise ValueError("these maps come without their method: a metric that asks it again cannot be measured")
        return self.again(network, images)

    def over_inputs(self, batch: Batch) -> Tensor:
        """The native maps over the network's input, [P,h,w]: where pixels are perturbed and masked."""
        size = torch.tensor(batch.images.shape[2:])
        return resize_to_frames(self.attribution.values, size.expand(len(batch.pairs), 2))

    @cached_property
    def positive(self) -> Tensor:
        """max(map, 0), [P,H,W]."""
        return self.maps.clamp(min=0)

    @cached_property
    def peak(self) -> tuple[Tensor, Tensor]:
        """Arg-max (x, y) [P,2] and the number of pixels that share the maximum [P]."""
        return argmax_points(self.maps, self.valid)


@dataclass(frozen=True)
class ResultRow:
    """One aggregate of a sample table; what a metric's `summarize` returns.

    value is a fraction or a raw unit, never percent; None when undefined, and then status says why. subset names the
    part of the samples ("all", "difficult"); variant the convention ("tol=15px"). x_label: what x counts, for a chart's
    axis. headline: whether terminal and report show the row; others stand in results.csv alone.
    """

    variant: str
    stat: str
    value: float | None
    n: int
    subset: str = "all"
    x: float | None = None
    unit: str = "fraction"
    higher_is_better: bool | None = None
    stderr: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    ci_method: str = ""
    status: str = "ok"
    x_label: str = ""
    headline: bool = True

    def undefined(self, why: str) -> "ResultRow":
        """The same row without a value."""
        return replace(
            self, value=None, stderr=None, ci_low=None, ci_high=None, ci_method="", status=f"undefined:{why}"
        )


class Needs(NamedTuple):
    """Of the shared forward pass: activations by layer, the graph to the input, penultimate features.

    training: it is fitted on training images (`training.FittedAttributor`). by_rounds: see `attribution.rounds`.
    """

    layers: tuple[str, ...] = ()
    input_graph: bool = False
    penultimate: bool = False
    training: bool = False
    by_rounds: bool = False


class Attributor(Protocol):
    """An attribution method: a small frozen class with its settings as fields."""

    VERSION: ClassVar[int]

    def needs(self) -> Needs:
        """What the shared forward pass must keep for this method."""

    def attribute(self, forward: ForwardPass, targets: Targets, rng: SampleRng) -> Attribution:
        """Maps of the P pairs in `targets`, at native resolution."""


class Metric(Protocol):
    """A metric in two halves: `measure` on the device, per sample; `summarize` on the CPU, from the table."""

    VERSION: ClassVar[int]
    PAIRED: ClassVar[tuple[str, ...]]  # columns in which two methods can be compared sample by sample
    SUMMARY_SETTINGS: ClassVar[tuple[str, ...]]  # settings that only `summarize` reads: changing one measures nothing

    def measure(self, batch: Batch, maps: FramedMaps, forward: ForwardPass) -> dict[str, Tensor]:
        """Columns [P] or curves [P,K] of one batch."""

    def summarize(self, frame: pd.DataFrame) -> list[ResultRow]:
        """Aggregates of the sample table (this metric's columns, sample_id, image_id, label, predicted)."""


class Dataset(Protocol):
    """Samples by index, in a fixed order; a fingerprint that changes when the data does."""

    @property
    def classes(self) -> Sequence[str]: ...

    @property
    def split(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def fingerprint(self) -> str:
        """Short digest of everything that decides the samples."""
