"""Ground truth that follows from other ground truth."""

from collections.abc import Mapping

import torch
from torch import Tensor

from harness.frames import rasterise_boxes


def union_area(boxes: Tensor, size: tuple[int, int]) -> int:
    """Pixels of the frame `size` (height, width) covered by at least one of the boxes [N,4]."""
    return int(rasterise_boxes(boxes[None].float(), torch.tensor([size])).sum())


def difficult_flags(boxes: Mapping[int, Tensor], size: tuple[int, int]) -> dict[int, bool]:
    """Which classes are difficult to point at: small, and not alone in the image.

    The pointing game's definition (Zhang et al., "Top-down neural attention by excitation backprop", 2016):
    the class's boxes cover less than a quarter of the image, and there is at least one other category.
    boxes: class -> [N,4] as x0, y0, x1, y1, half-open pixel edges; size: height and width of the image.
    """
    image_area = size[0] * size[1]
    return {label: len(boxes) > 1 and 4 * union_area(each, size) < image_area for label, each in boxes.items()}
