"""What fits are made on: the training set of a run, and the key under which what a fit leaves is kept."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import groupby
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..config import ConfigError, RunConfig
from ..store import identity
from ..store.fits import Fit
from .rank import Rank
from .request import Images, Request


def check_training(config: RunConfig, name: str) -> None:
    """Raise ConfigError, for the method `name` that is fitted, unless the run has a training set."""
    if config.train is None:
        raise ConfigError(
            f"method {name} is fitted on a training set: dataset@train=NAME (python -m harness ls dataset); "
            "from Python train=NAME or train=(images, classes)"
        )


def training_images(request: Request) -> Images:
    """The run's training set; of a part of it the order is drawn, for files are often sorted by class."""
    train = request.config.train
    assert train is not None  # see check_training
    return Images.of(request, train, None if train.limit is None else request.config.seed)


def alone(fit: Fit, rank: Rank) -> AbstractContextManager[None]:
    """Of several processes that share locks, one makes a fit; without locks nobody waits."""
    return fit.alone() if rank.locked else nullcontext()


class Fitting(NamedTuple):
    """What a method is fitted on, as a cell's identity says it, and where what the fit leaves is kept and read to."""

    images: Images
    identity: dict[str, Any]
    fit: Fit
    device: torch.device

    @classmethod
    def of(cls, request: Request, images: Images, settings: dict[str, Any]) -> "Fitting":
        """settings: all that the fit depends on beside the images; what agrees in both shares it."""
        made = {"data": images.identity, "images": images.stop}
        return cls(images, made, Fit(request.root, identity.digest(settings | made)), request.device)


def batches(request: Request, images: Images, most: int) -> Iterator[Tensor]:
    """The images in order, [n,3,H,W] in [0,1] on the run's device: of one shape, at most so many."""
    loader: DataLoader[Any] = DataLoader(
        cast(Any, images.dataset),
        most,
        sampler=images.order[: images.stop].tolist(),
        num_workers=request.config.compute.workers,
        collate_fn=list,
    )
    for samples in loader:
        for _, alike in groupby(samples, lambda sample: sample.image.shape):
            yield torch.stack([sample.image for sample in alike]).to(request.device)
