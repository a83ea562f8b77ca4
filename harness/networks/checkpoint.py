"""A training under way, on disk without pickle: weights, the optimizer's tensors and what has happened so far."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..config import ConfigError
from ..store.files import write_atomically

NOTES = "assay.training"  # key of the file's metadata
WEIGHTS, OPTIMIZER = "weights.", "optimizer."  # what names of tensors begin with


@dataclass(frozen=True)
class Epoch:
    """One pass over the training set: mean loss, accuracy on the views as they came by, and on the validation set."""

    epoch: int  # from 1
    learning_rate: float
    loss: float
    train_accuracy: float
    validation_accuracy: float
    seconds: float


class Training(NamedTuple):
    """A training, as its files tell it.

    about: what decides the weights, so that a file of another training is not taken for this one's. reached: accuracy
    on each set of images at the end; empty before.
    """

    about: dict[str, Any]
    history: list[Epoch]
    reached: dict[str, float]


def write(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, training: Training) -> None:
    """Write a checkpoint, whole or not at all."""
    tensors = {f"{WEIGHTS}{name}": value for name, value in module.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"{OPTIMIZER}{number}.{name}": value for name, value in state.items() if value is not None}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, _encoded(tensors, training))


def write_weights(path: Path, module: nn.Module, training: Training) -> None:
    """Write the weights of a finished training alone, under their own names: what `model.weights` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, _encoded(module.state_dict(), training))


def _encoded(tensors: Mapping[str, Tensor], training: Training) -> bytes:
    notes = {**training._asdict(), "history": [asdict(each) for each in training.history]}
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    return save(plain, metadata={NOTES: json.dumps(notes)})


def same(path: Path, about: Mapping[str, Any]) -> Training:
    """What a checkpoint or a file of weights says of its training, which must be this one.

    Raises:
        ConfigError: it is of another training, or no such file.
    """
    found = _notes(path)
    if names := [name for name in {**about, **found.about} if about.get(name) != found.about.get(name)]:
        told = ", ".join(f"{name}={found.about.get(name)} there and {about.get(name)} here" for name in names[:3])
        raise ConfigError(f"{path} is of another training: {told}. --restart replaces it; or give another --out")
    return found


def _notes(path: Path) -> Training:
    try:
        with safe_open(path, "pt") as file:
            notes = json.loads((file.metadata() or {})[NOTES])
        return Training(notes["about"], [Epoch(**each) for each in notes["history"]], notes["reached"])
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"{path} is no file of a training ({error}): --restart, or give another --out") from error


def resume(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a checkpoint's tensors into the network and its optimizer, bit by bit."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    weights = {name.removeprefix(WEIGHTS): value for name, value in tensors.items() if name.startswith(WEIGHTS)}
    module.load_state_dict(weights)
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(OPTIMIZER):
            number, _, name = key.removeprefix(OPTIMIZER).partition(".")
            states.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
