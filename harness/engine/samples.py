"""Samples as a data set gives them, looked at once: what own code or an own file gets wrong is named, not measured."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ..config import ConfigError
from ..types import Dataset, Sample

ROUNDING = 1e-4  # by which a resize may leave [0,1]
OVER_PX = 1.0  # by which a box may reach beyond its frame; tools round
GUIDE = "docs/how-to/own-dataset.md"
SHAPES = {  # of images as other libraries have them: how they become [3,H,W]
    "[H,W,3]": "image.permute(2, 0, 1)",
    "grey": "image.expand(3, -1, -1)",
    "alpha": "image[:3]",
    "batch": "one image, without the batch's dimension",
}


@dataclass(frozen=True, eq=False)
class Checked:
    """A data set of which every sample is looked at when it is read, for a fraction of the time that reading takes.

    name: what errors call it.
    """

    name: str
    whole: Dataset

    @property
    def classes(self) -> Sequence[str]:
        """The data set's."""
        return self.whole.classes

    @property
    def split(self) -> str:
        """The data set's."""
        return self.whole.split

    @property
    def skipped(self) -> Sequence[str]:
        """Why each of the files was left out that cannot be read, where the data set says so."""
        return tuple(getattr(self.whole, "skipped", ()))

    @property
    def remarks(self) -> Sequence[str]:
        """What the data set says of itself that a run should say."""
        return tuple(getattr(self.whole, "remarks", ()))

    @property
    def borders(self) -> Sequence[int]:
        """Where the files begin that hold many samples each, where the data set says so: no shard reaches across."""
        return tuple(getattr(self.whole, "borders", ()))

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, index: int) -> Sample:
        """The sample.

        Raises:
            ConfigError: it cannot be read, or is not what a `Sample` says.
        """
        try:
            sample = self.whole[index]
        except (ValueError, OSError) as error:
            raise ConfigError(f"{self.name}: {error}") from error
        check_sample(sample, self.name, self.whole.classes)
        return sample

    def fingerprint(self) -> str:
        """The data set's.

        Raises:
            ConfigError: its files cannot be looked at.
        """
        try:
            return self.whole.fingerprint()
        except (ValueError, OSError) as error:
            raise ConfigError(f"{self.name}: {error}") from error


def check_ids(samples: pd.DataFrame) -> None:
    """Raise ConfigError where two images (columns image_id, position) have one id: tables would take them for one."""
    if samples.empty:  # without these columns, where nothing was to be explained
        return
    images = samples[["image_id", "position"]].drop_duplicates()
    if len(repeated := images.loc[images["image_id"].duplicated(), "image_id"].unique()):
        names = ", ".join(map(repr, repeated[:5]))
        raise ConfigError(f"{len(repeated)} ids stand for more than one image: {names}; give each sample its own id")


def check_sample(sample: Sample, dataset: str, classes: Sequence[str]) -> None:
    """Raise ConfigError, naming data set and sample, unless it is what `harness.types.Sample` says.

    classes: of the data set; empty where it has none, and then any class may be annotated.
    """
    if not isinstance(sample, Sample):
        raise ConfigError(f"{dataset}: a {type(sample).__name__} is no Sample: wrap it as {GUIDE} shows")
    try:
        why = next(_complaints(sample, len(classes)), None)
    except (TypeError, AttributeError, ValueError, RuntimeError) as error:  # None or a list in place of a mapping
        raise ConfigError(f"{dataset}: sample {_name(sample.id)}: {error}: see {GUIDE}") from error
    if why:
        raise ConfigError(f"{dataset}: sample {_name(sample.id)}: {why}")


def check_pixels(images: Tensor) -> None:
    """Raise ValueError (no tensor: TypeError) unless these are floating-point numbers in [0,1]: not normalised."""
    if not isinstance(images, Tensor):
        raise TypeError(f"images are a {type(images).__name__}: give a torch tensor, RGB in [0,1], not normalised")
    if not images.is_floating_point():
        raise ValueError(f"pixels are {images.dtype}: give floating-point numbers in [0,1] (image / 255)")
    low, high = (each.item() for each in images.aminmax()) if images.numel() else (0, 1)
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # so that NaN is none of them
        raise ValueError(f"pixels from {low:g} to {high:g}: {_mend(low, high)}")


def _mend(low: float, high: float) -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return "give finite numbers: RGB in [0,1], not normalised"
    eight_bits = " (image / 255)" if low >= 0 and 1 < high <= 255 else ""
    return f"give RGB in [0,1]{eight_bits}, not normalised"


def _name(given: Any) -> str:
    return repr(given) if isinstance(given, str) else f"(id {given!r})"


def _complaints(sample: Sample, classes: int) -> Iterator[str]:
    """What is wrong with it; only the first is to be relied on."""
    yield from _of_name(sample.id)
    yield from _of_image(sample.image)
    yield from _of_frame(sample.size0)
    yield from _of_targets(sample.targets, classes)
    for label, boxes in sample.boxes.items():
        yield from _of_class("boxes", label, classes)
        yield from (f"boxes of class {label}: {why}" for why in _of_boxes(boxes, sample.size0))
    yield from _of_shares(sample)
    masks = [*sample.mask.values()] if isinstance(sample.mask, Mapping) else [sample.mask]
    for what, mask in (*(("mask", each) for each in masks), ("ignore", sample.ignore)):
        yield from (f"{what}: {why}" for why in _of_mask(mask, sample.size0))


def _of_name(name: Any) -> Iterator[str]:
    """An id is written to tables and names of files."""
    if not isinstance(name, str) or not name:
        yield f"its id is a {type(name).__name__}: give a text that no other sample has"
    elif "\0" in name or name.encode(errors="replace").decode() != name:
        yield "its id holds bytes that are no UTF-8: rename the file"


def _of_image(image: Any) -> Iterator[str]:
    if isinstance(image, Tensor) and (image.ndim != 3 or len(image) != 3 or 0 in image.shape):
        yield f"its image is {list(image.shape)}: give [3,H,W]{_turned(image)}"
    try:
        check_pixels(image)
    except (ValueError, TypeError) as error:
        yield str(error)


def _turned(image: Tensor) -> str:
    shape = tuple(image.shape)
    kinds = {
        "[H,W,3]": len(shape) == 3 and shape[-1] == 3,
        "grey": len(shape) == 2 or (shape[:1] == (1,) and len(shape) == 3),
        "alpha": len(shape) == 3 and shape[0] == 4,
        "batch": len(shape) == 4,
    }
    return "".join(f", {SHAPES[kind]}" for kind, found in kinds.items() if found)


def _of_frame(size: Any) -> Iterator[str]:
    if not (len(size) == 2 and all(int(side) == side and side > 0 for side in size)):
        yield f"size0={size!r}: give (height, width) of the frame of its boxes and masks"


def _of_targets(targets: Sequence[int], classes: int) -> Iterator[str]:
    for label in targets:
        yield from _of_class("targets", label, classes)
    if len(set(targets)) < len(targets):
        yield f"targets={tuple(targets)} has a class twice: give each once"


def _of_class(what: str, label: Any, classes: int) -> Iterator[str]:
    if isinstance(label, (bool, float, Tensor)) or int(label) != label:
        yield f"{what}: class {label!r} is a {type(label).__name__}: give indices of classes, whole numbers"
    elif label < 0 or (classes and label >= classes):
        known = f"0 to {classes - 1}" if classes else "0 on"
        yield f"{what}: class {label} is none of the data set's, {known}: mend its labels, or its `classes`"


def _of_boxes(boxes: Any, size: tuple[int, int]) -> Iterator[str]:
    values = torch.as_tensor(boxes)
    if values.numel() and (values.ndim != 2 or values.shape[1] != 4):
        yield f"{list(values.shape)}: give [N,4] as x0, y0, x1, y1"
        return
    for box in values.reshape(-1, 4).tolist():
        yield from _of_box(box, *size)


def _of_box(box: list[float], height: int, width: int) -> Iterator[str]:
    x0, y0, x1, y1 = box
    if not all(map(math.isfinite, box)) or x0 >= x1 or y0 >= y1:
        yield f"{box} is no box: give pixel edges x0 < x1 and y0 < y1, x1 and y1 not included"
    if min(x0, y0) < -OVER_PX or x1 > width + OVER_PX or y1 > height + OVER_PX:
        yield (
            f"{box} lies outside of the frame, {width}x{height} pixels (width x height): give boxes in pixels of "
            "size0, which is (height, width)"
        )


def _of_shares(sample: Sample) -> Iterator[str]:
    """Boxes that all lie within the first pixel, and apart from its corner (where a crop may leave a sliver)."""
    every = [box for boxes in sample.boxes.values() for box in torch.as_tensor(boxes).reshape(-1, 4).tolist()]
    within = bool(every) and max(map(max, every)) <= 1 and min(sample.size0) > 1
    if within and any(box[0] > 0 and box[1] > 0 for box in every):
        yield f"its boxes {every[:3]} are shares of the image: multiply x by its width and y by its height"


def _of_mask(mask: Any, size: tuple[int, int]) -> Iterator[str]:
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        yield f"{kind}: give a bool tensor [H,W] (mask > 0)"
    elif tuple(mask.shape) != tuple(size):
        yield f"{list(mask.shape)}: give one of the frame's size, {list(size)}"
