"""Single deletion and infidelity: what a map foresees of parts that are taken away, each alone.

The network is a linear function of the input, so that a drop is the weighted sum over the part: known by hand.
"""

import numpy as np
import pytest
import torch
from assay.harness.forward import ForwardPass
from assay.harness.network import Network
from assay.harness.seeds import SampleRng
from assay.harness.types import Attribution, Batch, FramedMaps, Sample
from assay.metrics.infidelity import Infidelity, masks_of, squares, sums_over
from assay.metrics.single_deletion import SingleDeletion, region_numbers, region_sums
from conftest import Known
from torch import Tensor, nn

SIZE = 12


class Weighted(nn.Module):
    """Logits (sum of w x, minus that), over the mean of the channels."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, x: Tensor) -> Tensor:
        total = (x.mean(1) * self.weights).sum((1, 2))
        return torch.stack([total, -total], 1)


def linear(images: int = 3) -> tuple[Network, Batch, Tensor]:
    """A linear network in float64, images with both classes each, and the maps w x that foresee every drop."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(SIZE, SIZE, dtype=torch.float64, generator=generator)
    network = Network(Weighted(weights), (0,) * 3, (1,) * 3).to(dtype=torch.float64)
    pixels = torch.rand(images, 3, SIZE, SIZE, generator=generator)
    batch = Batch.of([Sample(f"image{row}", image, (0, 1), (SIZE, SIZE)) for row, image in enumerate(pixels)])
    contributions = pixels.double().mean(1) * weights
    return network, batch, torch.stack([contributions, -contributions], 1).flatten(0, 1)


def measure(metric: SingleDeletion | Infidelity, maps: Tensor, rows: int = 7, images: int = 3) -> dict[str, Tensor]:
    network, batch, _ = linear(images)
    return metric.measure(
        batch, FramedMaps.of(Attribution(maps), batch), ForwardPass(network, batch.images, max_rows=rows)
    )


DELETION, UNSCALED = SingleDeletion(region_px=5), Infidelity(scaled=False)  # 3 x 3 squares, those at the borders cut


def test_regions_by_hand() -> None:
    """A map of 3 x 4 in squares of 2: the last row is cut; exact."""
    values = torch.arange(12.0).view(1, 3, 4)
    assert region_numbers((3, 4), 2).tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3]]
    assert region_sums(values, 2).tolist() == [[0 + 1 + 4 + 5, 2 + 3 + 6 + 7, 8 + 9, 10 + 11]]


def test_a_linear_network_is_foreseen() -> None:
    """Contributions w x foresee every drop of the logit: correlation 1, infidelity 0; 1e-9 of float64."""
    maps = linear()[2]
    assert measure(DELETION, maps)["correlation"].tolist() == pytest.approx([1] * 6, abs=1e-9)
    assert measure(UNSCALED, maps)["infidelity"].tolist() == pytest.approx([0] * 6, abs=1e-9)


def test_opposite_and_scaled_maps() -> None:
    """-2 w x: correlation -1; the drops d are foreseen as -2 d, an error of (3 d)^2: nine times their mean square."""
    maps = -2 * linear()[2]
    assert measure(DELETION, maps)["correlation"].tolist() == pytest.approx([-1] * 6, abs=1e-9)
    assert measure(UNSCALED, maps)["unexplained"].tolist() == pytest.approx([9] * 6, abs=1e-9)
    assert measure(Infidelity(), maps)["unexplained"].tolist() == pytest.approx([0] * 6, abs=1e-9)


def test_zero_and_constant_maps() -> None:
    """A map of zeros explains nothing: undefined correlation, all of the drops unexplained, scaled or not."""
    zeros = torch.zeros(6, SIZE, SIZE)
    assert measure(DELETION, zeros)["correlation"].isnan().all()
    for metric in (Infidelity(), UNSCALED):
        assert measure(metric, zeros)["unexplained"].tolist() == pytest.approx([1] * 6, abs=1e-12)


def test_squares() -> None:
    """Inside the image, of the sides that were asked for, the least and the largest among them; sums as by masks."""
    rng = SampleRng(0, "test", [f"image{row}" for row in range(3)], [])
    bounds = squares(rng, 400, (20, 30), (0.1, 0.4))
    top, bottom, left, right = bounds.unbind(2)
    assert (int(top.min()), int(bottom.max()), int(left.min()), int(right.max())) == (0, 20, 0, 30)
    assert set((bottom - top).flatten().tolist()) == set(range(2, 9))
    assert torch.equal(bottom - top, right - left)
    values = torch.rand(3, 20, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    expected = (masks_of(bounds, (20, 30)) * values[:, None]).sum((2, 3))
    torch.testing.assert_close(sums_over(values, bounds), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("scaled", [True, False])
def test_infidelity_against_captum(tiny64: Known, scaled: bool) -> None:
    """Captum's `infidelity` with our squares as its perturbations: 1e-9 in float64."""
    infidelity = pytest.importorskip("captum.metrics").infidelity
    labels, maps = [0, 1, 2, 3], torch.randn(4, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    samples = [Sample(f"image{n}", image, (n,), (16, 16)) for n, image in enumerate(tiny64.images)]
    batch, metric = Batch.of(samples), Infidelity(samples=10, scaled=scaled)
    forward = ForwardPass(tiny64.network, batch.images, max_rows=10)
    ours = metric.measure(batch, FramedMaps.of(Attribution(maps), batch), forward)["infidelity"]
    taken = masks_of(squares(SampleRng.of(0, "infidelity squares", batch), 10, (16, 16), (0.1, 0.4)), (16, 16))

    def perturb(inputs: Tensor, *_: object) -> tuple[Tensor, Tensor]:
        masks = taken.flatten(0, 1)[:, None].double().expand_as(inputs)
        return masks, inputs * (1 - masks)

    thirds = maps[:, None].expand(-1, 3, -1, -1) / 3  # its maps have channels
    theirs = infidelity(
        tiny64.network.module,
        perturb,
        forward.inputs,
        thirds,
        target=torch.tensor(labels),
        n_perturb_samples=10,
        max_examples_per_batch=40,
        normalize=scaled,
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-9)


@pytest.mark.slow
def test_single_deletion_against_quantus() -> None:
    """Quantus' FaithfulnessEstimate with features of one pixel, probabilities; 1e-5 of its float32."""
    quantus = pytest.importorskip("quantus")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module, grey, maps = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), torch.rand(2, 1, 4, 4), torch.randn(2, 4, 4)
    batch = Batch.of([Sample(f"image{n}", image, (n,), (4, 4)) for n, image in enumerate(grey)])
    forward = ForwardPass(Network(module, (0,), (1,)), batch.images, max_rows=100)
    metric = SingleDeletion(region_px=1, read="probability")
    ours = metric.measure(batch, FramedMaps.of(Attribution(maps), batch), forward)["correlation"]
    estimate = quantus.FaithfulnessEstimate(
        features_in_step=1, normalise=False, perturb_baseline=0.0, disable_warnings=True
    )
    theirs = estimate(module, grey.numpy(), np.array([0, 1]), maps[:, None].numpy(), device="cpu", softmax=True)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("metric", [DELETION, Infidelity(), Infidelity(canvas="noise")], ids=repr)
def test_rows_and_batches_change_nothing(metric: SingleDeletion | Infidelity) -> None:
    """One or many rows at once, an image alone or among others: 1e-12."""
    maps = linear()[2].roll(3, 2)
    together = measure(metric, maps, rows=1000)
    for name, values in measure(metric, maps, rows=1).items():
        torch.testing.assert_close(values, together[name], atol=1e-12, rtol=0)
    for name, values in measure(metric, maps[:2], images=1).items():
        torch.testing.assert_close(values, together[name][:2], atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"read": "accuracy"}, "read='accuracy': choose one of probability, score"),
        ({"canvas": "white"}, "canvas='white'"),
        ({"subsets": ["some"]}, "subsets"),
    ],
)
def test_wrong_settings(settings: dict[str, object], said: str) -> None:
    for metric in (SingleDeletion, Infidelity):
        with pytest.raises(ValueError, match=said):
            metric(**settings)  # type: ignore[arg-type]


def test_settings_of_their_own() -> None:
    with pytest.raises(ValueError, match="samples=1"):
        Infidelity(samples=1)
    with pytest.raises(ValueError, match=r"least=0\.5, largest=0\.4"):
        Infidelity(least=0.5)
    with pytest.raises(ValueError, match="region_px=0"):
        SingleDeletion(region_px=0)
    with pytest.raises(ValueError, match="region_px=12: the image has 1 regions"):
        measure(SingleDeletion(region_px=12), linear()[2])
