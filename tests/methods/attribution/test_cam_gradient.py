"""CAM, Grad-CAM++, XGrad-CAM, Layer-CAM.

Tolerances as in test_cam.py: relative to the largest value, 1e-10 in float64 and 1e-5 in float32.
"""

import pytest
import torch
from assay.harness.frames import resize_to_frames
from assay.harness.heads import Passes, Targets
from assay.harness.network import Network
from assay.harness.types import Attributor
from assay.methods.attribution.cam import CAM, GradCAM
from assay.methods.attribution.cam_gradient import GradCAMpp, LayerCAM, XGradCAM
from conftest import (
    TOY_TARGETS,
    Known,
    assert_close,
    assert_nothing_left,
    attribute,
    attribute_alone,
    golden,
    known,
    random_images,
    several_targets,
    torchvision_module,
)
from torch import Tensor

DOUBLE, SINGLE = 1e-10, 1e-5
METHODS: dict[str, type[GradCAMpp | XGradCAM]] = {"gradcampp": GradCAMpp, "xgradcam": XGradCAM}


# By hand: ToyModule has A_0 = (3, 0), A_1 = (0, 4) at pixels (a, b); g = (1, 2), (-1, -2) for class 0 and
# (-1, 1), (3, 1) for class 1.


def test_gradcam_pp_by_hand(toy: Network, toy_image: Tensor) -> None:
    """Sums of A are 3 and 4. Class 0, channel 0: 1/(2+3) + 2 4/(8+24) = .2 + .25; channel 1 has no positive gradient.
    Class 1, channel 0: 1/(2+3) at b; channel 1: 3 9/(18+108) + 1/(2+4) = 27/126 + 1/6. epsilon: 1e-6 of 5."""
    result = attribute(GradCAMpp("relu", epsilon=0), toy, toy_image, TOY_TARGETS)
    expected = torch.tensor([[0.45, 0], [0.2, 27 / 126 + 1 / 6]])
    assert result.coefficients is not None
    torch.testing.assert_close(result.coefficients, expected, atol=1e-7, rtol=0)


def test_xgradcam_by_hand(toy: Network, toy_image: Tensor) -> None:
    """alpha_k is the gradient averaged with weights A: class 0 (1, -2), class 1 (-1, 1)."""
    result = attribute(XGradCAM("relu", signed=True), toy, toy_image, TOY_TARGETS)
    assert result.coefficients is not None
    torch.testing.assert_close(result.coefficients, torch.tensor([[1.0, -2], [-1, 1]]), atol=1e-6, rtol=0)


def test_layercam_by_hand(toy: Network, toy_image: Tensor) -> None:
    """relu(g) A: class 0 (3 + 0, 0 + 0), class 1 (0, 0 + 4); exact. There are no coefficients."""
    result = attribute(LayerCAM("relu"), toy, toy_image, TOY_TARGETS)
    assert result.values.tolist() == [[[3, 0]], [[0, 4]]]
    assert result.coefficients is None
    assert result.layer == "relu"


# Against published code


@pytest.mark.parametrize("network", ["tiny_vgg", "tiny_resnet"])
@pytest.mark.parametrize("name", METHODS)
def test_golden_pytorch_grad_cam(network: str, name: str) -> None:
    """Weights and maps of pytorch-grad-cam 1.5.7 (tests/golden/cams.npz); float32, 1e-5."""
    tiny, arrays = known(network), {key: torch.from_numpy(value) for key, value in golden("cams").items()}
    method = METHODS[name]
    result = attribute(method(tiny.layer, signed=True), tiny.network, tiny.images, tiny.targets)
    assert result.coefficients is not None
    assert_close(result.coefficients, arrays[f"{network}.{name}.weights"], SINGLE)
    assert_close(result.values, arrays[f"{network}.{name}.raw"], SINGLE)
    rectified = attribute(method(tiny.layer), tiny.network, tiny.images, tiny.targets).values
    resized = resize_to_frames(rectified, torch.full((4, 2), 16))
    shifted = resized - resized.amin((1, 2), keepdim=True)
    scaled = shifted / shifted.amax((1, 2), keepdim=True).clamp(min=1e-7)
    assert_close(scaled, arrays[f"{network}.{name}.map"], SINGLE)


def test_layercam_equals_pytorch_grad_cam(tiny: Known) -> None:
    """Their map is resized to the input and min-max scaled: so is ours here; float32, 1e-5."""
    peer = pytest.importorskip("pytorch_grad_cam")
    outputs = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    module = known("tiny_vgg" if "features" in tiny.layer else "tiny_resnet").network.module.requires_grad_(True)
    chosen = [outputs.ClassifierOutputTarget(int(label)) for label in tiny.targets.label]
    with peer.LayerCAM(module, [module.get_submodule(tiny.layer)]) as theirs:
        expected = torch.from_numpy(theirs(tiny.images.clone(), chosen))
    ours = attribute(LayerCAM(tiny.layer), tiny.network, tiny.images, tiny.targets).values
    large = resize_to_frames(ours, torch.full((4, 2), 16))
    low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
    assert_close((large - low) / (high - low), expected, SINGLE)


# CAM


def test_cam_is_the_row_of_the_linear_layer() -> None:
    """w_c, exactly; and Grad-CAM's coefficients are w_c / (h w); float64, 1e-10."""
    tiny, targets = known("tiny_resnet", torch.float64), several_targets()
    result = attribute(CAM(tiny.layer), tiny.network, tiny.images, targets).coefficients
    assert result is not None
    assert torch.equal(result, tiny.network.module.get_parameter("fc.weight")[targets.label])
    gradcam = attribute(GradCAM(tiny.layer), tiny.network, tiny.images, targets).coefficients
    assert gradcam is not None
    assert_close(result, 64 * gradcam, DOUBLE)


def test_cam_of_a_convolutional_classifier() -> None:
    """SqueezeNet: the class' row of the 1x1 convolution; the rectified class map is its logit before pooling."""
    module = torchvision_module("squeezenet1_1")
    network, targets = Network(module, (0,) * 3, (1,) * 3), Targets(torch.tensor([0, 0]), torch.tensor([1, 4]))
    image = random_images(1, 64)
    result = attribute(CAM("features.12", signed=True), network, image, targets)
    weight, bias = (module.get_parameter(f"classifier.1.{name}") for name in ("weight", "bias"))
    assert result.coefficients is not None
    assert torch.equal(result.coefficients, weight[[1, 4], :, 0, 0])
    logits = (result.values + bias[[1, 4], None, None]).clamp(min=0).mean((1, 2))
    torch.testing.assert_close(logits, module(image)[0, [1, 4]], atol=1e-5, rtol=1e-5)


def test_cam_of_another_head_is_an_error() -> None:
    """Two linear layers: ValueError says what CAM needs and what to use."""
    tiny = known("tiny_vgg")
    with pytest.raises(ValueError, match=r"CAM reads the weights .* use gradcam"):
        attribute(CAM(tiny.layer), tiny.network, tiny.images, tiny.targets)


# Invariants


@pytest.mark.parametrize("make", [GradCAMpp, XGradCAM, LayerCAM])
def test_pairs_of_a_batch_equal_one_at_a_time(tiny64: Known, make: type) -> None:
    """Nine pairs of four images together and alone; float64, 1e-10. Nothing stays behind; one forward pass is made."""
    method: Attributor = make(tiny64.layer, signed=True)
    targets = several_targets()
    together = attribute(method, tiny64.network, tiny64.images, targets).values
    assert tiny64.network.passes == Passes(forward=4, backward=0, head=24)
    assert_close(together, attribute_alone(method, tiny64.network, tiny64.images, targets), DOUBLE)
    assert_nothing_left(tiny64.network)


@pytest.mark.parametrize("make", [GradCAMpp, XGradCAM, LayerCAM])
def test_rectified_is_the_signed_map_clamped(tiny: Known, make: type) -> None:
    """Exactly."""
    maps = [attribute(make(tiny.layer, signed), tiny.network, tiny.images, tiny.targets).values for signed in (0, 1)]
    assert torch.equal(maps[0], maps[1].clamp(min=0))


@pytest.mark.parametrize("make", [GradCAMpp, XGradCAM])
@pytest.mark.parametrize("epsilon", [-1e-6, float("nan")])
def test_a_stabiliser_below_zero_is_an_error(make: type[GradCAMpp] | type[XGradCAM], epsilon: float) -> None:
    """It could meet the denominator and turn a map over: refused by name, value and range."""
    with pytest.raises(ValueError, match=rf"epsilon={epsilon}: choose a finite number that is not negative"):
        make("layer", epsilon=epsilon)
