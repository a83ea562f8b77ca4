"""Small networks as people write them: the map is that of a twin in plain words, or input x gradient, or is refused.

A twin is the same function made of convolutions, ReLUs and linear layers that hold all constants; where there is none,
LRP's epsilon rule with epsilon 0 is input x gradient (Ancona et al. 2018). float64, 1e-9 of the map's largest value.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from assay.harness.heads import Targets
from assay.harness.network import Network
from assay.harness.types import Attributor
from assay.methods.attribution.gradient import Gradient, InputXGradient
from assay.methods.attribution.guided import GuidedBackprop
from assay.methods.attribution.lift import LRPCAM, LiftCAM
from assay.methods.attribution.relevance.excitation import ContrastiveEB, ExcitationBackprop
from assay.methods.attribution.relevance.hedge import GradientHedge
from assay.methods.attribution.relevance.lrp import LRP, ContrastiveLRP
from assay.methods.attribution.relevance.operations import UnsupportedOp
from assay.methods.attribution.relevance.rap import RAP, Variant
from assay.methods.attribution.relevance.rules import AlphaBeta, Epsilon, ZBox
from conftest import assert_close, attribute, random_images
from torch import Tensor, nn

CLOSE = 1e-9
PAIRS = Targets(torch.arange(3), torch.tensor([0, 1, 1]))
EXACT = LRP(Epsilon(0), stabiliser=0)
METHODS: list[Attributor] = [
    *(LRP(AlphaBeta()), LRP(AlphaBeta(2, 1), first=ZBox()), ContrastiveLRP(), RAP(), RAP("paper")),
    *(ExcitationBackprop("first"), GradientHedge("first"), LRPCAM("first", epsilon=0)),
]
Body = Callable[["Net", Tensor], Any]


class Net(nn.Module):
    """A stem conv - ReLU, and what `body` makes of it with the layers below."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.first, self.conv = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, padding=1)
            self.point, self.fc, self.other = nn.Conv2d(6, 2, 1), nn.Linear(6, 2), nn.Linear(6, 5)
            self.norm, self.norm1 = nn.BatchNorm2d(6), nn.BatchNorm1d(6)
            self.one, self.ones = nn.Linear(6, 1), nn.Linear(6, 2)
            for norm in (self.norm, self.norm1):
                nn.init.uniform_(norm.weight, -0.5, 1.5)
                nn.init.uniform_(norm.bias, -0.5, 0.5)
                norm.running_mean.uniform_(-0.3, 0.5)  # type: ignore[union-attr]
                norm.running_var.uniform_(0.3, 1)  # type: ignore[union-attr]
        self.body = body
        self.double().eval()
        self.ones.weight.data = torch.cat([-self.one.weight, self.one.weight]).detach()
        self.ones.bias.data = torch.cat([-self.one.bias, self.one.bias]).detach()

    def forward(self, x: Tensor) -> Any:
        return self.body(self, self.first(x).relu())

    def ending(self, x: Tensor) -> Tensor:
        """conv - ReLU - mean - linear."""
        return self.fc(self.conv(x).relu().mean((2, 3)))


def network(body: Body | nn.Module, **options: Any) -> Network:
    module = body if isinstance(body, nn.Module) else Net(body)
    return Network(module, (0.5,) * 3, (0.25,) * 3, **options).to(dtype=torch.float64)


def maps(method: Attributor, read: Network) -> Tensor:
    return attribute(method, read, random_images(3, 10).double(), PAIRS).values


C = torch.linspace(-0.4, 0.6, 6, dtype=torch.float64).view(6, 1, 1)
ZERO = torch.zeros((), dtype=torch.float64)
PLACES = torch.linspace(-1, 1, 128, dtype=torch.float64).view(1, 2, 8, 8)
SIGNS = torch.tensor([1.0, -1, 1, -1, 1, -1], dtype=torch.float64)


def then(middle: Callable[[Tensor], Tensor]) -> Body:
    """Something between the stem and a layer."""
    return lambda net, x: net.ending(middle(x))


def pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def shifted_after(net: Net, x: Tensor) -> Tensor:
    """x W^T + b in words of its own."""
    return pooled(x).matmul(net.fc.weight.T) + net.fc.bias


def biased(net: Net, x: Tensor) -> Tensor:
    """A 1x1 head with a bias of each position."""
    layer = lambda inputs, bias: (F.conv2d(inputs, net.point.weight) + bias).mean((2, 3))  # noqa: E731
    return layer(x, PLACES)


def averaged_bias(net: Net, x: Tensor) -> Tensor:
    return F.conv2d(x, net.point.weight, PLACES.mean((0, 2, 3))).mean((2, 3))


def times(factor: float, layer: nn.Conv2d, x: Tensor) -> Tensor:
    """The layer with factor times its weights and bias."""
    assert layer.bias is not None
    return F.conv2d(x, layer.weight * factor, layer.bias * factor, padding=1)


def padded(mode: str) -> Callable[[Tensor], Tensor]:
    return lambda x: F.pad(x, (1, 2, 1, 0), mode=mode)


def negative_rectifier(net: Net, x: Tensor) -> Tensor:
    return net.fc(pooled(-(-net.conv(x)).clamp(max=0)))


# Spellings of one function: (network, twin)
SPELT: dict[str, tuple[Body, Body]] = {
    "lerp": (then(lambda x: torch.lerp(x, C, 0.25)), then(lambda x: x * 0.75 + C / 4)),
    "lerp from a constant": (then(lambda x: C.lerp(x, 0.25)), then(lambda x: x / 4 + C * 0.75)),
    "addcmul": (then(lambda x: torch.addcmul(x, C, C, value=2)), then(lambda x: x + 2 * C * C)),
    "addcmul of a product": (then(lambda x: torch.addcmul(C, x, C, value=2)), then(lambda x: x * (2 * C) + C)),
    "addcdiv": (then(lambda x: torch.addcdiv(x, C, C + 2, value=2)), then(lambda x: x + 2 * C / (C + 2))),
    "long names": (
        then(lambda x: torch.divide(torch.subtract(torch.multiply(x, 2), C), 4)),
        then(lambda x: x / 2 - C / 4),
    ),
    "threshold": (then(lambda x: F.threshold(x - 0.1, 0, 0)), then(lambda x: (x - 0.1).relu())),
    "negative rectifier": (negative_rectifier, lambda net, x: net.ending(x)),
    "minimum": (lambda net, x: net.fc(pooled(-torch.minimum(-net.conv(x), ZERO))), lambda net, x: net.ending(x)),
    "transposed": (then(lambda x: x.mT.mT), then(lambda x: x)),
    "turned": (then(lambda x: x.rot90(1, (2, 3)).rot90(3, (2, 3))), then(lambda x: x)),
    "windows": (then(lambda x: x.unfold(2, 1, 1)[..., 0]), then(lambda x: x)),
    "gathered": (then(lambda x: x.gather(1, torch.arange(6).view(1, 6, 1, 1).expand(x.shape))), then(lambda x: x)),
    "overloads": (then(torch.ops.aten.relu.default), then(F.relu)),
    "a matrix and a bias": (shifted_after, lambda net, x: net.fc(pooled(x))),
    "addmm": (lambda net, x: torch.addmm(net.fc.bias, pooled(x), net.fc.weight.T), lambda net, x: net.fc(pooled(x))),
    "a sign after a view": (
        lambda net, x: -(net.point(pooled(x)[..., None, None]).flatten(1)),
        lambda net, x: F.linear(pooled(x), -net.point.weight[:, :, 0, 0], -net.point.bias),  # type: ignore[operator]
    ),
    "a sign after a layer": (
        lambda net, x: net.fc(pooled((net.conv(x) * -2).relu())),
        lambda net, x: net.fc(pooled(times(-2, net.conv, x).relu())),
    ),
    "another head, called later": (
        lambda net, x: (net.fc(pooled(x)), net.other(pooled(x)))[0],
        lambda net, x: net.fc(pooled(x)),
    ),
    "checkpoint": (
        then(lambda x: torch.utils.checkpoint.checkpoint(F.relu, x - 0.1, use_reentrant=False)),
        then(lambda x: (x - 0.1).relu()),
    ),
}


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize(("body", "twin"), SPELT.values(), ids=SPELT)
def test_words_do_not_matter(body: Body, twin: Body, method: Attributor) -> None:
    """Both forms of one function, under each method."""
    if isinstance(method, LRPCAM) and body is SPELT["gathered"][0]:
        pytest.skip("torch.fx does not follow the sizes of its index")
    assert_close(maps(method, network(body)), maps(method, network(twin)), CLOSE)


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_rap_starts_at_the_logit_with_every_bias(variant: Variant) -> None:
    """A bias of each position after the last layer, which a mean follows, against the bias that is its mean."""
    assert_close(maps(RAP(variant), network(biased)), maps(RAP(variant), network(averaged_bias)), CLOSE)


@pytest.mark.parametrize("squeezed", [False, True], ids=["[B,1]", "[B]"])
@pytest.mark.parametrize("method", [*METHODS, ContrastiveEB("first", "first"), LiftCAM("first")], ids=repr)
def test_one_logit_is_two_rows(method: Attributor, squeezed: bool) -> None:
    """activation=binary against the layer [-w, w] with biases [-b, b]: the class with the negative row, too."""
    body: Body = lambda net, x: net.one(pooled(x))[:, 0] if squeezed else net.one(pooled(x))  # noqa: E731
    twin = network(lambda net, x: net.ones(pooled(x)), activation="sigmoid")
    assert_close(maps(method, network(body, activation="binary")), maps(method, twin), CLOSE)


# A batch-norm after the stem's ReLU, what lies between it and the next layer, and that layer.

WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "nothing": lambda x: x,
    "bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "bicubic": lambda x: F.interpolate(x, scale_factor=1.5, mode="bicubic", align_corners=True),
    "padded average": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "average without padding": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "uneven cells": lambda x: F.adaptive_avg_pool2d(x, (3, 7)),
    **{mode: padded(mode) for mode in ("reflect", "replicate", "circular")},
    "zeros": lambda x: F.pad(x, (1, 2, 1, 0)),
    "shuffle": lambda x: F.channel_shuffle(x, 3),
    "sliced": lambda x: torch.cat([x[..., ::2, ::2], x[..., 1::2, 1::2]], 1)[:, :6],
    "chosen": lambda x: x[:, [3, 1, 5, 0, 0, 2]],
    "unbound": lambda x: torch.stack(x.unbind(1)[::-1], 1),
    "repeated": lambda x: x[:, :3].repeat_interleave(2, 1),
    "crop": lambda x: x[..., 1:-1, 1:9:2],
}


@pytest.mark.parametrize("method", [LRP(AlphaBeta()), RAP(), ExcitationBackprop("first")], ids=repr)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_norm_moves_to_the_next_layer(way: Callable[[Tensor], Tensor], method: Attributor) -> None:
    """conv - ReLU - norm - way - conv against the conv with factors in its weights and a bias of each position."""

    def merged(net: Net, x: Tensor) -> Tensor:
        zero = torch.zeros_like(x[:1])
        shift = net.norm(zero)
        scale = way(net.norm(zero + 1) - shift).amax((0, 2, 3)), way(net.norm(zero + 1) - shift).amin((0, 2, 3))
        factor = torch.where(scale[0].abs() > scale[1].abs(), *scale)
        bias = F.conv2d(way(shift), net.conv.weight, net.conv.bias, padding=1)
        kept = F.conv2d(way(x), net.conv.weight * factor.view(1, -1, 1, 1), padding=1)
        return net.fc(pooled((kept + bias).relu()))

    normed: Body = lambda net, x: net.ending(way(net.norm(x)))  # noqa: E731
    images = (random_images(3, 10).double() - 0.5) / 0.25
    torch.testing.assert_close(Net(normed)(images), Net(merged)(images))
    assert_close(maps(method, network(normed)), maps(method, network(merged)), CLOSE)


# No twin: input x gradient

GRADIENTS: dict[str, Body] = {
    "norm - norm": lambda net, x: net.ending(net.norm(net.norm(x))),
    "norm - ReLU - norm": lambda net, x: net.ending(net.norm(net.norm(x).relu())),
    "norm before and after a sum": lambda net, x: net.ending(net.norm(net.conv(net.norm(x).relu()) + x).relu()),
    "norm at the end": lambda net, x: net.norm1(pooled(x))[:, :2],
    "norm of one part": lambda net, x: net.ending(torch.cat([net.norm(x)[:, :3], x[:, 3:]], 1)),
    "norm read twice": lambda net, x: (lambda y: net.ending(y) + net.fc(pooled(y)))(net.norm(x)),
    "norm after tokens": lambda net, x: net.fc(net.norm1(x.flatten(2)).relu().mean(2)),
    "max of a padded norm": lambda net, x: net.ending(F.max_pool2d(net.norm(x), 3, 2, 1)),
    "max of spread windows": lambda net, x: net.ending(F.max_pool2d(net.norm(x), 2, 1, 0, 2)),
    "padded with a number": lambda net, x: net.ending(F.pad(net.norm(x), (1, 1, 1, 1), value=1.0)),
    "padded with a number, averaged": lambda net, x: net.ending(F.avg_pool2d(F.pad(x, (1, 1, 1, 1), value=1.0), 2)),
    "a constant channel": lambda net, x: net.ending(torch.cat([x[:, :5], torch.full_like(x[:, :1], 0.7)], 1)),
    "filled": lambda net, x: net.ending(F.avg_pool2d(x.masked_fill(torch.eye(8).bool(), 1.0), 2)),
    "a larger constant": lambda net, x: net.ending(torch.maximum(x, C)),
    "shifts of each image": lambda net, x: net.ending(x * SIGNS[:3].view(3, 1, 1, 1) + SIGNS[:3].view(3, 1, 1, 1)),
    "less its own detached mean": lambda net, x: net.ending(x - x.detach().mean((2, 3), keepdim=True)),
    "layer scale": lambda net, x: net.ending(x + C * net.conv(x)),
    "maxout": lambda net, x: net.fc(pooled(net.conv(x).unflatten(1, (3, 2)).max(2)[0].repeat(1, 2, 1, 1))),
    "both signs": lambda net, x: net.fc(pooled(torch.cat([net.conv(x).relu(), (-net.conv(x)).relu()], 1)[:, 3:9])),
    "average and maximum": lambda net, x: net.fc(x.mean((2, 3)) + x.amax((2, 3))),
    "logsumexp": lambda net, x: net.point(x).logsumexp((2, 3)),
    "temperature and offset": lambda net, x: net.fc(pooled(x)) / 0.1 + 1,
    "two last layers": lambda net, x: net.fc(x.mean((2, 3))) + net.ones(x.amax((2, 3))),
    "unnormalised tokens": lambda net, x: net.fc(net.norm1(net.fc.weight.new_ones(1, 6) * pooled(x))),
}


@pytest.mark.parametrize("body", GRADIENTS.values(), ids=GRADIENTS)
def test_the_epsilon_rule_is_input_x_gradient(body: Body) -> None:
    """Norms, constants and joints where no layer merges them."""
    assert_close(maps(EXACT, network(body)), maps(InputXGradient(), network(body)), CLOSE)


# Refused by name


def _written_through(net: Net, x: Tensor) -> Tensor:
    y = net.conv(x)
    F.relu_(y[:, :3])
    return net.fc(pooled(y))


def _overwritten(net: Net, x: Tensor) -> Tensor:
    y = net.conv(x)
    old = y.flatten(2)
    y.add_(1)
    return net.fc(pooled(y) + old.mean(2))


def _set_data(net: Net, x: Tensor) -> Tensor:
    y = net.conv(x)
    y.data = y.data.clamp(min=0)
    return net.fc(pooled(y))


REFUSED: dict[str, tuple[str, Body]] = {
    "bounds above 0": ("clamp", then(lambda x: F.hardtanh(x, 0.1, 0.5))),
    "threshold with a value": ("threshold", then(lambda x: F.threshold(x, 0.1, 0.1))),
    "a view that is written into": ("relu", _written_through),
    "a view of what was written": ("add", _overwritten),
    "values that are set": ("data", _set_data),
    "soft attention": ("mul", then(lambda x: x * x.flatten(2).softmax(2).unflatten(2, (8, 8)))),
}


NORMS: dict[str, tuple[str, Body]] = {
    "root mean square": ("rms_norm", then(lambda x: F.rms_norm(x, (8,)))),
    "cosine head": ("normalize", lambda net, x: F.linear(F.normalize(pooled(x)), net.fc.weight)),
}


@pytest.mark.parametrize("method", [LRP(AlphaBeta()), RAP(), ExcitationBackprop()], ids=repr)
@pytest.mark.parametrize(("name", "body"), NORMS.values(), ids=NORMS)
def test_norms_have_no_rule_of_one_sign(name: str, body: Body, method: Attributor) -> None:
    """UnsupportedOp with the operation; what epsilon's rule makes of them: test_attnlrp.py."""
    with pytest.raises(UnsupportedOp, match=f"'{name}'"):
        maps(method, network(body))


@pytest.mark.parametrize("method", [EXACT, LRP(AlphaBeta()), RAP(), ExcitationBackprop()], ids=repr)
@pytest.mark.parametrize(("name", "body"), REFUSED.values(), ids=REFUSED)
def test_refused_by_name(name: str, body: Body, method: Attributor) -> None:
    """UnsupportedOp with the operation: no rule, or a write that relevance cannot follow."""
    with pytest.raises(UnsupportedOp, match=f"'{name}'"):
        maps(method, network(body))


def test_rap_starts_at_one_last_layer() -> None:
    """Eq. 5-6 normalise the contributions to a logit together."""
    with pytest.raises(ValueError, match=r"RAP starts at one last layer, .* made of several \('fc', 'ones'\)"):
        maps(RAP(), network(GRADIENTS["two last layers"]))


class Last(nn.Module):
    """Channels last from a linear layer on: [B,4,4,4], read by what says nothing of dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.mix, self.fc = nn.Conv2d(3, 4, 3, 2), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.mix(self.first(x).permute(0, 2, 3, 1)).relu().flatten(1, 2).mean(1))


@pytest.mark.parametrize("method", [ExcitationBackprop("mix"), GradientHedge("mix")], ids=repr)
def test_relevance_at_a_layer_with_channels_last_is_refused(method: Attributor) -> None:
    """Its height would be read as channels."""
    with pytest.raises(ValueError, match=r"layer 'mix' gives \[3, 4, 4, 4\], .*channels come last"):
        maps(method, network(Last()))


class Ungraphed(nn.Module):
    """Logits without a graph."""

    def __init__(self, how: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.how = Net(lambda net, x: net.ending(x)), how

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self.inner, x)


@torch.no_grad()
def _no_grad(net: Net, x: Tensor) -> Tensor:
    return net(x)


@pytest.mark.parametrize("method", [Gradient(), GuidedBackprop(), EXACT, RAP()], ids=repr)
@pytest.mark.parametrize("how", [_no_grad, lambda net, x: net(x.detach())], ids=["no_grad", "detached"])
def test_logits_without_a_gradient_are_named(how: Callable[[Net, Tensor], Tensor], method: Attributor) -> None:
    """ValueError that says why and what else there is."""
    with pytest.raises(ValueError, match=r"the logits have no gradient here: .*torch.no_grad, .*rise"):
        maps(method, network(Ungraphed(how)))


MASKED: dict[str, Callable[[Tensor], Tensor]] = {
    "mask": lambda x: x * (x > 0.1),
    "where": lambda x: torch.where(x > 0.1, x, 0),
    "detached": lambda x: x - x.detach().mean((2, 3), keepdim=True),
}


@pytest.mark.parametrize("middle", MASKED.values(), ids=MASKED)
def test_deeplift_refuses_what_changes_with_the_activation_unseen(middle: Callable[[Tensor], Tensor]) -> None:
    """A mask of the activation is no constant between it and its reference: LIFT-CAM would not sum to F(A) - F(0)."""
    with pytest.raises(ValueError, match=r"the (head|network) calls '(mul|where|sub)'"):
        maps(LiftCAM("first"), network(then(middle)))
