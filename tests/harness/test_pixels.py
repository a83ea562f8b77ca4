"""Numbers of pixels, sums and extremes: NumPy's way on the CPU, PyTorch's elsewhere, and what is counted by hand."""

import math

import pytest
import torch
from assay.harness import pixels
from assay.harness.pixels import count, count_positive, first_highest, lowest, only, signed_totals, total
from torch import Tensor

MAPS = torch.tensor([[[3.0, -1.0], [3.0, 2.0]], [[0.5, 0.25], [-4.0, 8.0]]])
SOME = torch.tensor([[[False, True], [True, True]], [[True, True], [True, False]]])
NONE = torch.zeros_like(SOME)


@pytest.fixture(params=["numpy", "torch"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both: that of other devices works on the CPU, too."""
    if request.param == "torch":
        monkeypatch.setattr(pixels, "on_cpu", lambda values: False)


def same(found: Tensor, expected: list[float], dtype: torch.dtype) -> None:
    """To the bit, and of a type."""
    torch.testing.assert_close(found, torch.tensor(expected, dtype=dtype), rtol=0, atol=0)


def test_by_hand() -> None:
    """Two maps of four pixels, of which three count: every number is exact."""
    same(count(SOME), [3, 3], torch.int64)
    same(total(MAPS), [7, 4.75], torch.float64)
    same(total(MAPS, SOME), [4, -3.25], torch.float64)
    same(count_positive(MAPS), [3, 3], torch.int64)
    same(signed_totals(MAPS, SOME)[0], [5, 0.75], torch.float64)
    same(signed_totals(MAPS, SOME)[1], [1, 4], torch.float64)
    same(signed_totals(MAPS.abs(), SOME)[1], [0, 0], torch.float64)
    same(lowest(MAPS, SOME), [-1, -4], torch.float32)
    same(only(MAPS, SOME, 9.0)[0].flatten(), [9, -1, 3, 2], torch.float32)
    index, sharing = first_highest(MAPS, SOME)
    same(index, [2, 0], torch.int64)
    same(sharing, [1, 1], torch.int64)


def test_the_first_of_equal_pixels_is_the_highest() -> None:
    """In reading order, and how many share it."""
    index, sharing = first_highest(MAPS, torch.ones_like(SOME))
    same(index, [0, 3], torch.int64)
    same(sharing, [2, 1], torch.int64)


def test_no_pixel() -> None:
    """Of none: 0, 0 and inf."""
    same(count(NONE), [0, 0], torch.int64)
    same(total(MAPS, NONE), [0, 0], torch.float64)
    same(signed_totals(MAPS, NONE)[1], [0, 0], torch.float64)
    same(lowest(MAPS, NONE), [math.inf, math.inf], torch.float32)


def test_sums_are_of_float64() -> None:
    """1e8 + 1 - 1e8 of float32 numbers is 1, whatever their order."""
    same(total(torch.tensor([[[1e8, 1.0, -1e8]]])), [1], torch.float64)


def test_maps_do_not_look_at_each_other() -> None:
    """Each map alone gives its numbers in the batch, to the bit."""
    maps = torch.randn(5, 37, 41, generator=torch.Generator().manual_seed(0))
    some = maps.roll(1, 2) > 0.3
    for row in range(5):
        alone = (maps[row : row + 1], some[row : row + 1])
        assert torch.equal(total(*alone)[0], total(maps, some)[row])
        assert all(
            torch.equal(a[0], b[row]) for a, b in zip(first_highest(*alone), first_highest(maps, some), strict=True)
        )
