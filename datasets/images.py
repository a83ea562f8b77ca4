"""Reading photographs and bringing them to a network's input size, boxes along with them."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from assay.harness.types import Sample
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
        """Transform an RGB image."""
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
    """RGB image -> float32 [3,h,w] in [0,1]."""
    return torch.from_numpy(np.array(image, dtype=np.float32) / 255).permute(2, 0, 1).contiguous()


def read_image(path: Path) -> Image.Image:
    """A file as RGB; DataError names a file that is no image."""
    return decode_image(path, str(path))


def decode_image(source: Path | IO[bytes], name: str) -> Image.Image:
    """A file or its bytes as RGB; DataError calls what is no image by `name`."""
    try:
        with Image.open(source) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # all that Pillow's readers raise
        raise DataError(f"{name} cannot be read as an image ({error}): replace or remove the file") from error


def image_files(folder: Path) -> list[Path]:
    """Images below a folder, sorted by path."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def require_files(files: Sequence[Path], hint: str) -> None:
    """Raise unless all files exist; `hint` says where to get them."""
    if missing := [path for path in files if not path.is_file()]:
        more = f" and {len(missing) - 1} more of {len(files)}" if len(missing) > 1 else ""
        raise DataError(f"no file {missing[0].absolute()}{more}. {hint}")


def files_fingerprint(root: Path, files: Iterable[Path], contents: Iterable[Path] = ()) -> str:
    """Digest of relative paths and sizes: changes when a file is added, removed or resized.

    contents: files that enter with all their bytes, for annotations (an edit may keep their size).
    """
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(root)} {path.stat().st_size}\n".encode())
    for path in contents:
        digest.update(f"{path.relative_to(root)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:20]


def check_files(
    root: Path, files: Sequence[Path], count: int | None, listing: str | None, published: str = "this set"
) -> None:
    """Raise unless there are `count` files whose `files_fingerprint` is `listing`; None checks nothing.

    published: what the error calls the set that was expected.
    """
    if count is not None and len(files) != count:
        raise DataError(
            f"{len(files)} images at {root.absolute()}, {published} has {count}: unpack the archive again into an "
            "empty folder; or expected_count=null for a part of it, whose figures compare with no one else's"
        )
    if listing is not None and (found := files_fingerprint(root, files)) != listing:
        raise DataError(
            f"names and sizes of the {len(files)} images at {root.absolute()} give {found}, not {listing}: they are "
            f"not {published}, or lie in other folders below the root; or expected_listing=null"
        )


def class_indices(names: Iterable[str], classes: Sequence[str], option: str) -> frozenset[int]:
    """Indices of classes by name; `option` names the setting in the error."""
    if unknown := sorted(set(names) - set(classes)):
        raise DataError(f"{option}: {', '.join(unknown)} unknown; classes are {', '.join(classes)}")
    return frozenset(classes.index(name) for name in names)


class LabelledFiles:
    """Image files, each with a class index or None, without boxes.

    Args:
        root: the samples are named by their path below it.
        files: path and label of each image.
        classes: names by index.
        split: name of the split in tables.
        transform: settings of `Transform`.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[tuple[Path, int | None]],
        classes: Sequence[str],
        split: str,
        transform: Mapping[str, Any] | None,
    ) -> None:
        self.root, self.files, self.classes, self.split = root, files, classes, split
        self.transform = Transform.of(transform)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        path, label = self.files[index]
        framed = self.transform(read_image(path))
        targets = () if label is None else (label,)
        return Sample(path.relative_to(self.root).as_posix(), framed.image, targets, framed.size0)

    def fingerprint(self) -> str:
        """Names and sizes of the images, and their labels."""
        paths, labels = zip(*self.files, strict=True)
        return hashlib.sha256(f"{files_fingerprint(self.root, paths)} {labels}".encode()).hexdigest()[:20]
