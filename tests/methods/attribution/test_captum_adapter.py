"""Captum's classes through the adapter: equal to Captum alone, the same in any batch, and the network untouched.

Tolerances are relative to each map's largest value: 1e-10 in float64.
"""

import copy
import sys
from typing import Any

import numpy as np
import pytest
import torch
from assay.harness.heads import Passes, Targets
from assay.harness.network import Network
from assay.harness.types import Attributor
from assay.methods.attribution.adapters import Twin, pair_seeds, seeded
from assay.methods.attribution.captum_adapter import Captum, squares, supported
from assay.methods.attribution.gradient import Gradient, InputXGradient, IntegratedGradients, Reduce
from conftest import (
    TOY_TARGETS,
    Known,
    assert_close,
    assert_nothing_left,
    attribute,
    attribute_alone,
    known,
    random_images,
    sample_rng,
    several_targets,
    torchvision_module,
)
from torch import Tensor, nn

captum = pytest.importorskip("captum.attr")
pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")  # Captum announces its hooks and batch sizes

DOUBLE = 1e-10
# What classes need beside their name; those not listed need nothing. Of 8 pixels, squares of 4 are four features.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "Occlusion": {"sliding_window_shapes": [3, 4, 4], "strides": [3, 4, 4]},
    **{name: {"feature_mask": 4} for name in ("FeatureAblation", "ShapleyValues")},
    "ShapleyValueSampling": {"feature_mask": 4, "n_samples": 8},
    **{name: {"feature_mask": 4, "n_samples": 12} for name in ("Lime", "KernelShap")},
    **{f"{level}GradientShap": {"baselines": "black"} for level in ("", "Layer")},
    **{f"{level}DeepLiftShap": {"baselines": ["black", "mean"]} for level in ("", "Layer")},
    **{name: {"n_steps": 6} for name in ("IntegratedGradients", "LayerIntegratedGradients", "InternalInfluence")},
    **{f"{level}Conductance": {"n_steps": 6} for level in ("", "Layer")},  # NeuronConductance and LayerConductance
    "NoiseTunnel": {"nt_samples": 3, "stdevs": 0.3},
}
NEURON = {"neuron_selector": [1, 2, 2]}
LAYERS = {"tiny_vgg": "features.7", "tiny_resnet": "layer1.1.conv2"}  # convolutions: LayerLRP has no other rules


def method_of(name: str, layer: str, **changes: Any) -> Captum:
    """A class with what it needs."""
    arguments = ARGUMENTS.get(name, {})
    if name.startswith("Neuron"):
        arguments = NEURON | ARGUMENTS.get(name.removeprefix("Neuron"), {})
    takes_layer = name.startswith(("Layer", "Neuron")) or name in ("GuidedGradCam", "InternalInfluence")
    settings: dict[str, Any] = {"arguments": arguments, "layer": layer if takes_layer else None}
    if name == "NoiseTunnel":
        settings["options"] = {"attribution_method": "Saliency"}
    return Captum(name, **(settings | changes))


def bounded(module: nn.Module) -> Network:
    """In float64, normalised with mean 0.5 and standard deviation 0.25."""
    return Network(module, (0.5,) * 3, (0.25,) * 3).to(dtype=torch.float64)


# By hand


def test_toy(toy: Network, toy_image: Tensor) -> None:
    """x * gradient of ToyModule by hand, exactly: A_0 is active at pixel a alone, A_1 at b alone.

    Class 0: 1 (1,1,0) * (1,2,-1) = 3 at a, -2 (0,-1,1) * (0,-1,3) = -8 at b. Class 1: -1 * 3 = -3 and 1 * 4 = 4.
    Grad-CAM at the ReLU, as in test_cam: (4.5, -6) and (0, 8).
    """
    assert attribute(Captum("InputXGradient"), toy, toy_image, TOY_TARGETS).values.tolist() == [[[3, -8]], [[-3, 4]]]
    cam = attribute(Captum("LayerGradCam", layer="relu"), toy, toy_image, TOY_TARGETS)
    assert cam.values.tolist() == [[[4.5, -6]], [[0, 8]]]
    assert cam.layer == "relu"


def test_squares_by_hand() -> None:
    """A 3x5 image in squares of 2: three squares a row, the last row and column narrower; exact."""
    assert squares(torch.zeros(1, 3, 3, 5), 2)[0, 0].tolist() == [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]


# Against Captum alone


@pytest.mark.parametrize("name", ["tiny_vgg", "tiny_resnet"])
def test_saliency_and_integrated_gradients_equal_captum(name: str) -> None:
    """Against the classes called directly on a copy of the module, several targets an image; float64, 1e-10."""
    network, images, _, _, _ = known(name, torch.float64)
    targets, module = several_targets(), copy.deepcopy(network.module)
    inputs, labels = images[targets.image].requires_grad_(), targets.label
    saliency = captum.Saliency(module).attribute(inputs, labels, abs=False)
    ours = Captum("Saliency", arguments={"abs": False}, reduce="l2")
    assert_close(attribute(ours, network, images, targets).values, saliency.square().sum(1).sqrt(), DOUBLE)
    integrated = captum.IntegratedGradients(module, multiply_by_inputs=False).attribute(inputs, 0.5, labels, n_steps=7)
    ours = Captum("IntegratedGradients", {"multiply_by_inputs": False}, {"n_steps": 7, "baselines": 0.5})
    assert_close(attribute(ours, network, images, targets, max_rows=5).values, integrated.sum(1), DOUBLE)


@pytest.mark.parametrize("name", ["LayerConductance", "LayerGradCam", "LayerDeepLift", "LayerActivation"])
def test_layers_equal_captum(tiny64: Known, name: str) -> None:
    """Layer classes at the last block's output, at its resolution (8x8 of 16x16); float64, 1e-10."""
    targets, module = several_targets(), copy.deepcopy(tiny64.network.module)
    oracle = getattr(captum, name)(module, module.get_submodule(tiny64.layer))
    given = {} if name == "LayerActivation" else {"target": targets.label}
    expected = oracle.attribute(tiny64.images[targets.image].requires_grad_(), **given)
    found = attribute(Captum(name, layer=tiny64.layer), tiny64.network, tiny64.images, targets).values
    assert found.shape == (9, 8, 8)
    assert_close(found, expected.sum(1), DOUBLE)


def test_occlusion_and_lists_equal_captum(tiny64: Known) -> None:
    """Lists of a config arrive as the tuples that Captum wants; black is (0 - mean) / std; float64, 1e-10."""
    network, targets = bounded(copy.deepcopy(tiny64.network.module)), several_targets()
    images = tiny64.images.sigmoid()
    arguments = {"sliding_window_shapes": [3, 5, 5], "strides": [3, 2, 3], "baselines": "black"}
    found = attribute(Captum("Occlusion", arguments=arguments), network, images, targets).values
    inputs = (images[targets.image] - 0.5) / 0.25
    expected = captum.Occlusion(network.module).attribute(inputs, (3, 5, 5), (3, 2, 3), -2.0, targets.label)
    assert_close(found, expected.sum(1), DOUBLE)


def test_resnet18_equals_captum() -> None:
    """Guided backprop on torchvision's ResNet-18: in-place ReLUs, each called twice in a block; float64, 1e-10."""
    network, images = bounded(torchvision_module("resnet18")), random_images(2, 64).double()
    targets, module = Targets(torch.tensor([1, 0, 1]), torch.tensor([5, 2, 0])), copy.deepcopy(network.module)
    inputs = ((images - 0.5) / 0.25)[targets.image].requires_grad_()
    expected = captum.GuidedBackprop(module).attribute(inputs, targets.label)
    assert_close(attribute(Captum("GuidedBackprop"), network, images, targets).values, expected.sum(1), DOUBLE)


# Against our own methods, and invariants of the methods


@pytest.mark.parametrize("reduce", ["sum_abs", "max_abs", "l2"])
def test_saliency_is_our_gradient(tiny64: Known, reduce: Reduce) -> None:
    """|df/dx| and df/dx reduce to the same map under these; float64, 1e-10."""
    targets = several_targets()
    found = attribute(Captum(reduce=reduce), tiny64.network, tiny64.images, targets).values
    assert_close(found, attribute(Gradient(reduce), tiny64.network, tiny64.images, targets).values, DOUBLE)


def test_other_definitions_that_agree(tiny64: Known) -> None:
    """InputXGradient (float64, 1e-10); IntegratedGradients with Gauss-Legendre nodes from black (1e-6: Captum rounds
    the rule's weights to float32)."""
    network, images, targets = bounded(copy.deepcopy(tiny64.network.module)), tiny64.images.sigmoid(), several_targets()
    from_black = Captum("IntegratedGradients", arguments={"n_steps": 9, "baselines": "black"})
    cases: list[tuple[Attributor, Attributor, float]] = [
        (Captum("InputXGradient"), InputXGradient(), DOUBLE),
        (from_black, IntegratedGradients(9, baseline="black"), 1e-6),
    ]
    for theirs, ours, tolerance in cases:
        found, expected = (attribute(method, network, images, targets).values for method in (theirs, ours))
        assert_close(found, expected, tolerance)


def test_deeplift_is_complete_where_modules_are_called_twice() -> None:
    """On ResNet-18, which Captum refuses as it is: the map sums to f(x) - f(0); float64, 1e-7 of the difference.

    (Captum's own stabiliser of small differences is 1e-10.) Without max-pool, whose rule is not complete.
    """
    module = torchvision_module("resnet18")
    module.maxpool = nn.Identity()
    network, images = bounded(module), random_images(2, 32).double()
    targets = Targets(torch.tensor([0, 1, 1]), torch.tensor([5, 2, 0]))
    with pytest.raises(RuntimeError, match="used more than once"):
        captum.DeepLift(_pure(copy.deepcopy(network.module))).attribute(images, target=0)
    values = attribute(Captum("DeepLift"), network, images, targets).values
    inputs = network.normalise(images)
    expected = (network(inputs) - network(torch.zeros_like(inputs)))[targets.image, targets.label]
    assert (values.sum((1, 2)) - expected).abs().max() < 1e-7 * expected.abs().max()


def _pure(module: nn.Module) -> nn.Module:
    for layer in module.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = False
    return module


# Every class


@pytest.mark.parametrize("name", supported())
def test_every_class_in_any_batch_and_leaves_nothing(name: str) -> None:
    """Each supported class on both networks: four pairs of three images, in no order and in two calls, as one by one
    (float64, 1e-10); another seed changes the random ones alone; generators, hooks, weights and logits are as before.
    """
    targets = Targets(torch.tensor([2, 1, 2, 0]), torch.tensor([4, 0, 1, 3]))
    for tiny in ("tiny_vgg", "tiny_resnet"):
        network, images, _, _, _ = known(tiny, torch.float64)
        images = images[:3, :, :8, :8]  # quarters, for speed
        logits = network.module(images)
        method = method_of(name, LAYERS[tiny])
        weights = {key: value.clone() for key, value in network.module.state_dict().items()}
        generators = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]
        together = attribute(method, network, images, targets, max_rows=3).values
        assert together.isfinite().all() and not together.requires_grad
        alone = attribute_alone(method, network, images, targets)
        again = attribute(method, network, images, targets, max_rows=3, seed=1).values
        assert torch.equal(again, together) != method._is_random
        assert_close(together, alone, DOUBLE)
        assert torch.equal(torch.get_rng_state(), generators[0])
        assert np.random.get_state()[1].tolist() == generators[1]  # type: ignore[index]
        assert_nothing_left(network)
        assert all(torch.equal(value, weights[key]) for key, value in network.module.state_dict().items())
        assert torch.equal(network.module(images), logits)


@pytest.mark.parametrize("name", ["NoiseTunnel", "GradientShap", "KernelShap"])
def test_random_classes_equal_captum_under_their_seed(tiny64: Known, name: str) -> None:
    """Each pair is one call of Captum with its own seed, which depends on the pair's name alone; float64, 1e-10."""
    targets, module = several_targets(), copy.deepcopy(tiny64.network.module)
    method = method_of(name, tiny64.layer)
    found = attribute(method, tiny64.network, tiny64.images, targets).values
    oracle = captum.NoiseTunnel(captum.Saliency(module)) if name == "NoiseTunnel" else getattr(captum, name)(module)
    given: dict[str, Any] = dict(method.arguments)
    for key, value in [("baselines", torch.zeros(1, 3, 16, 16).double()), ("feature_mask", squares(tiny64.images, 4))]:
        if key in given:
            given[key] = value
    for pair, seed in enumerate(pair_seeds(sample_rng(targets, 4))):
        with seeded(seed, torch.device("cpu")):
            inputs = tiny64.images[targets.image[pair : pair + 1]].requires_grad_()
            expected = oracle.attribute(inputs, target=targets.label[pair : pair + 1], **given)
        assert_close(found[pair : pair + 1], expected.sum(1), DOUBLE)


# The twin


def test_passes_are_counted(tiny: Known) -> None:
    """Nine pairs: Saliency 9F+9B, Integrated Gradients with 5 steps 45F+45B, an occlusion of 4 squares 9 + 36 F."""
    steps, squares_of_8 = {"n_steps": 5}, {"feature_mask": 8}
    for method, forward, backward in [
        (Captum(), 9, 9),
        (Captum("IntegratedGradients", arguments=steps), 45, 45),
        (Captum("FeatureAblation", arguments=squares_of_8), 45, 0),
    ]:
        tiny.network.passes = Passes()
        attribute(method, tiny.network, tiny.images, several_targets(), max_rows=16)
        assert tiny.network.passes == Passes(forward, backward)


def test_the_twin_is_the_network_without_what_hooks_do_not_bear() -> None:
    """ResNet-18: equal logits (exactly), weights on the same memory, no module in place, two ReLUs a block; what is
    done to the twin's parameters does not reach the network."""
    network = bounded(torchvision_module("resnet18"))
    inputs = random_images(2, 64).double()
    twin = Twin(network, inputs[:1])
    assert torch.equal(twin(inputs), network.module(inputs))
    assert torch.equal(twin(inputs), network.module(inputs))  # again: each call's module comes round
    assert not any(getattr(module, "inplace", False) for module in twin.modules())
    assert any(getattr(module, "inplace", False) for module in network.module.modules())
    relu = twin.layer("layer1.0.relu")
    assert isinstance(relu, nn.ReLU) and relu is twin.module.get_submodule("layer1.0.relu.calls.1")
    weight = network.module.get_parameter("conv1.weight")
    assert twin.module.get_parameter("conv1.weight").data_ptr() == weight.data_ptr()
    twin.module.get_parameter("conv1.weight").data = torch.zeros_like(weight)
    assert weight.abs().max() > 0


def test_the_twin_follows_the_network(toy: Network, toy_image: Tensor) -> None:
    """Nothing is kept between calls: after a change of the weights or of the type, the new network is explained."""
    before = attribute(Captum("InputXGradient"), toy, toy_image, TOY_TARGETS).values
    toy.module.get_parameter("fc.weight").mul_(2)
    after = attribute(Captum("InputXGradient"), toy.to(dtype=torch.float64), toy_image, TOY_TARGETS).values
    assert after.dtype == torch.float64
    assert torch.equal(after, 2 * before.double())


# Errors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attribution": "Salincy"}, r"'Salincy' is no attribution class.* Did you mean 'Saliency'"),
        ({"attribution": "Attribution"}, "'Attribution' is no attribution class"),
        ({"attribution": "LLMAttribution"}, "'LLMAttribution' is no attribution class"),
        ({"attribution": "FeaturePermutation"}, "depends on the other images of the batch"),
        ({"attribution": "LimeBase"}, "use Lime"),
        ({"arguments": {"n_step": 3}}, "'n_step' is no name of Saliency's arguments"),
        ({"attribution": "IntegratedGradients", "arguments": {"n_step": 3}}, "Did you mean 'n_steps'"),
        ({"attribution": "IntegratedGradients", "arguments": {"return_convergence_delta": True}}, "is no name of"),
        ({"options": {"multiply": True}}, "'multiply' is no name of Saliency's options"),
        ({"attribution": "Occlusion"}, "Occlusion's arguments need sliding_window_shapes"),
        ({"attribution": "GradientShap"}, "GradientShap's arguments need baselines"),
        ({"attribution": "LayerGradCam"}, "LayerGradCam explains a layer: set layer"),
        ({"layer": "features"}, "Saliency takes no layer"),
        ({"attribution": "NoiseTunnel"}, "name it in options.attribution_method, as Saliency"),
        ({"attribution": "NoiseTunnel", "options": {"attribution_method": "NoiseTunnel"}}, "takes the network itself"),
        (
            {"attribution": "DeepLift", "arguments": {"baselines": "grey"}},
            "'grey'; give a number or some of mean",
        ),
    ],
)
def test_settings_that_do_not_fit_are_named(settings: dict[str, Any], message: str) -> None:
    """When the method is built, before anything is computed."""
    with pytest.raises(ValueError, match=message):
        Captum(**settings)


def test_network_and_class_that_do_not_fit_are_named(tiny: Known) -> None:
    """A misspelt layer with the near one; a layer without a map; what Captum itself asserts."""
    cases: list[tuple[dict[str, Any], str]] = [
        ({"attribution": "LayerGradCam", "layer": "feature.8"}, "'feature.8' is no module of Tiny"),
        ({"attribution": "LayerActivation", "layer": _last_linear(tiny.network)}, r"returned \[4, 5\]: a map is"),
        (
            {"attribution": "DeepLiftShap", "arguments": {"baselines": "mean"}},
            r"does not work .* more than one",
        ),
    ]
    for settings, message in cases:
        with pytest.raises(ValueError, match=message):
            attribute(Captum(**settings), tiny.network, tiny.images, tiny.targets)


def _last_linear(network: Network) -> str:
    return [name for name, module in network.module.named_modules() if isinstance(module, nn.Linear)][-1]


def test_without_captum_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named."""
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ImportError, match=r"captum cannot be imported .*pip install '.\[adapters\]'"):
        Captum()
