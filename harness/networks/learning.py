"""Training by a recipe: epoch after epoch, a checkpoint after each, so that the same command goes on where it ended.

On the CPU a training that was killed and taken up has the weights of one that nobody disturbed, bit by bit: order,
views and dropout of an epoch follow from (seed, epoch), and the checkpoint holds weights and the optimizer's state.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..config import ConfigError
from ..network import Network
from ..seeds import derive_seed
from ..store.files import Lock
from ..types import Dataset
from .augmentation import seen, view_of
from .checkpoint import Epoch, Training, resume, same, write, write_weights
from .recipe import Augmentation, Recipe
from .train import initialise

CPU = torch.device("cpu")
EVALUATED = 256  # images of a batch that is not trained on
CHECKPOINT = ".checkpoint.safetensors"

Parameters = Iterator[nn.Parameter]
OPTIMIZERS: dict[str, Callable[[Parameters, Recipe], torch.optim.Optimizer]] = {
    "sgd": lambda parameters, recipe: torch.optim.SGD(
        parameters, recipe.learning_rate, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=recipe.nesterov
    ),
    "adam": lambda parameters, recipe: torch.optim.Adam(
        parameters, recipe.learning_rate, weight_decay=recipe.weight_decay
    ),
}


class Splits(NamedTuple):
    """Images with one label each."""

    train: Dataset
    validation: Dataset
    test: Dataset


@dataclass(frozen=True, eq=False)
class Course:
    """One training: a network by a recipe on data.

    about: what identifies it, for its files. device, workers (loader processes): where and how, no part of it.
    """

    name: str
    network: Network
    recipe: Recipe
    splits: Splits
    about: dict[str, Any]
    device: torch.device = CPU
    workers: int = 0


@dataclass(frozen=True)
class Views:
    """A set of images as it is seen in one epoch: [3,H,W] and the label of each."""

    dataset: Dataset
    kind: Augmentation
    seed: int
    epoch: int

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        sample = self.dataset[index]
        if len(sample.targets) != 1:
            raise ConfigError(f"{sample.id} has {len(sample.targets)} labels: a recipe trains on images with one each")
        return seen(sample.image, self.kind, view_of(self.kind, self.seed, self.epoch, index)), sample.targets[0]


def learn(course: Course, place: Path, restart: bool = False) -> Training:
    """Train, or go on with a training, until its last epoch; the weights are then at `place`, and the checkpoint gone.

    restart: replace what is there. A finished training is left as it is.

    Raises:
        ConfigError: files of another training are there, another process trains it, or the loss is not finite.
    """
    lock = Lock(place.with_suffix(".lock"))
    if not lock.acquire():
        raise ConfigError(f"{lock.holder()} trains {place}: wait for it, or give another --out")
    try:
        checkpoint = place.with_suffix(CHECKPOINT)
        if restart:
            place.unlink(missing_ok=True)
            checkpoint.unlink(missing_ok=True)
        if place.exists():
            return same(place, course.about)
        return _trained(course, place, checkpoint)
    finally:
        lock.release()


def _trained(course: Course, place: Path, checkpoint: Path) -> Training:
    recipe, module = course.recipe, course.network.module
    prepare(course)
    course.network.to(course.device)
    optimizer = OPTIMIZERS[recipe.optimizer](module.parameters(), recipe)
    history: list[Epoch] = []
    if checkpoint.exists():
        history = same(checkpoint, course.about).history
        resume(checkpoint, module, optimizer)
    for epoch in range(len(history), recipe.epochs):
        if _is_good_enough(history, recipe):
            break
        history.append(_epoch(course, optimizer, epoch))
        write(checkpoint, module, optimizer, Training(course.about, history, {}))
    reached = {name: accuracy(course, images) for name, images in course.splits._asdict().items()}
    made = Training(course.about, history, reached)
    write_weights(place, module, made)
    checkpoint.unlink()
    return made


def _is_good_enough(history: list[Epoch], recipe: Recipe) -> bool:
    return bool(history) and recipe.stop_at is not None and history[-1].validation_accuracy >= recipe.stop_at


# The network


def prepare(course: Course) -> None:
    """New parameters by the recipe's seed: all of them, or the last layer where weights are the start.

    Raises:
        ConfigError: the network has not as many outputs as the data have classes.
    """
    module, recipe = course.network.module, course.recipe
    classes = len(course.splits.train.classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(recipe.seed, "parameters"))
        if recipe.start is None:
            initialise(module)
        else:
            _replace_last_layer(course.network, classes)
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    image = course.splits.train[0].image[None]
    module.eval()
    with torch.no_grad():
        outputs = module(course.network.normalise(image)).shape[1]
    if outputs != classes:
        raise ConfigError(
            f"{course.name}: the network has {outputs} outputs and the training set {classes} classes: "
            f"model.classes={classes}"
        )


def _replace_last_layer(network: Network, classes: int) -> None:
    """A new linear layer in place of the last one on the way to the logits, and of auxiliary ones of its size, which
    training alone reads (Inception's): a network of so many classes has them alike, and reads no other file."""
    end = network.affine_end
    if (ending := network.ending) is None or (end is not None and end.joint is not None):
        raise ConfigError("start: the network ends in no one linear layer that could be replaced: start=null")
    module, size = network.module, ending.linear.out_features
    heads = {name: each for name, each in module.named_modules() if isinstance(each, nn.Linear)}
    for name, each in heads.items():
        if each is ending.linear or (each.out_features == size and "aux" in name.lower()):
            module.set_submodule(name, nn.Linear(each.in_features, classes).to(each.weight))


# An epoch


def _epoch(course: Course, optimizer: torch.optim.Optimizer, epoch: int) -> Epoch:
    """One pass over the training set, and the accuracy after it."""
    start, recipe = time.perf_counter(), course.recipe
    for group in optimizer.param_groups:
        group["lr"] = recipe.rate(epoch)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(recipe.seed, "epoch", epoch))  # of dropout
        loss, right = _pass(course, optimizer, epoch)
    validation = accuracy(course, course.splits.validation)
    return Epoch(epoch + 1, recipe.rate(epoch), loss, right, validation, time.perf_counter() - start)


def _pass(course: Course, optimizer: torch.optim.Optimizer, epoch: int) -> tuple[float, float]:
    """Mean loss, and the share of views that were classified right as they came by."""
    recipe, images = course.recipe, course.splits.train
    random = torch.Generator().manual_seed(derive_seed(recipe.seed, "order", epoch))
    order = torch.randperm(len(images), generator=random).split(recipe.batch_size)
    views = Views(images, recipe.augmentation, recipe.seed, epoch)
    course.network.module.train()
    total, right, count = 0.0, 0, 0
    title = f"{course.name} {epoch + 1}/{recipe.epochs}"
    for inputs, labels in tqdm(_batches(course, views, order), title, len(order), unit="step"):
        logits = _logits(course.network, inputs)
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total, count = total + loss.item() * len(labels), count + len(labels)
        right += int((logits.argmax(1) == labels).sum())
        _check_finite(total, recipe, epoch)
    return total / count, right / count


def _check_finite(loss: float, recipe: Recipe, epoch: int) -> None:
    if not math.isfinite(loss):
        raise ConfigError(
            f"the loss is {loss} in epoch {epoch + 1}: recipe.learning_rate={recipe.learning_rate} may be too high"
        )


def _logits(network: Network, images: Tensor) -> Tensor:
    """[B,C]; of a network with further heads for its training (Inception's), those of the main one."""
    outputs: Any = network.module(network.normalise(images))
    return cast(Tensor, outputs[0] if isinstance(outputs, tuple) else outputs)


def _batches(course: Course, views: Views, order: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and labels on the device."""
    loader: DataLoader[Any] = DataLoader(
        cast(Any, views), batch_sampler=cast(Any, [each.tolist() for each in order]), num_workers=course.workers
    )
    for images, labels in loader:
        yield images.to(course.device), labels.to(course.device)


@torch.no_grad()
def accuracy(course: Course, images: Dataset) -> float:
    """Share of images that are classified right; leaves the network in evaluation mode."""
    course.network.module.eval()
    as_they_are = Views(images, Augmentation(), 0, 0)
    right = 0
    for inputs, labels in _batches(course, as_they_are, torch.arange(len(images)).split(EVALUATED)):
        right += int((_logits(course.network, inputs).argmax(1) == labels).sum())
    return right / len(images)
