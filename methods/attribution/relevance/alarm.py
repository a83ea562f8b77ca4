"""An alarm for relevance that outgrows what it started with.

Relevance is of the size of the logits. Where it is not, a denominator came near 0 without the relevance that it
divides: the map then shows where that happened, and not what the class was seen by.
"""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

DOUBTED, REFUSED = 1e3, 1e6  # times the size that relevance starts with


class Peak(NamedTuple):
    """The largest |R| of each sample [B] at a place."""

    place: str
    size: Tensor


def largest(relevance: Tensor) -> Tensor:
    """max |R| of each sample, [B]."""
    values = relevance.flatten(1)
    return torch.maximum(-values.amin(1), values.amax(1))  # seven times faster than aminmax along a dimension


def expected_size(outputs: Tensor, start: Tensor, is_gradient: bool) -> Tensor:
    """The size of relevance that is no alarm, [B]: Sum |start|, as if the largest of the outputs were explained.

    (A logit near 0 is a sum of large contributions that cancel: its relevance is of the size of other logits'.)

    is_gradient: the start is a gradient, and relevance begins as the output that it leads to.
    """
    outputs, start = outputs.flatten(1), start.flatten(1)
    total = start.abs().sum(1)
    total = torch.maximum(total, (start * outputs).sum(1).abs()) if is_gradient else total
    explained = (outputs * (start != 0)).abs().amax(1)
    growth = (outputs.abs().amax(1) / explained).nan_to_num(1, 1, 1)
    return total * growth.clamp(min=1)


def of_images(rows: Tensor, images: int) -> Tensor:
    """The largest of each image's rows, where rows are parts of images (cells, windows), image by image: [images].

    Rows that are anything else do not come here: rules refuse them (see `images`).
    """
    return rows.unflatten(0, (images, -1)).amax(1)


def check_size(
    peaks: Sequence[Peak], expected: Tensor, method: str, may_grow: bool, takes_one_sign: bool = True
) -> None:
    """Warn where relevance exceeds what it starts with 1e3 times; ValueError from 1e6 times.

    may_grow: the method's own arithmetic makes relevance grow, so warn only. takes_one_sign: whether rules of one sign
    know all operations of the network, for the advice.
    """
    sizes = torch.stack([peak.size for peak in peaks])
    above = [(sizes > limit * expected).any(1) for limit in (REFUSED, DOUBTED)]
    for limit, places in zip((REFUSED, DOUBTED), torch.stack(above).tolist(), strict=True):  # a device is asked once
        if any(places):
            place = peaks[places.index(True)].place
            _say(place, limit, method, limit == REFUSED and not may_grow, ADVICE[takes_one_sign])
            return


ADVICE = {
    True: "a rule of one sign (lrp_alpha1beta0), a larger rule.epsilon or stabiliser, residual=positive (rap, agf), or "
    "for excitation backprop a layer nearer to the logits",
    False: "a larger rule.epsilon or stabiliser (attnlrp, cp_lrp), or a method on the input gradient",
}


def _say(place: str, limit: float, method: str, is_refused: bool, advice: str) -> None:
    message = (
        f"{method}: relevance at {place} is more than {limit:.0e} times that of the logits, so a sum that nearly "
        f"cancels has divided it, and the map shows that sum: choose {advice}"
    )
    if is_refused:
        raise ValueError(message)
    warnings.warn(message, RuntimeWarning, stacklevel=2)
