"""The embedded benchmark: procedurally drawn scenes with exact boxes, masks and a planted cue.

Sample i depends on the settings and (seed, split, i) alone, so workers, order and subsets cannot change it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from assay.harness.types import Sample
from numpy.typing import NDArray
from torch import Tensor

from .annotations import difficult_flags
from .shapes import HARD, NORMAL, SHAPES, SIDE, Canvas, Mask, develop, scene

GENERATOR = 2  # bump whenever the drawings change: it is part of every fingerprint
SPLITS = ("train", "val", "test")
CLASSES = (*SHAPES, "cue")
CUE = CLASSES.index("cue")

CUE_SIDE = 6  # px
_CUE_RINGS = np.minimum.outer(*2 * [np.minimum(np.arange(CUE_SIDE), np.arange(CUE_SIDE)[::-1])])  # 0 outermost
# Magenta, green, magenta squares in one another: the same when flipped or turned, and the only pixels of a
# scene that are 0 or 255 (`develop` keeps clear of both).
CUE_PATCH: NDArray[np.uint8] = np.where(_CUE_RINGS % 2, [[[0]], [[255]], [[0]]], [[[255]], [[0]], [[255]]]).astype(
    np.uint8
)
_SHAPES = tuple(SHAPES.values())
_CUE_POSITIONS = 16  # tried, so that the patch hides no object


def check_split(split: str) -> None:
    """Raise unless `split` names one."""
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is unknown: choose one of {', '.join(SPLITS)}")


def check_size(size: int) -> None:
    """Raise unless `size` is a number of images."""
    if size < 1:
        raise ValueError(f"size={size} is not a number of images: choose 1 or more")


def generator(seed: int, split: str, index: int, stream: int = 0) -> np.random.Generator:
    """The generator of one sample; `stream` tells unlike datasets of equal seed and split apart."""
    return np.random.default_rng([seed, SPLITS.index(split), index, stream])


def digest(settings: Mapping[str, object]) -> str:
    """Short digest of a generator's version and settings."""
    text = json.dumps({"generator": GENERATOR, **settings}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def to_image(pixels: NDArray[np.uint8]) -> Tensor:
    """8-bit pixels [3,S,S] as float32 in [0,1]."""
    return torch.from_numpy(pixels).float() / 255


def tight_box(mask: Mask) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 (half-open pixel edges) around the true pixels of a mask that has some."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _patch_mask(x: int, y: int) -> Mask:
    """Pixels [S,S] of a patch whose top left corner is at (x, y)."""
    mask = np.zeros((SIDE, SIDE), bool)
    mask[y : y + CUE_SIDE, x : x + CUE_SIDE] = True
    return mask


def _plant_cue(rng: np.random.Generator, pixels: NDArray[np.uint8], canvas: Canvas) -> Mask:
    """Paste the patch into `pixels` at a random place that leaves every object visible; its mask [S,S]."""
    patches = [_patch_mask(x, y) for x, y in rng.integers(0, SIDE - CUE_SIDE + 1, (_CUE_POSITIONS, 2))]
    patch = next((patch for patch in patches if canvas.cover(patch)), patches[0])
    pixels[:, patch] = CUE_PATCH.reshape(3, -1)
    return patch


def _masks_by_class(canvas: Canvas, cue: Mask | None) -> dict[int, list[Mask]]:
    """Visible masks of the objects of each class present, classes in ascending order."""
    found: dict[int, list[Mask]] = {}
    for placed in sorted(canvas.objects, key=lambda placed: placed.label):
        found.setdefault(placed.label, []).append(placed.visible)
    return found if cue is None else {**found, CUE: [cue]}


@dataclass
class Scenes:
    """Scenes of one to three shapes, multi-label, with an eleventh class decided by a planted patch alone.

    size: number of images. objects: least and most objects of an image. cue_share: share of the images that
    carry the patch. cue_only_targets: the cue is the only annotated class (dataset scenes_cue). hard: low
    contrast, occlusion, blur and noise, tuned so that the shipped networks are right 80-90 % of the time.
    """

    split: str
    size: int
    objects: Sequence[int] = (1, 3)
    seed: int = 0
    cue_share: float = 0.0
    cue_only_targets: bool = False
    hard: bool = False
    classes: Sequence[str] = field(default=CLASSES, init=False)

    def __post_init__(self) -> None:
        check_split(self.split)
        check_size(self.size)
        if self.seed < 0:
            raise ValueError(f"seed={self.seed}: give a whole number of at least 0")
        self.objects = tuple(self.objects)
        if len(self.objects) != 2 or not 1 <= self.objects[0] <= self.objects[1] <= 3:
            raise ValueError(f"objects={self.objects} is not a range: choose (least, most) within 1 to 3")
        if not 0 <= self.cue_share <= 1:
            raise ValueError(f"cue_share={self.cue_share} is not a share: choose 0 to 1")
        if self.cue_only_targets and self.cue_share < 1:
            raise ValueError(
                f"cue_only_targets=True needs the cue in every image: cue_share={self.cue_share}, choose 1"
            )

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.size:
            raise IndexError(f"index {index} is outside split {self.split!r}: choose 0 to {self.size - 1}")
        rng = generator(self.seed, self.split, index)
        look = HARD if self.hard else NORMAL
        canvas = scene(rng, look, _SHAPES, (self.objects[0], self.objects[1]))
        pixels = develop(rng, canvas, look)
        cue = _plant_cue(rng, pixels, canvas) if rng.random() < self.cue_share else None
        return self._annotated(index, pixels, _masks_by_class(canvas, cue))

    def _annotated(self, index: int, pixels: NDArray[np.uint8], masks: Mapping[int, list[Mask]]) -> Sample:
        """The sample of these pixels [3,S,S] and visible masks of each class."""
        size = (SIDE, SIDE)
        boxes = {label: torch.tensor([tight_box(m) for m in each]).float() for label, each in masks.items()}
        difficult = difficult_flags(boxes, size)
        targets = (CUE,) if self.cue_only_targets else tuple(masks)
        return Sample(
            id=f"{self.split}-{index:06d}",
            image=to_image(pixels),
            targets=targets,
            size0=size,
            boxes={label: boxes[label] for label in targets},
            mask={label: torch.from_numpy(np.logical_or.reduce(masks[label])) for label in targets},
            difficult={label: difficult[label] for label in targets},
        )

    def fingerprint(self) -> str:
        """Short digest of the settings and the version of the drawings."""
        return digest(asdict(self))
