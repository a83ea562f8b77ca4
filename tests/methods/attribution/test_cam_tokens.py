"""Class-activation maps of transformers and ConvNeXt: the layer is a map by itself, and pytorch-grad-cam's numbers."""

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
from conftest import assert_close, attribute, random_images
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
    return tokens[:, 1:].reshape(len(tokens), 4, 4, -1).transpose(2, 3).transpose(1, 2)


def last_first(tokens: Tensor) -> Tensor:
    """The same of a Swin of [B,h,w,K]."""
    return tokens.permute(0, 3, 1, 2)


CASES = [
    pytest.param(vit, VIT, without_class_token, id="vit"),
    pytest.param(swin, "features.3", last_first, id="swin"),
    pytest.param(convnext, "features.3", None, id="convnext"),
]


@pytest.mark.parametrize("name", ["GradCAM", "GradCAMPlusPlus", "XGradCAM", "LayerCAM"])
@pytest.mark.parametrize(("build", "layer", "reshape"), CASES)
def test_maps_equal_pytorch_grad_cam(build: Callable[[], nn.Module], layer: str, reshape: Any, name: str) -> None:
    """float64, before their resize; 1e-9. Their maps before the ReLU are ours signed."""
    peer = pytest.importorskip("pytorch_grad_cam")
    outputs = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    ours = {"GradCAM": GradCAM, "GradCAMPlusPlus": GradCAMpp, "XGradCAM": XGradCAM, "LayerCAM": LayerCAM}[name]
    module, images = build().double(), random_images(2, 32).double()
    chosen = [outputs.ClassifierOutputTarget(int(label)) for label in PAIRS.label]
    inputs = (images - 0.5) / 0.25
    with getattr(peer, name)(module, [module.get_submodule(layer)], reshape_transform=reshape) as theirs:
        theirs.outputs = theirs.activations_and_grads(inputs)
        module.zero_grad()
        sum(target(output) for target, output in zip(chosen, theirs.outputs, strict=True)).backward()
        kept, slopes = (
            torch.stack(list(each))[0].numpy()
            for each in (theirs.activations_and_grads.activations, theirs.activations_and_grads.gradients)
        )
        layers = [module.get_submodule(layer)]
        expected = torch.from_numpy(theirs.get_cam_image(inputs, layers[0], chosen, kept, slopes, False))
    made = attribute(
        ours(layer, signed=True), Network(module, (0.5,) * 3, (0.25,) * 3).to(dtype=torch.float64), images, PAIRS
    )
    assert expected.abs().max() > 0
    assert_close(made.values, expected, 1e-9)


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
