"""GradNorm's closed form."""

import math

import pytest
import torch
from assay.harness.detection import LinearHead
from assay.methods.ood.gradnorm import GradNorm
from detection_toys import features_of, logits_of, random_features, scores_of


def test_by_hand() -> None:
    """Logits (log 3, 0): p = (3/4, 1/4), |p - 1/2|_1 = 1/2; features (log 3, 0, -2): |a|_1 = log 3 + 2."""
    head = LinearHead(torch.tensor([[1.0, 0, 0], [0, 0, 0]]), torch.zeros(2))
    features = features_of(torch.tensor([[math.log(3), 0, -2]]), head)
    assert scores_of(GradNorm(), features).item() == pytest.approx(-(math.log(3) + 2) / 2, rel=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1, 4])
def test_autograd(temperature: float) -> None:
    """L1 norm of the gradient that autograd gives of the mean of -log softmax(z/T), an image at a time; 1e-12."""
    features = random_features()
    head, expected = features.linear_head(), []
    for values in features.tap():
        weight = head.weight.clone().requires_grad_()
        loss = -((values @ weight.T + head.bias) / temperature).log_softmax(0).mean()
        expected.append(-torch.autograd.grad(loss, weight)[0].abs().sum())
    assert torch.allclose(scores_of(GradNorm(temperature), features), torch.stack(expected), atol=1e-12)


def test_pytorch_ood() -> None:
    """pytorch-ood 0.4's gradient by torch.func of a linear layer's weight; float64, 1e-12."""
    oracle = pytest.importorskip("pytorch_ood.detector").GradNorm
    features = random_features()
    layer = torch.nn.Linear(12, 5).double()
    layer.weight.data, layer.bias.data = features.linear_head()
    theirs = oracle(layer, param_filter=lambda name: name == "weight", temperature=2.0)
    assert torch.allclose(scores_of(GradNorm(2), features), theirs.predict(features.tap()), atol=1e-12)


def test_a_flat_prediction_has_no_gradient() -> None:
    """Equal logits: 0, the highest score."""
    head = LinearHead(torch.ones(3, 2), torch.zeros(3))
    assert scores_of(GradNorm(), features_of(torch.tensor([[5.0, 7]]), head)).item() == pytest.approx(0, abs=1e-12)


def test_errors() -> None:
    with pytest.raises(ValueError, match="temperature=0: choose a number above 0"):
        GradNorm(0)
    with pytest.raises(ValueError, match="does not end in a linear layer"):
        GradNorm().score(logits_of([1.0, 2]), {})
