"""What people give as a network: wrappers are taken off, programs run, what cannot run frozen is refused by name."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from assay.harness.heads import Targets
from assay.harness.network import Network
from assay.methods.attribution.cam import GradCAM
from assay.methods.attribution.gradient import Gradient
from assay.methods.attribution.guided import GuidedBackprop
from assay.methods.attribution.relevance.lrp import LRP
from assay.methods.attribution.relevance.operations import UnsupportedOp
from assay.methods.attribution.relevance.rules import Epsilon
from conftest import assert_close, attribute, random_images
from field_networks import field_network
from torch import Tensor, nn

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
HALF = ((0.5,) * 3, (0.25,) * 3)
PAIRS = Targets(torch.arange(2), torch.tensor([2, 0]))
IMAGES = random_images(2, 16)


class Plain(nn.Module):
    """conv - ReLU - mean - linear, with its layers by name."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv, self.act, self.fc = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.act(self.conv(x)).mean((2, 3)))


WRAPPED: dict[str, Callable[[nn.Module], Any]] = {
    "compile": lambda module: torch.compile(module, backend="eager"),
    "DataParallel": nn.DataParallel,
    "both": lambda module: nn.DataParallel(torch.compile(module, backend="eager")),
    "fx": torch.fx.symbolic_trace,
}
PROGRAMS: dict[str, Callable[[nn.Module], Any]] = {
    "script": torch.jit.script,
    "trace": lambda module: torch.jit.trace(module, IMAGES),
    "frozen": lambda module: torch.jit.freeze(torch.jit.script(module)),
    "export": lambda module: torch.export.export(module, (IMAGES,)).module(),
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("method", [Gradient(), GradCAM("act"), LRP(Epsilon()), GuidedBackprop()], ids=repr)
def test_wrappers_are_taken_off(method: Any, wrap: Callable[[nn.Module], Any]) -> None:
    """Every method, with the layers' own names: the map of the module itself."""
    found = attribute(method, Network(wrap(Plain().eval()), *HALF), IMAGES, PAIRS).values
    assert_close(found, attribute(method, Network(Plain(), *HALF), IMAGES, PAIRS).values, 1e-6)


@pytest.mark.parametrize("make", PROGRAMS.values(), ids=PROGRAMS)
def test_programs_run(make: Callable[[nn.Module], Any]) -> None:
    """Logits and gradients; relevance where the operations can be seen, else a refusal that names the part."""
    module = Plain().eval()
    network = Network(make(copy.deepcopy(module)), *HALF)
    assert_close(network(IMAGES), module(IMAGES), 1e-6)
    expected = attribute(Gradient(), Network(module, *HALF), IMAGES, PAIRS).values
    assert_close(attribute(Gradient(), network, IMAGES, PAIRS).values, expected, 1e-6)
    if make is PROGRAMS["export"]:
        assert attribute(LRP(Epsilon()), network, IMAGES, PAIRS).values.any()
        return
    with pytest.raises(UnsupportedOp, match=r"; here the whole network \(torch.jit\): give the modules"):
        attribute(LRP(Epsilon()), network, IMAGES, PAIRS)
    with pytest.raises(ValueError, match=r"cannot be traced by torch.fx .*; here the whole network \(torch.jit\)"):
        attribute(GradCAM("act"), network, IMAGES, PAIRS)


def test_a_scripted_network_of_one_logit_is_read() -> None:
    """As two classes, by a module of Python around it."""
    module = Plain().eval()
    module.fc = nn.Linear(6, 1)
    network = Network(torch.jit.script(module), *HALF, activation="binary")
    logits = network(IMAGES)
    assert torch.equal(logits[:, 0], -logits[:, 1]) and torch.equal(logits[:, 1:], module(IMAGES))


class Trains(Plain):
    """It does not go to eval mode."""

    def eval(self) -> "Trains":
        return self


REFUSED: dict[str, tuple[type[Exception], str, Callable[[], Any]]] = {
    "lazy": (ValueError, r"'0.weight' has no values yet: run", lambda: nn.Sequential(nn.LazyConv2d(3, 3))),
    "meta": (ValueError, r"'conv.weight' has no values yet", lambda: Plain().to("meta")),
    "training": (ValueError, r"Trains: itself, .* in training mode after eval\(\)", Trains),
    "function": (TypeError, r"function is no torch.nn.Module: put", lambda: lambda x: x),
    "program": (
        TypeError,
        r"ExportedProgram is no .*: give its .module\(\)",
        lambda: torch.export.export(Plain(), (IMAGES,)),
    ),
}


@pytest.mark.parametrize(("error", "why", "build"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_run_frozen_is_refused(error: type[Exception], why: str, build: Callable[[], Any]) -> None:
    """When the network is made, in one line."""
    with pytest.raises(error, match=why):
        Network(build(), *HALF)


@pytest.mark.parametrize("kind", ["int", "bool", "complex"])
def test_logits_are_floating_point(kind: str) -> None:
    """TypeError that says what is returned."""

    class Other(Plain):
        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x)
            return {"int": logits.int(), "bool": logits > 0, "complex": torch.complex(logits, logits)}[kind]

    with pytest.raises(TypeError, match=rf"returns \[2, 3\] of {kind}.*: return floating-point numbers"):
        Network(Other(), *HALF)(IMAGES)


def test_quantized_layers_have_no_gradient() -> None:
    """ValueError, and not a map of zeros."""
    quantized = torch.ao.quantization.quantize_dynamic(field_network("plain"), {nn.Linear}, dtype=torch.qint8)
    for method in (Gradient(), GuidedBackprop()):
        with pytest.raises(ValueError, match=r"the logits have no gradient here: .*quantized layer"):
            attribute(method, Network(quantized, *HALF), IMAGES, PAIRS)


def test_a_head_that_loses_a_write_is_refused() -> None:
    """A call whose result nobody reads is no part of a head, and here it is the ReLU."""

    class Written(Plain):
        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x).clone()
            y.__setitem__(y < 0, 0)
            return self.fc(y.mean((2, 3)))

    with pytest.raises(ValueError, match=r"gives other logits when traced by torch\.fx"):
        attribute(GradCAM("conv"), Network(Written(), *HALF), IMAGES, PAIRS)
