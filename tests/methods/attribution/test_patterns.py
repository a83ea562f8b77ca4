"""PatternNet and PatternAttribution: closed forms, both estimators by hand and by definition, streamed statistics."""

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from assay.harness.heads import Targets
from assay.harness.network import Network
from assay.methods.attribution.gradient import Gradient
from assay.methods.attribution.relevance.moments import Moments
from assay.methods.attribution.relevance.patterns import PatternAttribution, PatternNet, fit_patterns
from assay.methods.attribution.relevance.rules import Affine
from conftest import (
    FEW_TARGETS,
    Known,
    alone,
    assert_close,
    assert_nothing_left,
    attribute,
    attribute_alone,
    known,
    random_images,
    several_targets,
    torchvision_module,
)
from torch import Tensor, nn

DOUBLE = 1e-10
ONE = Targets(torch.tensor([0]), torch.tensor([0]))
METHODS = [PatternNet(), PatternAttribution()]


def network_of(*layers: nn.Module, dtype: torch.dtype = torch.float64) -> Network:
    """Layers one after the other, on images as they are."""
    return Network(nn.Sequential(*layers), (0,) * 3, (1,) * 3).to(dtype=dtype)


def dense(weight: Sequence[Sequence[float]], bias: Sequence[float] = ()) -> nn.Linear:
    """A linear layer of given numbers."""
    layer = nn.Linear(len(weight[0]), len(weight), bias=bool(bias))
    layer.weight.data = torch.tensor(weight, dtype=torch.float64)
    if bias:
        layer.bias.data = torch.tensor(bias, dtype=torch.float64)
    return layer


def rows(*values: Sequence[float]) -> Tensor:
    """Images [n,3,1,1] of one pixel."""
    return torch.tensor(values, dtype=torch.float64).view(-1, 3, 1, 1)


# Closed forms


def test_a_linear_layer_finds_the_signal_and_leaves_the_distractor() -> None:
    """x = a_s y + a_d e with a_s = (1, 0, .5), a_d = (1, 1, 2), e uncorrelated with y, w = (1, -1, 0) so that w x = y.

    Cov(x, y) / Var(y) = a_s, although the weight at the second channel is -1. PatternNet gives the signal y a_s,
    PatternAttribution w a_s y = (y, 0, 0), which sums to the logit.
    """
    y, e = torch.tensor([1.0, 1, -1, -1]), torch.tensor([3.0, -3, 3, -3])  # uncorrelated: exact
    signal, distractor = torch.tensor([1, 0, 0.5]), torch.tensor([1.0, 1, 2])
    images = (y[:, None] * signal + e[:, None] * distractor).double().view(-1, 3, 1, 1)
    network = network_of(nn.Flatten(), dense([[1, -1, 0]]))
    (pattern,) = PatternNet().fit(network, [images]).values()
    torch.testing.assert_close(pattern, signal.double()[None], atol=1e-14, rtol=0)
    state = {"1": pattern}
    tape = [method.fitted(state) for method in (PatternNet(reduce="sum"), PatternAttribution())]
    found = [float(attribute(method, network, images[2:3], ONE).values) for method in tape]
    assert found == pytest.approx([-1.5, -1])


def test_the_two_regimes_of_a_relu_by_hand() -> None:
    """w = (1, 0, 0), b = -1: on at (2, 1, 0) and (4, 5, 0), off at (0, 7, 0) and (1, -3, 0), whose output is 0.

    On: dy = -1, 1, so Cov ~ (2, 4), a = (1, 2). Over all: Cov ~ (8.75, 1.5), a = (1, 1.5 / 8.75). The last layer,
    which no ReLU reads: y = 1, 3, 0, 0 of itself, a = 1.
    """
    images = rows((2, 1, 0), (4, 5, 0), (0, 7, 0), (1, -3, 0))
    network = network_of(nn.Flatten(), dense([[1, 0, 0]], [-1]), nn.ReLU(), dense([[2]], [5]))
    relu, linear = (PatternNet(estimator).fit(network, [images]) for estimator in ("relu", "linear"))
    assert relu["1"].tolist() == [[1, 2, 0]]
    torch.testing.assert_close(linear["1"], torch.tensor([[1, 1.5 / 8.75, 0]]).double())
    for found in (relu, linear):
        torch.testing.assert_close(found["3"], torch.tensor([[0.5]]).double())


def test_a_unit_of_which_the_data_says_nothing_has_no_pattern() -> None:
    """Never on, on once, or constant: 0, and maps are finite."""
    weight = [[0.0, 0, 0], [1.0, 0, 0], [0.0, 0, 0], [1.0, 0, 0]]
    network = network_of(nn.Flatten(), dense(weight, [-1, -3, 2, 0]), nn.ReLU(), dense([[1, 1, 1, 1]]))
    images = rows((1, 1, 0), (4, 2, 1), (2, 3, 0))
    state = PatternNet().fit(network, [images])
    assert state["1"].any(1).tolist() == [False, False, False, True]
    for method in METHODS:
        assert attribute(method.fitted(state), network, images[:1], ONE).values.isfinite().all()


# By definition


def joined(parts: Sequence[Moments]) -> Moments:
    """One after the other."""
    total = parts[0].double()
    for part in parts[1:]:
        total.add(part)
    return total


class _Seen:
    """Inputs of layers and what follows them, in a pass of all images together."""

    def __init__(self, module: nn.Module, names: Sequence[str], images: Tensor) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        handles = [module.get_submodule(name).register_forward_hook(self._keeper(name)) for name in names]
        with torch.no_grad():
            module(images)
        for handle in handles:
            handle.remove()

    def _keeper(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def keep(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            self.inputs[name], self.outputs[name] = args[0].clone(), output.clone()

        return keep


def by_definition(layer: nn.Module, x: Tensor, y: Tensor, only_on: bool) -> Tensor:
    """Cov(patch, y) / Var(y) of each unit, over its positions one by one; y: what the ReLU reads."""
    if isinstance(layer, nn.Conv2d):
        patches = F.unfold(x, layer.kernel_size, padding=layer.padding, stride=layer.stride)  # type: ignore[arg-type]
        patches = patches.transpose(1, 2).flatten(0, 1)
        y = y.flatten(2).transpose(1, 2).flatten(0, 1)
    else:
        patches = x
    found = []
    for unit in range(y.shape[1]):
        on = y[:, unit] > 0 if only_on else torch.ones(len(y), dtype=torch.bool)
        chosen, values = patches[on], y[on, unit]
        centred = values - values.mean()
        found.append((chosen - chosen.mean(0)).T @ centred / (centred @ centred))
    return torch.stack(found).view(layer.weight.shape)  # type: ignore[arg-type]


@pytest.mark.parametrize("estimator", ["relu", "linear"])
def test_patterns_are_their_definition(estimator: str) -> None:
    """Every layer of both tiny networks, from float64 patches; batch-norm is part of its layer; 1e-10.

    In the ResNet a ReLU reads conv1 and conv2, and a sum what the third convolution and the shortcut's make.
    """
    vgg = {f"features.{k}": (f"features.{k}", True) for k in (0, 2, 5, 7)}
    vgg |= {"classifier.0": ("classifier.0", True), "classifier.2": ("classifier.2", False)}
    resnet = {"conv1": ("bn1", True), "fc": ("fc", False)}
    for block in ("layer1.0", "layer1.1"):
        resnet |= {f"{block}.conv{k}": (f"{block}.bn{k}", k < 3) for k in (1, 2, 3)}
    resnet["layer1.0.downsample.0"] = ("layer1.0.downsample.1", False)
    for name, expected in (("tiny_vgg", vgg), ("tiny_resnet", resnet)):
        network, images = known(name, torch.float64).network, random_images(12, 16).double() * 4 - 2
        found = fit_patterns(network, images.split(5), estimator)
        seen = _Seen(network.module, [*expected, *(place for place, _ in expected.values())], images)
        assert found.keys() == expected.keys()
        for layer, (place, is_rectified) in expected.items():
            only_on = is_rectified and estimator == "relu"
            made = by_definition(network.module.get_submodule(layer), seen.inputs[layer], seen.outputs[place], only_on)
            on = (seen.outputs[place] > 0).transpose(0, 1).flatten(1).sum(1) > 1
            units = on if only_on else torch.ones_like(on)
            assert_close(found[layer][units].flatten(1), made[units].flatten(1), DOUBLE)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 4, 3, stride=2, padding=1),
        nn.Conv2d(6, 6, 3, groups=3, dilation=2, bias=False),
        nn.Conv1d(6, 3, 2),
        nn.Linear(5, 3),
    ],
    ids=["strided", "grouped", "one-dimensional", "of tokens"],
)
@pytest.mark.parametrize("only_on", [True, False])
def test_streamed_is_whole(layer: nn.Conv2d | nn.Conv1d | nn.Linear, only_on: bool) -> None:
    """Parts of any size in any order have the moments of the whole; w a = 1; float64, 1e-12."""
    shape = {2: (20, 7, 5), 3: (20, 6, 9), 4: (20, 6, 9, 8)}[layer.weight.ndim]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 3
    layer = layer.double().requires_grad_(False)

    def apply(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        state = {"weight": weight, "bias": torch.zeros(len(weight)).to(weight) if bias is None else bias}
        if layer.bias is None:
            state.pop("bias")
        return torch.func.functional_call(layer, state, values)

    affine = Affine(apply, layer.weight, layer.bias)
    whole = Moments.of(x, affine, only_on)
    for parts in (x.split(1), x.split(7), x.flip(0).split(3), [x[5:], x[:5]]):
        streamed = joined([Moments.of(part, affine, only_on) for part in parts])
        for one, other in zip(streamed, whole, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    sums = (whole.pattern(layer.weight) * layer.weight).flatten(1).sum(1)
    torch.testing.assert_close(sums, (whole.seen > 1).double())
    assert sums.any()


def test_a_small_spread_far_from_zero_is_not_lost() -> None:
    """Inputs of 1000 with a spread of 1, in float32 parts: 1e-3 of float64's; uncentred sums would leave nothing."""
    x = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1000
    weight = torch.tensor([[0.5, -0.25, 0.125]]).double()

    def apply(values: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(values, w, bias)

    def pattern(dtype: torch.dtype) -> Tensor:
        layer = Affine(apply, weight.to(dtype))
        return joined([Moments.of(part.to(dtype), layer, False) for part in x.split(100)]).pattern(layer.weight)

    assert_close(pattern(torch.float32), pattern(torch.float64), 1e-3)


def test_any_batches_give_the_same_fit(tiny64: Known) -> None:
    """Order and size of the batches, float64: 1e-10; float32: 1e-4 of the largest."""
    images = random_images(16, 16).double() * 4 - 2
    whole = fit_patterns(tiny64.network, [images], "relu")
    for batches in (images.split(3), images.flip(0).split(5)):
        found = fit_patterns(tiny64.network, batches, "relu")
        for name, pattern in whole.items():
            assert_close(found[name].flatten()[None], pattern.flatten()[None], DOUBLE)


def test_batch_norm_that_follows_no_layer_is_part_of_the_next() -> None:
    """Pre-activation: patterns of DenseNet's convolutions exist and w a = 1 of the merged weights (PatternAttribution
    keeps the logit through a network without ReLUs)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        norm = nn.BatchNorm2d(3)
        norm.running_mean, norm.running_var = torch.rand(3), torch.rand(3) + 0.5
        layers = (norm, nn.Conv2d(3, 4, 3), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 2))
        network = network_of(*layers)
    images = random_images(30, 6).double()
    state = PatternAttribution().fit(network, [images])
    found = attribute(PatternAttribution().fitted(state), network, images[:1], ONE).values
    assert float(found.sum()) == pytest.approx(float(network(network.normalise(images[:1]))[0, 0]), rel=1e-9)


# The backward pass


@pytest.mark.parametrize("start", ["one", "logit"])
def test_weights_for_patterns_are_the_gradient(start: str) -> None:
    """Max-pools, ReLUs and biases as in the gradient; from the logit, times it; float64, 1e-10."""
    tiny, targets = known("tiny_vgg", torch.float64), several_targets()
    state = {name: w for name, w in tiny.network.module.named_parameters() if name.endswith("weight")}
    method = PatternNet(start=start, reduce="sum").fitted(  # type: ignore[arg-type]
        {name.removesuffix(".weight"): weight for name, weight in state.items()}
    )
    expected = attribute(Gradient("sum"), tiny.network, tiny.images, targets).values
    if start == "logit":
        expected = expected * tiny.network(tiny.images)[targets.image, targets.label][:, None, None]
    assert_close(attribute(method, tiny.network, tiny.images, targets).values, expected, DOUBLE)


@pytest.mark.parametrize(
    ("residual", "share"), [("gradient", (1, 1)), ("positive", (0.75, 0.25)), ("halved", (0.5, 0.5))]
)
def test_what_a_sum_hands_to_its_summands(residual: str, share: tuple[float, float]) -> None:
    """x_1 + x_2 with (3, 1), patterns 1: R to each, in proportion, or halves."""

    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.last = dense([[1, 0, 0]]), dense([[0, 1, 0]]), dense([[1.0]])

        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(1)
            return self.last(self.one(x) + self.two(x))

    network = Network(Joined(), (0,) * 3, (1,) * 3).to(dtype=torch.float64)
    state = {"one": torch.ones(1, 3), "two": torch.ones(1, 3), "last": torch.ones(1, 1)}
    method = PatternAttribution(residual=residual, start="one").fitted({k: v.double() for k, v in state.items()})
    found = attribute(method, network, rows((3, 1, 0)), ONE).values
    assert float(found) == pytest.approx(sum(share))
    for name, part in zip(("one", "two"), share, strict=True):  # of the first summand alone, of the second alone
        only = {**state, name: torch.zeros(1, 3)}
        method = PatternAttribution(residual=residual, start="one").fitted({k: v.double() for k, v in only.items()})
        assert float(found - attribute(method, network, rows((3, 1, 0)), ONE).values) == pytest.approx(part)


def test_a_factor_that_is_no_layers_has_its_inverse_for_a_pattern() -> None:
    """relu(x) * 4 to the logits: the signal is y / 4, and its relevance y."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = dense([[1, 0, 0], [0, 1, 0]])

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.flatten(1)).relu() * 4

    network, images = Network(Scaled(), (0,) * 3, (1,) * 3).to(dtype=torch.float64), rows((2, 1, 0), (4, 5, 3))
    state = {"layer": torch.tensor([[1, 0, 0], [0, 1, 0]]).double()}
    for method, expected in ((PatternNet(), 2), (PatternAttribution(), 8)):
        assert float(attribute(method.fitted(state), network, images[:1], ONE).values) == pytest.approx(expected)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_any_batch_and_leaves_nothing(method: PatternNet, tiny64: Known) -> None:
    """Pair by pair in batches of one, and together: 1e-10; nothing stays on the module."""
    fitted = method.fitted(method.fit(tiny64.network, [random_images(8, 16).double() * 4 - 2]))
    targets = several_targets()
    expected = attribute_alone(fitted, tiny64.network, tiny64.images, targets)
    assert_close(attribute(fitted, tiny64.network, tiny64.images, targets).values, expected, DOUBLE)
    assert attribute(fitted, tiny64.network, tiny64.images, FEW_TARGETS).values.shape == (2, 16, 16)
    assert_nothing_left(tiny64.network)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["alexnet", "resnet18", "densenet121", "squeezenet1_1"])
def test_torchvision_networks_have_patterns(architecture: str) -> None:
    """Unmodified: a finite pattern of each convolution and linear layer, a finite map that is not 0.

    (Not PatternNet's on DenseNet: each of its many paths carries the whole signal, which is more than float32 holds.)
    """
    network = Network(torchvision_module(architecture), (0.5,) * 3, (0.25,) * 3)
    images = random_images(4, 64)
    for method in METHODS[architecture == "densenet121" :]:
        state = method.fit(network, images.split(2))
        layers = [name for name, m in network.module.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        assert sorted(state) == sorted(layers)
        found = attribute(method.fitted(state), network, images[:1], ONE).values
        assert found.isfinite().all()
        assert found.any()


# Refusals


def test_it_requires_a_fit(tiny64: Known) -> None:
    """Named, with what to do."""
    with pytest.raises(ValueError, match=r"PatternNet requires fit: attribute with .fitted\(state\)"):
        attribute(PatternNet(), tiny64.network, tiny64.images, tiny64.targets)
    with pytest.raises(ValueError, match="no training images to fit patterns on"):
        PatternNet().fit(tiny64.network, [])
    fitted = PatternNet().fitted({"features.0": torch.zeros(1, 1)})
    with pytest.raises(ValueError, match=r"no pattern of layer '.*': the fit is of another network"):
        attribute(fitted, tiny64.network, tiny64.images, tiny64.targets)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((nn.Flatten(), nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 2)), "an activation that is no ReLU"),
        ((nn.Flatten(), nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), "an activation that is no ReLU"),
        ((nn.ConvTranspose2d(3, 2, 1), nn.Flatten()), "a transposed convolution '0', of which no pattern is kept"),
    ],
)
def test_networks_without_patterns_are_refused(layers: tuple[nn.Module, ...], message: str) -> None:
    """By name, in the fit."""
    with pytest.raises(ValueError, match=message):
        PatternNet().fit(network_of(*layers), [rows((1, -2, 1), (-1, 2, -2))])


def test_a_layer_that_is_called_twice_is_refused() -> None:
    """It has the inputs of two places."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x.flatten(1)).relu())

    with pytest.raises(ValueError, match="layer 'layer' is called twice"):
        PatternNet().fit(Network(Twice(), (0,) * 3, (1,) * 3).to(dtype=torch.float64), [rows((1, 2, 3), (3, 2, 1))])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"estimator": "negative"}, "estimator='negative': choose one of relu, linear"),
        ({"residual": "split"}, "residual='split': choose one of gradient, positive, halved"),
        ({"start": "two"}, "start='two'"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, str], message: str) -> None:
    """By name, value and choices."""
    with pytest.raises(ValueError, match=message):
        PatternAttribution(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "method"), list(zip(["pattern_net", "pattern_attribution"], METHODS, strict=True)))
def test_the_configs_say_every_convention(name: str, method: PatternNet) -> None:
    """The YAML's settings are the class' defaults, none left out."""
    settings = dict(alone("method", name).method[name].settings)
    settings.pop("_target_")
    assert settings == vars(method)
