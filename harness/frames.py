"""Geometry of maps: every function works on a whole batch whose images may have different sizes.

A *frame* is the pixel grid in which an image's boxes, masks and tolerances are measured: (height, width),
usually the original image. A batch of frames is padded to its largest height H and width W, and
`valid_pixels` tells the padding apart. Frames are tensors of the host, whatever the device of the maps: their sizes
decide shapes, for which a device would have to be waited for. All arithmetic is element-wise or a gather, so that a
sample's numbers do not depend on its neighbours in the batch.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .pixels import crossed, first_highest, lerped, lowest, united
from .transfer import sent

CPU = torch.device("cpu")


def valid_pixels(frames: Tensor, device: torch.device = CPU) -> Tensor:
    """Pixels that belong to each frame: frames [P,2] (height, width) -> bool [P,H,W], H and W the largest."""
    (height, width), sizes = frames.max(0).values.tolist(), sent(frames, device)
    rows = torch.arange(height, device=device) < sizes[:, :1]  # [P,H]
    columns = torch.arange(width, device=device) < sizes[:, 1:]  # [P,W]
    return crossed(rows, columns)


def _lerp_axis(values: Tensor, sizes: Tensor, axis: int) -> Tensor:
    """Linear resize of one axis of [P,h,w] to `sizes` [P] (pixel centres aligned at the borders' halves)."""
    source, target, sizes = values.shape[axis], int(sizes.max()), sent(sizes, values.device)
    centre = torch.arange(target, device=values.device, dtype=torch.float32) + 0.5
    position = (centre * (source / sizes[:, None].float()) - 0.5).clamp(0, source - 1)  # [P,target]
    low = position.floor()
    steps = values.diff(dim=axis, append=values.narrow(axis, source - 1, 1))  # to the next cell; none from the last
    return lerped(values, steps, low.long(), (position - low).to(values.dtype), axis)


def resize_to_frames(values: Tensor, frames: Tensor) -> Tensor:
    """Bilinear resize of maps [P,h,w] to their frames [P,2], padded with zeros to [P,H,W].

    The same sampling grid as `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`,
    for frames of unequal sizes in one call.
    """
    if bool((frames == frames.new_tensor(values.shape[1:])).all()):
        return values
    resized = _lerp_axis(_lerp_axis(values, frames[:, 0], 1), frames[:, 1], 2)
    is_padded = bool((frames != frames[:1]).any())
    return resized * valid_pixels(frames, values.device) if is_padded else resized


def gaussian_blur(values: Tensor, sigma: float, half: int | None = None) -> Tensor:
    """Gaussian blur of maps [P,h,w], sigma in pixels, borders replicated; half-width in pixels, else ceil(4 sigma)."""
    if not len(values):
        return values
    half = math.ceil(4 * sigma) if half is None else half
    offsets = torch.arange(-half, half + 1, dtype=values.dtype, device=values.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, -1, 1).expand(len(values), -1, -1, -1)
    padded = F.pad(values[None], (half, half, half, half), mode="replicate")  # maps as channels: 20 times faster
    down = F.conv2d(padded, kernel, groups=len(values))
    return F.conv2d(down, kernel.transpose(2, 3), groups=len(values))[0]


def rasterise_boxes(boxes: Tensor, frames: Tensor) -> Tensor:
    """Union of boxes as pixels: boxes [P,N,4] (x0, y0, x1, y1; half-open, pixel edges) -> bool [P,H,W].

    Pixel i belongs to [x0, x1) when x0 <= i < x1, so integer boxes are exact; rows of zeros are padding
    (an empty box covers nothing).
    """
    height, width = frames.max(0).values.tolist()
    y = torch.arange(height, device=boxes.device)
    x = torch.arange(width, device=boxes.device)
    rows = (y >= boxes[..., 1:2]) & (y < boxes[..., 3:4])  # [P,N,H]
    columns = (x >= boxes[..., 0:1]) & (x < boxes[..., 2:3])  # [P,N,W]
    sizes = sent(frames, boxes.device)[:, None]
    return united(rows & (y < sizes[..., :1]), columns & (x < sizes[..., 1:]))


def argmax_points(maps: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """The highest valid pixel of each map [P,H,W]: points [P,2] as (x, y), and how many pixels share it [P].

    On ties the first pixel in reading order is taken, as the pointing game's reference code does.
    """
    index, sharing = first_highest(maps, valid)
    return torch.stack([index % maps.shape[2], index // maps.shape[2]], 1), sharing


def distance_to_region(points: Tensor, region: Tensor) -> Tensor:
    """Distance in pixels [P] from points [P,2] (x, y) to the nearest pixel of region [P,H,W]; inf when empty."""
    y = torch.arange(region.shape[1], device=region.device, dtype=torch.float32)
    x = torch.arange(region.shape[2], device=region.device, dtype=torch.float32)
    points = points.to(torch.float32)
    squared = (y - points[:, 1:]).square()[:, :, None] + (x - points[:, :1]).square()[:, None, :]
    return lowest(squared, region).sqrt()


def cells_apart(values: Tensor, cells: int) -> Tensor:
    """Grids [B,K,n h,n w] -> their cells as rows [B n n,K,h,w], row by row."""
    return values.unflatten(3, (cells, -1)).unflatten(2, (cells, -1)).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def cells_together(values: Tensor, cells: int) -> Tensor:
    """Rows [B n n,K,h,w] -> grids [B,K,n h,n w]: the inverse."""
    return values.unflatten(0, (-1, cells, cells)).permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
