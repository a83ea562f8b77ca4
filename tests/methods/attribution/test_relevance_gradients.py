"""Gradients of layers without a graph, against autograd's own; float64, to 1e-12 of the largest value."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from assay.methods.attribution.relevance import rules
from assay.methods.attribution.relevance.gradients import backward_of
from assay.methods.attribution.relevance.rows import where_given
from assay.methods.attribution.relevance.rsp import by_correlation
from assay.methods.attribution.relevance.rules import Affine, AlphaBeta
from conftest import assert_close
from torch import Tensor

LAYERS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "linear": ((7,), (5, 7), {}),
    "conv1d": ((4, 9), (6, 4, 3), {"stride": 2, "padding": 1}),
    "conv1d pointwise": ((4, 9), (6, 4, 1), {"stride": 2}),
    "conv2d": ((4, 7, 6), (6, 4, 3, 3), {"padding": 1}),
    "conv2d pointwise": ((4, 7, 6), (6, 4, 1, 1), {}),
    "conv2d pointwise stride 2": ((4, 7, 6), (6, 4, 1, 1), {"stride": 2}),
    "conv2d pointwise strides of two axes": ((4, 7, 6), (6, 4, 1, 1), {"stride": (3, 2)}),
    "conv2d pointwise padded": ((4, 7, 6), (6, 4, 1, 1), {"padding": (0, 1), "stride": 2}),
    "conv2d pointwise groups": ((4, 7, 6), (6, 2, 1, 1), {"groups": 2}),
    "conv3d pointwise": ((4, 5, 4, 3), (6, 4, 1, 1, 1), {"stride": (1, 2, 1)}),
}


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_autograd_s(name: str) -> None:
    shape, weights, options = LAYERS[name]
    function = getattr(F, name.split()[0])
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(size, generator=generator, dtype=torch.float64) for size in ((3, *shape), weights))
    x.requires_grad_(), weight.requires_grad_()
    output = function(x, weight, None, **options)
    gradient = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    expected = torch.autograd.grad(output, (x, weight), gradient)
    backward = backward_of(name.split()[0], (), options)
    assert backward is not None
    with torch.no_grad():
        assert_close(backward.of_input(x, weight, gradient), expected[0], 1e-12)
        assert_close(backward.of_weight(x, weight, gradient), expected[1], 1e-12)


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"padding": 1}, {"stride": 2, "padding": 1}])
def test_correlations_by_position_are_those_of_convolutions(options: dict[str, int]) -> None:
    """RSP's products of matrices against its convolutions, which a layer without known gradients takes."""
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 4, 2, 2), (3, 4, 1, 1)
    x, weight = (torch.rand(size, generator=generator, dtype=torch.float64) for size in shapes)
    layer = Affine(lambda x, w, b: F.conv2d(x, w, b, **options), weight)
    relevance = layer.apply(x, weight, None)
    known = layer._replace(backward=backward_of("conv2d", (), options))
    assert_close(by_correlation(x, known, relevance), by_correlation(x, layer, relevance), 1e-12)


def test_a_transposed_convolution_and_a_padding_by_name_have_none() -> None:
    assert backward_of("conv_transpose2d", (), {}) is None
    assert backward_of("conv2d", (1, "same"), {}) is None


@pytest.mark.parametrize("bias", [None, torch.arange(5.0, dtype=torch.float64), torch.ones(1, 5, dtype=torch.float64)])
def test_weights_that_are_changed_by_rows_are_those_that_are_changed_at_once(
    monkeypatch: pytest.MonkeyPatch, bias: Tensor | None
) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, r = (torch.randn(size, generator=generator, dtype=torch.float64) for size in ((3, 7), (5, 7), (3, 5)))
    changes: list[int] = []

    def change(w: Tensor) -> Tensor:
        changes.append(len(w))
        return w.clamp(min=0)

    layer = Affine(lambda x, w, b: F.linear(x, w) if b is None else F.linear(x, w) + b, weight, bias)
    whole = layer.reweighed(change)
    monkeypatch.setattr(rules, "BLOCK", 14)
    rows = layer.reweighed(change)
    assert_close(rows.apply(x, rows.weight, bias), whole.apply(x, whole.weight, bias), 1e-12)
    assert_close(rows.pull_back(x, r), whole.pull_back(x, r), 1e-12)
    assert changes == [5, *(2, 2, 1) * 2]


@pytest.mark.parametrize("rows", [[], [4], [0, 5], [0, 2, 3, 5], [0, 1, 2, 3, 4, 5]])
def test_rows_without_relevance_are_left_out(rows: list[int]) -> None:
    """Of two images of three tokens: the function sees those that have some, where these are half or fewer; a first
    value of 0 and one that is no number are no reason to leave a row out. Equal bits: the function is elementwise."""
    given, values = torch.zeros(2, 3, 4), torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    given.view(6, 4)[rows, 2] = torch.nan
    seen: list[torch.Size] = []

    def function(given: Tensor, values: Tensor) -> Tensor:
        seen.append(given.shape)
        return values.where(given.isnan().any(-1, keepdim=True), 0)

    found = where_given(function, given, values)
    assert torch.equal(found, function(given, values))
    assert seen[0] == ((len(rows), 4) if 0 < len(rows) <= 3 else (2, 3, 4))


def one_sign(x: Tensor, weight: Tensor, relevance: Tensor, sign: int) -> Tensor:
    """By every single contribution, in float64."""
    parts = (x[..., None, :].double() * weight.double() * sign).clamp(min=0)
    return ((parts / parts.sum(-1, keepdim=True)).nan_to_num() * relevance[..., None].double()).sum(-2)


@pytest.mark.parametrize("bias", [None, 1.0, 1e4])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_sums_of_one_sign_are_made_of_the_known_output(
    bias: float | None, dtype: torch.dtype, tolerance: float
) -> None:
    """Where signs are mixed, and where they nearly cancel: a token of the least weight's own sign alone, one of none,
    a bias that drowns the output. Of the largest value; 1e-4 is 1/64 of a difference in float32."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(size, generator=generator).to(dtype) for size in ((2, 9, 16), (5, 16)))
    x[0, 1], x[0, 2] = -weight[2].sign() * x[0, 1].abs(), 0  # output 2 has no positive contribution, then none at all
    x[0, 1, 3] *= -1e-3  # then one, small
    relevance = torch.randn(2, 9, 5, generator=generator).to(dtype)
    relevance[1, 1:] = 0
    shift = None if bias is None else torch.full((5,), bias, dtype=dtype)
    layer = Affine(F.linear, weight, shift, backward=backward_of("linear", (), {}), output=F.linear(x, weight, shift))
    positive, negative = (one_sign(x, weight, relevance, sign) for sign in (1, -1))
    assert_close(AlphaBeta()(x, layer, relevance).double(), positive, tolerance)
    assert_close(AlphaBeta(2, 1)(x, layer, relevance).double(), 2 * positive - negative, tolerance)


def test_changed_weights_of_many_rows_are_copied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And give what blocks of them give, float64, 1e-12."""
    generator = torch.Generator().manual_seed(0)
    x, weight, r = (torch.randn(size, generator=generator).double() for size in ((64, 7), (5, 7), (64, 5)))
    changes: list[int] = []

    def change(w: Tensor) -> Tensor:
        changes.append(len(w))
        return w.clamp(min=0)

    monkeypatch.setattr(rules, "BLOCK", 14)
    layer = Affine(F.linear, weight, backward=backward_of("linear", (), {})).reweighed(change)
    output, back = layer.apply(x, weight, None), layer.pull_back(x, r)
    assert changes == [5, 5]
    assert_close(output, torch.cat([layer.apply(part, weight, None) for part in x.split(32)]), 1e-12)
    parts = zip(x.split(32), r.split(32), strict=True)
    assert_close(back, torch.cat([layer.pull_back(*each) for each in parts]), 1e-12)
