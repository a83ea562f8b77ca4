"""Networks of transformers and timm, of random weights, as `hub` and `clip` load them: logits, token grids, methods.

All in float64. The other side is the library's own module, hooked or differentiated by autograd. Half a minute where
both packages are; a few of timm, which the tests' requirements have, are quick.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import pytest
import torch
from assay.harness.build import build
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.network import Network
from assay.harness.networks.clip import ZeroShot
from assay.harness.networks.hub import HubNetwork
from assay.harness.overrides import compose_config
from assay.methods.attribution.attention import AttentionRollout, GenericAttention
from assay.methods.attribution.cam import GradCAM
from assay.methods.attribution.lift import LiftCAM
from assay.methods.attribution.relevance.attention import Attention
from assay.methods.attribution.relevance.lrp import LRP
from assay.methods.attribution.relevance.rules import Epsilon
from conftest import assert_close, attribute, random_images
from hub_networks import BY_TIMM, NAMES, SIDE, SIZES, cases, embedded, logits_of, made, saved
from torch import Tensor
from torch.overrides import TorchFunctionMode

TARGETS = Targets(torch.tensor([0, 1, 1]), torch.tensor([2, 4, 0]))
PREFIXES = {  # tokens before the patches, of networks of tokens
    **dict.fromkeys(("hf_vit", "hf_beit", "hf_dinov2", "clip", "timm_vit", "timm_deit", "timm_beit"), 1),
    **dict.fromkeys(("hf_deit", "hf_deit_distilled", "timm_deit_distilled"), 2),  # transformers' always has both
    **dict.fromkeys(("hf_dinov2_registers", "timm_dinov2_registers"), 5),
    "hf_swin": 0,
}
ROLLED = [name for name in PREFIXES if name != "hf_swin"]


class Exact(TorchFunctionMode):
    """What transformers computes in float32 whatever the network's type, its softmax, in the network's own."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        if (name := getattr(func, "__name__", "")) == "softmax":
            given.pop("dtype", None)
        return self.seen(name, args, given, func(*args, **given))

    def seen(self, name: str, args: Any, given: dict[str, Any], made: Any) -> Any:
        """What a function gives."""
        return made


class Pair(NamedTuple):
    """A library's module in float64, and the network that was loaded from its files."""

    name: str
    model: Any
    network: Network

    def inputs(self, count: int = 2) -> Tensor:
        """Normalised."""
        return self.network.normalise(random_images(count, SIDE).double())

    def logits(self, inputs: Tensor) -> Tensor:
        """The library's."""
        with Exact():
            return logits_of(self.name, self.model, inputs)

    @property
    def target(self) -> str:
        """The layer that `auto.target` is."""
        return self.network.places["auto.target"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    """By name; each is made once. The library's attention is written out, ours as the library has it by default."""

    @cache
    def pair(name: str) -> Pair:
        words = saved(name, made(name), tmp_path_factory.mktemp(name), [f"class {k}" for k in range(11)])
        network = build(compose_config(words).model)
        if name == "clip":  # whose last layer's weights are a product, of which float32 would keep half the digits
            exact = made(name).double()
            network = HubNetwork(ZeroShot(exact, embedded(exact)), network.preprocessing, "softmax")
        network.to(dtype=torch.float64)
        return Pair(name, written_out(made(name)).double().requires_grad_(False), network)

    return pair


def written_out(model: Any) -> Any:
    if hasattr(model, "set_attn_implementation"):
        model.set_attn_implementation("eager")
    for each in model.modules():
        if hasattr(each, "fused_attn"):
            each.fused_attn = False
    return model


def own_layer(pair: Pair) -> Any:
    """The library's module of the target layer."""
    return pair.model.get_submodule(pair.target if pair.name in (*BY_TIMM, "clip") else pair.target.partition(".")[2])


def values_of(pair: Pair, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and the target layer's output, with a graph between them."""
    kept: list[Tensor] = []

    def keep(_module: Any, _inputs: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        kept.append(first.detach().requires_grad_())
        return (kept[0], *output[1:]) if isinstance(output, tuple) else kept[0]

    with own_layer(pair).register_forward_hook(keep):
        return pair.logits(inputs), kept[0]


def as_map(pair: Pair, values: Tensor) -> Tensor:
    """[B,K,h,w]: tokens after those that are no patches, row by row; timm's Swin has its channels last."""
    if pair.name in PREFIXES:
        patches = values[:, PREFIXES[pair.name] :]
        side = round(patches.shape[1] ** 0.5)
        return patches.reshape(len(patches), side, side, -1).permute(0, 3, 1, 2)
    return values.permute(0, 3, 1, 2) if pair.name == "timm_swin" else values


QUICK = ("timm_deit_distilled", "timm_dinov2_registers", "timm_convnext")


@pytest.mark.parametrize("name", cases(*NAMES, quick=QUICK))
def test_logits_grids_and_grad_cam(name: str, pairs: Callable[[str], Pair]) -> None:
    """The library's own logits, its layer's patches as a map, and Grad-CAM by its autograd; 1e-9."""
    pair = pairs(name)
    inputs = pair.inputs()
    logits, values = values_of(pair, inputs)
    assert_close(pair.network(inputs), logits.detach(), 1e-9)
    assert logits.std(0).max() > 1e-3  # images differ
    found = pair.network.run(inputs, (pair.target,))[1][pair.target].activation
    assert_close(found, as_map(pair, values.detach()), 1e-9)

    def map_of(row: int, label: int) -> Tensor:
        gradient = as_map(pair, torch.autograd.grad(logits[row, label], values, retain_graph=True)[0])
        channels = as_map(pair, values.detach())
        return (gradient.mean((2, 3), keepdim=True) * channels)[row].sum(0).relu()

    maps = attribute(GradCAM(pair.target), pair.network, random_images(2, SIDE).double(), TARGETS).values
    expected = torch.stack([map_of(row, label) for row, label in zip(*map(Tensor.tolist, TARGETS), strict=True)])
    assert expected.abs().max() > 0
    assert_close(maps, expected, 1e-9)


@pytest.mark.parametrize("name", cases(*NAMES))
def test_lift_cam_shares_out_the_logit(name: str, pairs: Callable[[str], Pair]) -> None:
    """Its coefficients sum to the logit less that of patches of zeros, other tokens as they are; 1e-9."""
    pair, images = pairs(name), random_images(2, SIDE).double()
    found = attribute(LiftCAM(pair.target), pair.network, images, TARGETS)
    forward = ForwardPass(pair.network, images, (pair.target,))
    without = forward.head(pair.target)(torch.zeros_like(forward.activation(pair.target)))
    shared = (forward.logits - without)[TARGETS.image, TARGETS.label]
    assert found.coefficients is not None
    assert_close(found.coefficients.sum(1)[:, None], shared[:, None], 1e-9)


# Relevance: input times the gradient of the library's network in which some factors are constants


class Twin(Exact):
    """AttnLRP or CP-LRP without stabilisers (Achtibat et al. 2024) as an ordinary gradient."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.attention = attention

    def seen(self, name: str, args: Any, given: dict[str, Any], made: Any) -> Any:
        if name == "layer_norm":
            return _norm(*args, **given)
        if name in ("gelu", "silu"):
            return args[0] * (made / args[0]).detach()
        if name == "sigmoid" or (name == "pow" and args[1] == 0.5):  # a gate; the length of CLIP's embedding
            return made.detach()
        if name == "softmax" and self.attention == "cp_lrp":
            return made.detach()
        if name in ("matmul", "__matmul__") and all(each.requires_grad for each in args):
            return made / 2 + (made / 2).detach()
        return made


def _norm(
    input: Tensor, normalized_shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    centred = input - input.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt().detach()
    return scaled * (1 if weight is None else weight) + (0 if bias is None else bias)


@pytest.mark.parametrize("attention", ["attnlrp", "cp_lrp"])
@pytest.mark.parametrize("name", cases(*NAMES))
def test_relevance_is_the_twins(name: str, attention: Attention, pairs: Callable[[str], Pair]) -> None:
    """1e-6 of the largest value: ours has a stabiliser of 1e-12 in each step."""
    pair, images = pairs(name), random_images(2, SIDE).double()
    leaf = pair.network.normalise(images).requires_grad_()
    with Twin(attention):
        logits = pair.logits(leaf)
    assert_close(logits.detach(), pair.network(leaf.detach()), 1e-9)
    rows = zip(*map(Tensor.tolist, TARGETS), strict=True)
    gradients = [torch.autograd.grad(logits[row, label], leaf, retain_graph=True)[0][row] for row, label in rows]
    expected = (torch.stack(gradients) * leaf.detach()[TARGETS.image]).sum(1)
    method = LRP(Epsilon(1e-12), stabiliser=1e-12, attention=attention)
    assert_close(attribute(method, pair.network, images, TARGETS).values, expected, 1e-6)


# Attention


def attentions_of(pair: Pair, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits and each layer's attention [B,heads,N,N], with a graph between them, by the library."""
    kept: list[Tensor] = []

    class Keeping(Exact):
        def seen(self, name: str, args: Any, given: dict[str, Any], made: Any) -> Any:
            if name == "softmax" and made.shape[-1] > 6:  # of CLIP's texts
                kept.append(made)
            return made

    with Keeping():
        logits = pair.logits(inputs.clone().requires_grad_())
    return logits, kept


def on_grid(pair: Pair, rows: Tensor) -> Tensor:
    """[R,N] -> [R,h,w]."""
    patches = rows[:, PREFIXES[pair.name] :]
    side = round(patches.shape[1] ** 0.5)
    return patches.reshape(len(rows), side, side)


def read_of(name: str, tokens: int) -> Tensor:
    """What the logits read: patches (BEiT), class and distillation token, DINOv2's both, the class token."""
    read = torch.zeros(tokens, dtype=torch.float64)
    if name in ("hf_beit", "timm_beit"):
        read[1:] = 1
    elif name in ("hf_dinov2", "hf_dinov2_registers"):  # the class token beside the mean of the patches
        read[0], read[PREFIXES[name] :] = 1, 1
    else:
        read[: 2 if "distilled" in name else 1] = 1
    return read / read.sum()


@pytest.mark.parametrize("name", cases(*ROLLED))
def test_attention_methods_are_products_of_the_librarys_attention(name: str, pairs: Callable[[str], Pair]) -> None:
    """Full matrices: (I + mean A)/2 for rollout, I + mean (A dA)^+ for generic attention; 1e-9."""
    pair, images = pairs(name), random_images(2, SIDE).double()
    logits, kept = attentions_of(pair, pair.network.normalise(images))
    tokens = kept[0].shape[-1]
    read, itself = read_of(name, tokens), torch.eye(tokens, dtype=torch.float64)

    def rolled(steps: list[Tensor]) -> Tensor:
        whole = itself
        for step in steps:
            whole = step @ whole
        return read @ whole

    def generic(row: int, label: int) -> Tensor:
        gradients = torch.autograd.grad(logits[row, label], kept, retain_graph=True)
        return rolled([itself + (a * g)[row].clamp(min=0).mean(0) for a, g in zip(kept, gradients, strict=True)])

    rows = list(zip(*map(Tensor.tolist, TARGETS), strict=True))
    run = partial(attribute, network=pair.network, images=images, targets=TARGETS)
    expected = torch.stack([rolled([(itself + each[row].mean(0)) / 2 for each in kept]) for row, _ in rows])
    assert_close(run(AttentionRollout()).values, on_grid(pair, expected).detach(), 1e-9)
    expected = torch.stack([generic(row, label) for row, label in rows])
    assert_close(run(GenericAttention()).values, on_grid(pair, expected).detach(), 1e-9)


@pytest.mark.parametrize("name", cases("hf_swin", "hf_convnext", "timm_swin", "timm_convnext"))
def test_other_attention_is_refused(name: str, pairs: Callable[[str], Pair]) -> None:
    said = r"multiplies attention between all tokens .* this network has (no attention|attention of shapes)"
    for method in (AttentionRollout(), GenericAttention()):
        with pytest.raises(ValueError, match=said):
            attribute(method, pairs(name).network, random_images(2, SIDE).double(), TARGETS)


@pytest.mark.parametrize("name", cases(*NAMES, quick=QUICK))
def test_penultimate_features_make_the_logits(name: str, pairs: Callable[[str], Pair]) -> None:
    """1e-9; CLIP's are unit vectors, those of DeiT's two averaged heads both tokens side by side."""
    pair = pairs(name)
    forward = ForwardPass(pair.network, random_images(2, SIDE).double(), penultimate=True)
    weight, bias = forward.last_weights()
    if "distilled" in name:
        assert weight.shape[1] == 2 * SIZES["hidden_size"]
    assert_close(forward.penultimate @ weight.T + bias, forward.logits, 1e-9)
    if name == "clip":
        assert_close(forward.penultimate.norm(dim=1, keepdim=True), torch.ones(2, 1).double(), 1e-12)
