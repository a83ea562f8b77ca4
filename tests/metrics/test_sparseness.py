"""The Gini index of maps."""

import pytest
import torch
from assay.harness.forward import ForwardPass
from assay.harness.types import Attribution, Batch, FramedMaps
from assay.metrics.sparseness import Sparseness, gini
from conftest import known, sample
from torch import Tensor


def measure(metric: Sparseness, maps: Tensor) -> list[float]:
    batch = Batch.of([sample(f"image{row}", (8, 6), {0: []}) for row in range(len(maps))])
    forward = ForwardPass(known("tiny_vgg").network, batch.images)
    return metric.measure(batch, FramedMaps.of(Attribution(maps), batch), forward)["gini"].tolist()


def test_by_hand() -> None:
    """Values 1, 2, 3, 4: (-3 + -2 + 3 + 12) / (4 x 10) = 1/4; equal values 0; one of n alone 1 - 1/n; exact."""
    values = torch.tensor([[4.0, 1, 3, 2], [5, 5, 5, 5], [0, 0, 7, 0]])
    assert gini(values).tolist() == [0.25, 0.0, 0.75]


def test_against_the_definition() -> None:
    """Half of the mean absolute difference over the mean, over all pairs of pixels; 1e-12."""
    values = torch.rand(3, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    difference = (values[:, :, None] - values[:, None, :]).abs().mean((1, 2))
    assert gini(values).tolist() == pytest.approx((difference / 2 / values.mean(1)).tolist(), abs=1e-12)


def test_signs_scale_and_zeros() -> None:
    """|map|, or its positive part; no scale; undefined for zeros."""
    maps = torch.zeros(2, 4, 4)
    maps[0, 0, 0], maps[0, 3, 3] = 2, -2  # a map of the input's size is taken as it is
    assert measure(Sparseness(), maps)[0] == pytest.approx(1 - 2 / 16)
    assert measure(Sparseness("positive"), maps)[0] == pytest.approx(1 - 1 / 16)
    assert measure(Sparseness(), 1000 * maps)[0] == pytest.approx(1 - 2 / 16)
    assert str(measure(Sparseness(), maps)[1]) == "nan"


def test_a_misspelt_choice() -> None:
    with pytest.raises(ValueError, match="of='negative': choose absolute or positive"):
        Sparseness("negative")  # type: ignore[arg-type]


@pytest.mark.slow
def test_against_quantus() -> None:
    """Quantus adds 1e-7 to every value: 1e-5."""
    quantus = pytest.importorskip("quantus")
    maps = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1)).numpy()
    metric = quantus.Sparseness(abs=True, normalise=False, disable_warnings=True)
    theirs = metric(torch.nn.Identity(), maps[:, None], [0, 0, 0], maps[:, None], device="cpu")
    assert gini(torch.tensor(maps).flatten(1)).tolist() == pytest.approx(theirs, abs=1e-5)
