"""The relevance engine: any spelling of a network, layers by name, several targets, and what it refuses.

Tolerances are relative to each map's largest value: 1e-10 in float64, 1e-5 in float32.
"""

import copy
import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from assay.harness.forward import ForwardPass
from assay.harness.heads import Passes, Targets
from assay.harness.network import Network
from assay.harness.types import Attributor
from assay.methods.attribution.fullgrad import FullGrad
from assay.methods.attribution.gradient import Gradient
from assay.methods.attribution.relevance import rules
from assay.methods.attribution.relevance.agf import AGF
from assay.methods.attribution.relevance.engine import Tape
from assay.methods.attribution.relevance.excitation import TABLE, ContrastiveEB, ExcitationBackprop
from assay.methods.attribution.relevance.hedge import GradientHedge
from assay.methods.attribution.relevance.lrp import LRP, ContrastiveLRP, other_outputs
from assay.methods.attribution.relevance.operations import UnsupportedOp
from assay.methods.attribution.relevance.rap import RAP
from assay.methods.attribution.relevance.relevance_cam import RelevanceCAM
from assay.methods.attribution.relevance.rsp import RSP
from assay.methods.attribution.relevance.rules import AlphaBeta, Epsilon, Excitation, Flat, Gamma, ZBox
from assay.methods.attribution.relevance.table import RuleTable
from conftest import (
    FEW_TARGETS,
    Known,
    assert_close,
    assert_nothing_left,
    attribute,
    attribute_alone,
    forward_pass,
    known,
    random_images,
    several_targets,
    torchvision_module,
)
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

pytestmark = pytest.mark.filterwarnings("ignore:The default weight initialization")
DOUBLE, SINGLE = 1e-10, 1e-5
LINEAR: list[Attributor] = [LRP(Epsilon()), LRP(AlphaBeta(2, 1), first=ZBox()), RAP(), RAP("paper")]
ONE = Targets(torch.tensor([0]), torch.tensor([1]))


SLOW_NETWORKS = [pytest.param(name, marks=pytest.mark.slow) for name in ("densenet121", "googlenet", "mobilenet_v2")]


def methods(layer: str, contrast: str) -> list[Attributor]:
    """One of every kind."""
    return [
        LRP(Epsilon()),
        LRP(Gamma(), first=Flat()),
        LRP(AlphaBeta(), dense=Epsilon()),
        LRP(AlphaBeta(2, 1), first=ZBox()),
        ContrastiveLRP(),
        RAP(),
        RAP("paper"),
        ExcitationBackprop(layer),
        ContrastiveEB(contrast, layer),
        GradientHedge(layer),
        RSP(layer),
        RSP(layer, "relative"),
        AGF(),
        RelevanceCAM(layer),
        FullGrad(),
    ]


TINY = {"tiny_vgg": methods("features.8", "classifier.1"), "tiny_resnet": methods("layer1", "mean")}
CASES = [pytest.param(name, method, id=f"{name}-{method!r}"[:60]) for name, each in TINY.items() for method in each]


class Net(nn.Module):
    """conv - norm - activation - something - conv - mean, with any two parts in the middle."""

    def __init__(self, middle: Callable[[Tensor], Tensor], last: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 3)
        self.middle, self.last = middle, last

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.middle(self.first(x))).mean((2, 3))
        return x if self.last is None else self.last(x)


def network(module: nn.Module) -> Network:
    """Inputs about [-2,2], float64."""
    return Network(module, (0.5,) * 3, (0.25,) * 3).to(dtype=torch.float64)


def lrp_map(module: nn.Module, method: Attributor | None = None) -> Tensor:
    return attribute(method or LRP(AlphaBeta(2, 1)), network(module), random_images(1, 8).double(), ONE).values


# Batches and targets


@pytest.mark.parametrize("targets", [several_targets(), FEW_TARGETS], ids=["several", "few"])
@pytest.mark.parametrize(("name", "method"), CASES)
def test_pairs_of_a_batch_equal_one_at_a_time(name: str, method: Attributor, targets: Targets) -> None:
    """Pairs of four images in one call (up to five an image, or none) against one image and target a call; float64."""
    example = known(name, torch.float64)
    together = attribute(method, example.network, example.images, targets).values
    assert_close(together, attribute_alone(method, example.network, example.images, targets), 1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("method", methods("layer4", "avgpool"), ids=repr)
def test_batch_of_eight_equals_eight_batches(method: Attributor) -> None:
    """Eight images of ResNet-18 at once against one at a time; float64, 1e-8."""
    resnet = network(torchvision_module("resnet18"))
    targets = Targets(torch.arange(8), torch.arange(8) % 7)
    images = random_images(8, 64).double()
    together = attribute(method, resnet, images, targets).values
    assert_close(together, attribute_alone(method, resnet, images, targets), 1e-8)


@pytest.mark.parametrize(("name", "method"), CASES)
def test_leaves_nothing_behind(name: str, method: Attributor) -> None:
    """No hooks, gradients or graphs remain, images are untouched, and the plain gradient is as before (exactly); one
    forward pass serves all targets."""
    example = known(name)
    before = attribute(Gradient(), example.network, example.images, example.targets).values
    images, example.network.passes = example.images.clone(), Passes()
    result = attribute(method, example.network, images, several_targets())
    assert example.network.passes.forward == 4
    assert_nothing_left(example.network)
    assert torch.equal(images, example.images)
    assert not result.values.requires_grad
    assert result.values.dtype == torch.float32
    assert len(result.values) == 9
    assert torch.equal(attribute(Gradient(), example.network, example.images, example.targets).values, before)


@pytest.mark.parametrize(("name", "method"), CASES)
def test_works_without_grad_mode_and_without_pairs(name: str, method: Attributor) -> None:
    """Under torch.no_grad() as in an evaluation; and a batch in which nothing is to be explained: [0,h,w]."""
    example = known(name)
    expected = attribute(method, example.network, example.images, example.targets).values
    with torch.no_grad():
        assert torch.equal(attribute(method, example.network, example.images, example.targets).values, expected)
        none = Targets(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
        assert attribute(method, example.network, example.images, none).values.shape == (0, *expected.shape[1:])


def test_others_leave_out_the_own_group() -> None:
    """Outputs 0 and 2 are one class: explaining output 2, only 1 and 3 contrast; rows without a pair stay 0."""
    grouped = Network(nn.Flatten(), (0, 0, 0), (1, 1, 1), groups=[[0, 2], [1], [3]])
    one_hot = torch.tensor([[0.0, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0]])
    assert other_outputs(grouped, one_hot).tolist() == [[0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 1, 1]]


# Values and gradients are the network's own


@pytest.mark.parametrize("batch_norm", ["fold", "pass"])
@pytest.mark.parametrize(
    "name",
    ["squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x1_0", "regnet_y_400mf", "resnet18", *SLOW_NETWORKS],
)
def test_recorded_network_is_the_network(name: str, batch_norm: str) -> None:
    """Logits of the tape are the module's, and without rules its backward pass is the ordinary gradient; 1e-10."""
    module = torchvision_module(name)
    images, targets = random_images(2, 32).double(), Targets(torch.tensor([0, 1]), torch.tensor([3, 1]))
    plain = network(copy.deepcopy(module))
    tape = Tape.record(ForwardPass(network(module), images), (), batch_norm)  # type: ignore[arg-type]
    assert_close(tape.logits, plain(plain.normalise(images)), DOUBLE)
    one_hot = torch.eye(7, dtype=torch.float64)[targets.label]
    found = tape.pull(None, tape.logits, one_hot, tape.inputs)
    assert_close(found.sum(1), attribute(Gradient("sum"), plain, images, targets).values, 1e-9)


@pytest.mark.parametrize("name", ["resnet18", *SLOW_NETWORKS])
def test_folding_equals_a_fused_network(name: str) -> None:
    """Batch-norms merged at the call against torch.fx's fused module, in which convolutions have changed weights."""
    module = torchvision_module(name)
    images = random_images(1, 32).double()
    fused = fuse(copy.deepcopy(module).double().eval())
    for method in (LRP(AlphaBeta(2, 1), stabiliser=0), LRP(AlphaBeta(bias=True), stabiliser=0), LRP(Epsilon(0.01))):
        maps = [attribute(method, network(m), images, ONE).values for m in (module, fused)]
        assert_close(maps[0], maps[1], 1e-7)


def test_folding_changes_relevance() -> None:
    """A batch-norm with a negative factor swaps positive and negative contributions: `fold` is not `pass`."""
    module = torchvision_module("resnet18")
    with torch.no_grad():
        module.get_parameter("layer1.0.bn1.weight").neg_()
    maps = [lrp_map(module, LRP(AlphaBeta(), batch_norm=policy)) for policy in ("fold", "pass")]
    assert float((maps[0] - maps[1]).abs().max()) > 1e-3 * float(maps[0].abs().max())


# Spellings


INPLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "F.relu inplace": lambda x: F.relu(x, inplace=True),
    "relu_": lambda x: x.relu_(),
    "torch.relu": torch.relu,
    "module in place": nn.ReLU(inplace=True),
    "not rebound": lambda x: (x.relu_(), x)[1],
    "not rebound, twice": lambda x: (x.mul_(1), F.relu_(x), x.add_(0), x)[3],
}


@pytest.mark.parametrize("spelling", INPLACE.values(), ids=INPLACE)
@pytest.mark.parametrize("method", LINEAR, ids=repr)
def test_in_place_and_functional_spellings(method: Attributor, spelling: Callable[[Tensor], Tensor]) -> None:
    """Against nn.ReLU; float64, 1e-10."""
    assert_close(lrp_map(Net(spelling), method), lrp_map(Net(nn.ReLU()), method), DOUBLE)


def _add_in_place(x: Tensor) -> Tensor:
    y = x.relu()
    y += x.sigmoid() * x
    return y


ADDITIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "iadd": _add_in_place,
    "torch.add": lambda x: torch.add(x.relu(), x.sigmoid() * x),
    "add_": lambda x: x.relu().add_(torch.mul(x, torch.sigmoid(x))),
    "gate in front": lambda x: (lambda gate: gate * x)(torch.sigmoid(x)) + F.relu(x),
}


@pytest.mark.parametrize("spelling", ADDITIONS.values(), ids=ADDITIONS)
def test_sums_and_gates_in_every_spelling(spelling: Callable[[Tensor], Tensor]) -> None:
    """Additions and gated products: the same map as x.relu() + x * sigmoid(x); float64, 1e-10."""
    expected = lrp_map(Net(lambda x: x.relu() + x * x.sigmoid()))
    assert_close(lrp_map(Net(spelling)), expected, DOUBLE)


def test_constants_take_nothing() -> None:
    """Factors, offsets and signs by constants that leave every value as it is pass relevance on as it is: bit-equal to
    the network without them."""
    for constant in (lambda x: x * 1.0, lambda x: x + 0.0, lambda x: 0 - (0 - x), lambda x: x / 1, lambda x: 1 * x - 0):
        assert torch.equal(lrp_map(Net(constant)), lrp_map(Net(lambda x: x)))


def test_swish_by_hand_is_silu() -> None:
    """x * sigmoid(x) passes relevance as nn.SiLU does; float64, 1e-10."""
    assert_close(lrp_map(Net(lambda x: x * torch.sigmoid(x))), lrp_map(Net(nn.SiLU())), DOUBLE)


@pytest.mark.parametrize("method", LINEAR, ids=repr)
def test_structural_operations_route_relevance(method: Attributor) -> None:
    """Shuffled channels, padding that is cut off again and axes swapped twice, against the network without any of it
    whose second layer reads the channels in the shuffled order; float64, 1e-10 (its sums have another order)."""
    order = [0, 3, 1, 4, 2, 5]  # two groups of three channels, interleaved

    def shuffle(x: Tensor) -> Tensor:
        a, b = torch.cat([x[:, :2], x[:, 2:]], 1).chunk(2, dim=1)
        x = torch.stack([a, b], 2).flatten(1, 2)
        x = F.pad(x.permute(0, 2, 3, 1).transpose(1, 3).transpose(2, 3), (1, 1, 1, 1))
        return F.dropout(x[:, :, 1:-1, 1:-1].contiguous().transpose(2, 3).transpose(2, 3), 0.5, training=False)

    plain = Net(lambda x: x)
    assert not torch.allclose(lrp_map(Net(shuffle), method), lrp_map(plain, method))
    plain.second.weight.data[:, order] = plain.second.weight.data.clone()
    assert_close(lrp_map(Net(shuffle), method), lrp_map(plain, method), DOUBLE)


# Fully connected layers as convolutions


@pytest.mark.parametrize("method", [*LINEAR, LRP(Gamma()), ExcitationBackprop()], ids=repr)
def test_fully_convolutional_form(method: Attributor) -> None:
    """The tiny VGG's linear layers as 2x2 and 1x1 convolutions: the same map, but from RAP's published code, which has
    another rule for negative relevance in convolutions, and so for negative logits; float64, 1e-10."""
    example = known("tiny_vgg", torch.float64)
    module = copy.deepcopy(example.network.module)
    first, second = module.get_submodule("classifier.0"), module.get_submodule("classifier.2")
    convolutions = nn.Sequential(nn.Conv2d(16, 20, 2), nn.ReLU(), nn.Conv2d(20, 5, 1), nn.Flatten()).double()
    for convolution, linear in ((convolutions[0], first), (convolutions[2], second)):
        convolution.weight.data = linear.get_parameter("weight").data.view_as(convolution.get_parameter("weight"))
        convolution.bias.data = linear.get_parameter("bias").data
    parts = module.get_submodule("features"), module.get_submodule("avgpool"), convolutions
    other = Network(nn.Sequential(*parts), (0,) * 3, (1,) * 3)
    other.to(dtype=torch.float64)
    maps = [attribute(method, net, example.images, example.targets).values for net in (other, example.network)]
    is_negative = example.logits[torch.arange(4), example.targets.label] < 0
    assert is_negative.any()
    if method == RAP():
        assert_close(maps[0][~is_negative], maps[1][~is_negative], DOUBLE)
        assert not torch.allclose(maps[0][is_negative], maps[1][is_negative])
    else:
        assert_close(maps[0], maps[1], DOUBLE)


# Memory layouts


@pytest.mark.parametrize("name", [*TINY, "fully convolutional"])
def test_memory_layout_changes_nothing(name: str) -> None:
    """Every method on a network and images in channels_last against the usual layout; the third network's last layer
    is a convolution; float64, 1e-10 (kernels of another layout sum in another order)."""
    if name in TINY:
        example = known(name, torch.float64)
        usual, images, targets, cases = example.network, example.images, example.targets, TINY[name]
    else:
        usual, images, targets = network(Net(nn.ReLU())), random_images(1, 8).double(), ONE
        cases = methods("first", "middle")
    other = copy.deepcopy(usual)
    other.module.to(memory_format=torch.channels_last)
    moved = images.contiguous(memory_format=torch.channels_last)
    assert not moved.is_contiguous()
    for method in cases:
        expected = attribute(method, usual, images, targets).values
        assert_close(attribute(method, other, moved, targets).values, expected, DOUBLE)


# Refusals


REFUSED: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "softmax": ("softmax", lambda x: x.softmax(1)),
    "product": ("mul", lambda x: x * x.relu()),
    "gate of a gate": ("mul", lambda x: x.sigmoid() * x.sigmoid()),
    "quotient": ("div", lambda x: x / (x.relu() + 1)),
    "difference": ("sub", lambda x: x - x.relu()),
    "exponential": ("exp", lambda x: x.exp()),
    "layer norm": ("layer_norm", lambda x: F.layer_norm(x, x.shape[1:])),
    "batch statistics": ("batch_norm", lambda x: F.batch_norm(x, None, None, training=True)),
    "written into": ("__setitem__", lambda x: _written(x)),
    "matmul": ("matmul", lambda x: x @ x.transpose(2, 3)),
    "indices": ("max_pool2d_with_indices", lambda x: F.max_pool2d(x, 2, return_indices=True)[0]),
}


def _written(x: Tensor) -> Tensor:
    buffer = torch.zeros_like(x)
    buffer[:, 1:] = x[:, 1:]
    return buffer


@pytest.mark.parametrize(("name", "middle"), REFUSED.values(), ids=REFUSED)
def test_unsupported_operations_are_named(name: str, middle: Callable[[Tensor], Tensor]) -> None:
    """An operation without a rule on the path of relevance raises UnsupportedOp with its name."""
    with pytest.raises(UnsupportedOp, match=f"'{name}'") as caught:
        lrp_map(Net(middle))
    assert caught.value.name == name


def test_operations_off_the_path_are_free() -> None:
    """What relevance does not pass may be anything: constants, detached values, shapes, comparisons."""

    def middle(x: Tensor) -> Tensor:
        noise = torch.exp(torch.zeros(6, 1, 1).double()).softmax(0)
        assert x.shape[1] == noise.shape[0]
        assert not bool((x.detach().exp() < 0).any())
        return x + 0 * noise

    assert_close(lrp_map(Net(middle)), lrp_map(Net(lambda x: x)), DOUBLE)


@pytest.mark.parametrize(
    "name", ["convnext_tiny", *(pytest.param(n, marks=pytest.mark.slow) for n in ("vit_b_32", "swin_t"))]
)
def test_transformers_get_a_clear_error(name: str) -> None:
    """Attention and layer-norm have no rule: an error that names one of them and the way out."""
    from torchvision import models

    module = models.get_model(name, weights=None, num_classes=7)
    with pytest.raises(UnsupportedOp, match="input gradient work") as caught:
        attribute(LRP(AlphaBeta()), Network(module, (0.5,) * 3, (0.25,) * 3), random_images(1, 224), ONE)
    assert caught.value.name in ("layer_norm", "multi_head_attention_forward")


# Layers by name


@pytest.mark.parametrize("traced", [False, True])
def test_stop_and_start_at_a_layer(traced: bool) -> None:
    """Relevance pulled to a layer, and from there to the input, is relevance pulled to the input: of a module found by
    its path, and of a functional operation by its graph name; float64, 1e-10."""
    example = known("tiny_resnet", torch.float64)
    names = ("mean", "layer1.0") if traced else ("layer1.1", "layer1.0")
    table = LRP(AlphaBeta()).table()
    tape = Tape.record(ForwardPass(example.network, example.images), names)
    start = torch.eye(5, dtype=torch.float64)
    whole = tape.pull(table, tape.logits, start[:4], tape.inputs)
    for name in names:
        upper = tape.pull(table, tape.logits, start[:4], tape.at(name))
        assert_close(tape.pull(table, tape.at(name), upper, tape.inputs), whole, DOUBLE)
        kept = forward_pass(example.network, example.images, GradientHedge("layer1"))
        assert kept.layers == ()
        assert_close(tape.at(name), ForwardPass(example.network, example.images, (name,)).activation(name), DOUBLE)


def test_a_layer_before_an_in_place_relu() -> None:
    """The kept value is the layer's own output, not what the next module made of it."""
    module = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), nn.Conv2d(6, 5, 6), nn.Flatten())
    tape = Tape.record(ForwardPass(network(module), random_images(1, 8).double()), ("0", "1"))
    assert (tape.at("0") < 0).any()
    assert (tape.at("1") >= 0).all()


def test_untraceable_networks_work() -> None:
    """Python control flow on values, which torch.fx cannot follow: module paths need no tracing."""

    class Branches(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if float(x.detach().sum()) > -1e9 else -x)

    method = ExcitationBackprop("first")
    assert torch.equal(lrp_map(Branches(nn.ReLU()), method), lrp_map(Net(nn.ReLU()), method))


@pytest.mark.parametrize(
    ("layer", "message"),
    [("features.88", "did you mean"), ("flaten", "did you mean 'flatten'"), ("classifier.9", "is not in")],
)
def test_unknown_layers(layer: str, message: str) -> None:
    """ValueError with near names, as from every method that reads a layer."""
    example = known("tiny_vgg")
    with pytest.raises(ValueError, match=message):
        attribute(ExcitationBackprop(layer), example.network, example.images, example.targets)


class Ending(Net):
    """`Net` with a module that is never called, and a last module."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__(nn.ReLU(), last)
        self.aux = nn.Conv2d(6, 4, 1)


UNREACHED: dict[str, tuple[Attributor, str]] = {
    "never called": (ExcitationBackprop("aux"), "layer 'aux' was not reached: the forward pass does not call"),
    "logits": (ExcitationBackprop("last"), r"layer 'last' gives \[1, 5\]; a map needs \[batch, channels, h"),
    "contrast at the last layer": (ContrastiveEB("second", "first"), "contrast_layer='second': no convolution or lin"),
    "contrast at the logits": (ContrastiveEB("last", "first"), "contrast_layer='last': no convolution or linear layer"),
    "swapped": (ContrastiveEB("first", "middle"), "from layer 'first' to layer 'middle': layer 'first' must come lat"),
}


@pytest.mark.parametrize(("method", "message"), UNREACHED.values(), ids=UNREACHED)
def test_unsuitable_layers_are_refused(method: Attributor, message: str) -> None:
    """Layers that exist and cannot serve: ValueError with the layer and the reason, no map of zeros."""
    with pytest.raises(ValueError, match=message):
        lrp_map(Ending(nn.Identity()), method)


@pytest.mark.parametrize(
    "method",
    [ExcitationBackprop("classifier.0"), GradientHedge("classifier.0"), ContrastiveEB("features.4", "classifier.0")],
    ids=repr,
)
def test_maps_need_a_feature_map(method: Attributor) -> None:
    """A fully connected layer has no height and width: ValueError with its shape, as from class-activation maps."""
    example = known("tiny_vgg")
    with pytest.raises(ValueError, match=r"layer 'classifier.0' gives \[4, 20\]; .* choose a convolutional layer$"):
        attribute(method, example.network, example.images, example.targets)


def test_a_layer_that_is_folded_away() -> None:
    """A convolution merged with its batch-norm has no output of its own: ValueError; `pass` keeps it."""
    example = known("tiny_resnet")
    with pytest.raises(ValueError, match=r"layer 'layer1\.1\.conv2' is merged with the batch-norm that follows it"):
        attribute(GradientHedge("layer1.1.conv2", batch_norm="fold"), example.network, example.images, example.targets)
    kept = GradientHedge("layer1.1.conv2", batch_norm="pass")
    assert attribute(kept, example.network, example.images, example.targets).values.isfinite().all()


@pytest.mark.parametrize(
    "method",
    [m for m in methods("first", "middle") if not isinstance(m, RAP | GradientHedge | RSP | AGF | FullGrad)],
    ids=repr,
)
def test_networks_that_end_in_a_sigmoid(method: Attributor) -> None:
    """A gate takes no relevance: ValueError that says so."""
    with pytest.raises(ValueError, match=r"no relevance passes from the logits to .* ends in a sigmoid"):
        lrp_map(Ending(nn.Sigmoid()), method)


@pytest.mark.parametrize("method", [RAP(), RAP("paper"), GradientHedge("first"), RSP("first")], ids=repr)
def test_sigmoids_that_take_their_gradient(method: Attributor) -> None:
    """What follows RAP's last layer and the hedge's start take their gradient: RAP's map is that without the sigmoid
    times its slope, the hedge's and RSP's the same, as their start is divided by its sum or maximum; float64, 1e-10."""
    sigmoid, plain = Ending(nn.Sigmoid()), Ending(nn.Identity())
    probability = network(sigmoid)(network(sigmoid).normalise(random_images(1, 8).double()))[0, 1]
    slope = probability * (1 - probability) if isinstance(method, RAP) else 1
    assert_close(lrp_map(sigmoid, method), slope * lrp_map(plain, method), DOUBLE)


# Tables


@pytest.mark.parametrize(
    ("name", "pattern", "near"),
    [
        ("tiny_vgg", "featuers.*", "'features.0'|'features.2'|'features.5'|'features.7'"),
        ("tiny_vgg", "features.1", "'features.0'|'features.2'|'features.5'|'features.7'"),
        ("tiny_resnet", "bn1", "'conv1'"),
        ("tiny_resnet", "layer1", "'layer1.1.conv1'"),
    ],
    ids=["misspelt", "a ReLU", "a batch-norm", "a block without .*"],
)
@pytest.mark.parametrize("contrastive", [False, True])
def test_patterns_must_match(name: str, pattern: str, near: str, contrastive: bool) -> None:
    """A rule that no layer takes would leave the map as it is without it: ValueError with near names, whatever the
    patterns beside it match."""
    example = known(name)
    lrp = LRP(AlphaBeta(), layers={"*": Epsilon(), pattern: Flat()})
    method: Attributor = ContrastiveLRP(lrp) if contrastive else lrp
    with pytest.raises(ValueError, match=f"layers: '{re.escape(pattern)}' matches no convolution or .*({near})"):
        attribute(method, example.network, example.images, example.targets)


def test_composites_by_name_and_place() -> None:
    """Rules by layer name come first, then those of the input and of the last layer; dense and convolution apart."""
    used: list[tuple[str, str]] = []

    def named(rule: str) -> rules.AffineRule:
        def apply(x: Tensor, layer: rules.Affine, relevance: Tensor) -> Tensor:
            used.append((layer.layer, rule))
            return AlphaBeta()(x, layer, relevance)

        return apply

    method = LRP(named("rest"), dense=named("dense"), first=named("first"), layers={"features.[25]": named("named")})
    example = known("tiny_vgg")
    attribute(method, example.network, example.images, example.targets)
    assert used == [
        *[("classifier.2", "dense"), ("classifier.0", "dense"), ("features.7", "rest")],
        *[("features.5", "named"), ("features.2", "named"), ("features.0", "first")],
    ]


def test_named_rules_before_the_input_rule() -> None:
    """The first layer by its name."""
    example = known("tiny_vgg")
    by_name = LRP(AlphaBeta(), layers={"features.0": Flat()})
    by_place = LRP(AlphaBeta(), first=Flat())
    maps = [attribute(m, example.network, example.images, example.targets).values for m in (by_name, by_place)]
    assert torch.equal(maps[0], maps[1])


def test_every_reader_of_the_input_is_a_first_layer() -> None:
    """Also behind a normalisation of the network's own (Inception's transform_input) and in two branches."""

    class TwoStems(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Conv2d(8, 5, 6)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.cat((x[:, :1] * 0.5 + 0.1, x[:, 1:] * 0.3 - 0.2), 1)
            return self.c(torch.cat([self.a(x), self.b(y)], 1).relu()).flatten(1)

    firsts: list[str] = []

    def first(x: Tensor, layer: rules.Affine, relevance: Tensor) -> Tensor:
        firsts.append(layer.layer)
        return Flat()(x, layer, relevance)

    attribute(LRP(AlphaBeta(), first=first), network(TwoStems()), random_images(1, 8).double(), ONE)
    assert sorted(firsts) == ["a", "b"]


def test_last_layer_of_a_fully_convolutional_network() -> None:
    """The pointing game's networks end in log-mean-exp over positions: the last convolution is the last layer, and
    excitation starts with the softmax over space, as TorchRay's does; float64, 1e-10."""

    class Spatial(Net):
        def forward(self, x: Tensor) -> Tensor:
            flat = self.second(self.middle(self.first(x))).flatten(2)
            return flat.logsumexp(2) - torch.ones_like(flat).sum(2).log()

    module = network(Spatial(nn.ReLU()))
    tape = Tape.record(ForwardPass(module, random_images(1, 8).double()), ("second",), "pass")
    one_hot = torch.eye(5, dtype=torch.float64)[1:2]
    found = tape.pull(TABLE, tape.logits, one_hot, tape.at("second"))
    expected = tape.at("second").detach().flatten(2).softmax(2)[:, 1].view(1, 4, 4)
    assert_close(found[:, 1], expected, DOUBLE)
    rap = attribute(RAP(), module, random_images(1, 8).double(), ONE).values
    assert rap.isfinite().all()


def test_main_path_is_the_deeper_summand() -> None:
    """MobileNetV2 writes x + block(x), ResNet block(x) + x: both drop the shortcut, so their hedges are equal."""

    class Residual(nn.Module):
        def __init__(self, shortcut_first: bool) -> None:
            super().__init__()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self.stem, self.block = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
                self.top, self.fc = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 5)
            self.shortcut_first = shortcut_first

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x).relu()
            y = self.block(x).relu()
            return self.fc(self.top(x + y if self.shortcut_first else y + x).relu().mean((2, 3)))

    images = random_images(1, 8).double()
    maps = [
        attribute(GradientHedge("top", residual=residual), network(Residual(order)), images, ONE).values
        for residual in ("main_only", "split")
        for order in (False, True)
    ]
    assert_close(maps[0], maps[1], DOUBLE)
    assert_close(maps[2], maps[3], DOUBLE)
    assert not torch.allclose(maps[0], maps[2])


@pytest.mark.parametrize("terms", [("C",), ("C", "Psi"), ("A", "U"), ("C", "A", "U")])
def test_hedge_terms_can_be_left_out(terms: tuple[str, ...]) -> None:
    """The rows of the ablation differ from the whole."""
    example = known("tiny_vgg")
    maps = [
        attribute(m, example.network, example.images, example.targets).values
        for m in (GradientHedge("features.8"), GradientHedge("features.8", terms=terms))
    ]
    assert maps[1].isfinite().all()
    assert not torch.allclose(maps[0], maps[1])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RAP("papr"), "variant='papr': choose one of official, paper"),  # type: ignore[arg-type]
        (lambda: RAP(batch_norm="flod"), "batch_norm='flod'"),  # type: ignore[arg-type]
        (lambda: LRP(AlphaBeta(), batch_norm="flod"), "batch_norm='flod'"),  # type: ignore[arg-type]
        (lambda: GradientHedge("x", residual="both"), "residual='both'"),  # type: ignore[arg-type]
        (lambda: GradientHedge("x", terms=("C", "B")), "B unknown"),
        (lambda: GradientHedge("x", gamma=3), "gamma=3: choose 1 to 2"),
        (lambda: GradientHedge("x", terms=()), r"terms=\[\]: choose one at least"),
        (lambda: GradientHedge("x", terms=("Psi",)), r"terms=\['Psi'\]: .* C where Psi is"),
        (lambda: GradientHedge("x", terms=("A", "U", "Psi")), r"terms=\['A', 'U', 'Psi'\]: .* C where Psi is"),
        (lambda: LRP(AlphaBeta(), stabiliser=-1.0), "stabiliser=-1.0: choose a finite number that is not negative"),
    ],
)
def test_settings_are_checked(build: Callable[[], object], message: str) -> None:
    """ValueError naming the setting, its value and the choices."""
    with pytest.raises(ValueError, match=message):
        build()


def test_rule_tables_are_data() -> None:
    """A method of one's own is a table: excitation everywhere but z^B at the input, on a network unseen before."""
    table = RuleTable(Excitation(), first=ZBox(), last=Epsilon())
    tape = Tape.record(ForwardPass(network(Net(nn.ReLU())), random_images(1, 8).double()))
    relevance = tape.pull(table, tape.logits, torch.eye(5, dtype=torch.float64)[:1], tape.inputs)
    assert relevance.shape == (1, 3, 8, 8)
    assert relevance.isfinite().all()


def test_same_on_both_tiny_networks_in_float32_and_float64() -> None:
    """A float32 map is the float64 map's neighbour: 1e-3 of the maximum on the network without cancelling sums."""
    for method in TINY["tiny_vgg"]:
        maps = [
            attribute(method, example.network, example.images, example.targets).values.double()
            for example in (known("tiny_vgg"), known("tiny_vgg", torch.float64))
        ]
        assert_close(maps[0], maps[1], 1e-3)


def test_defaults_explain_every_image(tiny: Known) -> None:
    """The default settings explain every image of both networks with finite, non-zero maps."""
    for method in (LRP(Epsilon()), RAP(), ExcitationBackprop()):
        values = attribute(method, tiny.network, tiny.images, tiny.targets).values
        assert values.isfinite().all()
        assert (values.abs().amax((1, 2)) > 0).all()
