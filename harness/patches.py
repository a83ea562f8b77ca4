"""Whether tokens that are read as patches, the last ones row by row, are the image's patches in its order.

Where registers or a class token stand behind the patches or among them, or patches in another order, a map would be
shifted. So the first of the tokens that are read must feel the image's first cell, and the last one its last.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, fx

from .graph import Traced, cut_at, up_to, way_to
from .layouts import grid_of

FELT = 1e-4  # of the largest change of a token: less is rounding
Region = tuple[slice, slice]


def corners(height: int, width: int, rows: int, columns: int) -> tuple[Region, Region]:
    """Pixels of the first cell of a grid and of the last one, whatever square patch gives such a grid.

    A patch p of rows = height // p is larger than height / (rows + 1), and no larger than height / rows.
    """
    first = (slice(height // (rows + 1) + 1), slice(width // (columns + 1) + 1))
    return first, (slice(height - height // rows, None), slice(width - width // columns, None))


def first_made(node: fx.Node, values: Mapping[fx.Node, Tensor]) -> fx.Node:
    """Of what a layer of tokens is made of, the first value [1,N,K] of as many tokens."""
    count = values[node].shape[1]
    made = (each for each in way_to(node) if each in values and values[each].ndim == 3)
    return next(each for each in made if len(values[each]) == 1 and values[each].shape[1] == count)


@torch.no_grad()
def are_in_order(traced: Traced, tokens: fx.Node, image: Tensor) -> bool:
    """Whether the first and the last token read as patches change with the first and the last cell of an image.

    tokens: a node that gives [B,N,K], at best before they are mixed: later every token feels every cell.
    """
    to_tokens = up_to(traced, cut_at(traced, tokens, tokens.name))
    rows, columns = grid_of(to_tokens(image.clone())[0].shape[1], image.shape[2], image.shape[3])
    moved = image.repeat(3, 1, 1, 1)
    for number, region in enumerate(corners(image.shape[2], image.shape[3], rows, columns), 1):
        moved[(number, slice(None), *region)] += 1
    made = to_tokens(moved)[0]
    change = (made[1:] - made[:1]).abs().amax(2)  # [2,N]
    felt = change > FELT * change.amax(1, keepdim=True)
    return bool(felt[0, -rows * columns] and felt[1, -1])
