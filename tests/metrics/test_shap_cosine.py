"""Cosine between a map's coefficients and a reference's."""

from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

import pandas as pd
import pytest
import torch
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.seeds import SampleRng
from assay.harness.types import Attribution, Batch, FramedMaps, Needs
from assay.methods.attribution.cam import GradCAM
from assay.metrics.shap_cosine import ShapCosine
from conftest import Known, known, sample
from torch import Tensor

CALLS: list[str] = []


@dataclass(frozen=True)
class Fixed:
    """Coefficients (3, 4) whatever the image; counts its calls by layer."""

    layer: str = "?"
    VERSION: ClassVar[int] = 1

    def needs(self) -> Needs:
        return Needs((self.layer,))

    def attribute(self, forward: ForwardPass, targets: Targets, rng: SampleRng) -> Attribution:
        CALLS.append(self.layer)
        count = len(targets.image)
        return Attribution(torch.zeros(count, 1, 1), torch.tensor([[3.0, 4]]).expand(count, 2), self.layer)


def batch_of(count: int) -> Batch:
    return Batch.of([sample(f"image{row}", (4, 4), {0: []}) for row in range(count)])


def measure(metric: ShapCosine, coefficients: Tensor | None, forward: ForwardPass, layer: str | None = "a") -> Tensor:
    batch = batch_of(len(forward.images))
    made = Attribution(torch.zeros(len(forward.images), 2, 2), coefficients, layer)
    return metric.measure(batch, FramedMaps.of(made, batch), forward)["cosine"]


@pytest.fixture
def forward() -> ForwardPass:
    """Four images of a network that the fixed reference never runs."""
    CALLS.clear()
    tiny: Known = known("tiny_vgg")
    return ForwardPass(tiny.network, torch.full((4, 3, 4, 4), 0.5))


def test_by_hand(forward: ForwardPass) -> None:
    """Against (3, 4): (3, 4) 1, (-6, -8) -1, (4, -3) 0, (1, 0) 3/5; float64, 1e-12. (docs/metrics/shap_cosine.md)"""
    coefficients = torch.tensor([[3.0, 4], [-6, -8], [4, -3], [1, 0]])
    found = measure(ShapCosine(Fixed(), "fixed"), coefficients, forward)
    assert found.tolist() == pytest.approx([1, -1, 0, 0.6], abs=1e-12)
    assert found.dtype == torch.float64


def test_undefined(forward: ForwardPass) -> None:
    """Maps without coefficients, and zero coefficients, have no cosine; the reference is not asked for the former."""
    assert measure(ShapCosine(Fixed(), "fixed"), None, forward, None).isnan().all()
    assert CALLS == []
    found = measure(ShapCosine(Fixed(), "fixed"), torch.tensor([[0.0, 0], [1, 1], [0, 0], [1, 1]]), forward)
    assert found.isnan().tolist() == [True, False, True, False]
    assert float(found[1]) == pytest.approx(7 / (5 * sqrt(2)), abs=1e-12)


def test_the_reference_is_asked_once_a_batch_and_layer(forward: ForwardPass) -> None:
    """Methods of a call share it, each at its own layer; another forward pass asks again."""
    metric = ShapCosine(Fixed("of the config"), "fixed")
    for layer in ("a", "b", "a", "b"):
        measure(metric, torch.ones(4, 2), forward, layer)
    assert CALLS == ["a", "b"]
    measure(metric, torch.ones(4, 2), ForwardPass(forward.network, forward.images), "a")
    assert CALLS == ["a", "b", "a"]


def test_rows(forward: ForwardPass) -> None:
    """Mean .8 and median of 1 and .6, one undefined; the variant names the reference."""
    frame = pd.DataFrame({"image_id": list("abc"), "label": 0, "cosine": [1, 0.6, None]}).astype({"cosine": float})
    rows = {row.stat: row for row in ShapCosine(Fixed(), "fixed").summarize(frame)}
    assert rows["mean"].value == pytest.approx(0.8)
    assert rows["mean"].n == 2
    assert rows["median"].value == pytest.approx(0.8)
    assert rows["undefined_pairs"].value == 1
    assert rows["mean"].variant == "fixed"
    assert rows["mean"].higher_is_better


def test_a_reference_without_a_layer_is_an_error() -> None:
    """What is no class-activation map cannot be the truth."""
    with pytest.raises(ValueError, match="name a class-activation map"):
        ShapCosine(object(), "nothing")


def test_a_layer_that_is_not_shared(forward: ForwardPass) -> None:
    """Relevance-CAM's pass is its own: the reference's layer is then kept by a pass of the metric's; exact."""
    tiny = known("tiny_vgg")
    batch = Batch.of([sample(f"image{row}", (4, 4), {0: []}) for row in range(4)])
    coefficients = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    made = Attribution(torch.zeros(4, 2, 2), coefficients, "features.8")
    metric = ShapCosine(GradCAM("?"), "gradcam")
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    found = [
        metric.measure(batch, FramedMaps.of(made, batch), ForwardPass(tiny.network, images, layers))["cosine"]
        for layers in ((), ("features.8",))
    ]
    assert torch.equal(found[0], found[1]) and not found[0].isnan().any()
