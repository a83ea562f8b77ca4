"""Batch-norms and constants that follow no layer: the map of the same function with the constants in the next layer.

Closed forms: a network without the constants whose weights and biases hold them (`merged`), for every relevance method;
and input x gradient, which LRP's epsilon rule is where epsilon is 0 (Ancona et al. 2018). float64, tolerances relative
to the map's largest value.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from assay.harness.heads import Targets
from assay.harness.network import Network
from assay.harness.networks.loading import cifar_network
from assay.harness.types import Attributor
from assay.methods.attribution.gradient import InputXGradient
from assay.methods.attribution.lift import LRPCAM
from assay.methods.attribution.relevance.excitation import ContrastiveEB, ExcitationBackprop
from assay.methods.attribution.relevance.hedge import GradientHedge
from assay.methods.attribution.relevance.lrp import LRP, ContrastiveLRP
from assay.methods.attribution.relevance.operations import UnsupportedOp
from assay.methods.attribution.relevance.rap import RAP
from assay.methods.attribution.relevance.rules import AlphaBeta, Epsilon, Gamma, ZBox
from conftest import assert_close, attribute, random_images
from torch import Tensor, nn

CLOSE = 1e-9
TRAINED = Path(__file__).resolve().parents[4] / "shared" / "weights" / "cifar10-densenet_bc100.safetensors"
FOUR = Targets(torch.arange(4), torch.tensor([0, 3, 1, 2]))
INPUT_X_GRADIENT = LRP(Epsilon(0), stabiliser=0)
METHODS: list[Attributor] = [
    *(LRP(rule) for rule in (Epsilon(), Epsilon(0.25), Gamma(), AlphaBeta(), AlphaBeta(2, 1))),
    LRP(AlphaBeta(1, 0, bias=True)),
    LRP(AlphaBeta(), first=ZBox()),
    ContrastiveLRP(),
    LRP(AlphaBeta(), batch_norm="pass"),
    RAP(),
    RAP("paper"),
    ExcitationBackprop(),
]


class Normed(nn.Module):
    """conv - ReLU - batch-norm, twice, and a mean: `merged` is the same function without batch-norms."""

    def __init__(self, norms_of_both_signs: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.c1, self.c2, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 4)
            self.b1, self.b2 = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
            self.r1, self.r2, self.pool = nn.ReLU(), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
            for norm in (self.b1, self.b2):
                nn.init.uniform_(norm.weight, -1 if norms_of_both_signs else 0.5, 1.5)
                nn.init.uniform_(norm.bias, -0.3, 0.3)
                assert norm.running_mean is not None
                assert norm.running_var is not None
                norm.running_mean.uniform_(0, 0.5)
                norm.running_var.uniform_(0.2, 1)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.b1(self.r1(self.c1(x)))
        return self.fc(self.pool(self.b2(self.r2(self.c2(x)))).flatten(1))

    @torch.no_grad()
    def merged(self) -> nn.Sequential:
        """W (s x + t) + b is (W s) x + (b + W t)."""
        (s1, t1), (s2, t2) = line(self.b1), line(self.b2)
        c1, c2, fc = nn.Conv2d(3, 8, 3).double(), nn.Conv2d(8, 8, 3).double(), nn.Linear(8, 4).double()
        c1.load_state_dict(self.c1.state_dict())
        c2.weight.copy_(self.c2.weight * s1.view(1, -1, 1, 1))
        assert c2.bias is not None and self.c2.bias is not None
        c2.bias.copy_(self.c2.bias + (self.c2.weight * t1.view(1, -1, 1, 1)).sum((1, 2, 3)))
        fc.weight.copy_(self.fc.weight * s2)
        fc.bias.copy_(self.fc.bias + self.fc.weight @ t2)
        return nn.Sequential(c1, nn.ReLU(), c2, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), fc).eval()


def line(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """(s, t) of s x + t."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    s = norm.weight / (norm.running_var + norm.eps).sqrt()
    return s, norm.bias - norm.running_mean * s


def network(module: nn.Module) -> Network:
    """Inputs about [-2,2]."""
    return Network(module, (0.5,) * 3, (0.25,) * 3).to(dtype=torch.float64)


def maps(method: Attributor, module: nn.Module) -> Tensor:
    return attribute(method, network(module), random_images(4, 12).double(), FOUR).values


@pytest.mark.parametrize("both_signs", [False, True])
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_norms_after_a_relu_equal_the_merged_network(method: Attributor, both_signs: bool) -> None:
    """conv - ReLU - batch-norm against the batch-norm in the next layer."""
    module = Normed(both_signs)
    assert_close(maps(method, module), maps(method, module.merged()), CLOSE)


@pytest.mark.parametrize(("layer", "merged"), [("r2", "3"), ("r1", "1"), ("c1", "0")])
@pytest.mark.parametrize("method", [GradientHedge, LRPCAM, ExcitationBackprop], ids=lambda m: m.__name__)
def test_methods_of_a_layer_equal_the_merged_network(
    method: Callable[[str], Attributor], layer: str, merged: str
) -> None:
    """The same, from or to a layer before a batch-norm."""
    module = Normed()
    assert_close(maps(method(layer), module), maps(method(merged), module.merged()), CLOSE)


@pytest.mark.parametrize("layer", [None, "r1", "b1"])
@pytest.mark.parametrize("contrast", ["r2", "b2", "pool", "flatten"])
def test_contrasts_and_stops_at_norms_equal_the_merged_network(contrast: str, layer: str | None) -> None:
    """Excitation backprop and its contrast at, or above, what a norm gives (modules, and a step of the graph): what the
    norm reads has the relevance, as in the merged network."""
    module, stop = Normed(), {None: None, "r1": "1", "b1": "1"}[layer]
    found = maps(ContrastiveEB(contrast, layer), module)
    assert_close(found, maps(ContrastiveEB("3" if contrast in ("r2", "b2") else "4", stop), module.merged()), CLOSE)
    assert_close(maps(ExcitationBackprop(layer), module), maps(ExcitationBackprop(stop), module.merged()), CLOSE)


def test_contrast_at_a_pool_behind_a_norm() -> None:
    """The pool's output is a value of its own where a method names it; p - q sums to 0 and is not empty."""
    found = maps(ContrastiveEB("pool", "r1"), Normed())
    assert found.abs().max() > 0
    assert found.sum((1, 2)).abs().max() < CLOSE


class Middle(nn.Module):
    """conv - ReLU - something - conv - mean."""

    def __init__(
        self, middle: Callable[[Tensor], Tensor], bias: Tensor | float = 0, factor: Tensor | float = 1
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.first, self.second = nn.Conv2d(3, 6, 3).double(), nn.Conv2d(6, 5, 3).double()
        self.middle = middle
        assert self.second.bias is not None
        self.second.weight.data *= factor
        self.second.bias.data += bias

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.middle(self.first(x).relu())).relu().mean((2, 3))


def through(shift: Tensor | float) -> Tensor:
    """What a shift of the second layer's input [6,1,1] adds to its bias [5]."""
    weight = Middle(nn.Identity()).second.weight
    return (weight * torch.as_tensor(shift, dtype=torch.float64)).sum((1, 2, 3)).detach()


C = torch.linspace(-0.4, 0.6, 6, dtype=torch.float64).view(6, 1, 1)
TWO = torch.tensor([0.3, 0.3, -1, -1, -1, -1], dtype=torch.float64).view(6, 1, 1)
AFTER_A_RELU: dict[str, tuple[Callable[[Tensor], Tensor], Tensor | float, Tensor | float]] = {
    "a number": (lambda x: x + 0.3, through(0.3), 1),
    "of each channel": (lambda x: C + x, through(C), 1),
    "subtracted": (lambda x: x - C, through(-C), 1),
    "subtracted from": (lambda x: 0.3 - x, through(0.3), -1),
    "factor and shift": (lambda x: (x * 2 * C + C) / 4, through(C / 4), C / 2),
    "in place": (lambda x: x.add_(C), through(C), 1),
    "max-pool": (lambda x: F.max_pool2d(x * -2 + C, 1), through(C), -2),
    "dropout and shuffled": (lambda x: F.dropout(x + C, 0.5, False).flip(1).flip(1), through(C), 1),
    "concatenated": (
        lambda x: torch.cat([x[:, :2] * 3 + 0.3, x[:, 2:] - 1], 1),
        through(TWO),
        torch.where(TWO > 0, 3, 1),
    ),
}


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize(("middle", "bias", "factor"), AFTER_A_RELU.values(), ids=AFTER_A_RELU)
def test_constants_after_a_relu_are_biases(
    middle: Callable[[Tensor], Tensor], bias: Tensor | float, factor: Tensor | float, method: Attributor
) -> None:
    """relu(x) + c before a layer against the layer with that bias."""
    assert_close(maps(method, Middle(middle)), maps(method, Middle(lambda x: x, bias, factor)), CLOSE)


def test_constants_of_each_position_are_biases_of_each_position() -> None:
    """relu(x) + c with another c at each pixel, and a padded layer (whose border sees less of it): epsilon's rule with
    epsilon 0 is input x gradient."""
    positions = torch.linspace(-1, 1, 100, dtype=torch.float64).view(10, 10)
    module = Middle(lambda x: F.pad(x + positions, (1, 1, 1, 1)))
    assert_close(maps(INPUT_X_GRADIENT, module), maps(InputXGradient(), module), CLOSE)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_constants_after_a_layer_are_its_bias(method: Attributor) -> None:
    """conv(x) * 2 + c against the convolution with those weights and that bias, whatever batch-norms do."""

    class Shifted(Middle):
        def forward(self, x: Tensor) -> Tensor:
            return self.second((self.first(x) * 2 + C).relu()).mean((2, 3))

    class Plain(Middle):
        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x).relu()).mean((2, 3))

    plain = Plain(nn.Identity())
    assert plain.first.bias is not None
    plain.first.weight.data *= 2
    plain.first.bias.data = plain.first.bias.data * 2 + C.flatten()
    assert_close(maps(method, Shifted(nn.Identity())), maps(method, plain), CLOSE)


class PreActivation(nn.Module):
    """A pre-activation residual network: batch-norms between a sum and a ReLU (He et al. 2016b)."""

    def __init__(self, dense: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            wide = 12 if dense else 6
            self.stem, self.conv, self.fc = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, padding=1), nn.Linear(wide, 4)
            self.b1, self.b2, self.dense = nn.BatchNorm2d(6), nn.BatchNorm2d(wide), dense
            for norm in (self.b1, self.b2):
                nn.init.uniform_(norm.weight, -0.5, 1.5)
                nn.init.uniform_(norm.bias, -0.5, 0.5)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.stem(x).relu(), 2)
        y = self.conv(self.b1(x).relu())
        joined = torch.cat([x, y], 1) if self.dense else x + y
        return self.fc(self.b2(joined).relu().mean((2, 3)))


@pytest.mark.parametrize("dense", [False, True], ids=["residual", "dense"])
@pytest.mark.parametrize("method", [INPUT_X_GRADIENT, LRP(Epsilon(0), batch_norm="pass", stabiliser=0)], ids=repr)
def test_norms_before_a_relu_keep_their_share(dense: bool, method: Attributor) -> None:
    """s x / (s x + t): with epsilon 0 the whole map is input x gradient."""
    module = PreActivation(dense)
    assert_close(maps(method, module), maps(InputXGradient(), module), CLOSE)


@pytest.mark.parametrize("method", [LRP(AlphaBeta()), ExcitationBackprop("stem")], ids=repr)
def test_rules_of_one_sign_conserve(method: Attributor) -> None:
    """Alpha-beta without biases and excitation leave shifts out, so that relevance passes: the sum stays, less what
    dead denominators lose (here nothing)."""
    module = PreActivation(dense=True)
    if isinstance(method, LRP):
        expected = network(module)(network(module).normalise(random_images(4, 12).double()))[
            torch.arange(4), FOUR.label
        ]
    else:
        expected = torch.ones(4, dtype=torch.float64)
    assert_close(maps(method, module).sum((1, 2))[:, None], expected[:, None], CLOSE)


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.skipif(not TRAINED.is_file(), reason=f"no {TRAINED}")
@pytest.mark.parametrize("method", [INPUT_X_GRADIENT, LRP(Epsilon())], ids=repr)
def test_trained_densenet_is_input_x_gradient(method: Attributor) -> None:
    """The shipped preset's DenseNet-BC in float32: cosine above .9999 (its map reached 1e36 where shifts passed)."""
    trained = cifar_network("densenet_bc100", str(TRAINED), mean=[0.49, 0.48, 0.45], std=[0.2, 0.2, 0.2], classes=10)
    images = F.interpolate(random_images(4, 8), (32, 32), mode="bilinear")
    found, expected = (attribute(m, trained, images, FOUR).values for m in (method, InputXGradient()))
    assert float(torch.cosine_similarity(found.flatten(1), expected.flatten(1)).min()) > 0.9999


def test_quotients_by_an_activation_are_refused() -> None:
    """c / x is no constant factor: UnsupportedOp with the name, in every spelling."""
    for middle in (lambda x: 2 / (x + 1), lambda x: torch.div(torch.ones(()).double(), x + 1)):
        with pytest.raises(UnsupportedOp, match="'div', which divides by an activation"):
            maps(INPUT_X_GRADIENT, Middle(middle))
