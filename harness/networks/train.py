"""Training of small multi-label networks on the CPU: seeded, one process, minutes.

Every training image is drawn once, kept in 8 bits and turned and flipped at random each epoch, so labels
must not depend on orientation.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from sklearn.metrics import average_precision_score
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from ..config import ConfigError
from ..networks import scenes as small_networks
from ..types import Dataset, Sample

WEIGHT_DECAY = 0.02


class Normalisation(NamedTuple):
    """Mean and standard deviation of each channel that the network expects to be taken out."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 [B,3,H,W] -> normalised float32, channels last (twice as fast on the CPU)."""
        mean, std = torch.tensor(self.mean).view(-1, 1, 1), torch.tensor(self.std).view(-1, 1, 1)
        return ((pixels.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


class Labelled(NamedTuple):
    """N images, uint8 [N,3,H,W], and which of C classes each shows, float32 [N,C] of zeros and ones."""

    pixels: Tensor
    labels: Tensor


class Recipe(NamedTuple):
    """How a network is trained; with the training set, everything that decides its weights (on one machine)."""

    normalisation: Normalisation
    epochs: int
    batch_size: int
    learning_rate: float  # highest of the one-cycle schedule
    seed: int
    threads: int = 2  # which round sums apart


class TrainingReport(NamedTuple):
    """mean_ap: over classes, validation set. accuracy: arg-max over all logits, of its images with one label."""

    mean_ap: float
    accuracy: float
    losses: tuple[float, ...]  # mean of each epoch
    seconds: float


def _in_memory(dataset: Dataset, title: str) -> Labelled:
    """Every sample of the dataset, drawn once."""

    def row(sample: Sample) -> tuple[Tensor, Tensor]:
        label = torch.zeros(len(dataset.classes))
        label[list(sample.targets)] = 1
        return (sample.image * 255).round().to(torch.uint8), label

    rows = [row(dataset[index]) for index in tqdm(range(len(dataset)), desc=f"draw {title}", unit="img")]
    pixels, labels = zip(*rows, strict=True)
    return Labelled(torch.stack(pixels), torch.stack(labels))


def initialise(network: nn.Module) -> None:
    """New parameters from torch's global generator; He initialisation of convolutions, which ReLUs follow.

    Raises:
        ConfigError: some parameters belong to modules that cannot draw them anew.
    """
    _check_drawn(network)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif hasattr(module, "reset_parameters"):
            cast(Any, module).reset_parameters()


def _check_drawn(network: nn.Module) -> None:
    owners = {name: network.get_submodule(name.rpartition(".")[0]) for name, _ in network.named_parameters()}
    if left := [name for name, owner in owners.items() if not hasattr(owner, "reset_parameters")]:
        shown = ", ".join(left[:3]) + (f" and {len(left) - 3} more" if len(left) > 3 else "")
        raise ConfigError(
            f"{type(network).__name__}: {shown}: no new values can be drawn: {type(owners[left[0]]).__name__} has no "
            "reset_parameters(); write one, or begin with weights: recipe.start=FILE"
        )


def _turned(pixels: Tensor, random: torch.Generator) -> Tensor:
    """The whole batch [B,3,S,S] in one of its eight orientations."""
    turns, flip = torch.randint(4, (1,), generator=random).item(), torch.randint(2, (1,), generator=random).item()
    turned = torch.rot90(pixels, int(turns), (2, 3))
    return turned.flip(3) if flip else turned


def _batches(data: Labelled, batch_size: int, random: torch.Generator) -> Iterator[Labelled]:
    """One epoch in random order, without the last incomplete batch."""
    order = torch.randperm(len(data.pixels), generator=random)
    for rows in order[: len(order) // batch_size * batch_size].split(batch_size):
        yield Labelled(_turned(data.pixels[rows], random), data.labels[rows])


def predict(network: nn.Module, pixels: Tensor, normalisation: Normalisation, batch_size: int = 256) -> Tensor:
    """Logits [N,C] of uint8 images [N,3,H,W]; leaves the network in evaluation mode."""
    network.eval()
    with torch.no_grad():
        return torch.cat([network(normalisation(batch)) for batch in pixels.split(batch_size)])


def mean_average_precision(logits: Tensor, labels: Tensor) -> float:
    """Mean over the classes that occur of the average precision; logits and labels [N,C]."""
    occur = labels.any(0)
    return float(average_precision_score(labels[:, occur].numpy(), logits[:, occur].numpy(), average="macro"))


def single_label_accuracy(logits: Tensor, labels: Tensor) -> float:
    """How often the highest logit is the label, of the rows [N,C] with one label; NaN if there are none."""
    single = labels.sum(1) == 1
    return (logits[single].argmax(1) == labels[single].argmax(1)).float().mean().item()


def _loss(network: nn.Module, batch: Labelled, normalisation: Normalisation) -> Tensor:
    """Mean binary cross-entropy; the network's own arithmetic in bfloat16, twice as fast and as accurate.

    Attention in plain products: backwards the fused kernel takes fifteen times as long in bfloat16.
    """
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        logits = network(normalisation(batch.pixels))
    return F.binary_cross_entropy_with_logits(logits.float(), batch.labels)


def _fit(network: nn.Module, data: Labelled, recipe: Recipe) -> tuple[float, ...]:
    """AdamW under a one-cycle schedule; the mean loss of each epoch."""
    steps = recipe.epochs * (len(data.pixels) // recipe.batch_size)
    optimizer = torch.optim.AdamW(network.parameters(), recipe.learning_rate, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps)
    random = torch.Generator().manual_seed(recipe.seed)
    losses = []
    network.train()
    with tqdm(total=steps, desc=f"train {type(network).__name__}", unit="step") as bar:
        for _ in range(recipe.epochs):
            history = []
            for batch in _batches(data, recipe.batch_size, random):
                loss = _loss(network, batch, recipe.normalisation)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                history.append(loss.item())
                bar.update()
            losses.append(float(np.mean(history)))
            bar.set_postfix(loss=f"{losses[-1]:.4f}")
    return tuple(losses)


def train_network(
    network: nn.Module,
    train_set: Dataset,
    val_set: Dataset,
    *,
    normalisation: Normalisation,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> TrainingReport:
    """Train the network in place, from new parameters drawn with the seed; it is left in evaluation mode."""
    if not 1 <= batch_size <= len(train_set):
        raise ValueError(f"batch_size={batch_size} does not fit the training set: choose 1 to {len(train_set)}")
    start = time.perf_counter()
    train, val = _in_memory(train_set, "training images"), _in_memory(val_set, "validation images")
    recipe = Recipe(normalisation, epochs, batch_size, learning_rate, seed)
    with torch.random.fork_rng(devices=[]):  # initialisation and dropout draw from the global generator
        torch.manual_seed(seed)
        initialise(network)
        losses = _fit(network.to(memory_format=torch.channels_last), train, recipe)
    network.to(memory_format=torch.contiguous_format)
    logits = predict(network, val.pixels, normalisation)
    seconds = time.perf_counter() - start
    accuracy = single_label_accuracy(logits, val.labels)
    return TrainingReport(mean_average_precision(logits, val.labels), accuracy, losses, seconds)


def save_weights(network: nn.Module, path: Path) -> str:
    """Write the network's state as float16 safetensors, whole or not at all; print and return the sha256."""
    state = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in network.state_dict().items()
    }
    content = save(state)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)
    checksum = hashlib.sha256(content).hexdigest()
    print(f"{path}: {len(content)} bytes, sha256 {checksum}")
    return checksum


# What the shipped weights were trained with.
SCENES = Normalisation(small_networks.MEAN, small_networks.STD)
RECIPES: dict[str, tuple[Callable[[], nn.Module], Recipe]] = {
    "scenes_vgg": (small_networks.ScenesVGG, Recipe(SCENES, 16, 32, 5e-3, 0)),
    "scenes_resnet": (small_networks.ScenesResNet, Recipe(SCENES, 10, 64, 2e-2, 0)),
    "scenes_vit": (small_networks.ScenesViT, Recipe(SCENES, 8, 32, 2e-3, 0, threads=1)),
}


@contextmanager
def threads(count: int) -> Iterator[None]:
    """That many intra-op threads within the block, and afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train_embedded(name: str, train_set: Dataset, val_set: Dataset, folder: Path) -> TrainingReport:
    """Train an embedded network by its recipe and write `<folder>/<name>.safetensors`."""
    make, recipe = RECIPES[name]
    network, settings = make(), recipe._asdict()
    with threads(settings.pop("threads")):
        report = train_network(network, train_set, val_set, **settings)
    print(
        f"{name}: validation mean average precision {report.mean_ap:.4f}, single-object accuracy "
        f"{report.accuracy:.4f}, {report.seconds:.0f} s"
    )
    save_weights(network, folder / f"{name}.safetensors")
    return report
