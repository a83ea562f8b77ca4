"""LeGrad: by hand, and against a slow twin of the paper's formula; float64, 1e-9 of the largest value.

Run once beside the published code (WalBouss/LeGrad on a CLIP of open_clip 2.23, 3 blocks, 17 tokens, nine pairs):
pool=mean and last=1, 2 or 3 give its maps within 5e-15 in float64.
"""

import pytest
import torch
import torch.nn.functional as F
from assay.harness.heads import Targets
from assay.harness.network import Network
from assay.methods.attribution.legrad import LeGrad
from conftest import assert_close, attribute, attribute_alone, forward_pass, known, random_images, several_targets
from torch import Tensor, nn
from transformer_toys import Block, Transformer, normal, tiny_transformer

CLOSE = 1e-9
METHODS = {"head": LeGrad(), "mean": LeGrad("mean"), "last": LeGrad(last=1), "mean_last": LeGrad("mean", 1)}
FIRST = Targets(torch.tensor([0]), torch.tensor([1]))


class Mixed(nn.Module):
    """x + A x."""

    def forward(self, x: Tensor) -> Tensor:
        heads = x[:, None]
        return x + ((heads @ heads.mT).softmax(-1) @ heads)[:, 0]


class Plain(nn.Module):
    """Pixels are tokens behind a class token of zeros; x + A x, of which the logits read the class token.

    scores: [classes,3].
    """

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.mixed, self.head = Mixed(), nn.Linear(3, len(scores), bias=False)
        self.head.weight.data.copy_(scores)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([torch.zeros_like(x[:, :1]), x], 1)
        return self.head(self.mixed(x)[:, 0])


def test_by_hand() -> None:
    """ds/dA of the class token's row is w . x_j: with w = (1, -1, 0) red less green; max with 0, over five queries.
    The other class' w is its negative."""
    images = torch.rand(1, 3, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    network = Network(Plain(torch.tensor([[1.0, -1, 0], [-1, 1, 0]])), (0.0,) * 3, (1.0,) * 3).to(dtype=torch.float64)
    difference = (images[:, 0] - images[:, 1]) / 5
    both = Targets(torch.tensor([0, 0]), torch.tensor([0, 1]))
    expected = torch.cat([difference.clamp(min=0), (-difference).clamp(min=0)])
    assert (expected.sum((1, 2)) > 0).all()
    assert_close(attribute(LeGrad(), network, images, both).values, expected, CLOSE)


def behind(block: Block, x: Tensor) -> tuple[Tensor, Tensor]:
    """Attention [1,heads,N,N], and the tokens that a block makes of x with it."""
    layer, n = block.attention, block.norm1(x)
    projected = F.linear(n, layer.in_proj_weight, layer.in_proj_bias).chunk(3, -1)
    q, k, v = (each.unflatten(-1, (layer.num_heads, -1)).transpose(1, 2) for each in projected)
    weights = ((q @ k.mT) / q.shape[-1] ** 0.5).softmax(-1).detach().requires_grad_()
    middle = x + block.scale * layer.out_proj((weights @ v).transpose(1, 2).flatten(2))
    return weights, middle + block.second(F.gelu(block.first(block.norm2(middle))))


def twin(method: LeGrad, module: Transformer, image: Tensor, label: int) -> Tensor:
    """One map [1,4,4]: block after block, each differentiated by itself."""
    x = module.patches(image).flatten(2).transpose(1, 2)
    x = (x if module.pooled else torch.cat([module.token, x], 1)) + module.positions
    found = []
    for block in module.layers:
        weights, x = behind(block, x.detach())
        read = x.mean(1) if method.pool == "mean" else None
        if read is None:
            last = module.norm(x)
            read = last.mean(1) if module.pooled else last[:, 0]
        else:
            read = module.norm(read)
        (gradient,) = torch.autograd.grad(module.head(read)[0, label], weights)
        found.append(gradient.clamp(min=0).mean((0, 1, 2)))
    tokens = torch.stack(found if method.last is None else found[-method.last :]).mean(0)
    return tokens[-16:].view(1, 4, 4)


@pytest.mark.parametrize(("kind", "pooled"), [*((kind, False) for kind in METHODS), ("head", True)])
def test_maps_are_the_twins(kind: str, pooled: bool) -> None:
    """Nine pairs of four images."""
    network, images = tiny_transformer("fused", pooled=pooled), random_images(4, 16).double()
    targets = several_targets()
    inputs, module = network.normalise(images), network.module
    assert isinstance(module, Transformer)
    pairs = zip(targets.image.tolist(), targets.label.tolist(), strict=True)
    expected = torch.cat([twin(METHODS[kind], module, inputs[row : row + 1], label) for row, label in pairs])
    assert_close(attribute(METHODS[kind], network, images, targets).values, expected, CLOSE)


class TokensFirst(nn.Module):
    """`Transformer` with tokens in dimension 0, as CLIP's networks have them."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = normal(Transformer())
        for block in self.inner.layers:
            block.attention.batch_first = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.inner.token.expand(x.shape[0], -1, -1), x], 1) + self.inner.positions
        x = x.transpose(0, 1)
        for block in self.inner.blocks:
            x = block(x)
        return self.inner.head(self.inner.norm(x.transpose(0, 1))[:, 0])


def test_a_batch_is_its_images_in_any_spelling() -> None:
    """Each pair alone; attention as PyTorch's module, by products, by einsum; tokens first. pool=mean reads most."""
    images, targets = random_images(2, 16).double(), Targets(torch.tensor([1, 0, 1]), torch.tensor([4, 2, 0]))
    expected = attribute_alone(METHODS["mean"], tiny_transformer("fused"), images, targets)
    networks = [tiny_transformer(spelling) for spelling in ("module", "fused", "plain", "einsum")]
    for network in [*networks, Network(TokensFirst().eval(), (0.5,) * 3, (0.25,) * 3).to(dtype=torch.float64)]:
        found = attribute(METHODS["mean"], network, images, targets).values
        assert found.shape == (3, 4, 4)
        assert (found >= 0).all()
        assert_close(found, expected, CLOSE)


def test_what_it_costs() -> None:
    """Of three images: a forward pass; back from the end to the last attention; and of two layers the head, back
    through it, and back to the layer's attention, counted as heads are."""
    network, images = tiny_transformer("fused"), random_images(3, 16).double()
    forward = forward_pass(network, images, LeGrad())
    before = network.passes - type(network.passes)()
    LeGrad().attribute(forward, Targets(torch.arange(3), torch.arange(3)), None)  # type: ignore[arg-type]
    spent = network.passes - before
    assert (spent.forward, spent.backward, spent.head) == (3, 0, 3 + 2 * 3 * 3)


# Refusals


class Whole(nn.Module):
    """PyTorch's own encoder, whose blocks torch.fx does not look into."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
        self.patches, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 5)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


class Skipped(Transformer):
    """`Transformer` whose head reads the first block's tokens, too."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions[:, 1:]
        first = self.layers[0](x)
        return self.head((self.norm(self.layers[1](first)) + first).mean(1))


@pytest.mark.parametrize(
    ("module", "match"),
    [
        pytest.param(Whole, "scores the tokens behind each attention .* graph shows no attention", id="whole"),
        pytest.param(
            lambda: Skipped("fused"), "behind one of them, .add_[0-9]+. of its graph, is no module", id="skip"
        ),
    ],
)
def test_a_network_without_a_trunk_is_refused(module: type[nn.Module], match: str) -> None:
    """By name and reason."""
    network = Network(normal(module()), (0.5,) * 3, (0.25,) * 3)
    with pytest.raises(ValueError, match=match):
        attribute(LeGrad(), network, random_images(1, 16), FIRST)


def test_a_network_without_attention_is_refused() -> None:
    with pytest.raises(ValueError, match=r"LeGrad multiplies attention .* this network has no attention: attnlrp"):
        attribute(LeGrad(), known("tiny_vgg").network, random_images(1, 16), FIRST)


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match=r"pool='max'.*head.*mean"):
        LeGrad("max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="last=0: choose 1 or more"):
        LeGrad(last=0)
