"""Class-activation maps of transformers and ConvNeXt: the layer is a map by itself, and pytorch-grad-cam's numbers."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.layouts import check_order
from assay.harness.network import Network
from assay.methods.attribution.cam import GradCAM
from assay.methods.attribution.cam_gradient import GradCAMpp, LayerCAM, XGradCAM
from conftest import assert_close, attribute, random_images, torchvision_module
from torch import Tensor, nn

PAIRS = Targets(torch.tensor([0, 1]), torch.tensor([1, 3]))
VIT = "encoder.layers.encoder_layer_1.ln_1"


def vit() -> nn.Module:
    """torchvision's VisionTransformer, small: a class token and 4 x 4 patches."""
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    module = VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=7)
    nn.init.normal_(module.heads[0].weight)
    return module.eval()


def swin() -> nn.Module:
    """torchvision's Swin, small."""
    from torchvision.models import SwinTransformer

    torch.manual_seed(0)
    return SwinTransformer([4, 4], 16, [1, 1], [2, 4], [2, 2], num_classes=7).eval()


def convnext() -> nn.Module:
    """torchvision's ConvNeXt, small."""
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    torch.manual_seed(0)
    return ConvNeXt([CNBlockConfig(16, 32, 1), CNBlockConfig(32, None, 1)], num_classes=7, layer_scale=0.5).eval()


def without_class_token(tokens: Tensor) -> Tensor:
    """pytorch-grad-cam's documented reshape_transform of a ViT."""
    side = math.isqrt(tokens.shape[1] - 1)
    return tokens[:, 1:].reshape(len(tokens), side, side, -1).transpose(2, 3).transpose(1, 2)


def last_first(tokens: Tensor) -> Tensor:
    """The same of a Swin of [B,h,w,K]."""
    return tokens.permute(0, 3, 1, 2)


CASES = [
    pytest.param(vit, VIT, without_class_token, id="vit"),
    pytest.param(swin, "features.3", last_first, id="swin"),
    pytest.param(convnext, "features.3", None, id="convnext"),
]


OURS = {"GradCAM": GradCAM, "GradCAMPlusPlus": GradCAMpp, "XGradCAM": XGradCAM, "LayerCAM": LayerCAM}


def peers_map(name: str, module: nn.Module, layer: str, reshape: Any, inputs: Tensor) -> Tensor:
    """pytorch-grad-cam's, before its ReLU and resize; skips where it is not installed."""
    peer = pytest.importorskip("pytorch_grad_cam")
    outputs = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    chosen = [outputs.ClassifierOutputTarget(int(label)) for label in PAIRS.label]
    layers = [module.get_submodule(layer)]
    with getattr(peer, name)(module, layers, reshape_transform=reshape) as theirs:
        theirs.outputs = theirs.activations_and_grads(inputs)
        module.zero_grad()
        sum(target(output) for target, output in zip(chosen, theirs.outputs, strict=True)).backward()
        kept, slopes = (
            torch.stack(list(each))[0].numpy()
            for each in (theirs.activations_and_grads.activations, theirs.activations_and_grads.gradients)
        )
        return torch.from_numpy(theirs.get_cam_image(inputs, layers[0], chosen, kept, slopes, False))


def assert_peers(name: str, module: nn.Module, layer: str, reshape: Any, side: int) -> None:
    """Of two images in float64: 1e-9 of the largest value; their maps before the ReLU are ours signed."""
    module, images = module.double(), random_images(2, side).double()
    expected = peers_map(name, module, layer, reshape, (images - 0.5) / 0.25)
    network = Network(module, (0.5,) * 3, (0.25,) * 3).to(dtype=torch.float64)
    assert expected.abs().max() > 0
    assert_close(attribute(OURS[name](layer, signed=True), network, images, PAIRS).values, expected, 1e-9)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize(("build", "layer", "reshape"), CASES)
def test_maps_equal_pytorch_grad_cam(build: Callable[[], nn.Module], layer: str, reshape: Any, name: str) -> None:
    """Small networks."""
    assert_peers(name, build(), layer, reshape, 32)


@pytest.mark.slow
@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize(
    ("architecture", "layer", "reshape"),
    [
        pytest.param("vit_b_16", "encoder.layers.encoder_layer_11.ln_1", without_class_token, id="vit_b_16"),
        pytest.param("swin_t", "features.7", last_first, id="swin_t"),
        pytest.param("convnext_tiny", "features.7", None, id="convnext_tiny"),
    ],
)
def test_maps_of_whole_networks_equal_pytorch_grad_cam(architecture: str, layer: str, reshape: Any, name: str) -> None:
    """torchvision's, of random weights, at 224 px."""
    module = torchvision_module(architecture)
    nn.init.normal_([each for each in module.modules() if isinstance(each, nn.Linear)][-1].weight)  # ViT's are 0
    assert_peers(name, module, layer, reshape, 224)


@pytest.mark.parametrize(("build", "layer", "reshape"), CASES)
def test_a_layer_is_a_map_by_itself_and_images_do_not_feel_each_other(
    build: Callable[[], nn.Module], layer: str, reshape: Any
) -> None:
    """The activation is the module's own; the head gives the logits; a batch is its images; float64, 1e-10."""
    module, images = build().double(), random_images(3, 32).double()
    network = Network(module, (0.5,) * 3, (0.25,) * 3).to(dtype=torch.float64)
    kept: list[Tensor] = []
    handle = module.get_submodule(layer).register_forward_hook(lambda _m, _i, output: kept.append(output))
    module((images - 0.5) / 0.25)
    handle.remove()
    forward = ForwardPass(network, images, (layer,))
    activation = forward.activation(layer)
    assert_close(activation, kept[0] if reshape is None else reshape(kept[0]), 1e-10)
    assert_close(forward.head(layer)(activation), forward.logits, 1e-10)
    pairs = Targets(torch.tensor([0, 1, 2]), torch.tensor([1, 3, 0]))
    together = attribute(GradCAM(layer), network, images, pairs).values
    for k in range(3):
        one = Targets(torch.tensor([0]), pairs.label[k : k + 1])
        assert_close(together[k : k + 1], attribute(GradCAM(layer), network, images[k : k + 1], one).values, 1e-10)


def test_a_layer_that_is_no_map_names_those_that_would_do() -> None:
    network = Network(vit(), (0.5,) * 3, (0.25,) * 3)
    with pytest.raises(ValueError, match=r"layer 'heads' gives \[2, 7\].*would do: .*encoder\.layers"):
        attribute(GradCAM("heads"), network, random_images(2, 32), PAIRS)


class Behind(nn.Module):
    """Registers behind the patches."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.fc = nn.Conv2d(3, 8, 8, 8), nn.LayerNorm(8), nn.Linear(8, 4)
        self.register = nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        return self.fc(self.norm(torch.cat([tokens, self.register.expand(x.shape[0], -1, -1)], 1)).mean(1))


def test_tokens_behind_the_patches_are_not_taken_for_patches() -> None:
    """17 tokens, of which the first 16 are patches: the last 16 would be a shifted map."""
    network = Network(Behind(), (0.5,) * 3, (0.25,) * 3)
    with pytest.raises(ValueError, match=r"gives \[2, 17, 8\]"):
        attribute(GradCAM("norm"), network, random_images(2, 32), PAIRS)
    with pytest.raises(ValueError, match="cat puts other tokens behind the patches"):
        attribute(GradCAM("norm", layout="tokens"), network, random_images(2, 32), PAIRS)
    traced = network._traced
    check_order(traced.module, traced.layers["embed"])
