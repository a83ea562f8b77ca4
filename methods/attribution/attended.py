"""The recorded pass of a network whose layers' attentions may be multiplied, and what its logits read of the tokens."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from assay.harness.forward import ForwardPass
from assay.harness.layouts import tokens_to_map
from assay.harness.network import Network
from assay.harness.patches import digits
from torch import Tensor
from torch.autograd.graph import GradientEdge

from .relevance.engine import Tape
from .relevance.recording import Attention
from .relevance.table import Constancy

ORDER = (
    "class and other tokens must come first; with tokens in another order attnlrp, cp_lrp and methods on the input "
    "gradient explain the network"
)
_ORDERED = WeakKeyDictionary[Network, set[torch.Size]]()  # by which images a network's patches were seen in order
ROUNDINGS = 64  # of its coarsest precision, by how many a row may exceed 1


def attended(forward: ForwardPass, method: str, constants: Constancy = "apart", layers: Sequence[str] = ()) -> Tape:
    """The recorded pass of a network in which all tokens of an image attend to all of them, layer after layer.

    constants, layers: as in `Tape.record`; `apart` where nothing but gradients is asked for.

    Raises:
        ValueError: there is no attention, or another one.
    """
    tape = Tape.record(forward, layers, batch_norm=constants)
    found = next((why for why in map(lambda check: check(tape), CHECKS) if why is not None), None)
    if found is None:
        return tape
    raise ValueError(
        f"{method} multiplies attention between all tokens of an image, [{len(tape.inputs)}, heads, tokens, tokens] in "
        f"each layer, and this network has {found}: attnlrp, cp_lrp, gradcam and methods on the input gradient explain "
        "it"
    )


def _other_shapes(tape: Tape) -> str | None:
    shapes = list(dict.fromkeys(tuple(each.shape) for each in tape.attentions))
    if len(shapes) == 1 and len(shapes[0]) == 4 and shapes[0][0] == len(tape.inputs) and shapes[0][2] == shapes[0][3]:
        return None
    return f"attention of shapes {', '.join(map(str, map(list, shapes)))}" if shapes else "no attention"


def _unread(tape: Tape) -> str | None:
    if not tape.unread:
        return None
    return (
        f"a softmax {list(tape.unread[0])} that no product reads as it is: what comes between (a factor, a head "
        "mask, a layer over heads) would be left out"
    )


def _parallel(tape: Tape) -> str | None:
    """Attentions that do not follow one another."""
    if len({each.number for each in tape.attended}) < len(tape.attended):
        return "a softmax that several products read in several forms, which would count as several layers"
    for number, (earlier, later) in enumerate(pairwise(tape.attentions), 1):
        if not is_before(earlier, later):
            return (
                f"attentions beside one another: the one called as number {number + 1} reads nothing of number "
                f"{number} (two towers, or two in one block)"
            )
    return None


def _not_of_rows(tape: Tape) -> str | None:
    """Attentions whose rows are no shares of the keys: a softmax over queries, or transposed."""
    for number, each in enumerate(tape.attended, 1):
        rows = each.weights.detach().sum(-1)
        if (rows > 1 + ROUNDINGS * each.precision).any() or not _are_keys_last(_of_first(tape, each)):
            return f"attention (number {number}) that is transposed or a softmax over queries: its rows share out no 1"
    return None


def _of_first(tape: Tape, attention: Attention) -> Attention:
    """Of the first image, as another is made alike; of all where they do not come first in the values."""
    if tape.images_of(attention.values) != -attention.values.ndim:
        return attention
    return attention._replace(weights=attention.weights[:1], values=attention.values[:1])


def _are_keys_last(attention: Attention) -> bool:
    """Whether the last column weighs the same values in every row."""
    values = attention.values.detach().requires_grad_()
    first, last = (_alone(attention, row, values, [values])[0] for row in (0, -1))
    return torch.equal(first != 0, last != 0)


def _alone(
    attention: Attention, row: int, values: Tensor, wrt: Sequence[Any], columns: int | Tensor = -1
) -> Sequence[Any]:
    """The gradient of a product in which some columns of one row, in all heads, are all that weighs the values."""
    weights = torch.zeros_like(attention.weights)
    weights[..., row, columns] = 1
    output = attention.product(weights, values)
    return torch.autograd.grad(output, wrt, irregular(output), retain_graph=True, allow_unused=True)


def _of_channels(tape: Tape) -> str | None:
    shapes = [list(each.weights.shape) for each in tape.attended if _is_of_channels(_of_first(tape, each))]
    return f"attention {shapes[0]} between channels, not tokens" if shapes else None


CHECKS: tuple[Callable[[Tape], str | None], ...] = (_other_shapes, _unread, _parallel, _not_of_rows, _of_channels)


def _is_of_channels(attention: Attention) -> bool:
    """Whether what the last key alone weighs comes from several places of an image, as one channel of all tokens does.

    Places: of the outputs of the layers that the values are made by, whatever their order of dimensions since.
    """
    nodes = [node for node in _before(attention.values.grad_fn, lambda each: not _is_layer(each)) if _is_layer(node)]
    if not nodes:
        return False
    found = _alone(attention, -1, attention.values, [GradientEdge(node, 0) for node in nodes])
    return any(
        _places(gradient, node.operation.affine.is_dense) > len(attention.weights)
        for node, gradient in zip(nodes, found, strict=True)
        if gradient is not None
    )


def _places(gradient: Tensor, is_dense: bool) -> int:
    """How many have a gradient in some channel: [...,K], or of a convolution [B,K,...]."""
    return int((gradient != 0).any(-1 if is_dense else 1).sum())


def _is_layer(node: Any) -> bool:
    return getattr(node, "operation", None) is not None and node.operation.affine is not None


def is_before(earlier: Tensor, later: Tensor) -> bool:
    """Whether a value is made of another one."""
    return any(node is not later.grad_fn and node is earlier.grad_fn for node in _before(later.grad_fn, lambda _: True))


def _before(start: Any, is_passed: Callable[[Any], bool]) -> Iterator[Any]:
    """A node of the graph and those that it depends on, nearest first."""
    waiting, known = deque([start]), set[Any]()
    while waiting:
        node = waiting.popleft()
        if node is None or node in known:
            continue
        known.add(node)
        yield node
        waiting += [each for each, _ in node.next_functions] if is_passed(node) else []


def irregular(values: Tensor) -> Tensor:
    """cos 1, cos 2, ... in the values' shape: no sum of them with whole factors is 0, as 1 - 1 is of logits (-z, z)."""
    numbers = torch.arange(1, values.numel() + 1, dtype=torch.float64, device="cpu")
    return numbers.cos().view(values.shape).to(values)


def read_tokens(tape: Tape) -> Tensor:
    """How much the logits read of each token behind the last attention, [N] with sum 1.

    Of the class token all, or of the tokens that are pooled equal parts.

    Raises:
        ValueError: of none; or of some of the patches and not of others: the grid is not where it is looked for.
    """
    start = irregular(tape.logits[0]).expand_as(tape.logits)
    gradient = tape.pull_to_attentions(None, start, last=True)[-1]
    read = (gradient != 0).any(3).any(1).any(0)
    if not read.any():
        raise ValueError(
            "the logits have no gradient at the last attention: is the network's last layer 0, untrained, or does it "
            "end in a softmax or sigmoid that is 0 or 1 to the last digit?"
        )
    _check_grid(read, tape)
    return read.to(tape.logits) / read.sum()


def _check_grid(read: Tensor, tape: Tape) -> None:
    rows, columns = tokens_to_map(read[None, :, None], tape.inputs[:1]).shape[2:]
    grid = read[len(read) - rows * columns :]
    if grid.any() and not grid.all():
        places = (read.nonzero()[:, 0]).tolist()
        raise ValueError(
            f"the logits read {'token' if len(places) == 1 else 'tokens'} {', '.join(map(str, places[:8]))} of "
            f"{len(read)} (from 0), which lie among the last {len(grid)}, read as the image's patches: {ORDER}"
        )
    known = _ORDERED.setdefault(tape.network, set())
    if (size := tape.inputs.shape[1:]) not in known:
        _check_order(tape, len(read), rows, columns)
        known.add(size)


def _check_order(tape: Tape, tokens: int, rows: int, columns: int) -> None:
    """Tokens whose numbers among the patches share a binary digit are looked at together, see `harness.patches`."""
    first, patches = _of_first(tape, tape.attended[0]), rows * columns
    for chosen in digits(patches):
        own = torch.arange(tokens - patches, tokens)[chosen]
        (gradient,) = _alone(first, -1, first.values, [tape.inputs], own.to(first.weights.device))
        felt = torch.zeros_like(tape.inputs[:1]) if gradient is None else gradient
        cells = F.adaptive_max_pool2d(felt.abs().amax((0, 1), keepdim=True), (rows, columns)).flatten().cpu()
        if (unfelt := (cells[chosen] == 0).nonzero()).numel():
            raise ValueError(
                f"token {int(own[unfelt[0, 0]])} of {tokens} (from 0) feels nothing of its cell of the image where the "
                f"last {patches} are read as its patches, row by row: {ORDER}"
            )
