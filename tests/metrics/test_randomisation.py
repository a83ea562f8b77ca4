"""Cascading randomisation: the networks that are made, likeness of maps, what a method without weights shows."""

import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from assay.harness.forward import ForwardPass
from assay.harness.network import Network
from assay.harness.types import Attribution, Attributor, Batch, FramedMaps, Sample
from assay.methods.attribution.cam import GradCAM
from assay.methods.attribution.lift import LiftCAM
from assay.methods.attribution.relevance.lrp import LRP
from assay.methods.attribution.relevance.rap import RAP
from assay.methods.attribution.relevance.rules import Epsilon
from assay.metrics.correlation import spearman
from assay.metrics.randomisation import Randomised, SanityCheck, ssim
from conftest import Known, attribute
from scipy import stats
from torch import Tensor, nn


def batch_of(images: Tensor) -> Batch:
    size = (images.shape[2], images.shape[3])
    return Batch.of([Sample(f"image{n}", image, (n,), size) for n, image in enumerate(images)])


def gradients(batch: Batch, network: Network, images: Tensor) -> Attribution:
    return Attribution(ForwardPass(network, images, input_graph=True).input_gradient(batch.targets).sum(1))


def measure(metric: SanityCheck, tiny: Known, images: Tensor | None = None) -> dict[str, Tensor]:
    batch = batch_of(tiny.images if images is None else images)
    again = lambda network, shown: gradients(batch, network, shown)  # noqa: E731
    maps = FramedMaps.of(again(tiny.network, batch.images), batch, again)
    return metric.measure(batch, maps, ForwardPass(tiny.network, batch.images))


# Networks


def test_layers_from_the_output_on(tiny64: Known) -> None:
    """After k stages the last k modules with parameters differ, the others are as learned; the network itself stays."""
    module = tiny64.network.module
    learned = {name: value.clone() for name, value in module.state_dict().items()}
    layers = [name for name, each in module.named_modules() if next(each.parameters(recurse=False), None) is not None]
    made = Randomised(tiny64.network, seed=0)
    assert made.layers == len(layers)
    for count in (0, 1, 3, len(layers)):
        state = made.from_output_on(count).module.state_dict()
        changed = {name.rpartition(".")[0] for name in learned if not torch.equal(state[name], learned[name])}
        assert changed == set(layers[len(layers) - count :])
    assert all(torch.equal(value, learned[name]) for name, value in module.state_dict().items())


def test_seeds_and_stages(tiny64: Known) -> None:
    """A layer's new parameters depend on (seed, layer) alone: not on the stage, nor on torch's own generator."""
    one = {k: v.clone() for k, v in Randomised(tiny64.network, 0).from_output_on(2).module.state_dict().items()}
    torch.rand(3)
    made = Randomised(tiny64.network, 0)
    made.from_output_on(5)
    again = made.from_output_on(2).module.state_dict()
    assert all(torch.equal(again[name], value) for name, value in one.items())
    other = Randomised(tiny64.network, 1).from_output_on(2).module.state_dict()
    assert not all(torch.equal(other[name], value) for name, value in one.items())


@pytest.mark.parametrize("method", [GradCAM(""), LiftCAM(""), RAP(), LRP(Epsilon(), batch_norm="fold")], ids=repr)
def test_what_was_traced_is_drawn_anew_too(tiny64: Known, method: Attributor) -> None:
    """Cuts, heads and merged norms: at each stage the maps of a network made with those weights; 1e-9."""
    method = replace(method, layer=tiny64.layer) if hasattr(method, "layer") else method  # type: ignore[type-var]
    made = Randomised(tiny64.network, 0)
    for count in (1, 3, made.layers):
        network = made.from_output_on(count)
        fresh = Network(copy.deepcopy(network.module), (0,) * 3, (1,) * 3).to(dtype=torch.float64)
        maps = [attribute(method, each, tiny64.images, tiny64.targets).values for each in (network, fresh)]
        torch.testing.assert_close(maps[0], maps[1], atol=1e-9, rtol=1e-9)


def test_a_layer_of_unknown_initialisation() -> None:
    """Refused by name."""

    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.factor

    network = Network(nn.Sequential(nn.Flatten(), Scale(), nn.Linear(12, 2)), (0,) * 3, (1,) * 3)
    with pytest.raises(ValueError, match="layer '1' is a Scale, which has parameters and no reset_parameters"):
        Randomised(network, 0)


# Likeness


def test_spearman_against_scipy() -> None:
    """With ties and opposite signs; 1e-12. Undefined for a constant map."""
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randint(-3, 4, (5, 4, 6), generator=generator).float() for _ in range(2))
    expected = [stats.spearmanr(a, b).statistic for a, b in zip(one.flatten(1), other.flatten(1), strict=True)]
    assert spearman(one, other).tolist() == pytest.approx(expected, abs=1e-12)
    assert spearman(one, -one).tolist() == pytest.approx([-1] * 5, abs=1e-12)
    assert spearman(one, torch.ones_like(one)).isnan().all()


def test_ssim_by_hand() -> None:
    """Of itself 1. Of constants a and b: (2 a b + c) / (a^2 + b^2 + c) with c = .0001; 1e-9."""
    generator = torch.Generator().manual_seed(0)
    one = torch.rand(2, 16, 20, dtype=torch.float64, generator=generator)
    assert ssim(one, one).tolist() == pytest.approx([1, 1], abs=1e-9)
    low, high = torch.full((1, 16, 16), 0.2).double(), torch.full((1, 16, 16), 0.6).double()
    assert ssim(low, high).item() == pytest.approx((0.24 + 1e-4) / (0.4 + 1e-4), abs=1e-7)
    with pytest.raises(ValueError, match="window is 11 px"):
        ssim(one[:, :10], one[:, :10])


@pytest.mark.slow
def test_ssim_against_torchmetrics() -> None:
    """Its 11 x 11 window of sigma 1.5, range 1, without the windows that reach over the border; 1e-6."""
    functional = pytest.importorskip("torchmetrics.functional.image")
    generator = torch.Generator().manual_seed(0)
    one, other = torch.rand(2, 3, 24, 24, dtype=torch.float64, generator=generator)
    _, theirs = functional.structural_similarity_index_measure(
        one[:, None], other[:, None], sigma=1.5, data_range=1.0, reduction="none", return_full_image=True
    )
    np.testing.assert_allclose(ssim(one, other), theirs[:, 0, 5:-5, 5:-5].mean((1, 2)), atol=1e-6)


# The metric


def test_what_reads_no_weights_stays(tiny64: Known) -> None:
    """A method that draws the image's edges is as alike as can be: 1 at every stage."""
    batch = batch_of(tiny64.images)
    made = Attribution(batch.images.mean(1))
    maps = FramedMaps.of(made, batch, lambda network, images: made)
    found = SanityCheck(stages=3).measure(batch, maps, ForwardPass(tiny64.network, batch.images))
    for name in ("spearman", "spearman_abs", "ssim"):
        torch.testing.assert_close(found[name], torch.ones(4, 3).double(), atol=1e-6, rtol=0)


def test_the_gradient_forgets(tiny64: Known) -> None:
    """Stages of equal numbers of layers; each point is the gradient of that network, asked by itself (1e-12)."""
    found, made = measure(SanityCheck(stages=2), tiny64), Randomised(tiny64.network, 0)
    points = [round(made.layers / 2), made.layers]
    assert found["layers"].tolist() == [points] * 4
    batch = batch_of(tiny64.images)
    before = gradients(batch, tiny64.network, batch.images).values
    for column, count in enumerate(points):
        after = gradients(batch, made.from_output_on(count), batch.images).values
        torch.testing.assert_close(found["spearman"][:, column], spearman(before, after), atol=1e-12, rtol=0)
    assert found["spearman_abs_random"].abs().mean() < 0.6
    assert torch.equal(found["ssim_random"], found["ssim"][:, -1])


def test_every_layer_and_batches(tiny64: Known) -> None:
    """stages=null is a point a layer; an image alone has the values that it has among others (1e-9)."""
    metric = SanityCheck(stages=None)
    together, alone = measure(metric, tiny64), measure(metric, tiny64, tiny64.images[:1])
    assert together["spearman"].shape[1] == Randomised(tiny64.network, 0).layers
    torch.testing.assert_close(alone["spearman"], together["spearman"][:1], atol=1e-9, rtol=0)


def test_rows() -> None:
    """Two pairs by hand: means at each stage, and of the last."""
    frame = pd.DataFrame({"image_id": ["a", "b"], "layers": [[2, 4], [2, 4]], "difficult": False, "predicted": True})
    alike: dict[str, list[list[float]]] = {
        "spearman": [[0.5, 0], [0.7, 0.2]],
        "spearman_abs": [[1, 1]] * 2,
        "ssim": [[0, 0]] * 2,
    }
    for name, curves in alike.items():
        frame[name], frame[f"{name}_random"] = curves, [curve[-1] for curve in curves]
    rows = {(row.stat, row.x): row.value for row in SanityCheck().summarize(frame)}
    assert rows["spearman", 2.0] == pytest.approx(0.6) and rows["spearman", 4.0] == pytest.approx(0.1)
    assert rows["spearman_random", None] == pytest.approx(0.1) and rows["spearman_abs_random", None] == 1


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match="stages=0"):
        SanityCheck(stages=0)
