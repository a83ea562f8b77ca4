"""Layers whose channels come last, or that are tokens: every map is that of the same network with channels first."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from assay.harness.detection import pooled
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.layouts import MARK, grid_of, seen_as
from assay.harness.network import Network
from assay.harness.overrides import compose_config
from assay.harness.store.identity import cell_identity
from assay.methods.attribution.cam import CAM, GradCAM
from assay.methods.attribution.cam_ablation import AblationCAM
from assay.methods.attribution.cam_gradient import GradCAMpp, LayerCAM, XGradCAM
from assay.methods.attribution.layers import spatial
from assay.methods.attribution.lift import LRPCAM, LiftCAM
from assay.methods.attribution.score_cam import ScoreCAM
from assay.methods.attribution.shapley import KernelShapCAM, LimeCAM, ShapCAM
from conftest import assert_close, attribute, random_images, torchvision_module
from torch import Tensor, nn

PAIRS = Targets(torch.tensor([0, 0, 1]), torch.tensor([1, 3, 0]))
CAMS: list[Callable[..., Any]] = [
    *(GradCAM, GradCAMpp, XGradCAM, LayerCAM, AblationCAM, LiftCAM, LRPCAM, ScoreCAM, KernelShapCAM, LimeCAM),
    lambda layer, **more: ShapCAM(layer, permutations=20, **more),
]


class First(nn.Module):
    """[B,3,16,16] -> a patch embedding [B,8,4,4], a 1x1 layer and ReLU, mean over space, four classes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.act, self.fc = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.act(self.mix(self.embed(x))).mean((2, 3)))


class Last(First):
    """The same function with channels last in between; `back`: how it goes on from [B,4,4,8]."""

    def __init__(self, back: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.back, self.mix = back, nn.Linear(8, 8)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.back(self.act(self.mix(self.embed(x).permute(0, 2, 3, 1)))))


class Tokens(First):
    """The same function with tokens in between, after `extra` others that the mean leaves out."""

    def __init__(self, extra: int) -> None:
        super().__init__()
        self.mix, self.extra = nn.Linear(8, 8), nn.Parameter(torch.randn(1, extra, 8))  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        patches = self.embed(x).flatten(2).transpose(1, 2)
        tokens = self.act(self.mix(torch.cat([self.extra.expand(x.shape[0], -1, -1), patches], 1)))
        return self.fc(tokens[:, self.extra.shape[1] :].mean(1))


def _same_weights(module: First) -> tuple[Network, Network]:
    """The module and `First` with its weights, in float64."""
    torch.manual_seed(3)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.4)
    first = First()
    state = module.state_dict() | {"mix.weight": module.mix.weight.detach()[:, :, None, None]}
    first.load_state_dict({name: value for name, value in state.items() if name != "extra"})
    made = (Network(each, (0.5,) * 3, (0.25,) * 3).to(dtype=torch.float64) for each in (module, first))
    other, network = made
    return other, network


def permuted(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2).mean((2, 3))


def over_space(x: Tensor) -> Tensor:
    return x.mean(dim=(1, 2))


def unsaid(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], 16, 8).mean(1)


CASES = [
    pytest.param(lambda: Last(permuted), None, id="a permutation in the graph"),
    pytest.param(lambda: Last(over_space), None, id="a mean over space in the graph"),
    pytest.param(lambda: Last(unsaid), "nhwc", id="given"),
    pytest.param(lambda: Tokens(0), "tokens", id="tokens"),
    pytest.param(lambda: Tokens(1), None, id="tokens after one that nothing names"),
    pytest.param(lambda: Tokens(1), "tokens", id="tokens after one"),
    pytest.param(lambda: Tokens(5), "tokens", id="tokens after five"),
]


@pytest.mark.parametrize(("build", "layout"), CASES)
@pytest.mark.parametrize("number", range(len(CAMS)))
def test_every_map_is_that_of_the_network_with_channels_first(
    build: Callable[[], First], layout: Any, number: int
) -> None:
    """All class-activation maps and coefficients, float64, 1e-9; Score-CAM's masked images among them."""
    other, first = _same_weights(build())
    images = random_images(2, 16).double()
    made = attribute(CAMS[number]("act", layout=layout), other, images, PAIRS)
    expected = attribute(CAMS[number]("act"), first, images, PAIRS)
    assert_close(made.values, expected.values, 1e-9)
    assert expected.values.any()
    if expected.coefficients is not None:
        assert made.coefficients is not None
        assert_close(made.coefficients, expected.coefficients, 1e-9)


@pytest.mark.parametrize("layer", ["features.7", "features.5", "features.1"])
def test_swins_grad_cam_is_that_of_its_own_gradient(layer: str) -> None:
    """torchvision's Swin has channels last at every stage: alpha = mean over space of df/dA, by autograd and a hook."""
    module, images = torchvision_module("swin_t"), random_images(2, 96)
    network = Network(module, (0.5,) * 3, (0.25,) * 3)
    kept: list[Tensor] = []
    handle = module.get_submodule(layer).register_forward_hook(
        lambda _module, _inputs, output: kept.append(output.requires_grad_())
    )
    logits = module((images - 0.5) / 0.25)
    handle.remove()
    targets = Targets(torch.tensor([0, 1]), torch.tensor([2, 5]))
    (gradient,) = torch.autograd.grad(logits[targets.image, targets.label].sum(), kept[0])
    by_hand = torch.einsum("bhwk,bk->bhw", kept[0].detach(), gradient.mean((1, 2))).clamp(min=0)
    for layout in (None, "nhwc"):
        assert_close(attribute(GradCAM(layer, layout=layout), network, images, targets).values, by_hand, 2e-4)
    assert by_hand.shape[1:] == (
        {"features.7": 3, "features.5": 6, "features.1": 24}[layer],
        {"features.7": 3, "features.5": 6, "features.1": 24}[layer],
    )


def test_detectors_pool_channels_last_over_space() -> None:
    """The features of a layer are one number a channel: the mean over height and width."""
    module, images = torchvision_module("swin_t"), random_images(2, 64)
    network = Network(module, (0.5,) * 3, (0.25,) * 3)
    kept: list[Tensor] = []
    module.get_submodule("features.7").register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    with torch.no_grad():
        module((images - 0.5) / 0.25)
    found = pooled(ForwardPass(network, images, ("features.7",)).activation("features.7"))
    assert_close(found, kept[0].mean((1, 2)), 1e-5)


def test_detectors_pool_tokens_and_refuse_what_is_no_grid() -> None:
    """The mean over the patches, without the class token, named or not; not the mean over channels of each token."""
    other, first = _same_weights(Tokens(1))
    images = random_images(2, 16).double()
    expected = pooled(ForwardPass(first, images, ("act",)).activation("act"))
    for layer in ("act", "act@tokens"):
        assert_close(pooled(ForwardPass(other, images, (layer,)).activation(layer)), expected, 1e-12)
    with pytest.raises(ValueError, match=r"tokens \[2, 17, 8\] has its channels last: name it LAYER@tokens"):
        pooled(torch.zeros(2, 17, 8))


def test_logits_and_other_layers_do_not_feel_that_one_is_turned() -> None:
    """Bit-equal logits and activations with and without a turned layer beside them."""
    module, images = torchvision_module("swin_t"), random_images(2, 64)
    alone = ForwardPass(Network(module, (0.5,) * 3, (0.25,) * 3), images, ("features.3.0.norm1",))
    beside = ForwardPass(
        Network(module, (0.5,) * 3, (0.25,) * 3), images, ("features.3.0.norm1", "features.7", "features.5@nhwc")
    )
    assert torch.equal(alone.logits, beside.logits)
    assert torch.equal(alone.activation("features.3.0.norm1"), beside.activation("features.3.0.norm1"))


@pytest.mark.parametrize(
    ("name", "layer"), [("resnet18", "layer4"), ("convnext_tiny", "features.7"), ("vgg16", "features.29")]
)
def test_channels_first_stay_what_they_are(name: str, layer: str) -> None:
    """No node is added to the graph, so nothing is computed otherwise."""
    network = Network(torchvision_module(name), (0.5,) * 3, (0.25,) * 3)
    before = len(network._traced.module.graph.nodes)
    network.check_layer(layer)
    assert network.knows_layout(layer)
    assert len(network._traced.module.graph.nodes) == before


def strided(x: Tensor) -> Tensor:
    return x.transpose(1, 3).mean((2, 3))


def in_turn(x: Tensor) -> Tensor:
    return x.mean(1).mean(1)


def by_axis(x: Tensor) -> Tensor:
    return torch.mean(x, axis=(1, 2))  # type: ignore[call-overload]


@pytest.mark.parametrize("back", [unsaid, strided, in_turn, by_axis, lambda x: x.movedim(-1, 1).mean((2, 3))])
@pytest.mark.parametrize("layer", ["mix", "act"])
def test_what_made_a_layer_says_its_layout(back: Callable[[Tensor], Tensor], layer: str) -> None:
    """Where no reader says which dimensions are channels, the permutation before the layer does: [B,4,4,8] was taken
    for 4 channels of 4 x 8 cells."""
    other, first = _same_weights(Last(back))
    images = random_images(2, 16).double()
    found, expected = (attribute(GradCAM(layer), each, images, PAIRS).values for each in (other, first))
    assert_close(found, expected, 1e-9)


class OverWidth(First):
    """A linear layer over the width of a map with channels first, and a mean that reads as if they were last."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.fc = nn.Linear(4, 4), nn.Linear(4, 4)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.act(self.embed(x))).mean((1, 2))


def test_makers_and_readers_that_contradict_each_other_are_asked() -> None:
    network = Network(OverWidth(), (0.5,) * 3, (0.25,) * 3)
    with pytest.raises(ValueError, match=r"gives \[2, 8, 4, 4\], .* layout=nchw or layout=nhwc"):
        attribute(GradCAM("act"), network, random_images(2, 16), PAIRS)
    assert attribute(GradCAM("act", layout="nchw"), network, random_images(2, 16), PAIRS).values.shape == (3, 4, 4)


# Refusals


def test_a_layout_that_the_graph_leaves_open_is_asked_for() -> None:
    """Channels of 8 at 4 x 4 cells of 16 x 16 pixels: a map of [4,8] is not absurd, and would be wrong."""
    other, _ = _same_weights(Last(unsaid))
    with pytest.raises(ValueError, match=r"layer 'mix' gives \[2, 4, 4, 8\], .* layout=nchw or layout=nhwc"):
        attribute(
            GradCAM("mix"), Network(Ambiguous(other.module), (0.5,) * 3, (0.25,) * 3), random_images(2, 16), PAIRS
        )


class Ambiguous(nn.Module):
    """A second linear layer reads what the first one gives."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.embed, self.mix, self.more, self.fc = inner.embed, inner.mix, nn.Linear(8, 8), inner.fc
        self.to(torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(unsaid(self.more(self.mix(self.embed(x).permute(0, 2, 3, 1)))))


def test_a_map_that_cannot_be_of_the_image_is_refused() -> None:
    """Swin's [B,7,7,768] read as 7 channels; ordinary maps, a wide image's and a single cell are none of these."""
    network = Network(torchvision_module("swin_t"), (0.5,) * 3, (0.25,) * 3)
    with pytest.raises(
        ValueError, match=r"height and width 2 x 768 cannot be those of an image of 64 x 64: say layout"
    ):
        attribute(GradCAM("features.7", layout="nchw"), network, random_images(2, 64), PAIRS)
    for shape in ((28, 192), (14, 384), (192, 28)):
        with pytest.raises(ValueError, match="cannot be those"):
            spatial(torch.zeros(1, 2, *shape), "layer", (224, 224))
    for shape, size in (((7, 7), (224, 224)), ((16, 1), (500, 32)), ((1, 1), (224, 224)), ((7, 7), (500, 200))):
        spatial(torch.zeros(1, 2, *shape), "layer", size)


def test_tokens_and_vectors_are_named() -> None:
    """Three dimensions: `tokens` may be meant; a layout that does not fit says what the layer gives."""
    other, _ = _same_weights(Tokens(1))
    images = random_images(2, 16).double()
    with pytest.raises(ValueError, match=r"layer 'act' gives \[2, 17, 8\].*where these are a transformer's tokens"):
        spatial(torch.zeros(2, 17, 8), "act", (16, 16), has_layout=True)
    with pytest.raises(ValueError, match=r"layout nhwc: the layer gives \[\d, 17, 8\]"):
        attribute(GradCAM("act", layout="nhwc"), other, images, PAIRS)
    with pytest.raises(ValueError, match=r"layout tokens: the layer gives \[\d, 8, 4, 4\]"):
        attribute(GradCAM("embed", layout="tokens"), other, images, PAIRS)
    with pytest.raises(ValueError, match=r"layout='chw': choose nchw, nhwc, tokens"):
        attribute(GradCAM("act", layout="chw"), other, images, PAIRS)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"layer 'atc' is not in Tokens: did you mean .*'act'"):
        attribute(GradCAM("atc", layout="tokens"), other, images, PAIRS)


@pytest.mark.parametrize(
    ("tokens", "size", "grid"),
    [
        (197, (224, 224), (14, 14)),
        (196, (224, 224), (14, 14)),
        (201, (224, 224), (14, 14)),
        (50, (224, 224), (7, 7)),
        (141, (224, 160), (14, 10)),
        (577, (384, 384), (24, 24)),
    ],
)
def test_the_grid_of_tokens(tokens: int, size: tuple[int, int], grid: tuple[int, int]) -> None:
    """ViT-B/16 with and without a class token, with registers; B/32; a portrait; 384 pixels."""
    assert grid_of(tokens, *size) == grid


def test_tokens_that_are_no_grid_are_refused() -> None:
    with pytest.raises(ValueError, match="160 tokens are no grid"):
        grid_of(160, 224, 224)


def test_a_layout_is_a_setting_of_every_class_activation_map_and_null_leaves_its_key() -> None:
    """From the model's config for all, or a method's own; `null` is what was so before."""
    words = ["method=[gradcam,layercam,limecam]", "+model.target_layout=nhwc", "method.layercam.layout=null"]
    methods = compose_config(words).method
    assert [methods[name].settings["layout"] for name in ("gradcam", "layercam", "limecam")] == [
        "nhwc",
        None,
        "nhwc",
    ]
    common: dict[str, Any] = {"names": {}, "protocol": {}, "version": 1, "seed": 0}
    settings = methods["layercam"].settings
    before = {name: value for name, value in settings.items() if name != "layout"}
    assert cell_identity({}, method=settings, **common) == cell_identity({}, method=before, **common)
    assert cell_identity({}, method=settings | {"layout": "nhwc"}, **common) != cell_identity(
        {}, method=before, **common
    )


def test_cam_names_the_head_that_it_cannot_read() -> None:
    """Channels last go through a permutation, which its definition does not know: a refusal, no wrong weights."""
    other, _ = _same_weights(Last(permuted))
    with pytest.raises(ValueError, match="CAM reads the weights of a head that averages layer 'act'"):
        attribute(CAM("act"), other, random_images(2, 16).double(), PAIRS)
    assert MARK in seen_as("act", "nhwc")
