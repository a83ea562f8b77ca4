"""What a caller may give as an object: a network, images, a data set."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from assay.harness.config import ConfigError
from assay.harness.engine.samples import check_pixels
from assay.harness.modules import fingerprint
from assay.harness.network import Network
from assay.harness.types import Dataset, Sample

Module = tuple[nn.Module, Sequence[float], Sequence[float]]  # with the mean and deviation of its inputs' channels
Model = str | Network | Module
Labels = Sequence[int] | Tensor
Data = str | Dataset | Tensor | tuple[Tensor, Labels]

DATASET = ("classes", "split", "fingerprint", "__len__", "__getitem__")  # what a data set has


# Data


@dataclass(eq=False, repr=False)
class InMemory:
    """Images [N,3,H,W] in [0,1] with one class each, or none (-1), as a data set."""

    images: Tensor
    labels: Labels
    classes: Sequence[str]
    split: str = "given"

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        image, label = self.images[index], int(self.labels[index])
        height, width = image.shape[1:]
        return Sample(f"image{index:06d}", image, () if label < 0 else (label,), (height, width))

    def fingerprint(self) -> str:
        """Of pixels and labels."""
        return fingerprint({"images": self.images, "labels": torch.as_tensor(self.labels)})


def data_of(given: Data) -> str | Dataset:
    """A data set's name, or the data set itself; images, with classes or without, become one.

    Raises:
        ValueError, TypeError: shapes that do not fit, pixels outside [0,1], an object that is no data set.
    """
    if isinstance(given, str):
        return given
    if isinstance(given, Tensor):
        return _in_memory(given, [-1] * len(given))
    if isinstance(given, tuple) and len(given) == 2:
        return _in_memory(given[0], _checked(given[1]))
    if lacks := [name for name in DATASET if not hasattr(given, name)]:
        raise TypeError(
            f"a {type(given).__name__} is no data set (it has no {', '.join(lacks)}): give a config's name, (images, "
            "classes), images alone, or an object as in docs/how-to/own-dataset.md"
        )
    return given


def _checked(labels: Labels) -> Labels:
    """One class an image, if they are indices."""
    try:
        values = torch.as_tensor(labels)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"classes: {error}: give indices, whole numbers from 0") from error
    if values.ndim != 1:
        raise ConfigError(f"classes {list(values.shape)}: give one index an image, [N] (of one-hot rows: argmax(1))")
    if values.dtype == torch.bool or bool((values != values.long()).any()):
        raise ConfigError(f"classes are {values.dtype}, as {values[0].item()}: give indices, whole numbers from 0")
    if len(values) and int(values.min()) < 0:
        raise ConfigError("a class below 0: classes count from 0; images without classes are given alone")
    return values.long().tolist()


def _in_memory(images: Tensor, labels: Labels) -> InMemory:
    check_pixels(images)
    if images.ndim != 4 or images.shape[1] != 3 or len(images) != len(labels):
        raise ConfigError(f"images {list(images.shape)} and {len(labels)} classes: give [N,3,H,W] and N classes")
    classes = range(max(map(int, labels), default=-1) + 1)  # as many as the labels speak of
    return InMemory(images.detach().float(), labels, list(map(str, classes)))


# Networks


def network_of(given: Any) -> Network:
    """A `Network`: as it is; or, of (module, mean, std), one of a copy of the module.

    Raises:
        TypeError: a module without its normalisation, or something else. ConfigError: half precision.
    """
    if isinstance(given, Network):
        made = given
    elif isinstance(given, tuple) and len(given) == 3 and isinstance(given[0], nn.Module):
        made = Network(copy.deepcopy(given[0]), *given[1:])
    else:
        raise TypeError(
            f"model: a {type(given).__name__} is none: give a config's name, (module, mean, std) with what the inputs "
            "of the module are normalised by, or assay.Network(module, mean, std, activation='sigmoid')"
        )
    made.fingerprint = made.fingerprint or fingerprint(made.module.state_dict())
    return made


def home_of(network: Network) -> dict[str, str]:
    """The settings of a run that leaves the network where and what it is; none, if it has no parameters."""
    weights = next((each for each in network.module.parameters() if each.is_floating_point()), None)
    if weights is None:
        return {}
    if weights.dtype not in (torch.float32, torch.float64):
        raise ConfigError(f"model: its parameters are {weights.dtype}: give a network in float32 or float64")
    return {"precision": str(weights.dtype).removeprefix("torch."), "compute.device": str(weights.device)}
