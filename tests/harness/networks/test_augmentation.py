"""Views of training images: by hand, and decided by (seed, epoch, index) alone."""

from itertools import product

import pytest
import torch
from assay.harness.networks.augmentation import View, seen, view_of
from assay.harness.networks.recipe import Augmentation

STILL = View(top=0, left=0, mirrored=False, angle=0, across=0, down=0, lean=0, scale=1)
IMAGE = torch.arange(1.0, 17).view(1, 4, 4).repeat(3, 1, 1)
CIFAR, PHOTOGRAPHS = Augmentation(pad=4, flip=0.5), Augmentation(flip=0.5, rotate=10, shift=0.1, shear=0.1, zoom=0.1)


def test_windows_of_a_padded_image_by_hand() -> None:
    """One black pixel around 4x4: the first row and column black at (0, 0), the image at (1, 1), mirrored."""
    kind = Augmentation(pad=1, flip=1)
    corner = seen(IMAGE, kind, STILL)[0]
    assert corner.tolist() == [[0, 0, 0, 0], [0, 1, 2, 3], [0, 5, 6, 7], [0, 9, 10, 11]]
    assert torch.equal(seen(IMAGE, kind, STILL._replace(top=1, left=1)), IMAGE)
    assert torch.equal(seen(IMAGE, kind, STILL._replace(top=1, left=1, mirrored=True)), IMAGE.flip(2))


def test_moves_by_hand() -> None:
    """A quarter turn, a shift by a pixel (the edge repeated) and twice the size, to rounding (1e-4 of values to 16)."""
    kind = Augmentation(rotate=90, shift=0.5, zoom=0.5)
    turned = seen(IMAGE, kind, STILL._replace(angle=90))
    assert torch.allclose(turned, torch.rot90(IMAGE, 1, (1, 2)), atol=1e-4)
    shifted = seen(IMAGE, kind, STILL._replace(across=0.25))[0]
    assert torch.allclose(shifted, torch.cat([IMAGE[0, :, 1:], IMAGE[0, :, 3:]], 1), atol=1e-4)
    lower = seen(IMAGE, kind, STILL._replace(down=-0.25))[0]
    assert torch.allclose(lower, torch.cat([IMAGE[0, :1], IMAGE[0, :3]]), atol=1e-4)
    larger = seen(IMAGE, kind, STILL._replace(scale=2))[0]  # first row: at height 0.75, columns 0.75, 1.25, 1.75, 2.25
    assert larger[0].tolist() == pytest.approx([1 + 4 * 0.75 + 0.75 + 0.5 * k for k in range(4)], abs=1e-4)


def test_columns_lean_by_the_tangent() -> None:
    """Of a picture whose value is its column, row r reads r * tangent columns further (0.5 a row, inside)."""
    ramp = torch.arange(8.0).expand(3, 8, 8)
    leaning = seen(ramp, Augmentation(shear=0.5), STILL._replace(lean=0.5))[0]
    assert (leaning[4, 4] - leaning[3, 4]).item() == pytest.approx(0.5, abs=1e-4)
    assert (leaning[4, 4] - leaning[4, 3]).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("kind", [CIFAR, PHOTOGRAPHS], ids=["cifar", "photographs"])
def test_a_view_follows_from_seed_epoch_and_index(kind: Augmentation) -> None:
    """The same again; another seed, epoch or image has another; all stay within the recipe."""
    every = product((0, 1), (0, 1), range(50))
    views = {which: view_of(kind, *which) for which in every}
    assert all(view_of(kind, *which) == view for which, view in views.items())
    assert len({view for view in views.values()}) >= 0.5 * len(views)
    assert all(0 <= view.top <= 2 * kind.pad and abs(view.angle) <= kind.rotate for view in views.values())
    assert all(abs(view.scale - 1) <= kind.zoom and abs(view.across) <= kind.shift for view in views.values())
    assert 0.35 < sum(view.mirrored for view in views.values()) / len(views) < 0.65


def test_nothing_asked_is_nothing_done() -> None:
    """Without settings every view is the image itself."""
    assert all(seen(IMAGE, Augmentation(), view_of(Augmentation(), 0, 0, index)) is IMAGE for index in range(20))
