"""RSP, AGF and Relevance-CAM by hand, their laws, their settings; and what of the engine they alone use.

The golden outputs are in test_relevance_golden, their rules against dense references in test_relevance_rules.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from assay.harness.build import build
from assay.harness.heads import Targets
from assay.harness.network import Network
from assay.harness.types import Attributor
from assay.methods.attribution.relevance.agf import AGF, Factorised, contrasted
from assay.methods.attribution.relevance.operations import READERS, UnsupportedOp
from assay.methods.attribution.relevance.relevance_cam import RelevanceCAM
from assay.methods.attribution.relevance.rsp import RSP, over_largest, positive_shifted, sections
from assay.methods.attribution.relevance.rules import Affine
from conftest import (
    FEW_TARGETS,
    TOY_INPUT,
    TOY_TARGETS,
    Known,
    ToyModule,
    alone,
    assert_close,
    attribute,
    known,
    random_images,
    several_targets,
)
from torch import Tensor, nn

TOY = Network(ToyModule(), (0.0,) * 3, (1.0,) * 3)  # A = (3, 0) and (0, 4) at pixels a and b; y = (-5, 1)


def toy_map(method: Attributor, network: Network = TOY) -> Tensor:
    """The map of class 0 over pixels (a, b)."""
    return attribute(method, network, TOY_INPUT, TOY_TARGETS).values[0, 0]


# RSP


def test_rsp_single_by_hand() -> None:
    """A mean(dy_0/dA) = (3 * 1.5, 0) and (0, 4 * -1.5), over its largest value 4.5: 1 and -4/3; z^B keeps them."""
    assert_close(toy_map(RSP("relu"))[None], torch.tensor([[1, -4 / 3]]), 1e-6)


def test_rsp_relative_by_hand() -> None:
    """Class 1's A mean(dy_1/dA) = 0 and (0, 4 * 2), over 8: the difference (1, 0) and (0, -7/3) becomes (1, -1) in
    sections and over channels, then (2, -1); its sum is 1 as in the published code."""
    assert_close(toy_map(RSP("relu", "relative", hostile=1))[None], torch.tensor([[2.0, -1]]), 1e-6)


def test_rsp_predicted_by_hand() -> None:
    """Of two outputs of a sigmoid network -5 and 1, class 0's hostile class is 1; class 1 has none and starts single:
    0 and (0, 8) over 8."""
    network = Network(ToyModule(), (0.0,) * 3, (1.0,) * 3, activation="sigmoid")
    values = attribute(RSP("relu", "relative", hostile="predicted"), network, TOY_INPUT, TOY_TARGETS).values
    assert_close(values[:, 0], torch.tensor([[2.0, -1], [0, 1]]), 1e-6)


def test_hostile_classes_are_the_highest_others() -> None:
    """More than there are is all others: the same map; one alone is another map."""
    example = known("tiny_vgg", torch.float64)
    maps = [
        attribute(RSP("features.8", "relative", hostile=n), example.network, example.images, example.targets).values
        for n in (4, 9, 1)
    ]
    assert torch.equal(maps[0], maps[1])
    assert not torch.allclose(maps[0], maps[2])
    assert_close(maps[2].sum((1, 2))[:, None], torch.ones(4, 1).double(), 1e-9)


def test_a_cam_without_positive_values_keeps_its_sign() -> None:
    """Over its largest value it would be turned over: over its largest modulus; and nothing of nothing."""
    cam = torch.tensor([[-1.0, -4], [2.0, -4], [0, 0]]).view(3, 1, 1, 2)
    assert over_largest(cam).view(3, 2).tolist() == [[-0.25, -1], [1, -2], [0, 0]]
    torch.testing.assert_close(sections(cam, 2).view(3, 2), torch.tensor([[-0.2, -0.8], [2, -1], [0, 0]]))


def test_rsp_keeps_the_sum(tiny64: Known) -> None:
    """Without outputs whose inputs are all 0: the map's sum is the start's, 1 of `relative`; 1e-9. (On the residual
    network some are dead.)"""
    if tiny64.layer == "layer1":
        pytest.skip("dead outputs: test_relevance_laws counts them")
    values = attribute(RSP(tiny64.layer, "relative"), tiny64.network, tiny64.images, tiny64.targets).values
    assert float((values.sum((1, 2)) - 1).abs().max()) < 1e-9


def test_shifted_sums_by_hand() -> None:
    """(3, -1, 0) + (1, 2, 0), R = 4: 3:1, all to the positive one, halves of nothing; a broadcast summand is summed."""
    first, second = positive_shifted(
        (torch.tensor([[3.0, -1, 0]]), torch.tensor([[1.0, 2, 0]])), (0, 0), 4 * torch.ones(1, 3)
    )
    assert first is not None
    assert second is not None
    torch.testing.assert_close(first, torch.tensor([[3.0, 0, 2]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(second, torch.tensor([[1.0, 4, 2]]), atol=1e-6, rtol=0)
    wide, narrow = positive_shifted((torch.ones(1, 4), torch.ones(1, 1)), (0, 0), torch.ones(1, 4))
    assert wide is not None
    assert narrow is not None
    assert (wide.tolist(), narrow.tolist()) == ([[0.5] * 4], [[2.0]])


# AGF


def test_contrasted_start_by_hand() -> None:
    """Two outputs: |y_j - y_t| / sigma is 1 at the other whatever they are, so q_t = 1 / (1 + exp(-k y_t)) with
    k = 1 - exp(-1/2), and dq_t/dy is k q (1 - q) at the class alone; 1e-6. A row without a class is 0."""
    k = 1 - math.exp(-0.5)
    logits = torch.tensor([[-5.0, 1], [-5, 1], [-5, 1]])
    gradient = contrasted(logits, torch.tensor([[1.0, 0], [0, 1], [0, 0]]))
    q = [1 / (1 + math.exp(-k * y)) for y in (-5, 1)]
    expected = [[k * q[0] * (1 - q[0]), 0], [0, k * q[1] * (1 - q[1])], [0, 0]]
    torch.testing.assert_close(gradient, torch.tensor(expected), atol=1e-6, rtol=0)


def test_contrasted_start_passes_through_the_width() -> None:
    """Central differences of q_t, which also move y_t and sigma; 1e-7. Equal logits are no 0/0."""
    logits, one_hot = torch.tensor([[0.3, -1.2, 2.0, 0.7]]).double(), torch.eye(4).double()[3:]

    def q(y: Tensor) -> Tensor:
        own = y[0, 3]
        return (own * torch.exp(-(((y - own) / (y - own).abs().max()) ** 2) / 2)).softmax(1)[0, 3]

    steps = 1e-5 * torch.eye(4).double()
    expected = torch.stack([(q(logits + step) - q(logits - step)) / 2e-5 for step in steps])
    torch.testing.assert_close(contrasted(logits, one_hot)[0], expected, atol=1e-7, rtol=0)
    assert contrasted(torch.ones(1, 4), torch.eye(4)[:1]).isfinite().all()


def test_agf_by_hand() -> None:
    """One linear layer on A: phi = A dq_0/dA = c A V_0, c = k q (1 - q) as above: 3 c and -8 c; z^B keeps them."""
    k = 1 - math.exp(-0.5)
    q = 1 / (1 + math.exp(5 * k))
    assert_close(toy_map(AGF())[None], k * q * (1 - q) * torch.tensor([[3.0, -8]]), 1e-6)


def test_agf_keeps_the_sum_of_its_start() -> None:
    """Sum of the map = Sum x dq_t/dx of the last layer, on the tiny VGG, which has no dead denominator; 1e-9 of the
    moduli. Every ablation keeps it as well."""
    example = known("tiny_vgg", torch.float64)
    with torch.enable_grad():
        module = example.network.module
        hidden = module.get_submodule("classifier")[:2](module.avgpool(module.features(example.images)).flatten(1))  # type: ignore[index, operator]
        start = contrasted(example.network(example.images), torch.eye(5).double()[example.targets.label])
        expected = (hidden * (start @ module.get_parameter("classifier.2.weight"))).sum(1)
    maps = []
    for terms in (("F_x", "F_dx", "M", "A"), ("F_x",), ("F_dx",), ("M",), ("A",), ()):
        values = attribute(AGF(terms), example.network, example.images, example.targets).values
        assert float(((values.sum((1, 2)) - expected).abs() / values.abs().sum((1, 2))).max()) < 1e-9
        maps.append(values)
    assert all(not torch.allclose(a, b) for k, a in enumerate(maps) for b in maps[:k])


def agf_of_a_vector(map_shape: tuple[int, ...] | None) -> Tensor:
    """phi of x = (1, 2, 0, 4), two channels of two positions, from R = 1 of one output with w = (1, 1, 1, -1)."""
    layer = Affine(F.linear, torch.tensor([[1.0, 1, 1, -1]]), map_shape=map_shape, gradient=torch.ones(1, 1))
    return Factorised()(torch.tensor([[1.0, 2, 0, 4]]), layer, torch.ones(1, 1))


def test_a_layer_that_reads_a_map_by_hand() -> None:
    """C = (1, 2, 0, 4) / 7. As a map, x g = (1, 2), (0, -4): mean over channels (1/2, -1), so M = (1, 0) and r =
    (1, 0), (0, 0): phi = C + r - 1/3 where C is not 0."""
    c = torch.tensor([[1.0, 2, 0, 4]]) / 7
    assert_close(agf_of_a_vector(None), c, 1e-6)
    assert_close(agf_of_a_vector((2, 1, 2)), c + torch.tensor([[2.0, -1, 0, -1]]) / 3, 1e-6)
    with pytest.raises(UnsupportedOp, match="reads a map whose axes have changed places"):
        agf_of_a_vector(())


class Reading(nn.Module):
    """A convolution, something, two linear layers."""

    def __init__(self, vector: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv, self.hidden, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(64, 8), nn.Linear(8, 5)
        self.vector = vector

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.hidden(self.vector(self.conv(x))).relu())


def reading_map(vector: Callable[[Tensor], Tensor]) -> Tensor:
    network = Network(Reading(vector), (0.5,) * 3, (0.25,) * 3).to(dtype=torch.float64)
    return attribute(AGF(), network, random_images(1, 4).double(), TOY_TARGETS).values


@pytest.mark.parametrize(
    "vector",
    [
        lambda x: F.dropout(x.relu().view(x.size(0), -1), training=False),
        lambda x: torch.flatten(x, 1).relu(),
        lambda x: x.relu().reshape(len(x), -1).contiguous(),
    ],
    ids=["view and dropout", "flatten before the ReLU", "reshape"],
)
def test_maps_are_known_through_every_spelling(vector: Callable[[Tensor], Tensor]) -> None:
    """A flattened map is one however it is written, and its term counts; 1e-12."""
    expected = reading_map(lambda x: x.relu().flatten(1))
    assert_close(reading_map(vector), expected, 1e-12)
    network = Network(Reading(lambda x: x.relu().flatten(1)), (0.5,) * 3, (0.25,) * 3).to(dtype=torch.float64)
    without = attribute(AGF(("F_x", "F_dx", "A")), network, random_images(1, 4).double(), TOY_TARGETS).values
    assert not torch.allclose(without, expected)


def test_channels_last_are_refused() -> None:
    """Which numbers of the vector are one position's is not known: UnsupportedOp."""
    with pytest.raises(UnsupportedOp, match="reads a map whose axes have changed places"):
        reading_map(lambda x: x.relu().permute(0, 2, 3, 1).flatten(1))


# Relevance-CAM


def test_relevance_cam_by_hand() -> None:
    """Class 0 starts with 1, class 1 with -1/2. Exciting contributions of class 0: 3 of A_0a; of class 1: 12 of A_1b.
    So R = (1, 0) and (0, -1/2), alpha = (1/2, -1/4), map (3/2, -1); exact."""
    result = attribute(RelevanceCAM("relu"), TOY, TOY_INPUT, TOY_TARGETS)
    assert result.values[0, 0].tolist() == [1.5, -1]
    assert result.coefficients is not None
    assert result.coefficients[0].tolist() == [0.5, -0.25]
    assert result.layer == "relu"


def test_relevance_cam_keeps_the_sum() -> None:
    """Without biases in denominators relevance keeps its sum 1 - (n - 1) / n at every layer of the tiny VGG; 1e-9."""
    example = known("tiny_vgg", torch.float64)
    for layer, positions in (("features.8", 64), ("features.6", 64), ("features.3", 256), ("features.1", 256)):
        alpha = attribute(RelevanceCAM(layer, biases=0), example.network, example.images, example.targets).coefficients
        assert alpha is not None
        assert float((alpha.sum(1) * positions - 0.2).abs().max()) < 1e-9
    official = attribute(RelevanceCAM("features.1"), example.network, example.images, example.targets).coefficients
    assert official is not None
    assert float((official.sum(1) * 256 - 0.2).abs().max()) > 1e-3


# All of them


METHODS: list[Attributor] = [RSP("features.8"), RSP("features.8", "relative"), AGF(), RelevanceCAM("features.3")]


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_pairs_do_not_know_each_other(method: Attributor) -> None:
    """Nine pairs at once against the two halves of them, and images without a pair; float64, 1e-9."""
    example, targets = known("tiny_vgg", torch.float64), several_targets()
    whole = attribute(method, example.network, example.images, targets).values
    halves = [Targets(*(each[part] for each in targets)) for part in (slice(0, 4), slice(4, 9))]
    parts = [attribute(method, example.network, example.images, half).values for half in halves]
    assert_close(whole, torch.cat(parts), 1e-9)
    assert len(attribute(method, example.network, example.images, FEW_TARGETS).values) == 2


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_images_of_no_values_give_no_map(method: Attributor) -> None:
    """An image with a nan has a map of nan, not zeros; the others are as without it; 1e-9."""
    example = known("tiny_vgg", torch.float64)
    images = example.images.clone()
    images[1, 0, 3, 3] = torch.nan
    values = attribute(method, example.network, images, example.targets).values
    assert values[1].isnan().all()
    others = torch.tensor([0, 2, 3])
    expected = attribute(method, example.network, example.images, example.targets).values
    assert_close(values[others], expected[others], 1e-9)


WRONG: list[tuple[Callable[[], Any], str]] = [
    (lambda: RSP("x", start="multi"), r"start='multi': choose single or relative"),  # type: ignore[arg-type]
    (lambda: RSP("x", hostile="all"), "hostile=.all.: choose predicted or a number"),  # type: ignore[arg-type]
    (lambda: RSP("x", hostile=0), "hostile=0: choose predicted or a number of classes, 1 or more"),
    (lambda: RSP("x", residual="halved"), "residual='halved': choose one of positive, proportional"),  # type: ignore[arg-type]
    (lambda: AGF(terms=("F",)), r"terms=\['F'\]: F unknown, choose of"),
    (lambda: AGF(residual="halved"), "residual='halved': choose one of positive, proportional"),  # type: ignore[arg-type]
    (lambda: AGF(batch_norm="none"), "batch_norm='none': choose one of fold, pass"),  # type: ignore[arg-type]
    (lambda: RelevanceCAM("x", biases=3), r"biases=3: choose 2 \(the published code\), 1 or 0"),
    (lambda: RelevanceCAM("x", residual="halved"), "residual='halved': choose one of"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("make", "message"), WRONG, ids=[message[:20] for _, message in WRONG])
def test_settings_are_checked(make: Callable[[], Any], message: str) -> None:
    """ValueError with value and choices."""
    with pytest.raises(ValueError, match=message):
        make()


def test_predicted_classes_need_a_network_of_several() -> None:
    """A softmax network predicts one class: ValueError says what to choose."""
    with pytest.raises(ValueError, match=r"hostile='predicted' needs .*; this one has softmax: choose a number"):
        toy_map(RSP("relu", "relative", hostile="predicted"))


@pytest.mark.parametrize(
    ("name", "method"),
    [("rsp", RSP("features.14")), ("agf", AGF()), ("relevance_cam", RelevanceCAM("features.14"))],
)
def test_configs_hold_the_defaults(name: str, method: Attributor) -> None:
    """Every setting stands in the YAML, and the layer is the model's."""
    built = build(alone("method", name).method[name])
    assert {**vars(built), "terms": None} == {**vars(method), "terms": None}
    assert list(getattr(built, "terms", ())) == list(getattr(method, "terms", ()))


# What of the engine they use


def _layers() -> dict[str, tuple[Callable[..., Tensor], tuple[int, ...], tuple[int, ...], tuple[Any, ...]]]:
    """Function, shapes of x and weight, and what follows the bias."""
    return {
        "linear": (F.linear, (2, 6), (4, 6), ()),
        "linear at positions": (F.linear, (2, 5, 6), (4, 6), ()),
        "conv2d": (F.conv2d, (2, 4, 7, 7), (6, 2, 3, 3), ((2, 1), (1, 0), (1, 2), 2)),
        "conv2d of equal size": (F.conv2d, (2, 4, 7, 7), (6, 4, 3, 3), (1, "same")),
        "conv1d": (F.conv1d, (2, 4, 9), (6, 4, 3), (2, 1)),
        "conv_transpose2d": (F.conv_transpose2d, (2, 4, 5, 5), (4, 6, 3, 3), (2, 1)),
    }


@pytest.mark.parametrize("name", _layers())
def test_gradients_of_layers_are_autograds(name: str) -> None:
    """`pull_back` and `weight_gradient`, with a function of torch's or without; float64, 1e-12."""
    function, x_shape, weight_shape, rest = _layers()[name]
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(s, generator=generator).double().requires_grad_() for s in (x_shape, weight_shape))
    output = function(x, weight, None, *rest)
    gradient = torch.randn(output.shape, generator=generator).double()
    expected = torch.autograd.grad(output, (x, weight), gradient)
    layer = READERS[function.__name__](function, x, weight.detach(), None, *rest).affine
    assert layer is not None
    assert_close(layer.pull_back(x.detach(), gradient), expected[0], 1e-12)
    assert_close(layer.weight_gradient(x.detach(), gradient), expected[1], 1e-12)
