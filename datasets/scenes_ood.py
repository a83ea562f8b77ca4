"""Images of no known class for the embedded benchmark: near and far companions of the scenes."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from assay.harness.types import Sample
from numpy.typing import NDArray
from torch import Tensor

from .scenes import CLASSES, SPLITS, check_size, check_split, digest, generator, to_image
from .shapes import NORMAL, SHAPES, SIDE, UNSEEN_SHAPES, background, develop, scene

Draw = Callable[[np.random.Generator, str, int], NDArray[np.uint8]]
_DIGIT_SIDE = 48  # px, from 8


def _shapes(rng: np.random.Generator, split: str, index: int) -> NDArray[np.uint8]:
    """Scenes with one shape that no class is named after."""
    return develop(rng, scene(rng, NORMAL, tuple(UNSEEN_SHAPES.values()), (1, 1)), NORMAL)


def _textures(rng: np.random.Generator, split: str, index: int) -> NDArray[np.uint8]:
    """The scenes' backgrounds with nothing on them."""
    return develop(rng, background(rng, NORMAL), NORMAL)


def _noise(rng: np.random.Generator, split: str, index: int) -> NDArray[np.uint8]:
    """Uniform noise in blocks of 1 to 8 px."""
    block = 2 ** int(rng.integers(4))
    coarse = rng.integers(0, 256, (3, SIDE // block, SIDE // block), dtype=np.uint8)
    return np.kron(coarse, np.ones((1, block, block), np.uint8))


def _inverted(rng: np.random.Generator, split: str, index: int) -> NDArray[np.uint8]:
    """Scenes with one known shape in inverted colours: dark on bright."""
    return 255 - develop(rng, scene(rng, NORMAL, tuple(SHAPES.values()), (1, 1)), NORMAL)


@cache
def _digit_images() -> Tensor:
    """scikit-learn's bundled handwritten digits (UCI, NIST): float32 [1797,1,8,8] in [0,1]."""
    from sklearn.datasets import load_digits

    return torch.from_numpy(load_digits().images / 16).float()[:, None]


def _digits(rng: np.random.Generator, split: str, index: int) -> NDArray[np.uint8]:
    """Real digits, enlarged, in the colours of scenes; every third digit belongs to a split, so none is in two."""
    digit = _digit_images()[index * len(SPLITS) + SPLITS.index(split)]
    ink = F.interpolate(digit[None], size=(_DIGIT_SIDE, _DIGIT_SIDE), mode="bilinear")[0, 0].numpy()
    x, y = rng.integers(0, SIDE - _DIGIT_SIDE + 1, 2)
    canvas = background(rng, NORMAL)
    window = canvas.pixels[:, y : y + _DIGIT_SIDE, x : x + _DIGIT_SIDE]
    window += ink * (rng.uniform(0.5, 0.95, (3, 1, 1)).astype(np.float32) - window)
    return develop(rng, canvas, NORMAL)


KINDS: dict[str, Draw] = {
    "shapes": _shapes,
    "textures": _textures,
    "noise": _noise,
    "inverted": _inverted,
    "digits": _digits,
}
_DIGITS_PER_SPLIT = 1797 // len(SPLITS)


@dataclass
class ScenesOOD:
    """Images of one kind (a key of KINDS) without any target; `size` of them."""

    kind: str
    split: str
    size: int
    seed: int = 0
    classes: Sequence[str] = field(default=CLASSES, init=False)

    def __post_init__(self) -> None:
        check_split(self.split)
        check_size(self.size)
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind!r} is unknown: choose one of {', '.join(KINDS)}")
        if self.kind == "digits" and self.size > _DIGITS_PER_SPLIT:
            raise ValueError(f"size={self.size} exceeds the digits of a split: choose 1 to {_DIGITS_PER_SPLIT}")

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.size:
            raise IndexError(f"index {index} is outside split {self.split!r}: choose 0 to {self.size - 1}")
        stream = 1 + tuple(KINDS).index(self.kind)  # so that no kind repeats the backgrounds of another or of Scenes
        pixels = KINDS[self.kind](generator(self.seed, self.split, index, stream), self.split, index)
        return Sample(f"{self.split}-{index:06d}", to_image(pixels), targets=(), size0=(SIDE, SIDE))

    def fingerprint(self) -> str:
        """Short digest of the settings and the version of the drawings."""
        return digest(asdict(self))
