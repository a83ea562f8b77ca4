"""What relevance methods and guided backprop cannot see is refused by name; relevance beyond the logits is said."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from assay.harness.heads import Targets
from assay.harness.network import Network
from assay.harness.types import Attributor
from assay.methods.attribution.gradient import Gradient
from assay.methods.attribution.guided import Deconvnet, GuidedBackprop
from assay.methods.attribution.relevance.excitation import ExcitationBackprop
from assay.methods.attribution.relevance.hedge import GradientHedge
from assay.methods.attribution.relevance.lrp import LRP
from assay.methods.attribution.relevance.operations import UnsupportedOp
from assay.methods.attribution.relevance.rap import RAP
from assay.methods.attribution.relevance.rules import AlphaBeta, Epsilon
from conftest import attribute, random_images
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
ONE = Targets(torch.tensor([0]), torch.tensor([1]))
RELEVANCE: list[Attributor] = [LRP(Epsilon()), LRP(AlphaBeta()), RAP(), ExcitationBackprop(), GradientHedge("first")]
GUIDED: list[Attributor] = [GuidedBackprop("sum"), Deconvnet("sum")]


class MemorySwish(torch.autograd.Function):
    """x sigmoid(x) as memory-saving code writes it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        s = x.sigmoid()
        return gradients[0] * s * (1 + x * (1 - s))


class InPlace(torch.autograd.Function):
    """max(x, 0), written into x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        x.clamp_(min=0)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * (ctx.saved_tensors[0] > 0)


class Net(nn.Module):
    """conv - ReLU - something - conv - mean - something."""

    def __init__(self, middle: Callable[[Tensor], Tensor], last: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 3)
        self.middle, self.last = middle, last

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.middle(self.first(x).relu()))
        return self.last(x.relu().mean((2, 3)))


class Signed(Net):
    """The same without the first ReLU: what reaches the middle, and its gradient, have both signs."""

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.middle(self.first(x))).relu().mean((2, 3)))


def found(method: Attributor, module: nn.Module) -> Tensor:
    network = Network(module, (0.5,) * 3, (0.25,) * 3)
    return attribute(method, network, random_images(1, 8), ONE).values


UNSEEN: dict[str, tuple[str, Callable[[], Callable[[Tensor], Tensor]]]] = {
    "function": ("MemorySwish", lambda: MemorySwish.apply),
    "function in place": ("InPlace", lambda: InPlace.apply),
    "scripted": ("Relu", lambda: torch.jit.script(nn.ReLU())),
    "traced": ("Relu", lambda: torch.jit.trace(nn.ReLU(), torch.rand(1, 6, 6, 6))),
    "scripted layers": ("Convolution", lambda: torch.jit.script(nn.Sequential(nn.ReLU(), nn.Conv2d(6, 6, 1)))),
    "reentrant checkpoint": ("CheckpointFunction", lambda: lambda x: checkpoint(F.silu, x, use_reentrant=True)),
}


@pytest.mark.parametrize("at_the_end", [False, True])
@pytest.mark.parametrize(("name", "build"), UNSEEN.values(), ids=UNSEEN)
@pytest.mark.parametrize("method", [*RELEVANCE, *GUIDED], ids=repr)
def test_what_is_made_unseen_is_refused(
    name: str, build: Callable[[], Callable[[Tensor], Tensor]], at_the_end: bool, method: Attributor
) -> None:
    """An autograd.Function, a scripted or a traced module, inside and as the last step: UnsupportedOp, naming it."""
    if at_the_end and name == "Convolution":
        pytest.skip("logits have no height")
    operation = build()
    module = Net(lambda x: x, operation) if at_the_end else Net(operation)
    where = "; here (middle|last) \\(torch.jit\\): give the modules" if name in ("Relu", "Convolution") else ""
    with pytest.raises(UnsupportedOp, match=f"'{name}', which runs inside an autograd.Function or a scripted.*{where}"):
        found(method, module)


def test_checkpoints_that_keep_the_graph_are_seen() -> None:
    """Non-reentrant ones run the network's own operations: the map without them; exact."""
    with_checkpoint = Net(lambda x: checkpoint(F.silu, x, use_reentrant=False))
    assert torch.equal(found(LRP(Epsilon()), with_checkpoint), found(LRP(Epsilon()), Net(F.silu)))


RECTIFIERS: dict[str, Callable[[Tensor], Tensor]] = {
    "clamp": lambda x: x.clamp(min=0),
    "clamp by place": lambda x: torch.clamp(x, 0),
    "max": lambda x: torch.max(x, torch.zeros_like(x)),
    "max, named": lambda x: x.max(other=torch.zeros(())),
    "threshold_": lambda x: F.threshold_(x, 0, 0),  # type: ignore[attr-defined]
    "aten": torch.ops.aten.relu,
    "aten, overload": torch.ops.aten.relu.default,
    "clamp_": lambda x: (x.clamp_(min=0), x)[1],
    "clamp_min": lambda x: x.clamp_min(0),
    "clip": lambda x: torch.clip(input=x, min=0),
    "maximum": lambda x: torch.maximum(torch.zeros(()), x),
    "threshold": lambda x: F.threshold(x, 0, 0),
    "module": nn.Threshold(0, 0),
}


@pytest.mark.parametrize("rectify", RECTIFIERS.values(), ids=RECTIFIERS)
@pytest.mark.parametrize("method", GUIDED, ids=repr)
def test_other_spellings_of_a_relu(method: Attributor, rectify: Callable[[Tensor], Tensor]) -> None:
    """Against nn.ReLU; bit-equal, and not the ordinary gradient."""
    maps = [found(method, Signed(r)) for r in (rectify, nn.ReLU())]
    assert torch.equal(maps[0], maps[1])
    assert not torch.allclose(maps[0], found(Gradient("sum"), Signed(nn.ReLU())))


OTHER: list[Callable[[Tensor], Tensor]] = [
    *(F.leaky_relu, F.elu, F.celu, F.selu, F.gelu, F.silu, F.mish, F.hardswish, F.softplus, F.hardshrink),
    nn.PReLU(),
    lambda x: F.leaky_relu(x, 0.0),
    lambda x: F.rrelu(x, 0.1, 0.1),
]


@pytest.mark.parametrize("rectify", OTHER, ids=[f"other{number}" for number in range(len(OTHER))])
@pytest.mark.parametrize("method", GUIDED, ids=repr)
def test_rectifiers_of_other_shapes_beside_relus_are_refused(
    method: Attributor, rectify: Callable[[Tensor], Tensor]
) -> None:
    """Their gradient would pass as it is, and that of ReLUs would not: UnsupportedOp with the name."""
    with pytest.raises(UnsupportedOp, match=r"which is a rectifier too, beside ReLUs, .*: (guided_backprop|deconvnet)"):
        found(method, Signed(rectify))


def _written(x: Tensor) -> Tensor:
    y = x.clone()
    y[y < 0] = 0
    return y


DISGUISED: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "where": ("where", lambda x: torch.where(x > 0, x, 0)),
    "masked_fill": ("masked_fill", lambda x: x.masked_fill(x < 0, 0)),
    "mask": ("mul", lambda x: x * (x > 0)),
    "mask of numbers": ("mul", lambda x: (x > 0).float() * x),
    "modulus": ("abs", lambda x: (x + x.abs()) / 2),
    "written": ("__setitem__", _written),
    "negative part": ("clamp", lambda x: x - x.clamp(max=0)),
    "threshold": ("_threshold", lambda x: F.threshold(x, 0.1, 0)),
    "signs": ("sign", lambda x: x * (x.sign() + 1) / 2),
    "detached signs": ("mul", lambda x: x * (x.detach().sign() + 1) / 2),
    "indexed": ("index_put", lambda x: x.index_put((x < 0).nonzero(as_tuple=True), torch.zeros(()))),
    "negative maximum": ("minimum", lambda x: -torch.minimum(-x, torch.zeros(()))),
    "soft": ("logaddexp", lambda x: torch.logaddexp(x, torch.zeros(()))),
}


@pytest.mark.parametrize(("name", "rectify"), DISGUISED.values(), ids=DISGUISED)
@pytest.mark.parametrize("method", GUIDED, ids=repr)
def test_disguised_rectifiers_are_refused(method: Attributor, name: str, rectify: Callable[[Tensor], Tensor]) -> None:
    """They would keep their ordinary gradient beside ReLUs that do not: UnsupportedOp, naming operation and method."""
    with pytest.raises(UnsupportedOp, match=f"'{name}', which may be a rectifier .*(guided_backprop|deconvnet) gives"):
        found(method, Signed(rectify))


# The alarm


class Cancelling(nn.Module):
    """Logits (1 + gap, 1): of one pixel with three equal colours, contributions 1 and -1 + gap, and a bias of 1."""

    def __init__(self, gap: float) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 1, 1), nn.Linear(1, 2)
        self.double()
        self.conv.weight.data = torch.tensor([1.0, gap - 1, 0], dtype=torch.float64).view(1, 3, 1, 1)
        self.fc.weight.data.fill_(1)
        self.fc.bias.data.zero_()
        assert self.conv.bias is not None
        self.conv.bias.data.fill_(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).relu().flatten(1))


def cancelling_map(gap: float, method: Attributor) -> Tensor:
    network = Network(Cancelling(gap), (0,) * 3, (1,) * 3).to(dtype=torch.float64)
    return attribute(method, network, torch.ones(1, 3, 1, 1), ONE).values


WITHOUT_BIAS = LRP(Epsilon(0, bias=False))


def test_relevance_that_outgrows_the_logit_is_said() -> None:
    """Without the bias in the denominator R = (1, gap - 1) / gap of the logit 1: a warning from 1e3 on, a refusal from
    1e6; both name method, place and mend."""
    with pytest.warns(RuntimeWarning, match=r"LRP \(Epsilon\): relevance at the input is more than 1e\+03 .* choose"):
        cancelling_map(1e-4, WITHOUT_BIAS)
    with pytest.raises(ValueError, match=r"LRP \(Epsilon\): relevance at the input is more than 1e\+06 times"):
        cancelling_map(1e-8, WITHOUT_BIAS)


@pytest.mark.parametrize("method", [LRP(Epsilon()), LRP(AlphaBeta()), RAP(), LRP(Epsilon(), start="one")], ids=repr)
def test_no_alarm_where_nothing_outgrows(method: Attributor) -> None:
    """The bias keeps its share, or contributions have one sign: no warning, also with a logit near 0 beside others."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cancelling_map(1e-8, method)
        near_zero = Net(lambda x: x, lambda x: x - x.detach()[:, 1:2] + 1e-6 * (torch.arange(5) == 1) + 1)
        assert found(method, near_zero).isfinite().all()


def test_the_alarm_names_the_layer() -> None:
    """A layer above the cancelling one is not named, the one that reads it is."""

    class Two(Cancelling):
        def __init__(self) -> None:
            super().__init__(1e-8)
            self.stem = nn.Conv2d(3, 3, 1, bias=False)
            self.stem.weight.data = torch.eye(3).view(3, 3, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.stem(x).relu())

    network = Network(Two(), (0,) * 3, (1,) * 3).to(dtype=torch.float64)
    with pytest.raises(ValueError, match="relevance at the output of layer 'stem' is more than"):
        attribute(WITHOUT_BIAS, network, torch.ones(1, 3, 1, 1), ONE)


def test_methods_whose_arithmetic_grows_are_not_refused() -> None:
    """Excitation backprop on inputs of both signs divides by 1e-8: a warning, and the map that its definition gives."""

    class Pair(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, torch.ones(2, 3, 1, 1, dtype=x.dtype)).flatten(1)

    network = Network(Pair(), (0,) * 3, (1,) * 3).to(dtype=torch.float64)
    image = torch.tensor([1, 1e-8 - 1, 0], dtype=torch.float64).view(1, 3, 1, 1)
    with pytest.warns(RuntimeWarning, match=r"excitation backprop: .* 1e\+06"):
        values = attribute(ExcitationBackprop(), network, image, ONE).values
    assert abs(float(values.sum()) - 1) < 1e-6
