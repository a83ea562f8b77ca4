"""Geometry of maps: resize, blur, boxes, arg-max, distance."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from assay.harness import pixels
from assay.harness.frames import (
    argmax_points,
    distance_to_region,
    gaussian_blur,
    rasterise_boxes,
    resize_to_frames,
    valid_pixels,
)
from scipy import ndimage
from torch import Tensor


@pytest.fixture(params=["numpy", "torch"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How it is done on the CPU, and elsewhere."""
    if request.param == "torch":
        monkeypatch.setattr(pixels, "on_cpu", lambda values: False)


def random_maps(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def same_frame(count: int, height: int, width: int) -> Tensor:
    """[count,2]."""
    return torch.tensor([[height, width]] * count)


def interpolate(values: Tensor, height: int, width: int) -> Tensor:
    """PyTorch's own bilinear resize of [P,h,w]."""
    return F.interpolate(values[:, None], (height, width), mode="bilinear", align_corners=False)[:, 0]


# Frames


def test_valid_pixels_by_hand() -> None:
    """Frames 1x3 and 2x2 padded to 2x3; exact."""
    expected = [[[True, True, True], [False, False, False]], [[True, True, False], [True, True, False]]]
    assert valid_pixels(torch.tensor([[1, 3], [2, 2]])).tolist() == expected


# Resize


def test_resize_by_hand() -> None:
    """1x2 (0, 4) to width 4: source positions (i + .5) / 2 - .5 = -.25 (clamped to 0), .25, .75, 1.25 (clamped to 1)
    give 0, 1, 3, 4; to width 1: position .5 gives 2; exact."""
    values = torch.tensor([[[0.0, 4]]])
    assert resize_to_frames(values, torch.tensor([[1, 4]])).tolist() == [[[0, 1, 3, 4]]]
    assert resize_to_frames(values, torch.tensor([[1, 1]])).tolist() == [[[2]]]


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((7, 7), (224, 224)),
        ((7, 5), (375, 500)),
        ((64, 64), (17, 90)),
        ((224, 224), (333, 499)),
        ((224, 298), (100, 31)),
        ((1, 1), (5, 4)),
        ((3, 8), (1, 1)),
        ((9, 9), (9, 20)),
    ],
)
def test_resize_equals_interpolate(source: tuple[int, int], target: tuple[int, int]) -> None:
    """Against F.interpolate(bilinear, align_corners=False) in float32, up, down and mixed; 3e-4 absolute on white
    noise. Both round positions of up to 298 to float32, twice (2 x 1.5e-5), which the step of up to 6 between two
    neighbouring values multiplies; 1e-5 up to a side of 9."""
    values, tolerance = random_maps(3, *source), 1e-5 if max(source) <= 9 else 3e-4
    torch.testing.assert_close(
        resize_to_frames(values, same_frame(3, *target)), interpolate(values, *target), atol=tolerance, rtol=0
    )


def test_resize_to_unequal_frames() -> None:
    """Against F.interpolate map by map, frames of five sizes in one call; 1e-5; zero outside each frame (exact)."""
    frames = torch.tensor([[20, 31], [5, 7], [14, 14], [40, 9], [1, 1]])
    values = random_maps(5, 14, 14)
    resized = resize_to_frames(values, frames)
    assert resized.shape == (5, 40, 31)
    for row, (height, width) in enumerate(frames.tolist()):
        expected = F.pad(interpolate(values[row : row + 1], height, width)[0], (0, 31 - width, 0, 40 - height))
        torch.testing.assert_close(resized[row], expected, atol=1e-5, rtol=0)
    assert (resized[~valid_pixels(frames)] == 0).all()


def test_resize_does_not_depend_on_neighbours() -> None:
    """A map alone and among other frames: bit-equal, as the module promises."""
    frames = torch.tensor([[20, 31], [5, 7], [14, 14], [40, 9]])
    values = random_maps(4, 14, 14)
    together = resize_to_frames(values, frames)
    for row, (height, width) in enumerate(frames.tolist()):
        alone = resize_to_frames(values[row : row + 1], frames[row : row + 1])
        assert torch.equal(together[row, :height, :width], alone[0])


def test_resize_to_the_same_size_is_the_identity() -> None:
    """Bit-equal, whether all maps of the batch keep their size or only one."""
    values = random_maps(2, 6, 9)
    assert torch.equal(resize_to_frames(values, same_frame(2, 6, 9)), values)
    assert torch.equal(resize_to_frames(values, torch.tensor([[6, 9], [12, 18]]))[0, :6, :9], values[0])


def test_resize_keeps_range_and_constants() -> None:
    """Linear weights: no value leaves [min, max] of its map, a constant stays (exact)."""
    values, frames = random_maps(3, 7, 7), torch.tensor([[50, 31], [3, 90], [7, 8]])
    resized = resize_to_frames(values, frames)
    for row, valid in enumerate(valid_pixels(frames)):
        assert values[row].min() <= resized[row][valid].min()
        assert resized[row][valid].max() <= values[row].max()
    assert (resize_to_frames(torch.full((3, 7, 7), 0.3), frames)[valid_pixels(frames)] == 0.3).all()


# Blur


@pytest.mark.parametrize(("shape", "sigma"), [((20, 33), 1.3), ((64, 64), 0.02 * 64), ((9, 7), 4.48), ((5, 5), 0.3)])
def test_blur_equals_scipy(shape: tuple[int, int], sigma: float) -> None:
    """Against scipy.ndimage.gaussian_filter(mode="nearest", truncate=4, radius=ceil(4 sigma)), in float64 to 1e-12,
    in float32 to 1e-6 (about 40 products of values of about 1); also where the kernel is wider than the map."""
    values = random_maps(2, *shape).double()
    expected = [
        ndimage.gaussian_filter(v.numpy(), sigma, mode="nearest", truncate=4, radius=math.ceil(4 * sigma))
        for v in values
    ]
    np.testing.assert_allclose(gaussian_blur(values, sigma).numpy(), np.stack(expected), atol=1e-12)
    np.testing.assert_allclose(gaussian_blur(values.float(), sigma).numpy(), np.stack(expected), atol=1e-6)


def test_blur_by_hand() -> None:
    """A unit impulse and sigma = 1: the peak is (1 / sum_{-4..4} exp(-k^2/2))^2 = 1 / 2.50662...^2 = .15915, the
    value k px away exp(-k^2/2) times it; the impulse's mass of 1 stays; 1e-6."""
    values = torch.zeros(1, 11, 11)
    values[0, 5, 5] = 1
    blurred = gaussian_blur(values, 1.0)[0]
    total = 1 + 2 * (math.exp(-0.5) + math.exp(-2) + math.exp(-4.5) + math.exp(-8))
    assert blurred[5, 5].item() == pytest.approx(1 / total**2, rel=1e-6)
    assert blurred[5, 8].item() == pytest.approx(math.exp(-4.5) / total**2, rel=1e-5)
    assert blurred.sum().item() == pytest.approx(1, rel=1e-6)
    assert blurred[5, 0] == 0


def test_blur_keeps_constants() -> None:
    """A constant map stays, also at the border (replicated); 1e-6."""
    torch.testing.assert_close(gaussian_blur(torch.full((1, 8, 8), 3.0), 2.5), torch.full((1, 8, 8), 3.0))


# Boxes


def test_rasterise_by_hand() -> None:
    """Half-open pixel edges: [1,3) x [0,2) covers x 1, 2 and y 0, 1; two boxes are united, a box is cut at the frame,
    fractional edges take pixels with x0 <= i < x1, rows of zeros and reversed boxes cover nothing; exact."""
    nothing = [0.0, 0, 0, 0]
    boxes = torch.tensor(
        [
            [[1.0, 0, 3, 2], nothing],
            [[0.0, 0, 1, 1], [3, 1, 4, 3]],
            [[-5.0, 2, 9, 9], nothing],
            [[0.4, 0.4, 2.6, 1], nothing],
            [[0.0, 0, 1.01, 0.5], [3, 2, 1, 1]],
            [nothing, nothing],
        ]
    )
    frames = torch.tensor([[3, 4], [3, 4], [3, 2], [3, 4], [3, 4], [3, 4]])
    drawings = [
        "0110 0110 0000",
        "1000 0001 0001",
        "0000 0000 1100",
        "0000 0000 0000",
        "1100 0000 0000",
        "0000 0000 0000",
    ]
    expected = [[[pixel == "1" for pixel in row] for row in drawing.split()] for drawing in drawings]
    assert rasterise_boxes(boxes, frames).tolist() == expected


def test_rasterise_equals_a_loop() -> None:
    """Against slices of integer boxes drawn one by one; exact."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.randint(0, 20, (6, 3, 2, 2), generator=generator).sort(2).values
    frames = torch.randint(5, 20, (6, 2), generator=generator)
    expected = torch.zeros(valid_pixels(frames).shape, dtype=torch.bool)
    for row in range(6):
        height, width = frames[row].tolist()
        for (x0, y0), (x1, y1) in corners[row].tolist():
            expected[row, y0 : min(y1, height), x0 : min(x1, width)] = True
    assert torch.equal(rasterise_boxes(corners.flatten(2).float(), frames), expected)


# Arg-max and distance


def test_argmax_by_hand() -> None:
    """The largest valid pixel as (x, y); the first in reading order on ties, with their number; padding never wins,
    even over negative maps; -0 and 0 tie; exact."""
    maps = torch.tensor([[[1.0, 5, 2], [5, 0, 9]], [[-3, -1, 0], [-2, -1, 0]], [[-0.0, 0, -1], [0, -1, -1]]])
    points, ties = argmax_points(maps, valid_pixels(torch.tensor([[2, 2], [2, 2], [2, 3]])))
    assert points.tolist() == [[1, 0], [1, 0], [0, 0]]
    assert ties.tolist() == [2, 2, 3]


def test_argmax_equals_numpy() -> None:
    """Against np.argmax of the flattened map, which also takes the first; integers 0..9, so most maps tie; exact."""
    maps = torch.randint(0, 10, (50, 6, 7), generator=torch.Generator().manual_seed(0)).float()
    points, ties = argmax_points(maps, torch.ones(50, 6, 7, dtype=torch.bool))
    for row, values in enumerate(maps.numpy()):
        y, x = np.unravel_index(values.argmax(), values.shape)
        assert (points[row].tolist(), int(ties[row])) == ([x, y], int((values == values.max()).sum()))
    assert (ties > 1).any()


def test_distance_by_hand() -> None:
    """Region pixels (0,0) and (3,4): from (0,0) 0, from (3,0) 3, from (3.5,4) .5, from (0,4) 3; from (6,8) 5; no
    region: inf; exact."""
    region = torch.zeros(6, 6, 7, dtype=torch.bool)
    region[:5, 0, 0] = region[:5, 4, 3] = True
    points = torch.tensor([[0.0, 0], [3, 0], [3.5, 4], [0, 4], [6, 8], [1, 1]])
    assert distance_to_region(points, region).tolist() == [0, 3, 0.5, 3, 5, math.inf]


def test_distance_equals_scipy() -> None:
    """Against scipy.ndimage.distance_transform_edt at integer points; 1e-5 px."""
    generator = torch.Generator().manual_seed(0)
    region = torch.rand(20, 30, 40, generator=generator) < 0.003
    region[:, 0, 0] = True
    points = torch.stack([torch.randint(0, n, (20,), generator=generator) for n in (40, 30)], 1)
    expected = [
        ndimage.distance_transform_edt(~r.numpy())[y, x] for r, (x, y) in zip(region, points.tolist(), strict=True)
    ]
    np.testing.assert_allclose(distance_to_region(points, region).numpy(), expected, atol=1e-5)
