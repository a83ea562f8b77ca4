"""Reading photographs and bringing them to a network's input size, boxes along with them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from assay.harness.types import Sample
from PIL import Image
from torch import Tensor

from .decoding import Reading, to_array
from .listing import files_fingerprint


class Framed(NamedTuple):
    """A transformed image [3,h,w] in [0,1], its frame (height, width), and how original pixels map into the frame."""

    image: Tensor
    size0: tuple[int, int]
    scale: tuple[float, float]  # frame pixels per original pixel, (x, y)
    offset: tuple[float, float]  # frame position of the original's corner, (x, y)

    def boxes(self, boxes: Tensor) -> Tensor:
        """Boxes [N,4] of the original image in the frame, clipped; those that vanish are dropped."""
        scale = torch.tensor(self.scale * 2)
        moved = boxes.float() * scale + torch.tensor(self.offset * 2)
        height, width = self.size0
        moved = moved.clamp(min=0).minimum(torch.tensor([width, height, width, height]).float())
        return moved[(moved[:, 2] > moved[:, 0]) & (moved[:, 3] > moved[:, 1])]

    def mask(self, mask: Tensor) -> Tensor:
        """Pixels [H,W] of the original image (any type) in the frame: [size0], each from the nearest original pixel."""
        if tuple(mask.shape) == self.size0:
            return mask
        across, down = (
            ((torch.arange(length) + 0.5 - offset) / scale).long().clamp(0, limit - 1)
            for length, offset, scale, limit in zip(
                self.size0[::-1], self.offset, self.scale, reversed(mask.shape), strict=True
            )
        )
        return mask[down][:, across]


@dataclass(frozen=True)
class Transform:
    """How an image becomes a network input.

    mode: `squash` (size x size, aspect not kept), `shorter` (shorter side = size, aspect kept, no crop),
        `crop` (shorter side = resize, then the central size x size), `none` (the image as it is).
    frame: where boxes, masks and tolerances are measured: the `original` image, or the network's `input`.
        A crop's frame is the crop, whatever `frame` says.
    """

    mode: str = "squash"
    size: int = 224
    resize: int = 256
    frame: str = "original"

    @classmethod
    def of(cls, settings: Mapping[str, Any] | None) -> "Transform":
        """From a config's `transform`."""
        return cls(**(settings or {}))

    def __post_init__(self) -> None:
        if self.mode not in ("squash", "shorter", "crop", "none"):
            raise ValueError(f"transform.mode={self.mode!r}: choose squash, shorter, crop or none")
        if self.frame not in ("original", "input"):
            raise ValueError(f"transform.frame={self.frame!r}: choose original or input")
        if self.mode == "crop" and self.resize < self.size:
            raise ValueError(f"transform.resize={self.resize} is smaller than the crop of {self.size}")

    def __call__(self, image: Image.Image) -> Framed:
        """Transform what `decode_image` gives."""
        if self.mode == "squash":
            return self._whole(image, (self.size, self.size))
        if self.mode == "shorter":
            return self._whole(image, shorter_side(image.size, self.size))
        if self.mode == "none":
            return self._whole(image, image.size)
        return self._crop(image)

    def _whole(self, image: Image.Image, size: tuple[int, int]) -> Framed:
        resized = image.resize(size, Image.Resampling.BILINEAR)
        if self.frame == "original":
            return Framed(to_tensor(resized), (image.height, image.width), (1.0, 1.0), (0.0, 0.0))
        scale = (size[0] / image.width, size[1] / image.height)
        return Framed(to_tensor(resized), (size[1], size[0]), scale, (0.0, 0.0))

    def _crop(self, image: Image.Image) -> Framed:
        width, height = shorter_side(image.size, self.resize)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
        cropped = resized.crop((left, top, left + self.size, top + self.size))
        scale = (width / image.width, height / image.height)
        return Framed(to_tensor(cropped), (self.size, self.size), scale, (float(-left), float(-top)))


def shorter_side(size: tuple[int, int], target: int) -> tuple[int, int]:
    """(width, height) with the shorter side at `target`, the longer one rounded down, as torchvision does."""
    width, height = size
    if width <= height:
        return target, int(target * height / width)
    return int(target * width / height), target


def to_tensor(image: Image.Image) -> Tensor:
    """What `decode_image` gives -> float32 [3,h,w] in [0,1]."""
    return torch.from_numpy(to_array(image))


class LabelledFiles:
    """Image files, each with a class index or None, without boxes.

    Args:
        root: the samples are named by their path below it.
        files: path and label of each image.
        classes: names by index.
        split: name of the split in tables; how many unreadable files were skipped is added to it.
        transform: settings of `Transform`.
        reading: which way up, and what becomes of unreadable files.

    Raises:
        DataError: a file cannot be read, and is not to be skipped; or none can.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[tuple[Path, int | None]],
        classes: Sequence[str],
        split: str,
        transform: Mapping[str, Any] | None,
        reading: Reading = Reading(),  # noqa: B008  # immutable
    ) -> None:
        self.root, self.classes, self.reading = root, classes, reading
        self.transform = Transform.of(transform)
        kept = reading.sift(files, lambda each: reading.failure(each[0]), root)
        self.files, self.skipped, self.split = kept.items, kept.skipped, kept.split(split)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        path, label = self.files[index]
        framed = self.transform(self.reading.image(path, [each for each, _ in self.files]))
        targets = () if label is None else (label,)
        return Sample(path.relative_to(self.root).as_posix(), framed.image, targets, framed.size0)

    def fingerprint(self) -> str:
        """Names and sizes of the images, and their labels."""
        paths, labels = zip(*self.files, strict=True)
        return hashlib.sha256(f"{files_fingerprint(self.root, paths)} {labels}".encode()).hexdigest()[:20]
