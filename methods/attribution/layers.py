"""Layers that maps are made of."""

from collections.abc import Sequence

from torch import Tensor

MOST_SKEWED = 4  # how much longer the cells of a map are in one direction than in the other


def spatial(values: Tensor, layer: str | None, size: Sequence[int], has_layout: bool = False) -> Tensor:
    """A layer's output (None: the input), checked to be [B,K,h,w] over images of `size` (height, width).

    has_layout: whether the method has a setting `layout`, for messages.

    Raises:
        ValueError: it has no height and width, or they cannot be of the images: channels that come last.
    """
    if values.ndim != 4:
        tokens = ", or layout=tokens where these are a transformer's tokens [batch, tokens, channels]"
        raise ValueError(
            f"layer {layer!r} gives {list(values.shape)}; a map needs [batch, channels, height, width]: choose a "
            f"convolutional layer{tokens if has_layout else ''}"
        )
    height, width = values.shape[2:]
    if not _belongs(height, width, size):
        last = "say layout=nhwc where channels come last, or choose another layer"
        raise ValueError(
            f"layer {layer!r} gives {list(values.shape)}; height and width {height} x {width} cannot be those of an "
            f"image of {size[0]} x {size[1]}: {last if has_layout else 'choose another layer'}"
        )
    return values


def _belongs(height: int, width: int, size: Sequence[int]) -> bool:
    """Whether a map's cells are about as high as they are wide; a side may be rounded up or down by one."""
    cells = [
        (full / (cells + 1), full / max(cells - 1, 0.5)) for cells, full in zip((height, width), size, strict=True)
    ]
    (low_y, high_y), (low_x, high_x) = cells
    is_small = height <= 2 * size[0] and width <= 2 * size[1]
    return is_small and low_y <= MOST_SKEWED * high_x and low_x <= MOST_SKEWED * high_y
