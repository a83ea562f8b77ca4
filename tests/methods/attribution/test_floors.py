"""Random, center and edges: maps that do not look at the network."""

import math

import numpy as np
import pytest
import torch
from assay.harness.frames import argmax_points
from assay.harness.heads import Passes, Targets
from assay.harness.network import Network
from assay.harness.types import Attributor
from assay.methods.attribution.floors import Center, Edges, Random
from conftest import Known, assert_nothing_left, attribute, random_images, several_targets
from scipy import ndimage
from torch import Tensor, nn

METHODS: list[Attributor] = [Random(), Center(), Edges()]


@pytest.fixture
def network() -> Network:
    """A network that fails when it is called."""
    return Network(nn.Identity(), (0.5,) * 3, (0.25,) * 3)


def image_targets(count: int) -> Targets:
    """One pair an image, class 0."""
    return Targets(torch.arange(count), torch.zeros(count, dtype=torch.int64))


def center_map(network: Network, height: int, width: int, sigma: float = 0.25) -> Tensor:
    """The centre map of one image."""
    return attribute(Center(sigma), network, torch.zeros(1, 3, height, width), image_targets(1)).values


# By hand


def test_center_by_hand(network: Network) -> None:
    """A 1x3 image with sigma = 1/4 of each side: offsets -1/3, 0, 1/3 of the width give exp(-(4/3)^2 / 2) = .4111,
    1, .4111; a 2x2 image has offsets of 1/4, exp(-1/2) twice: 1/e = .3679 everywhere. 1e-6: float32 exp."""
    side = math.exp(-8 / 9)
    torch.testing.assert_close(center_map(network, 1, 3), torch.tensor([[[side, 1, side]]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(center_map(network, 2, 2), torch.full((1, 2, 2), math.exp(-1)), atol=1e-6, rtol=0)


def test_edges_by_hand(network: Network) -> None:
    """A vertical step of height 1 between columns 1 and 2: Sobel 1 + 2 + 1 = 4 at both columns, 0 elsewhere, and
    0 at the border, which is replicated; exact, small integers."""
    image = torch.tensor([0.0, 0, 1, 1]).expand(1, 3, 3, 4)
    assert attribute(Edges(), network, image, image_targets(1)).values[0].tolist() == [[0, 4, 4, 0]] * 3


def test_edges_of_a_corner_by_hand(network: Network) -> None:
    """One bright pixel (channels 3, 0, 0, so grey 1) in the middle of 3x3: sides 2, corners sqrt(1 + 1), middle 0;
    1e-6 for the square root."""
    image = torch.zeros(1, 3, 3, 3)
    image[0, 0, 1, 1] = 3
    root = 2**0.5
    expected = torch.tensor([[[root, 2, root], [2, 0, 2], [root, 2, root]]])
    torch.testing.assert_close(attribute(Edges(), network, image, image_targets(1)).values, expected, atol=1e-6, rtol=0)


# Against SciPy and NumPy


def test_edges_equal_scipy(network: Network) -> None:
    """Against scipy.ndimage.sobel(mode="nearest") of the mean channel, in float64; 1e-5 absolute for values up to
    about 4 in float32."""
    images = random_images(3, 17)[:, :, :13]
    grey = images.double().mean(1).numpy()
    expected = [np.hypot(ndimage.sobel(g, 0, mode="nearest"), ndimage.sobel(g, 1, mode="nearest")) for g in grey]
    values = attribute(Edges(), network, images, image_targets(3)).values
    np.testing.assert_allclose(values.numpy(), np.stack(expected), atol=1e-5)


def test_random_is_uniform(network: Network) -> None:
    """16384 numbers in [0,1): mean 1/2 within 4 standard errors (.0091), each tenth of the range holds its share
    within 4 standard errors (154 of 1638)."""
    values = attribute(Random(), network, torch.zeros(1, 3, 128, 128), image_targets(1)).values
    assert values.min() >= 0
    assert values.max() < 1
    assert abs(float(values.mean()) - 0.5) < 4 / math.sqrt(12 * 16384)
    counts = torch.histc(values, 10, 0, 1)
    assert (counts - 1638.4).abs().max() < 4 * math.sqrt(16384 * 0.1 * 0.9)


# Invariants


SIDES = [*range(1, 40), 64, 96, 100, 108, 224, 299, 375, 658]


@pytest.mark.parametrize("side", SIDES)
def test_center_peaks_at_the_centre_point(network: Network, side: int) -> None:
    """The arg-max is the middle pixel, the first of the two (four) middle ones where the side is even, for sides of
    either parity and their mixture; exact, so the two middle pixels must be bit-equal."""
    for height, width in [(side, side), (side, 7), (8, side)]:
        values = center_map(network, height, width)
        points, ties = argmax_points(values, torch.ones_like(values, dtype=torch.bool))
        assert points.tolist() == [[(width - 1) // 2, (height - 1) // 2]]
        assert ties.tolist() == [(2 - height % 2) * (2 - width % 2)]


def test_center_is_the_same_for_every_pair(tiny: Known) -> None:
    """Nine pairs, one map, whatever the image (exact)."""
    values = attribute(Center(), tiny.network, tiny.images, several_targets()).values
    assert values.shape == (9, 16, 16)
    assert torch.equal(values, values[:1].expand(9, -1, -1))
    assert torch.equal(values, values.transpose(1, 2))


def test_random_depends_on_seed_image_and_class_alone(network: Network) -> None:
    """A pair's map is the same (bit-equal) alone, in a batch and in another order, and differs by seed, class and
    image."""
    images, targets = random_images(4, 8), several_targets()
    values = attribute(Random(), network, images, targets).values
    for pair, (row, label) in enumerate(zip(targets.image.tolist(), targets.label.tolist(), strict=True)):
        alone = Targets(torch.tensor([0]), torch.tensor([label]))
        assert torch.equal(
            attribute(Random(), network, images[row : row + 1], alone, first=row).values[0], values[pair]
        )
    assert len({tuple(value.flatten().tolist()) for value in values}) == 9
    assert not torch.equal(attribute(Random(), network, images, targets, seed=1).values, values)


def test_edges_follow_the_pairs_image(network: Network) -> None:
    """Pairs of one image share its map, bit-equal to the image alone."""
    images, targets = random_images(4, 8), several_targets()
    values = attribute(Edges(), network, images, targets).values
    for pair, row in enumerate(targets.image.tolist()):
        assert torch.equal(attribute(Edges(), network, images[row : row + 1], image_targets(1)).values[0], values[pair])


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_floors_never_run_the_network(tiny: Known, method: Attributor) -> None:
    """No pass of any kind is counted, nothing is left on the module, the images are untouched."""
    images = tiny.images.clone()
    values = attribute(method, tiny.network, images, several_targets()).values
    assert tiny.network.passes == Passes()
    assert_nothing_left(tiny.network)
    assert torch.equal(images, tiny.images)
    assert values.shape == (9, 16, 16)
    assert values.dtype == torch.float32
