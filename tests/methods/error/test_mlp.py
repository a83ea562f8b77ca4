"""The perceptron of the error detectors."""

from typing import Any

import pytest
import torch
from assay.methods.error.mlp import Training, fit_mlp, score_mlp
from torch import Tensor, nn


def problem(count: int = 400, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs [N,3] and labels: wrong where x_0 + x_1^2 > 1.2."""
    inputs = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    return inputs, inputs[:, 0] + inputs[:, 1] ** 2 > 1.2


def test_score_by_hand() -> None:
    """Inputs (3, 1) scaled by mean (1, 1) and range (2, 4) are (1, 0): relu(1 - 3, 2) = (0, 2), odds 0.5 * 2 - 1."""
    state = {
        "input_mean": torch.tensor([1.0, 1]),
        "input_range": torch.tensor([2.0, 4]),
        "weight0": torch.tensor([[1.0, 7], [2, 7]]),
        "bias0": torch.tensor([-3.0, 0]),
        "weight1": torch.tensor([[9.0, 0.5]]),
        "bias1": torch.tensor([-1.0]),
    }
    assert score_mlp(torch.tensor([[3.0, 1]]), state).tolist() == [0.5]


def test_scaling_and_shapes() -> None:
    """(x - mean) / (max - min) of each column, a constant one by 1; a layer's weights for each hidden width."""
    inputs = torch.tensor([[0.0, 5, 1], [2, 5, 4], [4, 5, 1]])
    state = fit_mlp(inputs, torch.tensor([True, False, True]), Training((7, 6), epochs=1), seed=0)
    assert state["input_mean"].tolist() == [2, 5, 2]
    assert state["input_range"].tolist() == [4, 1, 3]
    assert [tuple(state[f"weight{i}"].shape) for i in range(3)] == [(7, 3), (6, 7), (1, 6)]


def test_equals_a_torch_module() -> None:
    """The trained state loaded into Linear-ReLU-Linear-ReLU-Linear; 1e-6."""
    inputs, wrong = problem()
    state = fit_mlp(inputs, wrong, Training(epochs=2), seed=0)
    layers = [nn.Linear(3, 200), nn.Linear(200, 200), nn.Linear(200, 1)]
    for number, layer in enumerate(layers):
        layer.load_state_dict({"weight": state[f"weight{number}"], "bias": state[f"bias{number}"]})
    module = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    expected = module((inputs - state["input_mean"]) / state["input_range"]).sigmoid()[:, 0].detach()
    assert torch.allclose(score_mlp(inputs, state).float(), expected, atol=1e-6)


def test_it_learns() -> None:
    """A curved boundary that a linear model cannot draw: 93 % of new points at least, trained for 40 epochs."""
    state = fit_mlp(*problem(2000), Training(epochs=40), seed=0)
    inputs, wrong = problem(2000, seed=1)
    assert float(((score_mlp(inputs, state) > 0.5) == wrong).double().mean()) > 0.93


def test_bit_equal_and_without_side_effects() -> None:
    """A seed gives the same bits whatever was drawn before, another seed others; the global state stays."""
    first = fit_mlp(*problem(), Training(epochs=2), seed=3)
    torch.rand(10)
    before = torch.random.get_rng_state()
    again = fit_mlp(*problem(), Training(epochs=2), seed=3)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["weight0"], fit_mlp(*problem(), Training(epochs=2), seed=4)["weight0"])


@pytest.mark.parametrize(
    "change",
    [{"hidden": (100, 100)}, {"dropout": (0.5, 0.1)}, {"epochs": 3}, {"batch_size": 40}, {"learning_rate": 0.01}],
)
def test_each_setting_matters(change: dict[str, Any]) -> None:
    inputs, wrong = problem()
    before = score_mlp(inputs, fit_mlp(inputs, wrong, Training(epochs=2), 0))
    after = score_mlp(inputs, fit_mlp(inputs, wrong, Training(**{"epochs": 2, **change}), 0))
    assert not torch.allclose(before, after)


def test_sure_scores_do_not_tie() -> None:
    """Odds of 20 and 21 are different probabilities; in float32 both are 1."""
    state = {"input_mean": torch.zeros(1), "input_range": torch.ones(1)}
    state |= {"weight0": torch.ones(1, 1), "bias0": torch.zeros(1)}
    low, high = score_mlp(torch.tensor([[20.0], [21]]), state).tolist()
    assert low < high < 1
