"""Reading photographs and bringing them to a network's input size, boxes along with them."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})


class DataError(ValueError):
    """Data that cannot be used; the message names the file and what to do."""


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


@dataclass(frozen=True)
class Transform:
    """How an image becomes a network input.

    mode: `squash` (size x size, aspect not kept), `shorter` (shorter side = size, aspect kept, no crop),
        `crop` (shorter side = resize, then the central size x size). For the first two the frame is the
        original image; a crop's frame is the crop itself.
    """

    mode: str = "squash"
    size: int = 224
    resize: int = 256

    def __post_init__(self) -> None:
        if self.mode not in ("squash", "shorter", "crop"):
            raise ValueError(f"transform.mode={self.mode!r}: choose squash, shorter or crop")
        if self.mode == "crop" and self.resize < self.size:
            raise ValueError(f"transform.resize={self.resize} is smaller than the crop of {self.size}")

    def __call__(self, image: Image.Image) -> Framed:
        """Transform an RGB image."""
        if self.mode == "squash":
            return self._whole(image, (self.size, self.size))
        if self.mode == "shorter":
            return self._whole(image, shorter_side(image.size, self.size))
        return self._crop(image)

    def _whole(self, image: Image.Image, size: tuple[int, int]) -> Framed:
        resized = image.resize(size, Image.Resampling.BILINEAR)
        return Framed(to_tensor(resized), (image.height, image.width), (1.0, 1.0), (0.0, 0.0))

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
    """RGB image -> float32 [3,h,w] in [0,1]."""
    return torch.from_numpy(np.array(image, dtype=np.float32) / 255).permute(2, 0, 1).contiguous()


def read_image(path: Path) -> Image.Image:
    """A file as RGB; DataError names a file that is no image."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise DataError(f"{path} cannot be read as an image ({error}): replace or remove the file") from error


def image_files(folder: Path) -> list[Path]:
    """Images below a folder, sorted by path."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def files_fingerprint(root: Path, files: Iterable[Path]) -> str:
    """Digest of relative paths and sizes: changes when a file is added, removed or resized."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(root)} {path.stat().st_size}\n".encode())
    return digest.hexdigest()[:20]
