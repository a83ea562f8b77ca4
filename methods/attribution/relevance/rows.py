"""Rows of a fully connected layer, tokens of images, to which nothing is handed on: they are left out of its products.

What a class token alone is read of has relevance, or a gradient, in one row of 197 of a network's last block.
"""

from collections.abc import Callable

from torch import Tensor

SHARE = 0.5  # of rows that count, from which on all are computed: choosing them takes time as well


def where_given(function: Callable[..., Tensor], given: Tensor, *values: Tensor) -> Tensor:
    """function(given, *values), of which a row where `given` [...,K] is 0 is 0: computed at the other rows alone.

    values: [...,D] each, with the rows of `given`. A batch of vectors [B,K] is taken as it is: its rows are images.
    """
    rows = _rows(given) if given.ndim > 2 and given.is_cpu else None  # a device would be waited for
    if rows is None:
        return function(given, *values)
    found = function(given[rows], *(each[rows] for each in values))
    whole = found.new_zeros(*rows.shape, found.shape[-1])
    whole[rows] = found
    return whole


def _rows(given: Tensor) -> Tensor | None:
    """Which rows are not 0, [...]; None where those are none or most, of which the first value says most."""
    if (given[..., 0] != 0).sum() > SHARE * given[..., 0].numel():
        return None
    rows = (given != 0).any(-1)
    return rows if 0 < rows.sum() <= SHARE * rows.numel() else None
