"""Attention rollout, generic attention, transformer attribution: by hand, against slow twins of the papers' formulas.

Twins follow one image through the network with full matrices; float64, 1e-9 of the largest value.
"""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from assay.harness.heads import Targets
from assay.harness.network import Network
from assay.harness.types import Attributor
from assay.methods.attribution.attention import (
    AttentionRollout,
    GenericAttention,
    TransformerAttribution,
    normalised_sum,
    positive,
    rolled,
)
from assay.methods.attribution.relevance.operations import UnsupportedOp
from conftest import assert_close, attribute, attribute_alone, known, random_images, several_targets
from torch import Tensor, nn
from transformer_toys import Attended, Block, Transformer, normal, tiny_transformer

CLOSE = 1e-9
METHODS: dict[str, Attributor] = {
    "rollout": AttentionRollout(),
    "rollout_max": AttentionRollout("max"),
    "rollout_min": AttentionRollout("min", 0.3),
    "generic": GenericAttention(),
    "transformer": TransformerAttribution(),
}


# By hand


def test_a_rollout_by_hand() -> None:
    """Two heads, (1 0; 0 1) and (0 1; 1 0): their mean is 1/2 everywhere, with the residual half (3/4 1/4; 1/4 3/4),
    and its square (5/8 3/8; 3/8 5/8). Their largest values are 1 everywhere, rows of sum 2: the same."""
    heads = torch.stack([torch.eye(2), torch.eye(2).flip(0)])[None]
    for method in (AttentionRollout(), AttentionRollout("max")):
        step = method.step(heads)
        torch.testing.assert_close(step, torch.tensor([[[0.75, 0.25], [0.25, 0.75]]]))
        torch.testing.assert_close(rolled([step, step], torch.tensor([1.0, 0])), torch.tensor([[5 / 8, 3 / 8]]))
    whole = AttentionRollout(residual=0).step(heads)
    torch.testing.assert_close(whole, torch.full((1, 2, 2), 0.5))


def test_the_later_layer_comes_first() -> None:
    """read^T M_2 M_1: (1 0) of M_2 = (0 1; 0 1) is the second row of M_1 = (1 2; 3 4)."""
    first, second = torch.tensor([[[1.0, 2], [3, 4]]]), torch.tensor([[[0.0, 1], [0, 1]]])
    torch.testing.assert_close(rolled([first, second], torch.tensor([1.0, 0])), torch.tensor([[3.0, 4]]))


def test_heads_without_a_common_token() -> None:
    """The least of (1 0; 1/2 1/2) and (0 1; 1/2 1/2): 0/0 := 0 in the first row, which keeps r of itself."""
    heads = torch.tensor([[[[1.0, 0], [0.5, 0.5]], [[0, 1], [0.5, 0.5]]]])
    found = AttentionRollout("min", 0.3).step(heads)
    torch.testing.assert_close(found, torch.tensor([[[0.3, 0], [0.35, 0.65]]]))


def test_positive_products_by_hand() -> None:
    """(1/2 1/2) times (2, -2) and (1, 3): the mean of (1, 0) and (1/2, 3/2), beside the diagonal."""
    gradient = torch.tensor([[[[2.0, -2], [0, 0]], [[1, 3], [0, 0]]]])
    found = positive(torch.full((1, 2, 2, 2), 0.5), gradient)
    torch.testing.assert_close(found, torch.tensor([[[1.75, 0.75], [0, 1]]]))


def test_a_sum_hands_on_what_it_was_given() -> None:
    """x = (3, -1), (-2, 2), R = (1, 1): shares (3, -1) and (-2, 2), sums 2 and 0: all of 2 to the first, 3/1.
    Then x = (3, 1), (-2, 1): shares (3, 1/2), (-2, 1/2), sums 7/2 and -3/2 become 7/5 and 3/5."""
    one = torch.ones(1, 2)
    a, b = normalised_sum([torch.tensor([[3.0, -1]]), torch.tensor([[-2.0, 2]])], (0, 1), one)
    torch.testing.assert_close((a, b), (torch.tensor([[3.0, -1]]), torch.zeros(1, 2)))
    a, b = normalised_sum([torch.tensor([[3.0, 1]]), torch.tensor([[-2.0, 1]])], (0, 1), one)
    torch.testing.assert_close(a, torch.tensor([[3, 0.5]]) * 0.4)
    torch.testing.assert_close(b, torch.tensor([[-2, 0.5]]) * -0.4)


# Slow twins


class Step(NamedTuple):
    """A block's values of one image: what it reads, after attention, ..."""

    x: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    weights: Tensor
    values: Tensor
    middle: Tensor
    hidden: Tensor


def forward(module: Transformer, image: Tensor) -> tuple[Tensor, Tensor, list[Step]]:
    """Logits, the last tokens and the values of each block."""
    x = module.patches(image).flatten(2).transpose(1, 2)
    x = (x if module.pooled else torch.cat([module.token, x], 1)) + module.positions
    steps = []
    for block in module.layers:
        layer, n = block.attention, block.norm1(x)
        projected = F.linear(n, layer.in_proj_weight, layer.in_proj_bias).chunk(3, -1)
        q, k, v = (each.unflatten(-1, (layer.num_heads, -1)).transpose(1, 2) for each in projected)
        weights = ((q @ k.mT) / q.shape[-1] ** 0.5).softmax(-1)
        values = (weights @ v).transpose(1, 2).flatten(2)
        middle = x + block.scale * layer.out_proj(values)
        hidden = F.gelu(block.first(block.norm2(middle)))
        steps.append(Step(x, q, k, v, weights, values, middle, hidden))
        x = middle + block.second(hidden)
    last = module.norm(x)
    return module.head(last.mean(1) if module.pooled else last[:, 0]), x, steps


def z_plus(x: Tensor, layer: Tensor, relevance: Tensor) -> Tensor:
    """alpha 1, beta 0 by every single contribution: x [...,in], weights [out,in], R [...,out] -> R [...,in]."""
    parts = (x[..., None, :] * layer).clamp(min=0)
    shares = (parts / parts.sum(-1, keepdim=True)).nan_to_num()  # 0/0 := 0
    return (shares * relevance[..., None]).sum(-2)


def to_both(a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Halves of a matrix product's relevance, by every single contribution a_ij b_jk."""
    parts = a[..., :, :, None] * b[..., None, :, :]
    each = parts / parts.sum(-2, keepdim=True) * relevance[..., :, None, :] / 2
    return each.sum(-1), each.sum(-3)


def beside(a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """A sum's relevance, Eq. 9 and 10."""
    parts = [x / (a + b) * relevance for x in (a, b)]
    sums = [part.sum() for part in parts]
    total = sum(each.abs() for each in sums)
    first, second = (p * s.abs() / total * relevance.sum() / s for p, s in zip(parts, sums, strict=True))
    return first, second


def relevances(module: Transformer, image: Tensor, label: int) -> list[Tensor]:
    """R of each block's attention [1,heads,N,N], by relprop written out from the logits down."""
    _, last, steps = forward(module, image)
    start = F.one_hot(torch.tensor([label]), 5).double()
    r = torch.zeros_like(last)
    r[:, 0] = z_plus(module.norm(last)[:, 0], module.head.weight, start)
    found = []
    for block, s in reversed(list(zip(module.layers, steps, strict=True))):
        r_middle, r_mlp = beside(s.middle, block.second(s.hidden), r)
        r_hidden = z_plus(s.hidden, block.second.weight, r_mlp)
        r_middle = r_middle + z_plus(block.norm2(s.middle), block.first.weight, r_hidden)
        r_x, r_attended = beside(s.x, block.scale * block.attention.out_proj(s.values), r_middle)
        r_values = z_plus(s.values, block.attention.out_proj.weight, r_attended)
        r_values = r_values.unflatten(-1, (2, -1)).transpose(1, 2)
        r_weights, r_v = to_both(s.weights, s.v, r_values)
        found.append(r_weights)
        r_q, r_k = to_both(s.q, s.k.mT, r_weights)
        r_qkv = torch.cat([each.transpose(1, 2).flatten(2) for each in (r_q, r_k.mT, r_v)], -1)
        r = r_x + z_plus(block.norm1(s.x), block.attention.in_proj_weight, r_qkv)
    return found[::-1]


def twin(kind: str, module: Transformer, image: Tensor, label: int) -> Tensor:
    """The map of one image, [1,4,4]: full products of matrices, then a row."""
    logits, _, steps = forward(module, image.clone().requires_grad_())
    weights = [step.weights for step in steps]
    gradients = torch.autograd.grad(logits[0, label], weights)
    eye = torch.eye(weights[0].shape[-1]).double()
    total = eye
    given = relevances(module, image, label) if kind == "transformer" else weights
    for a, r, g in zip(weights, given, gradients, strict=True):
        if kind.startswith("rollout"):
            fused = {"rollout": a.mean(1), "rollout_max": a.amax(1), "rollout_min": a.amin(1)}[kind][0]
            keep = 0.3 if kind == "rollout_min" else 0.5
            total = (keep * eye + (1 - keep) * fused / fused.sum(1, keepdim=True)) @ total
        else:
            total = total + (g * r).clamp(min=0).mean(1)[0] @ total
    return (total.mean(0) if module.pooled else total[0, 1:]).detach().view(1, 4, 4)


@pytest.mark.parametrize("kind", METHODS)
def test_maps_are_the_twins(kind: str) -> None:
    """Nine pairs of four images; the logits read the class token."""
    network, images, targets = tiny_transformer(), random_images(4, 16).double(), several_targets()
    inputs, module = network.normalise(images), network.module
    assert isinstance(module, Transformer)
    pairs = zip(targets.image.tolist(), targets.label.tolist(), strict=True)
    expected = torch.cat([twin(kind, module, inputs[row : row + 1], label) for row, label in pairs])
    assert_close(attribute(METHODS[kind], network, images, targets).values, expected, CLOSE)


@pytest.mark.parametrize("kind", ["rollout", "generic"])
def test_pooled_tokens_are_all_read(kind: str) -> None:
    """Of a network without class token: the mean over rows."""
    network, images = tiny_transformer(pooled=True), random_images(1, 16).double()
    assert isinstance(network.module, Transformer)
    expected = twin(kind, network.module, network.normalise(images), 2)
    found = attribute(METHODS[kind], network, images, Targets(torch.tensor([0]), torch.tensor([2]))).values
    assert_close(found, expected, CLOSE)


# Invariants


@pytest.mark.parametrize("kind", METHODS)
def test_a_batch_is_its_images_in_any_spelling(kind: str) -> None:
    """Float64, 1e-9: each pair alone, and attention fused, by products, by einsum."""
    images, targets = random_images(4, 16).double(), several_targets()
    expected = attribute_alone(METHODS[kind], tiny_transformer(), images, targets)
    for spelling in ("module", "fused", "plain", "einsum"):
        found = attribute(METHODS[kind], tiny_transformer(spelling), images, targets).values
        assert found.shape == (9, 4, 4) and (found >= 0).all()
        assert_close(found, expected, CLOSE)


CASTS: dict[str, Callable[[Tensor], Tensor]] = {
    "scores, and back": lambda scores: scores.float().softmax(-1).to(scores.dtype),
    "by softmax": lambda scores: scores.softmax(-1, dtype=torch.float32).double(),
    "weights alone": lambda scores: scores.softmax(-1).float().double(),
    "like the scores": lambda scores: scores.float().softmax(-1).type_as(scores),
}


@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS)
def test_a_softmax_may_be_cast(cast: Callable[[Tensor], Tensor]) -> None:
    """In a network of float64: rows sum to 1 in float32, and maps are those without a cast up to that, 1e-6."""

    class Cast(Attended):
        def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return cast(q * q.shape[-1] ** -0.5 @ k.mT) @ v

    network, images, targets = tiny_transformer("plain"), random_images(4, 16).double(), several_targets()
    expected = attribute(AttentionRollout(), network, images, targets).values
    for block in network.module.layers:  # type: ignore[union-attr]
        block.attention.__class__ = Cast
    assert_close(attribute(AttentionRollout(), network, images, targets).values, expected, 1e-6)


def test_a_rollout_shares_out_one() -> None:
    """Rows of every step have sum 1: the map and the class token's own part too."""
    network, images = tiny_transformer(pooled=True), random_images(3, 16).double()
    found = attribute(AttentionRollout(), network, images, Targets(torch.arange(3), torch.arange(3))).values
    torch.testing.assert_close(found.sum((1, 2)), torch.ones(3).double())


# Refusals


FIRST = Targets(torch.tensor([0]), torch.tensor([1]))


class Windows(nn.Module):
    """Attention of each row of pixels among themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 1), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.first(x).permute(0, 2, 3, 1).flatten(0, 1)[:, None]
        return self.last(F.scaled_dot_product_attention(rows, rows, rows).unflatten(0, (len(x), -1)).mean((1, 2, 3)))


@pytest.mark.parametrize("kind", METHODS)
def test_other_attention_is_refused(kind: str) -> None:
    """A network without any, and one of windows: what there is, and what would do."""
    targets = Targets(torch.tensor([0]), torch.tensor([1]))
    with pytest.raises(ValueError, match=r"this network has no attention: attnlrp, cp_lrp, gradcam"):
        attribute(METHODS[kind], known("tiny_vgg").network, random_images(1, 16), targets)
    windows = Network(Windows().eval(), (0.5,) * 3, (0.25,) * 3)
    with pytest.raises(ValueError, match=r"tokens of an image, .* has attention of shapes \[16, 1, 8, 8\]"):
        attribute(METHODS[kind], windows, random_images(2, 8), targets)


class Last(Transformer):
    """`Transformer` with the class token behind the patches."""

    def forward(self, x: Tensor) -> Tensor:
        """[B,3,16,16] -> [B,5]."""
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions[:, 1:]
        x = torch.cat([x, (self.token + self.positions[:, :1]).expand(len(x), -1, -1)], 1)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, -1])


class Towers(nn.Module):
    """The sum of two transformers' logits."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Transformer("fused"), Transformer("fused")

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + self.second(x)


class Beside(Block):
    """Two attentions of the same tokens in one block."""

    def __init__(self) -> None:
        super().__init__(8, 2, "fused")
        self.other = Attended(8, 2, "fused")

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(self.norm1(x)) + self.other(self.norm1(x))


class Spelled(Attended):
    """Attention whose weights are used as `how` says."""

    def __init__(self, how: str) -> None:
        super().__init__(8, 2, "own")
        self.how = how

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
        if self.how == "twice":
            return torch.cat([weights @ half for half in v.chunk(2, -1)], -1)
        if self.how == "forms":
            first, second = v.chunk(2, -1)
            return torch.cat([weights @ first, weights.clone() @ second], -1)
        if self.how == "masked":
            return (weights * torch.ones(1, 2, 1, 1).to(weights)) @ v
        if self.how == "turned":
            return (v.mT @ weights).mT
        if self.how == "of_queries":
            return weights.mT @ v
        if self.how == "dropped":
            return F.scaled_dot_product_attention(q, k, v, dropout_p=0.5)
        return torch.einsum("bhij,bjhd->bhid", weights, v.transpose(1, 2))  # as_einsum


class Channels(nn.Module):
    """Attention between 16 channels of 16 tokens (XCiT)."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.qkv, self.head = nn.Conv2d(3, 32, 4, 4), nn.Linear(32, 96), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 16)).permute(2, 0, 3, 4, 1)
        weights = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT).softmax(-1)
        return self.head((x + (weights @ v).permute(0, 3, 1, 2).flatten(2)).mean(1))


def of(module: nn.Module) -> Network:
    """Of the toys' weights, in float64."""
    return Network(normal(module), (0.5,) * 3, (0.25,) * 3).to(dtype=torch.float64)


def spelled(how: str, *blocks: int) -> Network:
    """`tiny_transformer` with these blocks' attention as `Spelled`."""
    module = Transformer("fused")
    for number in blocks:
        module.layers[number].attention = Spelled(how)
    return of(module)


def beside_one_another() -> Network:
    module = Transformer("fused")
    module.blocks = nn.ModuleList([Beside()])
    return of(module)


REFUSED: dict[str, tuple[Callable[[], Network], str]] = {
    "class_token_last": (lambda: of(Last("fused")), "read token 16 of 17 .*which lie among the last 16"),
    "towers": (lambda: of(Towers()), "beside one another: the one called as number 3 reads nothing of number 2"),
    "parallel": (beside_one_another, "beside one another: the one called as number 2"),
    "forms": (lambda: spelled("forms", 0, 1), "a softmax that several products read in several forms"),
    "masked_in_one_layer": (lambda: spelled("masked", 0), r"a softmax \[2, 2, 17, 17\] that no product reads as it is"),
    "turned": (lambda: spelled("turned", 0, 1), "transposed or a softmax over queries"),
    "of_queries": (lambda: spelled("of_queries", 0, 1), "transposed or a softmax over queries"),
    "channels": (lambda: of(Channels()), r"attention \[2, 2, 16, 16\] between channels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_series_of_attentions_is_refused(case: str) -> None:
    """Each would be a wrong map: shifted by a patch, or a product of what is no series."""
    build, match = REFUSED[case]
    targets = Targets(torch.tensor([0, 1]), torch.tensor([1, 2]))
    for kind in ("rollout", "generic", "transformer"):
        with pytest.raises(ValueError, match=match):
            attribute(METHODS[kind], build(), random_images(2, 16).double(), targets)


@pytest.mark.parametrize("how", ["twice", "as_einsum"])
def test_a_softmax_counts_once(how: str) -> None:
    """Read by two products, or by one whose values have heads behind tokens: maps of the plain spelling, 1e-9."""
    images, targets = random_images(2, 16).double(), Targets(torch.tensor([0, 1]), torch.tensor([1, 2]))
    for kind in ("rollout", "generic"):
        expected = attribute(METHODS[kind], tiny_transformer("fused"), images, targets).values
        assert_close(attribute(METHODS[kind], spelled(how, 0, 1), images, targets).values, expected, CLOSE)


def test_random_weights_are_refused() -> None:
    """Dropout inside the fused kernel, in evaluation too."""
    with pytest.raises(UnsupportedOp, match=r"at random \(dropout_p=0.5\).*pass dropout_p=0.0"):
        attribute(GenericAttention(), spelled("dropped", 0), random_images(1, 16).double(), FIRST)


@pytest.mark.parametrize("pooled", [False, True])
def test_logits_of_constant_sum_are_read(pooled: bool) -> None:
    """(-z, z), and a softmax at the end, float32 too: rollout, which no class moves, is as of the network before it."""
    images, first = random_images(2, 16).double(), Targets(torch.tensor([0, 1]), torch.tensor([1, 0]))
    expected = attribute(AttentionRollout(), tiny_transformer("fused", pooled), images, first).values
    body = normal(Transformer("fused", pooled))
    binary = Network(nn.Sequential(body, nn.Linear(5, 1)).eval(), (0.5,) * 3, (0.25,) * 3, activation="binary")
    softmax = Network(nn.Sequential(body, nn.Softmax(1)).eval(), (0.5,) * 3, (0.25,) * 3)
    for network in (binary, softmax):
        network = network.to(dtype=torch.float32)
        found = attribute(AttentionRollout(), network, images.float(), first).values
        assert_close(found.double(), expected, 1e-5)


def test_settings_are_checked() -> None:
    """By name, with the choices."""
    with pytest.raises(ValueError, match=r"heads='median'.*mean, max"):
        AttentionRollout("median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="residual=1: choose"):
        AttentionRollout(residual=1)


def test_a_last_layer_of_zeros_is_refused() -> None:
    """No gradient says which tokens the logits read."""
    network, targets = tiny_transformer(), Targets(torch.tensor([0]), torch.tensor([1]))
    nn.init.zeros_(network.module.get_submodule("head").weight)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no gradient at the last attention"):
        attribute(AttentionRollout(), network, random_images(1, 16).double(), targets)
