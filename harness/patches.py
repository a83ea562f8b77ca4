"""Whether tokens that are read as patches, the last ones row by row, are the image's patches in its order.

Where registers or a class token stand behind the patches or among them, or patches in another order, a map would be
permuted. So cells of the image are changed, those whose number has a binary digit 1 together, and those in which it is
0: each patch token must change whenever its cell does. Of tokens that are not mixed yet this shows any other order, by
two images a digit; later every token changes with every cell, and nothing is shown.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, fx

from .graph import Traced, cut_at, up_to, way_to
from .layouts import are_tokens, called, grid_of, moving
from .trunk import ATTENDING, passages

FELT = 1e-4  # of the largest change of a token: less is rounding


def digits(count: int) -> Tensor:
    """Which of so many cells, by their numbers' binary digits, are changed together: bool [2 digits, cells]."""
    places = torch.arange(max(1, (count - 1).bit_length()))[:, None]
    is_one = (torch.arange(count) >> places) & 1 == 1
    return torch.cat([is_one, ~is_one])


def sources(module: fx.GraphModule, node: fx.Node, values: Mapping[fx.Node, Tensor], image: Tensor) -> list[fx.Node]:
    """What a layer of tokens is made of, [1,N,K], while they are not mixed: one node or two.

    The last value in front of the first attention that all it knows of the image [1,3,H,W] passes, if those are a grid
    of patches; where it has other tokens, or there is none, the first value of as many as the layer, too.
    """
    nodes, of_image = list(module.graph.nodes), moving(module)
    made = [each for each in way_to(node) if each in of_image and each in values]
    made = [each for each in made if values[each].ndim == 3 and len(values[each]) == 1]
    first = next((number for number, each in enumerate(nodes) if called(module, each) in ATTENDING), 0)
    before = set(nodes[:first]).intersection(passages(module))
    entrance = [each for each in reversed(made) if each in before][:1]
    entrance = [each for each in entrance if are_tokens(module, each, values[each], image)]
    alike = [each for each in made if values[each].shape[1] == values[node].shape[1]]
    is_same = bool(entrance) and values[entrance[0]].shape[1] == values[node].shape[1]
    return entrance if is_same else [*entrance, alike[0]]


@torch.no_grad()
def are_in_order(traced: Traced, tokens: fx.Node, image: Tensor) -> bool:
    """Whether each token read as a patch changes whenever its cell of an image [1,3,H,W] does.

    tokens: a node that gives [B,N,K].
    """
    to_tokens = up_to(traced, cut_at(traced, tokens, tokens.name))
    rows, columns = grid_of(to_tokens(image.clone())[0].shape[1], image.shape[2], image.shape[3])
    chosen = digits(rows * columns).to(image.device)
    cells = chosen.view(-1, 1, rows, columns).to(image)
    pixels = torch.nn.functional.interpolate(cells, image.shape[2:], mode="nearest")  # at least one of each patch
    change = torch.arange(image.numel(), device=image.device).cos().view_as(image).to(image)  # no norm takes it away
    made = to_tokens(torch.cat([image, image + pixels * change]))[0]
    moved = (made[1:] - made[:1]).abs().amax(2)[:, -rows * columns :]  # [2 digits, patches]
    felt = moved > FELT * moved.amax(1, keepdim=True)
    return bool((felt | ~chosen).all())
