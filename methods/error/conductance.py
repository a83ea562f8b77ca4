"""Error detectors trained on what the network says of its training images: feature conductance, logits, features."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from assay.harness.detection import DetectorNeeds, Features, State, fitted
from assay.harness.network import Network
from assay.harness.training import TrainingSet
from torch import Tensor

from .mlp import Training, fit_mlp, score_mlp
from .training_errors import judged

Rule = Literal["right", "left", "trapezoid"]
ROWS = 4096  # images whose rows of W are held at once

RULES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "right": lambda before, after: after,
    "left": lambda before, after: before,
    "trapezoid": lambda before, after: (before + after) / 2,
}


def conductance_linear_head(features: Features, baseline: Tensor) -> Tensor:
    """W[pred] * (g(x) - g(x')), the conductance of each penultimate feature: [N,D].

    Between the pooled features and the logits lies a linear layer, whose gradient is constant, so that the sum over
    steps of the conductance (eq. 5) telescopes: exact, whatever their number, without a backward pass. It sums to
    f_pred(x) - f_pred(x') (eq. 3).

    baseline: g(x'), [1,D].
    """
    weight, conductance = features.linear_head().weight, features.tap() - baseline
    for rows, predicted in zip(conductance.split(ROWS), features.predicted.split(ROWS), strict=True):
        rows *= weight[predicted]  # not all at once: a row of W an image is as much as the features
    return conductance


def conductance_riemann(
    network: Network,
    layer: str,
    inputs: Tensor,
    labels: Tensor,
    rule: Rule = "right",
    n: int = 10,
    baseline: Tensor | None = None,
) -> Tensor:
    """Conductance of each feature map of any layer by n steps (eq. 5), summed over the map: [B,K].

    Sum over k = 1..n of df_label/dy times y(x^k) - y(x^(k-1)), with x^k = x' + k/n (x - x') and the gradient at the
    end of the step (right, the paper's), at its start (left, captum's riemann_trapezoid) or the mean of both.

    Args:
        inputs: normalised, [B,3,H,W].
        labels: int64 [B], of the logit that is explained; the paper's is the predicted class.
        baseline: x', normalised, [1,3,H,W]; zeros, unless given.
    """
    if rule not in RULES:
        raise ValueError(f"rule={rule!r}: choose one of {', '.join(RULES)}")
    if n < 1:
        raise ValueError(f"n={n}: give at least 1 step")
    start = torch.zeros_like(inputs[:1]) if baseline is None else baseline
    # Without the gradient at x', one image is enough for y(x').
    at_start = start if rule == "right" else start.expand_as(inputs)
    before = _at(network, layer, at_start, labels[: len(at_start)])
    total = torch.zeros_like(before.activation)
    for step in range(1, n + 1):
        after = _at(network, layer, start + step / n * (inputs - start), labels)
        gradient = RULES[rule](before.gradient, after.gradient)
        total = total + gradient * (after.activation - before.activation)
        before = after
    return total.flatten(2).sum(2) if total.ndim > 2 else total


class _Point(NamedTuple):
    activation: Tensor
    gradient: Tensor


def _at(network: Network, layer: str, inputs: Tensor, labels: Tensor) -> _Point:
    """The layer's activation and the gradient of each image's logit there; back-propagates no further than that."""
    with torch.enable_grad():
        logits, values = network.run(inputs.detach().requires_grad_(), (layer,))
        activation = values[layer].activation
        (gradient,) = torch.autograd.grad(logits.gather(1, labels[:, None]).sum(), activation)
    network.passes.head += len(inputs)
    return _Point(activation.detach(), gradient)


INPUTS: dict[str, Callable[[Features, State], Tensor]] = {
    "conductance": lambda features, state: conductance_linear_head(features, state["baseline"]),
    "features": lambda features, state: features.tap(),
    "logits": lambda features, state: features.logits,
    "sorted_logits": lambda features, state: features.logits.sort(1, descending=True).values,
}


@dataclass(frozen=True)
class ErrorMLP:
    """Probability that a prediction is wrong, by a D-200-200-1 perceptron trained on the training images' errors.

    inputs, side by side: `conductance` of the penultimate features for the predicted class, from the image that is
    zero after normalisation (the conductance detector's; eq. 5 in closed form, see `conductance_linear_head`),
    `features` (penultimate), `logits`, `sorted_logits` (descending). On real errors conductance and sorted logits
    together are best.

    epochs, batch_size: the paper's 20 and 50 on CIFAR (10 and 100 on ImageNet); 10 epochs are what we measured its
    AUROC with, .89 against MSP's .86. The last epoch counts. learning_rate: Adam's. It is trained on
    `TrainingSet.bank`, and the state says in n_train_errors on how many errors; below 200 it warns.
    """

    inputs: Sequence[str] = ("conductance",)
    epochs: int = 10
    batch_size: int = 50
    learning_rate: float = 1e-3
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if unknown := [name for name in self.inputs if name not in INPUTS]:
            raise ValueError(f"inputs={list(self.inputs)}: {unknown[0]!r} is not one of {', '.join(INPUTS)}")
        if not self.inputs:
            raise ValueError(f"inputs=[]: choose from {', '.join(INPUTS)}")
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError(f"epochs={self.epochs}, batch_size={self.batch_size}: give at least 1 of each")

    def needs(self) -> DetectorNeeds:
        """The features that the inputs are made of, and those of training images."""
        return DetectorNeeds(bool({"conductance", "features"} & set(self.inputs)), training=True)

    def fit(self, training: TrainingSet) -> State:
        """The perceptron (see `fit_mlp`). n_train_errors: int64 []. baseline: [1,D], where conductance is an input."""
        made = judged(self, training)
        extra = {"n_train_errors": torch.tensor(made.errors)}
        if "conductance" in self.inputs:
            extra["baseline"] = _baseline(training)
        settings = Training(epochs=self.epochs, batch_size=self.batch_size, learning_rate=self.learning_rate)
        return fit_mlp(self._read(made.features, extra), made.wrong, settings, training.seed) | extra

    def score(self, features: Features, state: State) -> Tensor:
        """[N] in [0,1], float64."""
        fitted(self, state, "input_mean", *(["baseline"] if "conductance" in self.inputs else []))
        return score_mlp(self._read(features, state), state)

    def _read(self, features: Features, state: State) -> Tensor:
        columns = [INPUTS[name](features, state) for name in self.inputs]
        return columns[0] if len(columns) == 1 else torch.cat(columns, 1)


def _baseline(training: TrainingSet) -> Tensor:
    """Penultimate features [1,D] of the image that is zero after normalisation."""
    image = training.images(np.zeros(1, dtype=np.int64))
    zero = training.network.mean.to(image).expand_as(image)
    return training.features_of(zero).tap()
