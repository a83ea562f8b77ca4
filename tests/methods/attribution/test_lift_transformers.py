"""LIFT-CAM on heads with attention, softmax and norms of a place: by hand, complete, and one image at a time."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from assay.harness.heads import Targets
from assay.harness.network import Network
from assay.methods.attribution.lift import LiftCAM
from assay.methods.attribution.stepwise import layer_norm, rms_norm, softmax
from conftest import assert_close, attribute, attribute_alone, forward_pass, random_images, sample_rng
from torch import Tensor, nn

TARGETS = Targets(torch.tensor([0, 1, 1]), torch.tensor([2, 4, 0]))


def vit() -> nn.Module:
    """torchvision's: nn.MultiheadAttention, two blocks, 16 patches; a head of numbers, where torchvision has zeros."""
    from torchvision.models import VisionTransformer

    made = VisionTransformer(32, 8, 2, 4, 16, 32, num_classes=5)
    nn.init.normal_(made.heads[0].weight)
    nn.init.normal_(made.conv_proj.weight, std=0.3)
    return made


def swin() -> nn.Module:
    from torchvision.models import SwinTransformer

    return SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=5)


def convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)], num_classes=5, layer_scale=1.0)


CASES = [
    pytest.param(vit, "encoder.layers.encoder_layer_1.ln_1", "tokens", id="vit, last attention"),
    pytest.param(vit, "encoder.layers.encoder_layer_0.ln_1", "tokens", id="vit, both attentions"),
    pytest.param(swin, "features.3", None, id="swin, the last norm"),
    pytest.param(convnext, "features.1", None, id="convnext, two norms and GELU"),
]


def _network(build: Callable[[], nn.Module], dtype: torch.dtype) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Network(build(), (0.5,) * 3, (0.25,) * 3).to(dtype=dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-2)])
@pytest.mark.parametrize(("build", "layer", "layout"), CASES)
def test_coefficients_sum_to_the_difference(
    build: Callable[[], nn.Module], layer: str, layout: Any, dtype: torch.dtype, tolerance: float
) -> None:
    """Sum_k alpha_k = F(A) - F(0), of the largest. At the reference 0 a norm divides by sqrt(1e-5), so that shares are
    hundreds of times the sum and cancel: in float32 up to 3e-3 of it is left."""
    network, images, method = _network(build, dtype), random_images(2, 32).to(dtype), LiftCAM(layer, layout=layout)
    forward = forward_pass(network, images, method)
    found = method.attribute(forward, TARGETS, sample_rng(TARGETS, 2)).coefficients
    with torch.no_grad():
        empty = forward.head(method.place)(torch.zeros_like(forward.activation(method.place)))
    expected = (forward.logits - empty)[TARGETS.image, TARGETS.label]
    assert found is not None
    assert (found.sum(1) - expected).abs().max() < tolerance * expected.abs().max()


@pytest.mark.parametrize(("build", "layer", "layout"), CASES)
def test_a_batch_is_its_images(build: Callable[[], nn.Module], layer: str, layout: Any) -> None:
    """float64, 1e-9."""
    network, images, method = (
        _network(build, torch.float64),
        random_images(2, 32).double(),
        LiftCAM(layer, layout=layout),
    )
    together = attribute(method, network, images, TARGETS).values
    assert_close(together, attribute_alone(method, network, images, TARGETS), 1e-9)


class Normed(nn.Module):
    """The two channels' means, their RMS-norm with eps 1, and its first number alone."""

    def __init__(self) -> None:
        super().__init__()
        self.keep = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(self.keep(x[:, :2]).mean((2, 3)), (2,), eps=1.0)


def test_a_norm_by_hand() -> None:
    """y = x_1 / d, d = sqrt((x_1^2 + x_2^2) / 2 + 1), at x = (3, 4) and 0: the numerator's share is 3 (1/d + 1) / 2,
    the denominator's (3 + 0) / 2 (1/d - 1), of which 9/25 are x_1's by its square and 16/25 are x_2's."""
    images = torch.stack([torch.full((4, 4), value) for value in (3.0, 4.0, 0.0)])[None].double()
    network = Network(Normed(), (0.0,) * 3, (1.0,) * 3).to(dtype=torch.float64)
    found = attribute(LiftCAM("keep"), network, images, Targets(torch.tensor([0]), torch.tensor([0]))).coefficients
    inverse = 13.5**-0.5
    through = 1.5 * (inverse - 1)
    expected = torch.tensor([[1.5 * (inverse + 1) + through * 9 / 25, through * 16 / 25]], dtype=torch.float64)
    assert found is not None
    assert_close(found, expected, 1e-12)


def test_steps_give_what_the_functions_give() -> None:
    """Scores of 1e4 included; float64, 1e-12."""
    x, weight, bias = torch.randn(3, 4, 6).double(), torch.randn(6).double(), torch.randn(6).double()
    assert_close(layer_norm(x, (6,), weight, bias, 1e-6), F.layer_norm(x, (6,), weight, bias, 1e-6), 1e-12)
    assert_close(layer_norm(x, (4, 6)), F.layer_norm(x, (4, 6)), 1e-12)
    assert_close(rms_norm(x, (6,), weight), F.rms_norm(x, (6,), weight), 1e-12)
    assert_close(softmax(1e4 * x, 1), F.softmax(1e4 * x, 1), 1e-12)


class Sliced(nn.Module):
    """Three channels, of which the logits are the last two's means, cut out as a graph of torch.export has it."""

    def __init__(self) -> None:
        super().__init__()
        self.keep = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        means: Tensor = torch.ops.aten.slice.Tensor(self.keep(x).mean((2, 3)), 1, 1, 3)
        return means


def test_a_slice_of_torch_export_is_linear() -> None:
    """By hand: the first logit is the second channel's mean."""
    images = random_images(1, 4).double()
    network = Network(Sliced(), (0.0,) * 3, (1.0,) * 3).to(dtype=torch.float64)
    found = attribute(LiftCAM("keep"), network, images, Targets(torch.tensor([0]), torch.tensor([0]))).coefficients
    expected = images.mean((2, 3)) * torch.tensor([[0.0, 1.0, 0.0]])
    assert found is not None
    assert_close(found, expected.double(), 1e-12)


class Masking(nn.Module):
    """Attention among the 16 cells of a linear map, with a mask [16,16] of ones, which hides the `hidden` last keys."""

    def __init__(self, hidden: int, masks: bool = True) -> None:
        super().__init__()
        self.keep, self.fc = nn.Conv2d(3, 6, 1), nn.Linear(6, 5)
        self.hidden, self.masks = hidden, masks

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.keep(x).flatten(2).transpose(1, 2)
        mask = torch.arange(16) < 16 - self.hidden
        shown = F.scaled_dot_product_attention(tokens, tokens, tokens, mask.expand(16, 16) if self.masks else None)
        return self.fc(shown.mean(1))


def _lift(module: Masking) -> tuple[Tensor, Tensor]:
    """LIFT-CAM's coefficients [3,6] for images of 4 x 4 pixels, and F(A) - F(0) [3]; float64."""
    network, images, method = _network(lambda: module, torch.float64), random_images(2, 4).double(), LiftCAM("keep")
    forward = forward_pass(network, images, method)
    found = method.attribute(forward, TARGETS, sample_rng(TARGETS, 2)).coefficients
    assert found is not None
    with torch.no_grad():
        empty = forward.head(method.place)(torch.zeros_like(forward.activation(method.place)))
    return found, (forward.logits - empty)[TARGETS.image, TARGETS.label]


def _masking(hidden: int, masks: bool = True) -> Masking:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Masking(hidden, masks)


def test_a_mask_that_hides_nothing_changes_nothing() -> None:
    """As Hugging Face's networks pass one: the coefficients without it, which sum to the difference; float64, 1e-12."""
    found, difference = _lift(_masking(0))
    assert_close(found, _lift(_masking(0, masks=False))[0], 1e-12)
    assert_close(found.sum(1, keepdim=True), difference[:, None], 1e-12)


def test_a_mask_that_hides_is_refused() -> None:
    with pytest.raises(ValueError, match="the head calls 'masked_fill', for which DeepLIFT has no rule"):
        _lift(_masking(3))
