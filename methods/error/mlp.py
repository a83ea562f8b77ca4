"""A small multilayer perceptron that says how likely a prediction is wrong: trained on features, kept as tensors."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from assay.harness.detection import State
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits


@dataclass(frozen=True)
class Training:
    """How it is trained: Adam, binary cross-entropy without class weights; dropout after each of the hidden layers."""

    hidden: Sequence[int] = (200, 200)
    dropout: Sequence[float] = (0.5, 0.5)
    epochs: int = 10
    batch_size: int = 50
    learning_rate: float = 1e-3


def fit_mlp(inputs: Tensor, wrong: Tensor, training: Training, seed: int) -> State:
    """Train on inputs [N,I] and labels wrong [N] (bool); the last epoch counts.

    Inputs are scaled by (x - mean) / (max - min) of each column. The same seed gives the same bits, and the global
    random state stays as it was.

    Returns:
        input_mean, input_range: [I]. weight0, bias0, weight1, ...: each layer's.
    """
    mean, extent = inputs.mean(0), inputs.amax(0) - inputs.amin(0)
    state = {"input_mean": mean, "input_range": torch.where(extent > 0, extent, 1)}
    labels = wrong.to(inputs)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs as well
        network = _network(inputs.shape[1], training)
        optimizer = torch.optim.Adam(network.parameters(), training.learning_rate)
        for _ in range(training.epochs):
            for rows in torch.randperm(len(inputs)).split(training.batch_size):
                odds = network(_scaled(inputs[rows], state))[:, 0]  # scaling all at once would hold them twice
                loss = binary_cross_entropy_with_logits(odds, labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    layers = [layer for layer in network if isinstance(layer, nn.Linear)]
    for number, layer in enumerate(layers):
        state |= {f"weight{number}": layer.weight.detach(), f"bias{number}": layer.bias.detach()}
    return state


def score_mlp(inputs: Tensor, state: State) -> Tensor:
    """Probability that a prediction is wrong: inputs [N,I] -> float64 [N]."""
    values = _scaled(inputs, state)
    last = sum(name.startswith("weight") for name in state) - 1
    for number in range(last):
        values = (values @ state[f"weight{number}"].T + state[f"bias{number}"]).relu()
    odds = values @ state[f"weight{last}"].T + state[f"bias{last}"]
    return odds[:, 0].double().sigmoid()  # in float32, sure ones would tie at 1


def _scaled(inputs: Tensor, state: State) -> Tensor:
    return (inputs - state["input_mean"]) / state["input_range"]


def _network(inputs: int, training: Training) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, dropout in zip(training.hidden, training.dropout, strict=True):
        layers += [nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(dropout)]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, 1))
