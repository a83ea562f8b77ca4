"""Images of many classes: those that few images of a batch still ask for are explained on these images alone.

A method with `Needs.by_rounds` walks back from the batch's logits once a round of pairs that hold each image at most
once, and each round costs a backward pass of the whole batch. Where fewer than a third of its images have a class left,
as of photographs with four kinds of objects on average and eleven at most, passes of those images alone cost less.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from ..forward import ForwardPass
from ..heads import Targets
from ..seeds import Named, SampleRng
from ..transfer import sent
from ..types import Attribution, Attributor, Needs

SHARE = 1 / 3  # of the batch: so many images twice forward and once back (DeepLIFT's passes) cost what all cost back


def attribute(
    method: Attributor, needs: Needs, forward: ForwardPass, targets: Targets, names: Named, seed: int, stream: str
) -> Attribution:
    """The method's maps [P,h,w] of the pairs, in their order.

    needs: the method's, before it was fitted. names: of the images and pairs; with `seed` and `stream` they decide what
    the method draws.
    """
    shared, rest = split(targets, len(forward.images)) if needs.by_rounds else (targets.rows, targets.rows[:0])
    if not len(rest):
        return method.attribute(forward, targets, SampleRng.of(seed, stream, names))
    images, pairs = names.image_ids, names.sample_ids
    rng = SampleRng(seed, stream, images, _picked(pairs, shared))
    made = [method.attribute(forward, targets.chosen(shared), rng)]
    for start in range(0, len(rest), len(images)):
        part = rest[start : start + len(images)]
        own = targets.chosen(part)
        rng = SampleRng(seed, stream, _picked(images, own.rows), _picked(pairs, part))
        made.append(method.attribute(_alone(needs, forward, own), own.of_rows(), rng))
    return _joined(made, np.concatenate([shared, rest]))


def split(targets: Targets, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the pairs whose rounds hold a third of so many images, the first round's always; and of all others."""
    held = np.bincount(targets.ranks)  # never more than in the round before
    is_shared = targets.ranks < max(1, np.count_nonzero(held >= SHARE * images))
    return np.flatnonzero(is_shared), np.flatnonzero(~is_shared)


def _picked(names: Sequence[str], numbers: np.ndarray) -> list[str]:
    return [names[number] for number in numbers]


def _alone(needs: Needs, forward: ForwardPass, targets: Targets) -> ForwardPass:
    """A pass of each pair's image, as the method needs it."""
    return ForwardPass(
        forward.network,
        forward.images[targets.image],
        needs.layers,
        needs.input_graph,
        forward.max_rows,
        needs.penultimate,
    )


def _joined(made: Sequence[Attribution], order: np.ndarray) -> Attribution:
    """Maps of pairs with these numbers, in the pairs' order."""
    back = sent(torch.from_numpy(order.argsort()), made[0].values.device)
    values = torch.cat([each.values for each in made])[back]
    weights = [each.coefficients for each in made if each.coefficients is not None]
    return replace(made[0], values=values, coefficients=torch.cat(weights)[back] if weights else None)
