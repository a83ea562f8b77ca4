"""Remove and debias: imputation by neighbours, and curves of the network's answer."""

import numpy as np
import pytest
import torch
from assay.harness.forward import ForwardPass
from assay.harness.network import Network
from assay.harness.types import Attribution, Batch, FramedMaps, Sample
from assay.metrics.imputation import impute
from assay.metrics.road import ROAD
from conftest import Known
from torch import Tensor, nn


def test_one_pixel_by_hand() -> None:
    """The middle of 3 x 3: across (2, 4, 6, 8) / 6 and diagonal (1, 3, 7, 9) / 12: 20/6 + 20/12 = 5; exact to 1e-12.

    A corner has three neighbours: (2 + 4) / 6 + 5 / 12 over 1/6 + 1/6 + 1/12 = 17/12 / (5/12) = 3.4.
    """
    image = torch.arange(1.0, 10).view(1, 1, 3, 3).double()
    removed = torch.zeros(2, 3, 3, dtype=torch.bool)
    removed[0, 1, 1] = removed[1, 0, 0] = True
    image[0, 0, 1, 1] = 5
    found = impute(image.expand(2, -1, -1, -1), removed)
    assert found[0, 0, 1, 1].item() == pytest.approx(5, abs=1e-12)
    assert found[1, 0, 0, 0].item() == pytest.approx(3.4, abs=1e-12)
    assert torch.equal(found[0][0, ~removed[0]], image[0][0, ~removed[0]])


def dense(image: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """The definition, pixel by pixel, as one dense system: every removed pixel is the mean of its neighbours."""
    height, width = removed.shape
    system, wanted = np.eye(height * width), image.reshape(len(image), -1).copy()
    for row, column in zip(*np.nonzero(removed), strict=True):
        near = [(row + y, column + x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
        near = [(y, x) for y, x in near if 0 <= y < height and 0 <= x < width]
        weights = [1 / 6 if y == row or x == column else 1 / 12 for y, x in near]
        for (y, x), weight in zip(near, weights, strict=True):
            system[row * width + column, y * width + x] = -weight / sum(weights)
        wanted[:, row * width + column] = 0
    return np.linalg.solve(system, wanted.T).T.reshape(image.shape)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_against_the_dense_system(share: float) -> None:
    """Random pixels of two images of three channels, few and nearly all; 1e-10."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 7, 9, dtype=torch.float64, generator=generator)
    removed = torch.rand(2, 7, 9, generator=generator) < share
    found = impute(images, removed)
    for row in range(2):
        np.testing.assert_allclose(found[row], dense(images[row].numpy(), removed[row].numpy()), atol=1e-10)


def test_a_flat_image_shows_no_outline() -> None:
    """What is removed of one colour comes back in it; 1e-12."""
    images = torch.full((1, 3, 6, 6), 0.3, dtype=torch.float64)
    removed = torch.zeros(1, 6, 6, dtype=torch.bool)
    removed[0, 1:5, 2:6] = True
    torch.testing.assert_close(impute(images, removed), images, atol=1e-12, rtol=0)


def test_nothing_left() -> None:
    with pytest.raises(ValueError, match="all pixels of an image are removed"):
        impute(torch.rand(1, 3, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool))


@pytest.mark.slow
def test_against_pytorch_grad_cam() -> None:
    """Its NoisyLinearImputer without noise; 1e-5 of its float32."""
    road = pytest.importorskip("pytorch_grad_cam.metrics.road")
    generator = torch.Generator().manual_seed(0)
    image, removed = torch.rand(3, 12, 12, generator=generator), torch.rand(12, 12, generator=generator) < 0.6
    theirs = road.NoisyLinearImputer(noise=0.0)(image, (~removed).float())
    np.testing.assert_allclose(impute(image[None], removed[None])[0], theirs, atol=1e-5)


# The curve


def measure(metric: ROAD, network: Network, batch: Batch, maps: Tensor, rows: int = 7) -> dict[str, Tensor]:
    forward = ForwardPass(network, batch.images, max_rows=rows)
    return metric.measure(batch, FramedMaps.of(Attribution(maps), batch), forward)


class Brightest(nn.Module):
    """Logits (brightest pixel, .5), over the mean of the channels."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x.mean(1).amax((1, 2)), torch.full((len(x),), 0.5).to(x)], 1)


def test_a_bright_pixel_by_hand() -> None:
    """One white pixel on black: without it nothing is above .5. A map that points at it loses the class with the first
    step (morf) and keeps it to the end (lerf)."""
    network = Network(Brightest(), (0,) * 3, (1,) * 3)
    image, maps = torch.zeros(3, 5, 5), torch.zeros(1, 5, 5)
    image[:, 2, 3], maps[0, 2, 3] = 1, 1
    batch = Batch.of([Sample("image0", image, (0,), (5, 5))])
    morf, lerf = (measure(ROAD(order, 3, 20, noise=0), network, batch, maps) for order in ("morf", "lerf"))
    assert morf["curve"].tolist() == [[1, 0, 0, 0]] and morf["auc"].item() == pytest.approx(1 / 6)
    assert lerf["curve"].tolist() == [[1, 1, 1, 1]] and lerf["auc"].item() == 1


def test_rows_batches_and_seeds(tiny64: Known) -> None:
    """One or many rows at once, an image alone or among others: 1e-12, with noise and ties; another seed differs."""
    maps = torch.randint(-1, 2, (4, 16, 16), generator=torch.Generator().manual_seed(2)).double()
    samples = [Sample(f"image{n}", image, (n,), (16, 16)) for n, image in enumerate(tiny64.images)]
    metric = ROAD(steps=3, step=30, read="score")
    together = measure(metric, tiny64.network, Batch.of(samples), maps)["curve"]
    one_by_one = measure(metric, tiny64.network, Batch.of(samples), maps, rows=1)["curve"]
    alone = measure(metric, tiny64.network, Batch.of(samples[:1]), maps[:1])["curve"]
    torch.testing.assert_close(one_by_one, together, atol=1e-12, rtol=0)
    torch.testing.assert_close(alone, together[:1], atol=1e-12, rtol=0)
    other = measure(ROAD(steps=3, step=30, read="score", seed=1), tiny64.network, Batch.of(samples), maps)["curve"]
    assert not torch.allclose(other[:, 1:], together[:, 1:])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"steps": 10}, "steps=10, step=10 percent"),
        ({"noise": -1}, "noise=-1"),
        ({"order": "first"}, "order='first'"),
        ({"read": "loss"}, "read='loss'"),
    ],
)
def test_wrong_settings(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ROAD(**settings)  # type: ignore[arg-type]
