"""Rules of single operations against dense-Jacobian re-implementations: one sample at a time, float64, 1e-9."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.network import Network
from assay.methods.attribution.gradient import InputXGradient
from assay.methods.attribution.relevance.engine import Tape
from assay.methods.attribution.relevance.lrp import LRP
from assay.methods.attribution.relevance.operations import UnsupportedOp, pure, spelling
from assay.methods.attribution.relevance.rules import AffineRule, AlphaBeta, Epsilon, Gamma, ZBox
from assay.methods.attribution.relevance.table import RuleTable
from conftest import assert_close, attribute, random_images
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

CLOSE = 1e-9
EXACT = LRP(Epsilon(0), stabiliser=0)
THREE = Targets(torch.arange(3), torch.tensor([0, 4, 1]))


class Net(nn.Module):
    """conv - something - conv - mean."""

    def __init__(self, middle: Callable[[Tensor], Tensor], channels: int = 6) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(channels, 5, 1)
        self.middle = middle
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.middle(self.first(x))).relu().mean((2, 3))


def network(module: nn.Module) -> Network:
    return Network(module, (0.5,) * 3, (0.25,) * 3).to(dtype=torch.float64)


def lrp_map(module: nn.Module, method: LRP = EXACT) -> Tensor:
    return attribute(method, network(module), random_images(3, 8).double(), THREE).values


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


MATRIX, MEANS, VARIANCES = random(6, 6), random(6), random(6).abs() + 0.5
C, D = random(6) + 0.3, random(6).flip(0)


# Transposed convolutions


TRANSPOSED: dict[str, tuple[tuple[int, ...], dict[str, int]]] = {
    "plain": ((6, 4, 3, 3), {}),
    "stride 2": ((6, 4, 2, 2), {"stride": 2}),
    "padded, grouped": ((6, 2, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}),
}


def shares(contributions: Tensor, r: Tensor, total: Tensor) -> Tensor:
    """R_i = Sum_j c_ij R_j / z_j, 0/0 = 0: contributions [J,I]."""
    return (contributions * torch.where(total == 0, 0, r / total)[:, None]).sum(0)


def reference(rule: str, z: Tensor, b: Tensor, r: Tensor) -> Tensor:
    """By the definitions, from contributions z [J,I]."""
    if rule == "epsilon":
        return shares(z, r, z.sum(1) + b)
    up, down = z.clamp(min=0), z.clamp(max=0)
    return 2 * shares(up, r, up.sum(1)) - shares(down, r, down.sum(1))


@pytest.mark.parametrize("normed", [False, True], ids=["", "between norms"])
@pytest.mark.parametrize(("shape", "options"), TRANSPOSED.values(), ids=TRANSPOSED)
@pytest.mark.parametrize(("name", "rule"), [("epsilon", Epsilon(0)), ("alpha-beta", AlphaBeta(2, 1))])
def test_transposed_convolutions(
    name: str, rule: AffineRule, shape: tuple[int, ...], options: dict[str, int], normed: bool
) -> None:
    """A layer like any other: its dense matrix; also with a constant before it and a batch-norm after it."""
    groups = options.get("groups", 1)
    layer = nn.ConvTranspose2d(shape[0], shape[1] * groups, shape[2:], **options).double()  # type: ignore[arg-type]
    scale, offset = (random(6).abs() + 0.5, random(6)) if normed else (torch.ones(6).double(), torch.zeros(6).double())
    norm = nn.BatchNorm2d(shape[1] * groups).double().eval() if normed else nn.Identity()
    if normed:
        nn.init.uniform_(norm.weight, -1, 1)  # type: ignore[arg-type]
        nn.init.uniform_(norm.bias, -1, 1)  # type: ignore[arg-type]
    every = [v.view(1, -1, 1, 1) for v in (scale, offset)]

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm = layer, norm

        def forward(self, x: Tensor) -> Tensor:
            x = torch.cat([x, x.flip(1)], 1)
            return self.norm(self.layer(x * every[0] + every[1] if normed else x)).flatten(1)

    module = Network(Layer(), (0,) * 3, (1,) * 3).to(dtype=torch.float64)
    images = random_images(2, 4).double()
    tape = Tape.record(ForwardPass(module, images))
    relevance = random(*tape.logits.shape)
    found = tape.pull(RuleTable(rule), tape.logits, relevance, tape.inputs)
    for x, r, value in zip(images, relevance, found, strict=True):
        wide = torch.cat([x, x.flip(0)])
        jacobian = torch.autograd.functional.jacobian(
            lambda v: norm(layer(v[None] * every[0] + every[1]))[0].flatten(), wide
        ).flatten(1)
        z = jacobian * wide.flatten()
        bias = norm(layer(every[1].expand(1, 6, 4, 4)))[0].flatten().detach()
        wanted = reference(name, z, bias, r).view(6, 4, 4)
        assert_close(value[None], (wanted[:3] + wanted[3:].flip(0))[None], CLOSE)


# Operations that are others in other words


SAME: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "add alpha": (lambda x: x.relu().add(x.tanh(), alpha=0.5), lambda x: x.relu() + 0.5 * x.tanh()),
    "add alpha, constant": (lambda x: torch.add(x.relu(), 0.2, alpha=2), lambda x: x.relu() + 0.4),
    "sub alpha, constant": (lambda x: torch.sub(x.relu(), 0.2, alpha=2), lambda x: x.relu() - 0.4),
    "add_ alpha": (lambda x: (y := x.relu(), y.add_(x, alpha=2), y)[2], lambda x: x.relu() + 2 * x),
    "neg": (lambda x: (-x.relu()).neg(), lambda x: x.relu()),
    "glu": (lambda x: F.glu(torch.cat([x, x.flip(1)], 1), 1), lambda x: x * x.flip(1).sigmoid()),
    "clamp": (lambda x: x.clamp(min=0), F.relu),
    "clamp to 6": (lambda x: torch.clip(x, 0, 6), F.relu6),
    "clamp_min": (lambda x: x.clamp_min(0), F.relu),
    "maximum with 0": (lambda x: torch.maximum(x, torch.zeros(()).double()), F.relu),
    "max with 0": (lambda x: torch.max(x, torch.zeros(()).double()), F.relu),
    "PReLU": (nn.PReLU(6, 0.125).double(), lambda x: F.leaky_relu(x, 0.125)),
    "CELU": (F.celu, F.elu),
    "max along": (lambda x: x.max(2, keepdim=True)[0], lambda x: x.amax(2, keepdim=True)),
    "max named": (lambda x: x.max(dim=-1).values[..., None], lambda x: x.amax(-1, keepdim=True)),
    "repeat": (lambda x: x[:, :3].repeat(1, 2, 1, 1), lambda x: torch.cat([x[:, :3], x[:, :3]], 1)),
    "tile": (lambda x: x[:, :3].tile(1, 2, 1, 1), lambda x: torch.cat([x[:, :3], x[:, :3]], 1)),
    "matrix": (
        lambda x: (x.movedim(1, -1) @ MATRIX).movedim(-1, 1),
        lambda x: F.linear(x.movedim(1, -1), MATRIX.t()).movedim(-1, 1),
    ),
    "where": (lambda x: torch.where(x > 0, x, torch.zeros_like(x)), F.relu),
    "masked_fill": (lambda x: x.masked_fill(x < 0, 0), F.relu),
    "kept statistics": (
        lambda x: F.instance_norm(x, MEANS, VARIANCES, use_input_stats=False),
        lambda x: F.batch_norm(x, MEANS, VARIANCES),
    ),
}


@pytest.mark.parametrize("method", [LRP(Epsilon()), LRP(Gamma()), LRP(AlphaBeta(2, 1), first=ZBox())], ids=repr)
@pytest.mark.parametrize(("spelling", "usual"), SAME.values(), ids=SAME)
def test_other_words(spelling: Callable[[Tensor], Tensor], usual: Callable[[Tensor], Tensor], method: LRP) -> None:
    """The map of the same function in words that have a rule already."""
    assert_close(lrp_map(Net(spelling), method), lrp_map(Net(usual), method), CLOSE)


# Rules that are new


def test_larger_takes_all() -> None:
    """maximum(a, b) as a max-pool over two (Bach et al. 2015): against amax of both stacked."""
    found = lrp_map(Net(lambda x: torch.maximum(x.relu(), x.flip(1).tanh())), LRP(AlphaBeta()))
    expected = lrp_map(Net(lambda x: torch.stack([x.relu(), x.flip(1).tanh()]).amax(0)), LRP(AlphaBeta()))
    assert_close(found, expected, CLOSE)


def test_a_constant_that_is_larger_takes_its_share() -> None:
    """maximum(x, .3): epsilon's rule with epsilon 0 is input x gradient."""
    module = Net(lambda x: torch.maximum(x, torch.full((), 0.3).double()))
    expected = attribute(InputXGradient(), network(module), random_images(3, 8).double(), THREE).values
    assert_close(lrp_map(module), expected, CLOSE)


NORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "group": lambda x: F.group_norm(x, 2, C, D),
    "group without weights": lambda x: F.group_norm(x, 3),
    "instance": lambda x: F.instance_norm(x, weight=C, bias=D),
}


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_norms_with_an_images_own_statistics(norm: Callable[[Tensor], Tensor]) -> None:
    """Mean and variance taken as constants (Ali et al. 2022): with epsilon 0 the map is x times the gradient of the
    network in which they are constants, image by image."""
    module = Net(norm)
    inputs = (random_images(3, 8).double() - 0.5) / 0.25
    rows = []
    for x, label in zip(inputs, THREE.label, strict=True):
        before = module.first(x[None]).detach()
        factor = torch.autograd.functional.jvp(lambda v: norm(v), before, torch.zeros_like(before))[0]  # values alone
        groups = {"group": 2, "group without weights": 3, "instance": 6}[next(k for k, v in NORMS.items() if v is norm)]
        grouped = before.view(1, groups, -1)
        mean = grouped.mean(2, keepdim=True).expand_as(grouped).reshape(before.shape)
        std = (grouped.var(2, unbiased=False, keepdim=True) + 1e-5).sqrt().expand_as(grouped).reshape(before.shape)
        plain = groups == 3
        c, d = (torch.ones(6).double(), torch.zeros(6).double()) if plain else (C, D)
        constant = lambda v, m=mean, s=std, c=c, d=d: (v - m) / s * c.view(-1, 1, 1) + d.view(-1, 1, 1)  # noqa: E731
        torch.testing.assert_close(constant(before), factor)
        leaf = x[None].clone().requires_grad_()
        logit = module.second(constant(module.first(leaf))).relu().mean((2, 3))[0, label]
        rows.append((torch.autograd.grad(logit, leaf)[0] * leaf).sum(1).detach())
    assert_close(lrp_map(module), torch.cat(rows), CLOSE)


def test_local_response_norm_passes_relevance() -> None:
    """x times a positive factor, which takes nothing, as in the LRP toolbox: the same as that factor as a constant."""

    class Constant(Net):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x).relu()
            values = y.detach()
            factor = F.local_response_norm(values, 3) / values.clamp(min=1e-300)
            return self.second(y * factor).relu().mean((2, 3))

    assert_close(lrp_map(Net(lambda x: F.local_response_norm(x.relu(), 3))), lrp_map(Constant(nn.Identity())), CLOSE)


# What stays refused


REFUSED: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "softplus": ("softplus", F.softplus),
    "clamp that moves 0": ("clamp", lambda x: x.clamp(min=0.1)),
    "GeM": ("pow", lambda x: F.avg_pool2d(x.relu().pow(3), 1).pow(1 / 3)),
    "difference": ("sub", lambda x: torch.sub(x, x.relu(), alpha=2)),
    "einsum": ("einsum", lambda x: torch.einsum("bchw,cd->bdhw", x, MATRIX)),
    "product": ("matmul", lambda x: x.relu() @ x),
    "max of all": ("max", lambda x: x / x.max()),
}


@pytest.mark.parametrize(("name", "middle"), REFUSED.values(), ids=REFUSED)
def test_refused_by_name(name: str, middle: Callable[[Tensor], Tensor]) -> None:
    """No rule is known, or none that keeps relevance: UnsupportedOp with the name."""
    with pytest.raises(UnsupportedOp, match=f"'{name}'"):
        lrp_map(Net(middle))


# What is called, and what is copied


@pytest.mark.parametrize(
    "write",
    [
        lambda x, y: F.relu(x, inplace=True),
        lambda x, y: torch.relu_(x),
        lambda x, y: x.add_(y, alpha=2),
        lambda x, y: x.sub_(y),
        lambda x, y: x.mul_(y),
        lambda x, y: x.div_(y),
        lambda x, y: x.clamp_(min=0),
    ],
    ids=["F.relu", "relu_", "add_", "sub_", "mul_", "div_", "clamp_"],
)
def test_in_place_calls_are_made_pure(write: Callable[[Tensor, Tensor], Tensor]) -> None:
    """The same bits and type (float32, beside a float64 argument) as in place, and the argument is left as it was."""
    x, y, found = random(2, 3).float(), random(2, 3).flip(1), list[Tensor]()

    class Spy(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            options = kwargs or {}
            if (inplace := spelling(func, options).inplace) and not found:
                kept = args[0].clone()
                found.append(pure(func, inplace)(*args, **options))
                assert torch.equal(args[0], kept)
            return func(*args, **options)

    before = x.clone()
    with Spy():
        write(x, y)
    assert not torch.equal(x, before)
    assert found[0].dtype == x.dtype and torch.equal(found[0], x)


def test_a_pool_is_called_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the pass that records; relevance and gradients go back through that call, however often they are asked for."""
    calls = list[int]()

    def pool(x: Tensor) -> Tensor:
        return F.max_pool2d(x, 2)

    tape = Tape.record(ForwardPass(network(Net(pool)), random_images(3, 8).double()))
    start = torch.ones_like(tape.logits)
    expected = tape.pull(None, tape.logits, start, tape.inputs)
    monkeypatch.setattr(torch, "max_pool2d", lambda *args, **options: calls.append(1))
    assert torch.equal(tape.pull(None, tape.logits, start, tape.inputs), expected)
    tape.pull(RuleTable(Epsilon()), tape.logits, start, tape.inputs)
    assert calls == []
