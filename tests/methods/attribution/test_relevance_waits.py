"""How often the host waits for the device in a batch, counted on the pretended one: as often in a deep network."""

import weakref
from collections import Counter
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from assay.harness.build import build
from assay.harness.config import CONF, RunConfig
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.network import Network
from assay.harness.overrides import compose_config
from assay.harness.transfer import sent
from assay.methods.attribution.relevance.signs import Signs, has_negative
from conftest import random_images, sample_rng
from pretend_device import ELSEWHERE, PretendDevice
from torch import Tensor, nn
from transformer_toys import Transformer, normal

HERE = torch.device("cpu")
ALARM, SIGNS, LOOK = "alarm.py", "signs.py", "patterns.py"
# Of each round of pairs: the alarm, once a pull; of a batch: the signs of what layers read, once, or the activations.
WAITS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("agf", "attnlrp", "cp_lrp", "excitation_backprop", "gradient_hedge", "rsp"), (ALARM,)),
    **dict.fromkeys(("lrp_alpha1beta0", "lrp_alpha2beta1", "deep_taylor", "rap", "relevance_cam"), (ALARM, SIGNS)),
    **dict.fromkeys(("pattern_net", "pattern_attribution"), (ALARM, LOOK)),
    **{"lrp_epsilon": (ALARM,), "lrp_gamma": (ALARM, SIGNS)},
    **{"contrastive_eb": (ALARM,) * 3, "contrastive_lrp": (ALARM, ALARM, SIGNS)},
    **{"fullgrad": ("fullgrad.py",), "deeplift": ("deeplift.py",)},  # is the sum complete?
}
A_LAYER = {"lrp_gamma": "rules.py"}  # does relevance fall on negative outputs? Or two convolutions are not made
SETTINGS = {
    "contrastive_eb": {"contrast_layer": "flat", "layer": "first"},
    "excitation_backprop": {"layer": "first"},
    "gradient_hedge": {"layer": "last"},
    "relevance_cam": {"layer": "first"},
    "rsp": {"layer": "last"},
}


class Block(nn.Module):
    """Two convolutions with batch-norms beside a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm1, self.norm2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.norm2(self.two(self.norm1(self.one(x)).relu()))).relu()


def residual(depth: int) -> nn.Module:
    """A stem, blocks of which the last is `last`, mean, linear: 2 + 2 x depth layers."""
    blocks = {f"block{k}": Block() for k in range(depth - 1)}
    end = {"last": Block(), "pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "fc": nn.Linear(4, 5)}
    made = nn.Sequential()
    for name, part in {"first": nn.Conv2d(3, 4, 3), "relu": nn.ReLU(), **blocks, **end}.items():
        made.add_module(name, part)
    return made


def network_of(name: str, depth: int) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        is_of_tokens = name in ("attnlrp", "cp_lrp")
        module = normal(Transformer("fused", depth=depth)) if is_of_tokens else residual(depth)
    return Network(module, (0.5,) * 3, (0.25,) * 3)


@cache
def configs() -> RunConfig:
    return compose_config([f"method=[{','.join(WAITS)}]"])


def explained(method: Any, network: Network, device: torch.device) -> Tensor:
    """Maps of two images and a class of each."""
    targets, images = Targets.of([(0, 1), (1, 2)], device), sent(random_images(2, 16), device)
    rng = sample_rng(Targets.of([(0, 1), (1, 2)], HERE), 2)
    maps: Tensor = method.attribute(ForwardPass(network, images), targets, rng).values
    return maps


def waits_of(name: str, depth: int) -> Counter[str]:
    """By file, of one batch; the maps are those of the CPU up to rounding (1e-5 of the largest value)."""
    method, network = build(configs().method[name]), network_of(name, depth)
    made: Any = replace(method, **SETTINGS.get(name, {}))
    state = made.fit(network, [random_images(4, 16, 1)]) if "pattern" in name else {}
    expected = explained(made.fitted(state) if state else made, network, HERE)
    with PretendDevice() as mode:
        network.to(ELSEWHERE)
        there = made.fitted({key: sent(value, ELSEWHERE) for key, value in state.items()}) if state else made
        mode.waits.clear()
        found = explained(there, network, ELSEWHERE)
        counted = mode.waits.copy()
        torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    files: Counter[str] = Counter()
    for place, times in counted.items():
        files[place.partition(":")[0].rpartition("/")[2]] += times
    return files


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in ("lrp_gamma", "rap", "attnlrp") else pytest.mark.slow) for name in WAITS],
)
def test_waits_do_not_grow_with_the_network(name: str) -> None:
    """Of one block and of three."""
    for depth in (1, 3):
        layers = Counter({A_LAYER[name]: 2 + 2 * depth}) if name in A_LAYER else Counter()
        assert waits_of(name, depth) == Counter(WAITS[name]) + layers


def test_no_method_of_relevance_is_left_out() -> None:
    """Those whose class stands with the rules of relevance."""
    known = (path for path in (CONF / "method").glob("*.yaml") if "methods.attribution.relevance." in path.read_text())
    assert {path.stem for path in known} <= WAITS.keys()


def test_signs_are_asked_for_once_and_keep_nothing_alive() -> None:
    """Of values that the tape does not know, and on the CPU, each by itself; 0 is not negative, no number is."""
    values = [[1.0, 0], [1.0, -2], [torch.nan, 1]]
    with PretendDevice() as mode:
        signs, there = Signs(), [torch.tensor(each).to(ELSEWHERE, non_blocking=True) for each in values]
        for x in there:
            signs.add(x)
        mode.waits.clear()
        assert [signs.has_negative(x) for x in there] == [has_negative(torch.tensor(x)) for x in values]
        assert mode.waits.total() == 1
        assert signs.has_negative(there[1] * 2)
        assert mode.waits.total() == 2
    gone = weakref.ref(there[0])
    del x, there
    assert gone() is None
