"""Grad-CAM, and which heads CAM accepts (its values are in test_cam_gradient.py).

Tolerances are relative to each map's (or weight vector's) largest value: 1e-10 in float64; in float32 1e-5, which
tests/golden's notes suggest and which is DESIGN.md's bound across batch sizes.
"""

import copy

import pytest
import torch
from assay.harness.forward import ForwardPass
from assay.harness.frames import resize_to_frames
from assay.harness.heads import Passes, Targets
from assay.harness.network import Network
from assay.methods.attribution.cam import CAM, GradCAM, weighted_map
from captum.attr import LayerGradCam
from conftest import (
    FEW_TARGETS,
    TOY_TARGETS,
    Known,
    assert_close,
    assert_nothing_left,
    attribute,
    attribute_alone,
    forward_pass,
    golden,
    known,
    random_images,
    sample_rng,
    several_targets,
    torchvision_module,
)
from torch import Tensor, nn

DOUBLE, SINGLE = 1e-10, 1e-5


# By hand


def test_toy(toy: Network, toy_image: Tensor) -> None:
    """Against ToyModule by hand, exactly: A_0 = (3, 0), A_1 = (0, 4) at pixels (a, b).

    Class 0: alpha_0 = mean(1, 2) = 1.5, alpha_1 = mean(-1, -2) = -1.5, so the map is (4.5, -6), rectified (4.5, 0).
    Class 1: alpha_0 = mean(-1, 1) = 0, alpha_1 = mean(3, 1) = 2, so (0, 8).
    """
    signed = attribute(GradCAM("relu", signed=True), toy, toy_image, TOY_TARGETS)
    rectified = attribute(GradCAM("relu"), toy, toy_image, TOY_TARGETS)
    assert signed.coefficients is not None
    assert signed.coefficients.tolist() == [[1.5, -1.5], [0, 2]]
    assert signed.values.tolist() == [[[4.5, -6]], [[0, 8]]]
    assert rectified.values.tolist() == [[[4.5, 0]], [[0, 8]]]
    assert rectified.layer == signed.layer == "relu"


def test_layer_before_its_relu(toy: Network, toy_image: Tensor) -> None:
    """At `conv`, before the ReLU, by hand: z_0 = (3, -1), z_1 = (-3, 4) and inactive units have gradient 0; exact.

    Class 0: alpha_0 = (1 + 0) / 2, alpha_1 = (0 - 2) / 2: map (.5 3 + 1 3, .5 -1 - 4) = (4.5, -4.5).
    """
    result = attribute(GradCAM("conv", signed=True), toy, toy_image, TOY_TARGETS)
    assert result.coefficients is not None
    assert result.coefficients[0].tolist() == [0.5, -1]
    assert result.values[0].tolist() == [[4.5, -4.5]]


def test_weighted_map_by_hand() -> None:
    """Two images, three pairs: map_p = sum_k alpha_pk A_k of the pair's image; exact."""
    activation = torch.tensor([[[1.0, 2], [3, 4]], [[5, 6], [7, 8]]]).view(2, 2, 1, 2)
    targets = Targets(torch.tensor([1, 0, 1]), torch.tensor([0, 0, 1]))
    coefficients = torch.tensor([[1.0, -1], [2, 0], [0, 1]])
    assert weighted_map(activation, coefficients, targets, signed=True)[:, 0].tolist() == [[-2, -2], [2, 4], [7, 8]]
    assert weighted_map(activation, coefficients, targets, signed=False)[:, 0].tolist() == [[0, 0], [2, 4], [7, 8]]


# Against the published code's outputs and Captum


@pytest.mark.parametrize("name", ["tiny_vgg", "tiny_resnet"])
def test_golden_pytorch_grad_cam(name: str) -> None:
    """Weights and map of pytorch-grad-cam 1.5.7 (tests/golden/cams.npz), before its ReLU and after; float32, 1e-5.

    After: its map is rectified, resized to 16x16 and min-max scaled (before the resize as well, which commutes; its
    1e-7 in the denominator is below the tolerance). The map of an image without positive values is 0.
    """
    network, images, logits, targets, layer = known(name)
    arrays = {key: torch.from_numpy(value) for key, value in golden("cams").items()}
    result = attribute(GradCAM(layer, signed=True), network, images, targets)
    assert_close(network.module(images), logits, SINGLE)
    assert result.coefficients is not None
    assert_close(result.coefficients, arrays[f"{name}.gradcam.weights"], SINGLE)
    assert_close(result.values, arrays[f"{name}.gradcam.raw"], SINGLE)

    rectified = attribute(GradCAM(layer), network, images, targets).values
    resized = resize_to_frames(rectified, torch.full((4, 2), 16))
    shifted = resized - resized.amin((1, 2), keepdim=True)
    scaled = shifted / shifted.amax((1, 2), keepdim=True).clamp(min=1e-7)
    assert_close(scaled, arrays[f"{name}.gradcam.map"], SINGLE)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("tiny_vgg", "features.8"),
        ("tiny_vgg", "features.2"),
        ("tiny_resnet", "layer1"),
        ("tiny_resnet", "layer1.0"),
        ("tiny_resnet", "layer1.1.conv2"),
    ],
)
def test_tiny_networks_equal_captum(name: str, layer: str, signed: bool) -> None:
    """Against captum.attr.LayerGradCam at the same layer, several targets an image; float64, 1e-10.

    `layer1.1.conv2` lies in a block whose shortcut crosses the cut.
    """
    network, images, _, _, _ = known(name, torch.float64)
    targets, module = several_targets(), copy.deepcopy(network.module)
    expected = LayerGradCam(module, module.get_submodule(layer)).attribute(
        images[targets.image], targets.label, relu_attributions=not signed
    )
    result = attribute(GradCAM(layer, signed), network, images, targets).values
    assert_close(result, expected[:, 0], DOUBLE)


@pytest.mark.parametrize(
    ("architecture", "layer"),
    [("resnet18", "layer4"), ("resnet18", "layer3.0"), ("mobilenet_v2", "features.13")],
)
def test_torchvision_networks_equal_captum(architecture: str, layer: str) -> None:
    """Against LayerGradCam on torchvision's networks (in-place ReLUs, additions in place); float64, 1e-10."""
    module = torchvision_module(architecture)
    network = Network(copy.deepcopy(module), (0.5,) * 3, (0.25,) * 3).to(dtype=torch.float64)
    images, targets = random_images(2, 64).double(), Targets(torch.tensor([1, 0, 1]), torch.tensor([5, 2, 0]))
    oracle = LayerGradCam(module.double(), module.get_submodule(layer))
    # Captum's hook must not see the layer's output overwritten by an in-place ReLU after it.
    for other in module.modules():
        if isinstance(other, (nn.ReLU, nn.ReLU6)):
            other.inplace = False
    expected = oracle.attribute(((images - 0.5) / 0.25)[targets.image], targets.label)
    assert_close(attribute(GradCAM(layer, signed=True), network, images, targets).values, expected[:, 0], DOUBLE)


# Invariants


def test_map_sums_to_the_logit_under_a_linear_head() -> None:
    """With global average pooling and one linear layer, alpha_k = w_ck / (h w) and the signed map sums to
    f_c - b_c; float64, 1e-10 of the largest logit."""
    network, images, _, _, layer = known("tiny_resnet", torch.float64)
    targets = several_targets()
    result = attribute(GradCAM(layer, signed=True), network, images, targets)
    weight, bias = network.module.get_parameter("fc.weight"), network.module.get_parameter("fc.bias")
    assert result.coefficients is not None
    assert_close(result.coefficients, weight[targets.label] / 64, DOUBLE)
    expected = network.module(images)[targets.image, targets.label] - bias[targets.label]
    assert (result.values.sum((1, 2)) - expected).abs().max() < DOUBLE * expected.abs().max()


def test_rectified_is_the_signed_map_clamped(tiny: Known) -> None:
    """signed=false is max(signed map, 0), exactly."""
    maps = [
        attribute(GradCAM(tiny.layer, signed), tiny.network, tiny.images, tiny.targets).values
        for signed in (False, True)
    ]
    assert maps[1].min() < 0
    assert torch.equal(maps[0], maps[1].clamp(min=0))


@pytest.mark.parametrize("targets", [several_targets(), FEW_TARGETS], ids=["several", "few"])
def test_pairs_of_a_batch_equal_one_at_a_time(tiny: Known, targets: Targets) -> None:
    """Pairs of four images in one call (up to five an image, or none) against calls of one image and one target;
    float32, 1e-5."""
    method = GradCAM(tiny.layer, signed=True)
    together = attribute(method, tiny.network, tiny.images, targets).values
    assert_close(together, attribute_alone(method, tiny.network, tiny.images, targets), SINGLE)


def test_batch_of_eight_equals_eight_batches(tiny64: Known) -> None:
    """Eight images together and one by one; float64, 1e-10 (rounding only)."""
    images, targets = torch.cat([tiny64.images, tiny64.images.flip(3)]), Targets(torch.arange(8), torch.arange(8) % 5)
    method = GradCAM(tiny64.layer, signed=True)
    together = attribute(method, tiny64.network, images, targets).values
    assert_close(together, attribute_alone(method, tiny64.network, images, targets), DOUBLE)


def test_order_of_pairs(tiny64: Known) -> None:
    """Permuting the pairs permutes maps and coefficients; float64, 1e-10."""
    targets, order = several_targets(), torch.randperm(9, generator=torch.Generator().manual_seed(1))
    method = GradCAM(tiny64.layer, signed=True)
    permuted = attribute(method, tiny64.network, tiny64.images, Targets(*(value[order] for value in targets)))
    plain = attribute(method, tiny64.network, tiny64.images, targets)
    assert permuted.coefficients is not None
    assert plain.coefficients is not None
    assert_close(permuted.values, plain.values[order], DOUBLE)
    assert_close(permuted.coefficients, plain.coefficients[order], DOUBLE)


def test_passes(tiny: Known) -> None:
    """One forward pass of the network an image; the rest is the head: 1 forward and a backward a round of targets.

    Four images, one target each: 4 F, no B, 4 + 4 head passes; with up to five targets an image: 4 + 5 * 4.
    """
    method = GradCAM(tiny.layer)
    attribute(method, tiny.network, tiny.images, tiny.targets)
    assert tiny.network.passes == Passes(forward=4, backward=0, head=8)
    tiny.network.passes = Passes()
    attribute(method, tiny.network, tiny.images, several_targets())
    assert tiny.network.passes == Passes(forward=4, backward=0, head=24)


def test_two_layers_share_one_forward_pass(tiny: Known) -> None:
    """Two Grad-CAMs on one ForwardPass: 1F an image, and the same maps as alone, exactly."""
    layers = {"features.8": "features.3", "layer1": "layer1.0"}
    other = layers[tiny.layer]
    forward, rng = ForwardPass(tiny.network, tiny.images, (tiny.layer, other)), sample_rng(tiny.targets, 4)
    shared = [GradCAM(layer).attribute(forward, tiny.targets, rng).values for layer in (tiny.layer, other)]
    assert tiny.network.passes.forward == 4
    for layer, values in zip((tiny.layer, other), shared, strict=True):
        assert torch.equal(values, attribute(GradCAM(layer), tiny.network, tiny.images, tiny.targets).values)


def test_leaves_nothing_behind(tiny: Known) -> None:
    """No hooks, gradients or graphs remain; images, and the activation that methods share, are untouched."""
    images, method = tiny.images.clone(), GradCAM(tiny.layer)
    forward = forward_pass(tiny.network, images, method)
    kept = forward.activation(tiny.layer).clone()
    result = method.attribute(forward, tiny.targets, sample_rng(tiny.targets, 4))
    assert_nothing_left(tiny.network)
    assert torch.equal(forward.activation(tiny.layer), kept)
    assert torch.equal(images, tiny.images)
    assert result.coefficients is not None
    assert not result.values.requires_grad
    assert not result.coefficients.requires_grad


def test_layer_without_space_is_an_error(toy: Network, toy_image: Tensor) -> None:
    """A linear layer's output [1,2] has no map: ValueError names the layer, its shape and what is needed."""
    told = r"layer 'fc' gives \[1, 2\]; .* choose a convolutional layer, or layout=tokens"
    with pytest.raises(ValueError, match=told):
        attribute(GradCAM("fc"), toy, toy_image, TOY_TARGETS)


def test_unknown_layer_is_an_error(toy: Network, toy_image: Tensor) -> None:
    """A misspelt layer is named together with the near one."""
    with pytest.raises(ValueError, match=r"layer 'relo' is not in ToyModule: did you mean 'relu'"):
        attribute(GradCAM("relo"), toy, toy_image, TOY_TARGETS)


# CAM's heads


class Pooled(nn.Module):
    """`steps` between the layer `relu` [B,4,h,w] and one linear layer."""

    def __init__(self, *steps: nn.Module) -> None:
        super().__init__()
        self.conv, self.relu, self.steps, self.fc = (
            nn.Conv2d(3, 4, 3),
            nn.ReLU(),
            nn.Sequential(*steps),
            nn.Linear(4, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.steps(self.relu(self.conv(x))), 1))


PAIR = Targets(torch.tensor([0]), torch.tensor([2]))


@pytest.mark.parametrize(
    "steps",
    [(nn.AdaptiveAvgPool2d(1),), (nn.AvgPool2d(2), nn.Dropout(), nn.AdaptiveAvgPool2d(1), nn.Identity())],
    ids=["pool", "pools"],
)
def test_cam_accepts_what_is_linear_before_the_weights(steps: tuple[nn.Module, ...]) -> None:
    """The class' row, exactly; and the signed map's mean is f_c - b_c, as only linear heads have it; float32, 1e-5."""
    network, image = Network(Pooled(*steps), (0,) * 3, (1,) * 3), random_images(1, 10)
    result = attribute(CAM("relu", signed=True), network, image, PAIR)
    weight, bias = (network.module.get_parameter(f"fc.{name}") for name in ("weight", "bias"))
    assert result.coefficients is not None
    assert torch.equal(result.coefficients, weight[[2]])
    assert_close(result.values.mean((1, 2))[:, None], network.module(image)[:, [2]] - bias[2], SINGLE)


@pytest.mark.parametrize(
    "steps",
    [(nn.ELU(), nn.AdaptiveAvgPool2d(1)), (nn.AdaptiveMaxPool2d(1),), (nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1))],
    ids=["nonlinearity", "max-pool", "both pools"],
)
def test_cam_refuses_what_is_not_linear_before_the_weights(steps: tuple[nn.Module, ...]) -> None:
    """There the map does not sum to the logit: ValueError says what CAM needs and what to use."""
    network = Network(Pooled(*steps), (0,) * 3, (1,) * 3)
    with pytest.raises(ValueError, match=r"with nothing else \(a ReLU, a max-pool\) before .* use gradcam"):
        attribute(CAM("relu"), network, random_images(1, 10), PAIR)


def test_cam_of_densenet_is_after_its_last_relu() -> None:
    """torchvision's `features` ends before a functional ReLU: refused there, accepted at `relu`."""
    network, image = Network(torchvision_module("densenet121"), (0.5,) * 3, (0.25,) * 3), random_images(1, 32)
    with pytest.raises(ValueError, match=r"averages layer 'features' .* choose a layer after those"):
        attribute(CAM("features"), network, image, PAIR)
    found = attribute(CAM("relu"), network, image, PAIR).coefficients
    assert found is not None
    assert torch.equal(found, network.module.get_parameter("classifier.weight")[[2]])
