"""Shifted versions of a data set: each image with blur, noise, low contrast or JPEG, seeded by its name."""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from assay.harness.choices import check_choice
from assay.harness.seeds import derive_seed
from assay.harness.types import Dataset, Sample
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

VERSION = 1  # of the drawings
Pixels = NDArray[np.float64]  # [3,H,W] in [0,1]
Corrupt = Callable[[Pixels, float, np.random.Generator], Pixels]


def _blur(pixels: Pixels, sigma: float, rng: np.random.Generator) -> Pixels:
    """Gaussian of this standard deviation in pixels, the border repeated outwards."""
    return np.asarray(gaussian_filter(pixels, (0, sigma, sigma), mode="nearest"))


def _noise(pixels: Pixels, spread: float, rng: np.random.Generator) -> Pixels:
    """Gaussian noise of this standard deviation on each channel."""
    return pixels + spread * rng.standard_normal(pixels.shape)


def _contrast(pixels: Pixels, factor: float, rng: np.random.Generator) -> Pixels:
    """Distances from each channel's mean, times the factor."""
    mean = pixels.mean((1, 2), keepdims=True)
    return mean + factor * (pixels - mean)


def _jpeg(pixels: Pixels, quality: float, rng: np.random.Generator) -> Pixels:
    """Encoded with Pillow's JPEG at this quality and read again."""
    file = io.BytesIO()
    Image.fromarray(_bytes(pixels).transpose(1, 2, 0)).save(file, "JPEG", quality=int(quality))
    return np.asarray(Image.open(file), dtype=np.float64).transpose(2, 0, 1) / 255


CORRUPTIONS: dict[str, Corrupt] = {"blur": _blur, "noise": _noise, "contrast": _contrast, "jpeg": _jpeg}

# By severity, 1 to 5: Hendrycks and Dietterich (2019), the sets CIFAR-10-C (32 px) and ImageNet-C (224 px).
LEVELS: dict[str, dict[str, tuple[float, ...]]] = {
    "cifar10_c": {
        "blur": (0.4, 0.6, 0.7, 0.8, 1.0),
        "noise": (0.04, 0.06, 0.08, 0.09, 0.10),
        "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
        "jpeg": (80, 65, 58, 50, 40),
    },
    "imagenet_c": {
        "blur": (1, 2, 3, 4, 6),
        "noise": (0.08, 0.12, 0.18, 0.26, 0.38),
        "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
        "jpeg": (25, 18, 15, 10, 7),
    },
}


class Corrupted:
    """The samples of a data set under their names, boxes and labels, each image corrupted and rounded to 8 bits.

    What is drawn depends on the seed, the kind and the sample's name alone.

    Args:
        whole: the data set.
        kind: a key of CORRUPTIONS. severity: 1 to 5. levels: what they mean, a key of LEVELS.
        seed: of the noise.

    Raises:
        ValueError: no such kind, severity or list of levels.
    """

    def __init__(self, whole: Dataset, kind: str, severity: int = 3, levels: str = "cifar10_c", seed: int = 0) -> None:
        check_choice("kind", kind, CORRUPTIONS)
        check_choice("levels", levels, LEVELS)
        if severity not in range(1, 6):
            raise ValueError(f"severity={severity}: choose 1 to 5")
        self.whole, self.kind, self.seed = whole, kind, seed
        self.level = LEVELS[levels][kind][severity - 1]
        self.classes: Sequence[str] = whole.classes
        self.skipped, self.remarks = (tuple(getattr(whole, name, ())) for name in ("skipped", "remarks"))
        self.split = f"{whole.split}-{kind}{severity}"

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, index: int) -> Sample:
        sample = self.whole[index]
        rng = np.random.default_rng(derive_seed(self.seed, self.kind, sample.id))
        pixels = CORRUPTIONS[self.kind](sample.image.numpy().astype(np.float64), self.level, rng)
        return replace(sample, image=torch.from_numpy(_bytes(pixels).astype(np.float32) / np.float32(255)))

    def fingerprint(self) -> str:
        """Of the whole, and how it is corrupted."""
        how = f"{self.kind} {self.level} {self.seed} {VERSION}"
        return hashlib.sha256(f"{self.whole.fingerprint()} {how}".encode()).hexdigest()[:20]


def _bytes(pixels: Pixels) -> NDArray[np.uint8]:
    return np.rint(pixels.clip(0, 1) * 255).astype(np.uint8)
