"""A model: a function that returns a `Network`."""

from collections import OrderedDict

import torch
from assay.harness.modules import fingerprint
from assay.harness.network import Network
from torch import nn


def colours(sharpness: float) -> Network:
    """How much of each pixel is redder, greener, bluer than the two other colours; averaged, times `sharpness`.

    Its weights are written down here; those of a trained network are read from a file (docs/how-to/own-model.md).
    """
    module = nn.Sequential(
        OrderedDict(
            contrast=nn.Conv2d(3, 3, 1, bias=False),
            relu=nn.ReLU(),
            blur=nn.AvgPool2d(5, 1, 2),  # where class-activation maps look
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            fc=nn.Linear(3, 3),
        )
    )
    weights = {
        "contrast.weight": (1.5 * torch.eye(3) - 0.5)[:, :, None, None],  # [3,3,1,1]
        "fc.weight": sharpness * torch.eye(3),
        "fc.bias": torch.zeros(3),
    }
    module.load_state_dict(weights)
    return Network(module, mean=[0.5] * 3, std=[0.25] * 3, activation="softmax", fingerprint=fingerprint(weights))
