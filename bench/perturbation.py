"""Perturbation curves: floor (the bare forwards of all steps), ours, Quantus' pixel flipping.

Quantus orders the values of all channels. A map without channels is repeated over three, so that every third of its
steps has flipped whole pixels and is one of ours (asserted); and it always goes on to the last pixel.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from assay.harness.network import Network
from assay.harness.networks.loading import torchvision_network
from assay.harness.types import Batch
from assay.metrics.perturbation import Insertion, Perturbation
from quantus.metrics.faithfulness.pixel_flipping import PixelFlipping
from torch import Tensor

from bench.floors.perturbation import bare, measured
from bench.floors.subject import random_batch
from bench.timing import race

ROWS = 64  # images through the network at once
PROBABILITY: dict[str, Any] = {"canvas": "mean", "read": "probability"}
FLIPPING: dict[str, Any] = {"normalise": False, "perturb_baseline": 0.0, "disable_warnings": True}


def tasks() -> Iterator[pd.DataFrame]:
    """The same masks to the last pixel; and the protocols' settings, which stop earlier."""
    network = torchvision_network("resnet18", weights=None)
    yield whole_image(network, 8, 64, 64)
    yield protocols(network, 2, 224, 512)


def whole_image(network: Network, count: int, side: int, steps: int) -> pd.DataFrame:
    """Steps that together cover the image."""
    batch, maps = random_batch(count, side), torch.randn(count, side, side)  # maps without ties
    pixels = side * side // steps
    perturbation = Perturbation("morf", steps, pixels, "px", **PROBABILITY)
    insertion = Insertion("morf", steps, pixels, "px", **PROBABILITY)
    ours, theirs = measured(perturbation, network, batch, maps, ROWS), flipped(network, batch, maps, pixels)
    np.testing.assert_allclose(ours()["curve"][:, 1:], theirs()[:, 2::3], atol=1e-5)
    return race(
        f"{steps} steps to the whole image, {count} images of {side} px, resnet18",
        {
            f"floor: {steps}F": bare(network, batch, steps, ROWS),
            "assay perturbation": ours,
            "assay insertion": measured(insertion, network, batch, maps, ROWS),
            "quantus PixelFlipping": theirs,
        },
    )


def protocols(network: Network, count: int, side: int, pixels: int) -> pd.DataFrame:
    """The first fifth of the pixels in 20 steps, and 40 steps of 100 px: where the protocols stop and Quantus cannot.

    Quantus' steps are the nearest to 1 % that divide the image; its first 60 are our 20 whole ones (asserted).
    """
    batch, maps = random_batch(count, side), torch.randn(count, side, side)  # maps without ties
    perturbation = Perturbation("morf", 20, pixels, "px", **PROBABILITY)
    ours, theirs = measured(perturbation, network, batch, maps, ROWS), flipped(network, batch, maps, pixels)
    np.testing.assert_allclose(ours()["curve"][:, 1:], theirs()[:, 2:60:3], atol=1e-5)
    return race(
        f"protocols' settings, {count} images of {side} px, resnet18",
        {
            "floor: 20F": bare(network, batch, 20, ROWS),
            f"assay perturbation 20 x {pixels} px": ours,
            "assay insertion 20 x 1 %": measured(Insertion(**PROBABILITY), network, batch, maps, ROWS),
            "assay perturbation 40 x 100 px": measured(Perturbation(**PROBABILITY), network, batch, maps, ROWS),
            f"quantus PixelFlipping {pixels} px": theirs,
        },
    )


def flipped(network: Network, batch: Batch, maps: Tensor, pixels: int) -> Callable[[], np.ndarray]:
    """Quantus' curves [B,3*steps]."""
    flipping = PixelFlipping(pixels, **FLIPPING)
    inputs, labels = network.normalise(batch.images).numpy(), batch.targets.label.numpy()
    return lambda: np.array(flipping(network.module, inputs, labels, maps[:, None].numpy(), device="cpu"))
