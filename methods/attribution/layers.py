"""Layers that maps are made of."""

from torch import Tensor


def spatial(values: Tensor, layer: str | None) -> Tensor:
    """A layer's output (None: the input), checked to be [B,K,h,w].

    Raises:
        ValueError: it has no height and width.
    """
    if values.ndim != 4:
        raise ValueError(
            f"layer {layer!r} gives {list(values.shape)}; a map needs [batch, channels, height, width]: choose a "
            "convolutional layer"
        )
    return values
