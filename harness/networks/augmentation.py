"""Random views of training images, each decided by (seed, epoch, index) alone, whoever loads them in what order."""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..seeds import derive_seed
from .recipe import Augmentation


class View(NamedTuple):
    """What one image is put through; shares and angles as in `Augmentation`."""

    top: int
    left: int
    mirrored: bool
    angle: float
    across: float
    down: float
    lean: float
    scale: float


def view_of(kind: Augmentation, seed: int, epoch: int, index: int) -> View:
    """The view of one image of a training set in one epoch; every draw is made, whatever is used of it."""
    draw = np.random.default_rng(derive_seed(seed, "view", epoch, index))
    top, left = draw.integers(0, 2 * kind.pad + 1, 2)
    mirrored = bool(draw.random() < kind.flip)
    angle, across, down, lean, zoom = draw.uniform(-1, 1, 5)
    moved = (angle * kind.rotate, across * kind.shift, down * kind.shift, lean * kind.shear, 1 + zoom * kind.zoom)
    return View(int(top), int(left), mirrored, *map(float, moved))


def seen(image: Tensor, kind: Augmentation, view: View) -> Tensor:
    """An image [3,H,W] as the view shows it: [3,H,W]."""
    height, width = image.shape[1:]
    if kind.pad:
        padded = F.pad(image, [kind.pad] * 4)
        image = padded[:, view.top : view.top + height, view.left : view.left + width]
    if kind.rotate or kind.shift or kind.shear or kind.zoom:
        image = _moved(image, view)
    return image.flip(2) if view.mirrored else image


def _moved(image: Tensor, view: View) -> Tensor:
    """Turned, leaned and scaled about its centre, then shifted; bilinear, the edge repeated."""
    turn = math.radians(view.angle)
    cosine, sine = math.cos(turn) / view.scale, math.sin(turn) / view.scale
    # From positions in the new image to those in the old one, both from -1 to 1.
    rows = [[cosine, -sine + view.lean * cosine, 2 * view.across], [sine, cosine + view.lean * sine, 2 * view.down]]
    theta = torch.tensor(rows, dtype=image.dtype)[None]
    grid = F.affine_grid(theta, [1, *image.shape], align_corners=False)
    return F.grid_sample(image[None], grid, padding_mode="border", align_corners=False)[0]
