"""Inputs perturbed in the order of a map, and what the network makes of them.

A map orders the pixels of the network's input once: `ranks` holds each pixel's place. Every perturbed input is then
one comparison and one choice: `over` where the place is below a count, `under` elsewhere. Deleting pixels is a canvas
over the image, inserting them the image over a canvas. The inputs of all pairs and counts go through the network
together, `forward.max_rows` at a time.

Canvases are normalised inputs: `mean` is 0 (the mean colour), `black` a raw 0, `blur` the blurred image, `noise`
uniform raw values, drawn for each image from its name.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from assay.harness.forward import ForwardPass
from assay.harness.frames import gaussian_blur
from assay.harness.heads import Targets
from assay.harness.network import Network
from assay.harness.seeds import SampleRng
from assay.harness.transfer import sent
from torch import Tensor

Order = Literal["morf", "lerf"]  # most or least relevant first
Read = Callable[[Network, Tensor, Tensor], Tensor]  # (network, logits [R,C], classes [R]) -> [R]


# Orders


def ranks(values: Tensor, order: Order, rng: SampleRng) -> Tensor:
    """Place of each value in the order of its map, from 0: int64 [P,h,w].

    The sign is no magnitude: `lerf` begins with the most negative value. Equal values come in a random order, the
    same for both orders: by index, a map of plateaus would be perturbed from the top.
    """
    shuffled = sent(rng.uniform(values.shape[1:], "pair"), values.device).flatten(1).argsort(dim=1, stable=True)
    sorted_values = values.flatten(1).gather(1, shuffled).argsort(dim=1, descending=order == "morf", stable=True)
    pixels = shuffled.gather(1, sorted_values)  # [P,n], first to last
    places = torch.arange(pixels.shape[1], device=pixels.device).expand_as(pixels)
    return torch.empty_like(pixels).scatter_(1, pixels, places).view(values.shape)


def region_ranks(values: Tensor, side_px: int, order: Order, rng: SampleRng) -> Tensor:
    """Place of each pixel's region in the order of the regions' means: int64 [P,h,w].

    Regions are the squares of a grid from the top left; those at the right and bottom borders may be cut.
    """
    means = F.avg_pool2d(values[:, None].double(), side_px, ceil_mode=True)[:, 0]
    places = ranks(means.float(), order, rng)  # rounded: the regions of a flat map are ties, cut ones too
    places = places.repeat_interleave(side_px, 1).repeat_interleave(side_px, 2)
    return places[:, : values.shape[1], : values.shape[2]]


def region_count(values: Tensor, side_px: int) -> int:
    """How many regions a map of [P,h,w] has."""
    return math.prod(-(-side // side_px) for side in values.shape[1:])


# Canvases


class Blur(NamedTuple):
    """A Gaussian window: its side (odd) and its standard deviation, in pixels."""

    kernel_px: int
    sigma_px: float

    def __str__(self) -> str:
        return f"{self.kernel_px}/{self.sigma_px:g}"

    def __call__(self, images: Tensor) -> Tensor:
        """Images [B,C,H,W] of the same shape; borders are replicated."""
        blurred = gaussian_blur(images.flatten(0, 1), self.sigma_px, half=self.kernel_px // 2)
        return blurred.view_as(images)


def _mean(forward: ForwardPass, blur: Blur, rng: SampleRng) -> Tensor:
    return torch.zeros_like(forward.inputs)


def _black(forward: ForwardPass, blur: Blur, rng: SampleRng) -> Tensor:
    return forward.network.normalise(torch.zeros_like(forward.images))


def _blur(forward: ForwardPass, blur: Blur, rng: SampleRng) -> Tensor:
    return forward.network.normalise(blur(forward.images))


def _noise(forward: ForwardPass, blur: Blur, rng: SampleRng) -> Tensor:
    return forward.network.normalise(
        sent(rng.uniform(forward.images.shape[1:]), forward.images.device).to(forward.images)
    )


CANVASES: Mapping[str, Callable[[ForwardPass, Blur, SampleRng], Tensor]] = {
    "mean": _mean,
    "black": _black,
    "blur": _blur,
    "noise": _noise,
}


# What is read


def _top1(network: Network, logits: Tensor, labels: Tensor) -> Tensor:
    return (network.scores(logits).argmax(1) == labels).to(logits)


def _accuracy(network: Network, logits: Tensor, labels: Tensor) -> Tensor:
    return network.predicts(logits).gather(1, labels[:, None])[:, 0].to(logits)


def _probability(network: Network, logits: Tensor, labels: Tensor) -> Tensor:
    return network.probabilities(logits).gather(1, labels[:, None])[:, 0]


def _score(network: Network, logits: Tensor, labels: Tensor) -> Tensor:
    return network.scores(logits).gather(1, labels[:, None])[:, 0]


READS: Mapping[str, Read] = {
    "accuracy": _accuracy,  # whether the network predicts the pair's class, as in the sample table's `predicted`
    "top1": _top1,  # whether it scores highest: the same for a softmax
    "probability": _probability,
    "score": _score,  # its logit
}
DECISIONS = ("accuracy", "top1")  # those that are 0 or 1


def read_clean(forward: ForwardPass, targets: Targets, read: str) -> Tensor:
    """The read of each pair's class on its own image, from the shared forward pass: [P]."""
    return READS[read](forward.network, forward.logits[targets.image], targets.label)


def read_along(
    forward: ForwardPass,
    targets: Targets,
    places: Tensor,
    counts: Sequence[int],
    over: Tensor,
    under: Tensor,
    read: str,
    blur: Blur | None = None,
) -> Tensor:
    """The read of each pair's class with `over` on the first counts[k] places and `under` on the others: [P,K].

    Args:
        places: int64 [P,h,w], see `ranks`.
        counts: K numbers of places.
        over, under: normalised inputs [B,3,h,w].
        blur: of the composed inputs, if any.
    """
    steps = sent(torch.tensor(counts), places.device)
    values = []
    with torch.no_grad():
        for rows in torch.arange(len(places) * len(steps), device=places.device).split(forward.max_rows):
            pair, step = rows // len(steps), rows % len(steps)
            image, chosen = targets.image[pair], places[pair] < steps[step, None, None]
            inputs = torch.where(chosen[:, None], over[image], under[image])
            logits = forward.network.infer(inputs if blur is None else blur(inputs))
            values.append(READS[read](forward.network, logits, targets.label[pair]))
    return torch.cat(values).view(len(places), len(steps))
