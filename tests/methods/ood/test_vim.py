"""ViM."""

import math
import re

import numpy as np
import pytest
import torch
from assay.harness.detection import LinearHead
from assay.methods.ood.logits import Energy
from assay.methods.ood.vim import Residual, ViM, chosen_dimension
from detection_toys import features_of, random_features, scores_of, training_of


def test_by_hand() -> None:
    """Features (4, 1) and (-4, 1) about the origin 0 (b = 0): second moment diag(16, 1), so the residual is |a_1|.

    W = (1, 0; 0, 3): highest logits 4 and 3, alpha = 3.5 / 1. For (1, -2): 3.5 * 2 - log(e + e^-6).
    """
    head = LinearHead(torch.tensor([[1.0, 0], [0, 3]]), torch.zeros(2))
    training = training_of(features_of(torch.tensor([[4.0, 1], [-4, 1]]), head, torch.tensor([0, 1])), size=1)
    state = ViM(1).fit(training)
    assert state["residual_space"].abs().tolist() == [[0], [1]]
    assert state["alpha"].item() == pytest.approx(3.5, rel=1e-6)
    features = features_of(torch.tensor([[1.0, -2]]), head)
    expected = 7 - math.log(math.e + math.exp(-6))
    assert scores_of(ViM(1), features, training).item() == pytest.approx(expected, rel=1e-6)


def test_origin_has_logits_of_zero() -> None:
    """-pinv(W) b, with fewer classes than features; float64, 1e-12."""
    features = random_features()
    origin = ViM().fit(training_of(features))["origin"]
    assert features.linear_head()(origin).abs().max() < 1e-12


@pytest.mark.parametrize("dimension", [3, 9])
def test_naive(dimension: int) -> None:
    """Against the rows themselves, centred and multiplied out, by a singular value decomposition; 1e-10."""
    train, test = random_features(), random_features(seed=1)
    weight, bias = test.linear_head()
    origin = -torch.linalg.pinv(weight) @ bias
    space = torch.linalg.svd(train.tap() - origin).Vh[dimension:].T
    residuals = ((train.tap() - origin) @ space).norm(dim=1)
    alpha = train.logits.amax(1).mean() / residuals.mean()
    expected = alpha * ((test.tap() - origin) @ space).norm(dim=1) - test.logits.logsumexp(1)
    assert torch.allclose(scores_of(ViM(dimension), test, training_of(train, 7)), expected, atol=1e-10, rtol=0)


def test_residual_by_hand() -> None:
    """W = I, b = 0: the origin is 0. Rows (2, 0), (-2, 0), (0, 1), (0, -1) lie along the first axis, so that of (3, 4)
    4 are left."""
    head = LinearHead(torch.eye(2), torch.zeros(2))
    rows = torch.tensor([[2.0, 0], [-2, 0], [0, 1], [0, -1]])
    training = training_of(features_of(rows, head, torch.tensor([0, 0, 1, 1])))
    assert scores_of(Residual(1), features_of(torch.tensor([[3.0, 4]]), head), training).item() == pytest.approx(4)


@pytest.mark.parametrize("dimension", [3, 9])
def test_residual_is_vims(dimension: int) -> None:
    """OpenOOD's formula with NumPy's eigenvectors of the moment about the origin; ViM's virtual logit is alpha times
    it; 1e-10."""
    train, test = random_features(), random_features(seed=1)
    weight, bias = (values.numpy() for values in test.linear_head())
    origin = -np.linalg.pinv(weight) @ bias
    rows = train.tap().numpy() - origin
    values, vectors = np.linalg.eigh(rows.T @ rows / len(rows))
    space = vectors[:, np.argsort(-values)[dimension:]]
    expected = torch.from_numpy(np.linalg.norm((test.tap().numpy() - origin) @ space, axis=1))
    ours = scores_of(Residual(dimension), test, training_of(train, 7))
    assert torch.allclose(ours, expected, atol=1e-10)
    state = ViM(dimension).fit(training_of(train))
    virtual = ViM(dimension).score(test, state) - scores_of(Energy(), test)
    assert torch.allclose(virtual, state["alpha"] * ours, atol=1e-10)


def test_pytorch_ood() -> None:
    """pytorch-ood 0.4, which computes in float32: 1e-4."""
    oracle = pytest.importorskip("pytorch_ood.detector").ViM
    train, test = random_features(dtype=torch.float32), random_features(seed=1, dtype=torch.float32)
    for dimension in (4, 8):
        theirs = oracle(None, dimension, *test.linear_head()).fit_features(train.tap(), train.labels)
        ours = scores_of(ViM(dimension), test, training_of(train)).float()
        assert torch.allclose(ours, theirs.predict_features(test.tap()), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("width", "expected"), [(12, 6), (342, 171), (512, 256), (640, 512), (1500, 512), (2048, 1000)]
)
def test_automatic_dimension(width: int, expected: int) -> None:
    """1000 of more than 1500 features, else 512, else half."""
    assert chosen_dimension(None, width) == expected


def test_energy_is_in_it() -> None:
    """Rows with the same residual differ by their energies; here none has a residual; 1e-10."""
    train, test = random_features(), random_features(seed=1)
    state = ViM(5).fit(training_of(train))
    flat = test.tap() - (test.tap() - state["origin"]) @ state["residual_space"] @ state["residual_space"].T
    inside = features_of(flat, test.linear_head())
    assert torch.allclose(ViM(5).score(inside, state), scores_of(Energy(), inside), atol=1e-10, rtol=0)


@pytest.mark.parametrize("dimension", [0, 12, -3])
def test_bad_dimension(dimension: int) -> None:
    message = re.escape(f"dimension={dimension} of 12 features: choose from 1 to 11, or null")
    with pytest.raises(ValueError, match=message):
        ViM(dimension).fit(training_of(random_features()))


def test_naive_far_from_zero() -> None:
    """Features and the origin at 1e6: the residual space is that of the rows centred on the origin, by a singular value
    decomposition of them (projections agree to 1e-6); a difference of uncentred moments had lost all of it."""
    train = random_features()
    weight = torch.eye(12, dtype=torch.float64)
    far = features_of(train.tap() + 1e6, LinearHead(weight, -1e6 * weight.sum(1)), train.labels)
    space = torch.linalg.svd(train.tap()).Vh[4:].T
    ours = ViM(4).fit(training_of(far, 7))["residual_space"]
    assert torch.allclose(ours @ ours.T, space @ space.T, atol=1e-6)


@pytest.mark.parametrize(("dead", "images", "rank"), [(18, 60, 6), (0, 5, 5), (23, 60, 1)])
def test_a_space_without_residual_is_refused(dead: int, images: int, rank: int) -> None:
    """24 features of which 18 (or all but one) are always 0, or 5 images, and no bias: nothing lies outside of 12
    dimensions, so alpha would divide by zero, or by rounding. The rank, and what to choose, are named."""
    features = random_features(images, width=24)
    values = torch.cat([features.tap()[:, : 24 - dead] + 0.1, torch.zeros(images, dead)], 1)
    head = LinearHead(features.linear_head().weight, torch.zeros(5).double())
    training = training_of(features_of(values, head, features.labels))
    message = f"rank {rank} of 24, so dimension=12 leaves no residual: choose " + (
        f"dimension from 1 to {rank - 1}, a larger" if rank > 1 else "a larger"
    )
    with pytest.raises(ValueError, match=message):
        ViM().fit(training)
    if rank > 1:
        assert float(ViM(rank - 1).fit(training)["alpha"]) > 0


def test_requires_fit() -> None:
    with pytest.raises(ValueError, match="requires fit: its state has no origin, residual_space, alpha"):
        ViM().score(random_features(), {})
    with pytest.raises(ValueError, match="requires fit: its state has no origin, residual_space"):
        Residual().score(random_features(), {})
