"""A training set's moments: exact where features lie far from 0, in whatever parts they are read."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from assay.harness.detection import Features, LinearHead
from assay.harness.training import Moments, TrainingSet
from detection_toys import features_of, random_features, training_of
from torch import Tensor

FAR = 2.0**22  # where float32 has steps of a half


def moments_of(values: Tensor, labels: Tensor, size: int | None = None) -> Moments:
    """Of penultimate features, read in parts of `size` rows."""
    head = LinearHead(torch.zeros(3, values.shape[1]).to(values), torch.zeros(3).to(values))
    return training_of(features_of(values, head, labels), size).moments()


@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("far", [0.0, FAR])
def test_spread_far_from_zero(size: int, far: float) -> None:
    """Class 0 at far + (+-1, 0), twice, class 1 at far + 3 + (0, +-2): within diag(4, 8), exactly, from float32; second
    moment about far: (4 + 2 * 9, 2 * 9; 2 * 9, 8 + 2 * 9) / 6. Sums of far^2 would leave nothing of either."""
    values = far + torch.tensor([[1.0, 0], [3, 5], [-1, 0], [3, 1], [1, 0], [-1, 0]])
    moments = moments_of(values, torch.tensor([0, 1, 0, 1, 0, 0]), size)
    assert moments.within.tolist() == pytest.approx(np.diag([4.0, 8]), abs=1e-9)
    expected = np.array([[4 + 18, 18], [18, 8 + 18]]) / 6
    assert moments.second_about(torch.full((2,), far)).numpy() == pytest.approx(expected, abs=1e-9)
    assert (moments.class_means - far).tolist() == [[0, 0], [3, 3], [-far, -far]]


def test_against_the_rows_themselves() -> None:
    """60 rows in parts of 7, unlabelled ones left out: centred products, and those about an origin; 1e-12."""
    features = random_features()
    labels = torch.where(torch.arange(60) % 9 == 0, -1, features.labels)
    moments = training_of(features_of(features.tap(), features.linear_head(), labels), 7).moments()
    values, labels = features.tap()[labels >= 0], labels[labels >= 0]
    means = torch.stack([values[labels == c].mean(0) for c in range(5)])
    centred = values - means[labels]
    assert torch.allclose(moments.within, centred.T @ centred, rtol=1e-12, atol=1e-12)
    origin = torch.linspace(-1, 1, 12, dtype=torch.float64)
    assert torch.allclose(
        moments.second_about(origin), (values - origin).T @ (values - origin) / len(values), rtol=1e-12
    )


def test_a_unit_that_is_constant_but_for_rounding_has_no_direction() -> None:
    """Rows of LayerNorm sum to 0 but for float32's rounding, and one unit is 10 but for its last digit: rank K - 2. The
    pseudo-inverse is that of the other directions: it leaves the normalised sum and the unit alone; 1e-9 relative."""
    values = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    values = torch.nn.functional.layer_norm(values, (8,))
    unit = 10 + 1e-6 * (torch.arange(200) % 2)
    assert unit.dtype == torch.float32 and unit.unique().numel() == 2
    moments = moments_of(torch.cat([values, unit[:, None]], 1), torch.arange(200) % 3)
    spectrum = moments.spectrum(moments.tied_covariance)
    assert spectrum.rank == 7
    idle = torch.stack([torch.cat([torch.ones(8), torch.zeros(1)]), torch.eye(9)[8]], 1).double()
    assert (spectrum.inverse @ idle).abs().max() < 1e-6 * spectrum.inverse.abs().max()
    product = spectrum.inverse @ moments.tied_covariance @ spectrum.inverse
    assert torch.allclose(product, spectrum.inverse, rtol=1e-9, atol=1e-9 * float(spectrum.inverse.abs().max()))


def test_layers_have_moments_of_their_own() -> None:
    """Those of a kept layer, beside the penultimate ones, from one reading."""
    features = random_features()
    readings = []

    def read() -> Iterator[Features]:
        readings.append(1)
        yield from training_of(features, 11).parts()

    training = TrainingSet(read, len(features))
    first = training.moments("first")
    assert torch.equal(first.mean, training.moments("first").mean) and training.moments().mean.shape == (12,)
    assert torch.allclose(first.mean, features.tap("first").mean(0), atol=1e-12) and readings == [1]
