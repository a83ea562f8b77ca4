"""Splitting a network at a layer, against the untouched module.

Every architecture has seeded random weights with unit-scale activations (`lively`), so that logits depend on
the image and on every value that crosses a cut: torchvision's own initialisation gives logits that agree to
1e-7 for any two images, and a wrong head would pass. The reference is a deep copy made before `Network` saw
the module, read with plain forward hooks. Equality is exact (torch.equal, float32) wherever the same kernels
see the same shapes; a gradient, and a head over more rows than images, may differ in summation order and are
held to 1e-5 of the largest value.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from assay.harness.forward import ForwardPass
from assay.harness.heads import Passes, Targets
from assay.harness.network import Network
from torch import Tensor, nn
from torchvision.models import resnet18

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Case(NamedTuple):
    """Layers of one architecture: where one value crosses the cut, where several do, functional ops by graph name."""

    side: int
    settings: dict[str, Any]
    cut: list[str]
    crossed: list[str]
    functional: list[str]


CASES = {  # layers of tokens are seen as maps of patches: test_layouts.py, test_cam_tokens.py
    # VGG is a chain: every layer is a cut vertex.
    "vgg16": Case(
        64, {"init_weights": False}, ["features.0", "features.29", "avgpool", "classifier.1"], [], ["flatten"]
    ),
    "resnet50": Case(
        64,
        {},
        ["conv1", "relu", "layer2", "layer4", "layer3.5.relu", "avgpool", "fc"],
        ["layer3.1.conv2", "layer2.0.downsample.1", "layer4.2.bn3"],
        ["add", "add_7", "flatten"],
    ),
    "densenet121": Case(
        64,
        {},
        ["features.conv0", "features.transition2.pool", "features.denseblock4", "features.norm5"],
        ["features.denseblock2.denselayer3", "features.denseblock3.denselayer5.conv1"],
        ["relu", "cat_20", "adaptive_avg_pool2d"],
    ),
    "inception_v3": Case(
        128,
        {"init_weights": False},
        ["Conv2d_4a_3x3", "Mixed_6c", "Mixed_7c"],
        ["Mixed_5c.branch_pool.conv", "Mixed_6b.branch7x7_2", "Mixed_7b.branch3x3_1"],
        ["relu_20", "cat_3", "avg_pool2d_1"],
    ),
    "mobilenet_v2": Case(
        64,
        {},
        ["features.7", "features.18"],
        ["features.9.conv.1", "features.5.conv"],
        ["add_3", "adaptive_avg_pool2d"],
    ),
    "googlenet": Case(
        64,
        {"init_weights": False},
        ["conv3", "inception4c", "maxpool4"],
        ["inception4b.branch2.0", "inception5a.branch4.0", "inception3a.branch1.bn"],
        ["relu_12", "cat_4"],
    ),
    "efficientnet_b0": Case(
        64,
        {},
        ["features.4", "features.8"],
        ["features.4.1.block.1", "features.4.1.block.2.scale_activation", "features.6.2.block.0.2"],
        ["mul_3", "add_2", "stochastic_depth"],
    ),
    # 17 tokens instead of 197.
}


def lively(module: nn.Module, images: Tensor) -> nn.Module:
    """Seeded weights under which activations keep unit scale and batch norm does something."""
    generator = torch.Generator().manual_seed(1)
    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                fan_in = max(parameter[0].numel(), 1)
                parameter.uniform_(-((6 / fan_in) ** 0.5), (6 / fan_in) ** 0.5, generator=generator)
            else:
                parameter.normal_(1.0 if name.endswith("weight") else 0.0, 0.1, generator=generator)
        module.eval()
        for layer in norms:
            layer.train()
            layer.reset_running_stats()
            layer.momentum = 1.0  # running statistics become those of this batch
        module(images)
    return module.eval()


@dataclass
class Model:
    """A network, the copy of its module that `Network` never touched, and two images."""

    network: Network
    untouched: nn.Module
    images: Tensor
    case: Case

    @property
    def inputs(self) -> Tensor:
        """Normalised images."""
        return self.network.normalise(self.images)

    @property
    def modules(self) -> list[str]:
        """Layers that are modules, so that a hook can read them."""
        return self.case.cut + self.case.crossed

    @cached_property
    def forward(self) -> ForwardPass:
        """One pass that keeps every layer; no test may change what it holds."""
        return ForwardPass(self.network, self.images, tuple(self.modules + self.case.functional))

    @cached_property
    def seen(self) -> dict[str, Tensor]:
        """Logits ("") of the untouched module, and what hooks see: the last output, cloned before in-place ops."""
        seen: dict[str, Tensor] = {}

        def keep(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
            def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
                seen[name] = output.clone()

            return hook

        handles = [self.untouched.get_submodule(name).register_forward_hook(keep(name)) for name in ["", *self.modules]]
        with torch.no_grad():
            self.untouched(self.inputs)
        for handle in handles:
            handle.remove()
        return seen

    def with_replaced(self, layer: str, inputs: Tensor, activation: Tensor) -> Tensor:
        """Logits of the untouched module when the layer's output is replaced."""
        handle = self.untouched.get_submodule(layer).register_forward_hook(lambda *_: activation.clone())
        try:
            return self.untouched(inputs)
        finally:
            handle.remove()


@pytest.fixture(scope="module", params=CASES)
def model(request: pytest.FixtureRequest) -> Iterator[Model]:
    """One architecture after another; memory goes back between them."""
    from torchvision import models

    case = CASES[request.param]
    images = torch.rand(2, 3, case.side, case.side, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    with torch.device("meta"):  # no time for weights that `lively` replaces
        built = models.get_model(request.param, weights=None, **case.settings)
    module = lively(built.to_empty(device="cpu"), (torch.rand(4, *images.shape[1:]) - 0.45) / 0.225)
    untouched = copy.deepcopy(module, {id(p): p for p in module.parameters()}).requires_grad_(False)  # same weights
    yield Model(Network(module, MEAN, STD), untouched, images, case)


def relative(actual: Tensor, expected: Tensor) -> float:
    """Largest difference as a share of the largest expected value."""
    assert actual.shape == expected.shape
    return float((actual - expected).abs().max() / expected.abs().max())


def test_random_weights_make_a_real_test(model: Model) -> None:
    """The two images' logits differ by more than 1 % of their scale, so that equality below means something."""
    logits = model.seen[""]
    assert logits.isfinite().all()
    assert relative(logits[:1], logits[1:]) > 0.01


def test_head_gives_the_modules_logits(model: Model) -> None:
    """Logits of one forward pass, and of the head from every layer, equal the untouched module's exactly.

    And the head reads its input: another activation gives other logits. A prefix alone ends in the same activation.
    """
    for layer in model.forward.layers[:2]:
        assert torch.equal(model.network.prefix(model.inputs, layer).activation, model.forward.activation(layer)), layer
    assert torch.equal(model.network(model.inputs), model.seen[""])
    assert torch.equal(model.forward.logits, model.seen[""])
    for layer in model.forward.layers:
        activation, head = model.forward.activation(layer), model.forward.head(layer)
        assert torch.equal(head(activation), model.seen[""]), layer
        assert not torch.equal(head(activation + 0.5 * activation.abs().mean()), model.seen[""]), layer


def test_other_values_cross_where_they_should(model: Model) -> None:
    """A cut vertex's head reads nothing else of the batch; the other layers' heads do (ViT's conv_proj: its size)."""
    for layer in model.case.cut:
        assert not model.forward.head(layer).constants, layer
    for layer in model.case.crossed:
        assert model.forward.head(layer).constants, layer


def test_kept_activation_is_what_a_hook_sees(model: Model) -> None:
    """Kept activations equal the hook's exactly, also after their heads and the heads' gradients ran.

    The hook clones: in the untouched copy an in-place ReLU overwrites what the layer returned.
    """
    layers = [*model.case.cut[-2:], *model.case.crossed]
    for layer in layers:
        head, activation = model.forward.head(layer), model.forward.activation(layer)
        head(activation)
        head.gradient(activation, Targets(torch.tensor([0]), torch.tensor([3])))
    for layer in model.modules:
        assert torch.equal(model.forward.activation(layer), model.seen[layer]), layer


def test_same_values_whichever_layers_are_kept_together(model: Model) -> None:
    """Logits and activations are bit-equal for any set of layers, so results do not depend on which methods share."""
    layers = model.forward.layers
    assert torch.equal(ForwardPass(model.network, model.images).logits, model.forward.logits)
    for some in (layers[:1], layers[-1:], layers[len(layers) // 2 :: -1]):
        forward = ForwardPass(model.network, model.images, some)
        assert torch.equal(forward.logits, model.forward.logits), some
        for layer in some:
            assert torch.equal(forward.activation(layer), model.forward.activation(layer)), layer


def test_same_values_with_and_without_a_graph(model: Model, request: pytest.FixtureRequest) -> None:
    """Another method's wish for the input gradient changes no bit of logits and activations."""
    with_graph = ForwardPass(model.network, model.images, model.forward.layers, input_graph=True)
    assert torch.equal(model.forward.logits, with_graph.logits)
    for layer in model.forward.layers:
        assert torch.equal(model.forward.activation(layer), with_graph.activation(layer)), layer


def test_head_gradient_is_autograds(model: Model) -> None:
    """Head.gradient equals autograd through the whole untouched module, the layer's output replaced by a leaf.

    To 1e-5 of the largest entry: sums run in another order where a value is used twice.
    """
    forward = model.forward
    layers = (model.case.cut[-1], (model.case.crossed or model.case.cut)[-1])
    targets = Targets(torch.tensor([1, 0, 1]), torch.tensor([2, 5, 7]))
    for layer in layers:
        leaf = forward.activation(layer).clone().requires_grad_()
        logits = model.with_replaced(layer, model.inputs, leaf)
        each = [torch.autograd.grad(logits[i, c], leaf, retain_graph=True)[0][i] for i, c in zip(*targets, strict=True)]
        gradient = forward.head(layer).gradient(forward.activation(layer), targets)
        assert relative(gradient, torch.stack(each)) <= 1e-5, layer


def test_rows_are_repeated_images(model: Model) -> None:
    """A head with several rows for an image equals the untouched module on repeated images.

    Each row's activation is scaled by its own factor, and replaces the layer's output in the reference. To 1e-5
    of the largest logit: another batch size, other blocking of sums.
    """
    layers = (model.case.cut[-1], *model.case.crossed)
    forward = model.forward
    rows = torch.tensor([0, 1, 1, 0, 1])
    factors = torch.tensor([1.0, 0.5, 0.0, 1.5, -1.0])
    for layer in layers:
        activation = forward.activation(layer)[rows]
        activation = activation * factors.view(-1, *[1] * (activation.ndim - 1))
        with torch.no_grad():
            expected = model.with_replaced(layer, model.inputs[rows], activation)
        assert relative(forward.head(layer)(activation, rows), expected) <= 1e-5, layer


def test_functional_ops_are_what_their_neighbours_see() -> None:
    """ResNet's `add` is the input of the ReLU after it, DenseNet's `relu` the rectified norm5: exactly."""
    from torchvision import models

    torch.manual_seed(0)
    images = torch.rand(2, 3, 64, 64)
    resnet = lively(models.get_model("resnet18", weights=None), images)
    inputs: list[Tensor] = []
    handle = resnet.get_submodule("layer2.0.relu").register_forward_pre_hook(
        lambda _module, args: inputs.append(args[0].clone())
    )
    with torch.no_grad():
        resnet((images - 0.5) / 0.25)
    handle.remove()
    forward = ForwardPass(Network(resnet, [0.5] * 3, [0.25] * 3), images, ("add_2", "layer2.0.relu"))
    assert torch.equal(forward.activation("add_2"), inputs[-1])  # the third block's sum, its second ReLU's input
    assert torch.equal(forward.activation("layer2.0.relu"), inputs[-1].relu())

    densenet = Network(lively(models.get_model("densenet121", weights=None), images), [0.5] * 3, [0.25] * 3)
    forward = ForwardPass(densenet, images, ("relu", "features.norm5"))
    assert torch.equal(forward.activation("relu"), forward.activation("features.norm5").relu())
    assert (forward.activation("features.norm5") < 0).any()  # not overwritten by F.relu(inplace=True)


# Small modules: one property each


class Small(nn.Module):
    """Two convolutions and a linear layer; `body` is what a test makes of them."""

    def __init__(self, body: Callable[["Small", Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.relu, self.relu_inplace = nn.ReLU(), nn.ReLU(inplace=True)
        self.fc = nn.Linear(4, 5)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(self, x).mean((2, 3)))


def small(body: Callable[[Small, Tensor], Tensor]) -> tuple[Network, nn.Module]:
    """A network, and the copy of its module made before."""
    torch.manual_seed(3)
    module = Small(body).eval()
    return Network(copy.deepcopy(module), [0.0] * 3, [1.0] * 3), module


IMAGES = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(4))


def add_method(m: Small, x: Tensor) -> Tensor:
    y = m.conv(x)
    y.add_(1.0)
    return y


def chained_methods(m: Small, x: Tensor) -> Tensor:
    y = m.conv(x)
    y.mul_(2.0).add_(1.0)
    return m.conv2(y)


def clamp_method(m: Small, x: Tensor) -> Tensor:
    y = m.conv(x)
    y.clamp_(min=0.1)
    return y + m.conv2(y)


def masked_method(m: Small, x: Tensor) -> Tensor:
    y = m.conv(x)
    y.masked_fill_(y < 0, -1.0)
    return y


def relu_function(m: Small, x: Tensor) -> Tensor:
    y = m.conv(x)
    torch.relu_(y)
    return y


def method_read_before_and_after(m: Small, x: Tensor) -> Tensor:
    y = m.conv(x)
    before = m.conv2(y)
    y.add_(before)
    return y * before


def relu_inplace_rebound(m: Small, x: Tensor) -> Tensor:
    y = F.relu(m.conv(x), inplace=True)
    return m.conv2(y)


def relu_inplace_positional_rebound(m: Small, x: Tensor) -> Tensor:
    y = F.relu(m.conv(x), True)
    return m.conv2(y)


def relu_inplace_module_rebound(m: Small, x: Tensor) -> Tensor:
    y = m.relu_inplace(m.conv(x))
    return m.conv2(y)


def augmented(m: Small, x: Tensor) -> Tensor:
    y = m.conv(x)
    y += m.conv2(y)
    y *= 2
    y -= 1
    y /= 3
    return y


def input_written(m: Small, x: Tensor) -> Tensor:
    x = x * 1
    x.sub_(0.5)
    return m.conv(x)


def relu_inplace_not_rebound(m: Small, x: Tensor) -> Tensor:
    y = m.conv(x)
    F.relu(y, inplace=True)
    return y


def hardtanh_inplace_not_rebound(m: Small, x: Tensor) -> Tensor:
    y = m.conv(x)
    F.hardtanh(y, -0.3, 0.3, inplace=True)
    return y


def augmented_under_another_name(m: Small, x: Tensor) -> Tensor:
    y = m.conv(x)
    shortcut = y
    y += 1.0
    return m.conv2(y) + shortcut  # the shortcut is the written tensor


def module_not_rebound(m: Small, x: Tensor) -> Tensor:
    y = m.conv(x)
    m.relu_inplace(y)
    return y


def module_before_a_shortcut(m: Small, x: Tensor) -> Tensor:
    y = m.conv(x)
    out = m.conv2(m.relu_inplace(y))
    return out + y  # rectified: MiDaS' residual unit and other pre-activation blocks do this


def through_a_view(m: Small, x: Tensor) -> Tensor:
    y = m.conv(x)
    y.flatten(1).add_(1.0)
    return y


def through_a_slice(m: Small, x: Tensor) -> Tensor:
    y = m.conv(x)
    y[:, 0].add_(1.0)
    return y


SOUND = [
    *(add_method, chained_methods, clamp_method, masked_method, relu_function, method_read_before_and_after),
    *(relu_inplace_not_rebound, hardtanh_inplace_not_rebound, module_not_rebound, module_before_a_shortcut),
    *(relu_inplace_rebound, relu_inplace_positional_rebound, relu_inplace_module_rebound, augmented, input_written),
]
LOST = [augmented_under_another_name, through_a_view, through_a_slice]  # torch.fx does not see who else is written


@pytest.mark.parametrize("body", SOUND + LOST, ids=lambda body: body.__name__)
def test_in_place_operations(body: Callable[[Small, Tensor], Tensor]) -> None:
    """Module, traced network and head give the untouched module's logits exactly; or an error, never other numbers.

    What torch.fx cannot follow may be refused, but not on the way through the module itself.
    """
    network, untouched = small(body)
    seen: list[Tensor] = []
    untouched.get_submodule("conv").register_forward_hook(lambda _m, _i, output: seen.append(output.clone()))
    with torch.no_grad():
        expected = untouched(IMAGES.clone())
    try:
        forward = ForwardPass(network, IMAGES.clone(), ("conv",))
        logits, activation, head = forward.logits, forward.activation("conv"), forward.head("conv")
    except ValueError as error:
        assert body in LOST
        assert "gives other logits when traced by torch.fx" in str(error)
        assert torch.equal(network(IMAGES.clone()), expected)
        return
    kept = activation.clone()
    assert torch.equal(logits, expected)
    assert torch.equal(head(activation), expected)
    assert torch.equal(network(IMAGES.clone()), expected)
    assert torch.equal(activation, kept)
    assert torch.equal(kept, seen[0])


def _writes_its_input(m: Small, x: Tensor) -> Tensor:
    return m.conv(x.sub_(0.5))


def _rectifies_its_input(m: Small, x: Tensor) -> Tensor:
    return m.conv(m.relu_inplace(x))


@pytest.mark.parametrize("body", [_writes_its_input, _rectifies_its_input])
@pytest.mark.parametrize("layers", [(), ("conv",)], ids=["module", "traced"])
def test_a_module_that_writes_into_its_input(body: Callable[[Small, Tensor], Tensor], layers: tuple[str, ...]) -> None:
    """The inputs that methods share stay as they were, the gradient exists, and a second pass gives the same logits."""
    network, untouched = small(body)
    with torch.no_grad():
        expected = untouched(IMAGES.clone())
    forward = ForwardPass(network, IMAGES.clone(), layers)
    assert torch.equal(forward.logits, expected)
    assert torch.equal(forward.inputs, IMAGES)
    assert torch.equal(network(forward.inputs), expected)
    assert torch.equal(network(forward.inputs), expected)
    targets = Targets(torch.tensor([0, 1]), torch.tensor([1, 2]))
    assert network.gradient(forward.inputs, targets).abs().sum() > 0
    graph = ForwardPass(network, IMAGES.clone(), layers, input_graph=True)
    assert graph.input_gradient(targets).abs().sum() > 0


def test_a_reused_module_is_its_last_call() -> None:
    """One ReLU called twice: its path names the second output, its first call has a graph name."""

    def twice(m: Small, x: Tensor) -> Tensor:
        return m.relu(m.conv2(m.relu(m.conv(x))) - 0.1)

    network, untouched = small(twice)
    seen: list[Tensor] = []
    untouched.get_submodule("relu").register_forward_hook(lambda _m, _i, output: seen.append(output.clone()))
    with torch.no_grad():
        expected = untouched(IMAGES)
    forward = ForwardPass(network, IMAGES, ("relu", "relu_1", "conv2"))
    assert len(seen) == 2
    assert torch.equal(forward.activation("relu"), seen[1])
    assert torch.equal(forward.activation("relu_1"), seen[1])
    assert torch.equal(forward.head("relu")(forward.activation("relu")), expected)
    assert torch.equal(forward.head("conv2")(forward.activation("conv2")), expected)


def test_rows_leave_weights_alone() -> None:
    """A value [4,1,1] computed from weights alone crosses the cut of a batch of four images: it belongs to none."""
    network, _ = small(lambda m, x: m.conv(x) * (m.conv2.weight[:, 0, 0, 0] * 20).view(4, 1, 1))
    forward = ForwardPass(network, torch.randn(4, 3, 6, 6), ("conv",))
    rows = torch.tensor([3, 0, 1, 0])
    logits = forward.head("conv")(forward.activation("conv")[rows], rows)
    assert relative(logits, forward.logits[rows]) <= 1e-5


def test_rows_with_the_batch_size() -> None:
    """As ViT's conv_proj: only the number of images crosses the cut; five rows of two images must follow the rows."""

    def reshaped(m: Small, x: Tensor) -> Tensor:
        count = x.shape[0]
        return m.conv(x).reshape(count, 4, 36, 1)

    network, _ = small(reshaped)
    forward = ForwardPass(network, IMAGES, ("conv",))
    rows = torch.tensor([0, 1, 1, 0, 1])
    logits = forward.head("conv")(forward.activation("conv")[rows], rows)
    assert relative(logits, forward.logits[rows]) <= 1e-5


def test_unknown_layer_names_near_ones() -> None:
    """A typo is answered with the nearest names and the top-level ones; a layer without effect is refused."""
    network, _ = small(lambda m, x: m.conv2(m.relu(m.conv(x))))
    with pytest.raises(ValueError, match=r"layer 'cnov2' is not in Small: did you mean .*'conv2'.*Top-level: .*conv"):
        network.check_layer("cnov2")
    with pytest.raises(ValueError, match="'conv3' is not in Small"):
        ForwardPass(network, IMAGES, ("conv3",)).logits  # noqa: B018
    assert {"conv", "relu", "conv2", "fc"} <= set(network.layers())

    def unused(m: Small, x: Tensor) -> Tensor:
        m.conv2(m.conv(x)[:, :4])
        return m.conv(x)

    with pytest.raises(ValueError, match=r"conv2.*does not reach the logits"):
        small(unused)[0].check_layer("conv2")


def test_a_layer_that_was_not_kept_is_named() -> None:
    """Asking the shared pass for what no method declared says where to declare it."""
    network, _ = small(lambda m, x: m.conv2(m.conv(x)))
    forward = ForwardPass(network, IMAGES, ("conv",))
    with pytest.raises(ValueError, match=r"'conv2' was not kept.*needs\(\)"):
        forward.activation("conv2")
    with pytest.raises(ValueError, match="input_graph"):
        forward.input_gradient(Targets(torch.tensor([0]), torch.tensor([0])))


def test_what_cannot_be_traced_still_has_gradients() -> None:
    """Control flow on values: the input gradient works and equals autograd; asking for a layer explains itself."""

    def branching(m: Small, x: Tensor) -> Tensor:
        y = m.conv(x)
        return m.conv2(y) if bool(y.sum() > 1e9) else y.relu()

    network, untouched = small(branching)
    targets = Targets(torch.tensor([0, 1]), torch.tensor([1, 2]))
    leaf = IMAGES.clone().requires_grad_()
    logits = untouched(leaf)
    (expected,) = torch.autograd.grad(logits[0, 1] + logits[1, 2], leaf)
    assert torch.equal(network.gradient(IMAGES, targets)[0], expected)
    assert torch.equal(ForwardPass(network, IMAGES, input_graph=True).input_gradient(targets), expected)
    with pytest.raises(ValueError, match=r"Small cannot be traced by torch.fx .*methods on the input gradient work"):
        ForwardPass(network, IMAGES, ("conv",)).logits  # noqa: B018


def test_passes_count_images() -> None:
    """Every pass counts the images that it sends: forwards, backwards a round of targets, head passes."""
    network, _ = small(lambda m, x: m.conv2(m.conv(x)))
    targets = Targets(torch.tensor([0, 1, 0]), torch.tensor([1, 2, 3]))  # two rounds: image 0 twice
    network(IMAGES)
    assert network.passes == Passes(forward=2)
    forward = ForwardPass(network, IMAGES, ("conv",), input_graph=True)
    forward.logits, forward.probabilities, forward.activation("conv")  # one pass
    assert network.passes == Passes(forward=4)
    forward.input_gradient(targets)
    assert network.passes == Passes(forward=4, backward=4)
    head = forward.head("conv")
    head(forward.activation("conv"))
    assert network.passes == Passes(forward=4, backward=4, head=2)
    head.gradient(forward.activation("conv"), targets)
    assert network.passes == Passes(forward=4, backward=4, head=2 + 2 + 4)
    network.gradient(torch.cat([IMAGES] * 3), targets, copies=3)
    assert network.passes == Passes(forward=4 + 6, backward=4 + 12, head=8)
    assert network.passes - Passes(1, 2, 3) + Passes(1, 2, 3) == network.passes


def test_gradients_of_copies_and_rounds() -> None:
    """Three noisy copies and repeated images in one call equal one autograd call a pair: to 1e-6, order of sums."""
    network, untouched = small(lambda m, x: m.conv2(m.conv(x).relu()))
    targets = Targets(torch.tensor([1, 0, 1, 1]), torch.tensor([4, 0, 2, 4]))
    copies = torch.randn(3, *IMAGES.shape, generator=torch.Generator().manual_seed(5))
    gradients = network.gradient(copies.flatten(0, 1), targets, copies=3)
    assert gradients.shape == (3, 4, 3, 6, 6)
    for s in range(3):
        for p, (i, c) in enumerate(zip(*targets, strict=True)):
            leaf = copies[s, i : i + 1].clone().requires_grad_()
            (expected,) = torch.autograd.grad(untouched(leaf)[0, c], leaf)
            assert relative(gradients[s, p], expected[0]) <= 1e-6
    nothing = Targets(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    assert network.gradient(IMAGES, nothing).shape == (1, 0, 3, 6, 6)


def test_rounds_hold_an_image_once() -> None:
    """Rounds partition the pairs, in order, and no round repeats an image."""
    targets = Targets(torch.tensor([2, 0, 2, 2, 1]), torch.arange(5))
    rounds = targets.rounds()
    assert [r.tolist() for r in rounds] == [[0, 1, 4], [2], [3]]


def test_moving_a_network_traces_it_anew() -> None:
    """After `.to(float64)` layers, heads and normalisation are float64; results equal the float64 module's exactly."""
    network, untouched = small(lambda m, x: m.conv2(m.conv(x).relu()))
    ForwardPass(network, IMAGES, ("conv",)).logits  # noqa: B018  # traced in float32 first
    forward = ForwardPass(network.to(dtype=torch.float64), IMAGES, ("conv",))
    assert forward.activation("conv").dtype == torch.float64
    expected = untouched.double()(IMAGES.double())
    assert torch.equal(forward.logits, expected)
    assert torch.equal(forward.head("conv")(forward.activation("conv")), expected)


def test_activation_and_normalisation() -> None:
    """Probabilities follow the output activation; pixel values are normalised by channel; a wrong name is named."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    softmax, sigmoid = (Network(module, MEAN, STD, name) for name in ("softmax", "sigmoid"))
    images = torch.rand(2, 3, 2, 2)
    logits = softmax(softmax.normalise(images))
    assert torch.equal(softmax.probabilities(logits), logits.softmax(1))
    assert torch.equal(sigmoid.probabilities(logits), logits.sigmoid())
    by_hand = torch.stack([(images[:, k] - MEAN[k]) / STD[k] for k in range(3)], 1)
    torch.testing.assert_close(softmax.normalise(images), by_hand, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match=r"activation='relu': choose softmax, sigmoid or binary"):
        Network(module, MEAN, STD, "relu")  # type: ignore[arg-type]


def test_a_network_is_frozen_and_in_eval_mode() -> None:
    """No parameter wants a gradient, and dropout is off, whatever the module came with."""
    network = Network(nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 5)).train(), MEAN, STD)
    assert not network.module.training
    assert not any(parameter.requires_grad for parameter in network.module.parameters())
    inputs = torch.rand(2, 3, 2, 2)
    assert torch.equal(network(inputs), network(inputs))


def test_groups_read_outputs_as_other_classes() -> None:
    """Class g scores its highest member's logit and is explained by that member, image by image; all by hand.

    A class without members scores -inf, has probability 0, and cannot be explained.
    """
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    network = Network(module, MEAN, STD, groups=[[3, 0], [], [1, 2, 4]])
    logits = torch.tensor([[4.0, 1, 2, 3, 0], [1.0, 5, 2, 3, 6]])
    assert network.scores(logits).tolist() == [[4, -torch.inf, 2], [3, -torch.inf, 6]]
    softmax = logits.softmax(1)
    expected = torch.stack([softmax[:, 0] + softmax[:, 3], torch.zeros(2), softmax[:, [1, 2, 4]].sum(1)], 1)
    torch.testing.assert_close(network.probabilities(logits), expected, rtol=1e-6, atol=0)
    assert [network.explains(label) for label in range(3)] == [True, False, True]
    targets = Targets(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 0, 2, 2]))
    outputs = network.outputs_of(targets, logits)
    assert outputs.image.tolist() == [0, 1, 1, 0]
    assert outputs.label.tolist() == [0, 3, 4, 2]
    shared = torch.tensor([[2.0, 1.9, 1.9, -9, 1.9]])  # group 0 has the best member, group 2 most of the probability
    assert network.predicts(torch.cat([logits, shared])).int().tolist() == [[1, 0, 0], [0, 0, 1], [1, 0, 1]]
    plain = Network(module, MEAN, STD)
    assert plain.predicts(shared).int().tolist() == [[1, 0, 0, 0, 0]]
    assert plain.scores(logits) is logits
    assert plain.outputs_of(targets, logits) is targets
    assert plain.explains(4)


def test_a_network_that_flattens_by_view() -> None:
    """`view` refuses the faster memory layout: the usual one is taken from then on, with the same answer; exactly.

    Of a convolution and 8 x 8 outputs of two channels; passes count the images once, not the refused attempt.
    """

    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(3, 2, 3, padding=1), nn.Linear(128, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(self.conv(x).view(len(x), -1))

    network, images = Network(Viewing(), MEAN, STD), torch.rand(4, 3, 8, 8)
    for _ in range(2):
        assert torch.equal(network.infer(images), network.module(images))
    assert network.passes.forward == 8


def test_inference_is_a_call() -> None:
    """A residual network in the faster layout: float64, 1e-12; no graph is kept."""
    network = Network(resnet18(weights=None), MEAN, STD).to(dtype=torch.float64)
    images = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    found = network.infer(images)
    assert not found.requires_grad
    torch.testing.assert_close(found, network.module(images), rtol=1e-12, atol=1e-12)
