"""AttnLRP and CP-LRP: rules by hand, a slow twin of the papers' formulas, fused kernels, and what becomes of relevance.

Tolerances are relative to each map's largest value.
"""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.network import Network
from assay.harness.types import Attributor
from assay.methods.attribution.attention import TransformerAttribution
from assay.methods.attribution.relevance.alarm import Peak, check_size
from assay.methods.attribution.relevance.attention import Attention, halved, taylor, to_values
from assay.methods.attribution.relevance.engine import Tape
from assay.methods.attribution.relevance.excitation import ExcitationBackprop
from assay.methods.attribution.relevance.lrp import LRP
from assay.methods.attribution.relevance.nodes import State
from assay.methods.attribution.relevance.operations import Operation, UnsupportedOp
from assay.methods.attribution.relevance.rap import RAP
from assay.methods.attribution.relevance.recording import RelevanceMode
from assay.methods.attribution.relevance.rules import AlphaBeta, Epsilon, Gamma
from assay.methods.attribution.relevance.table import HANDLERS, Relevances, RuleTable
from conftest import assert_close, attribute, attribute_alone, random_images, several_targets
from torch import Tensor, nn
from transformer_toys import Attended, Transformer, normal, tiny_transformer

CLOSE = 1e-6  # the twin has no stabilisers, and each step of ours has one of 1e-12
KINDS: tuple[Attention, ...] = ("attnlrp", "cp_lrp")
EXACT: dict[Attention, LRP] = {kind: LRP(Epsilon(1e-12), stabiliser=1e-12, attention=kind) for kind in KINDS}


# Rules


def test_softmax_by_hand() -> None:
    """s of (0, ln 3) is (1/4, 3/4): from R = (1, 2) x (R - 3 s) = (0, -ln 3 / 4); a hidden value takes nothing."""
    x, relevance = torch.tensor([[1.0, 3.0]]).log(), torch.tensor([[1.0, 2.0]])
    expected = torch.tensor([[0.0, -x[0, 1] / 4]])
    torch.testing.assert_close(taylor(x, partial(torch.softmax, dim=-1), relevance), expected)
    hidden = torch.cat([x, torch.full((1, 1), -torch.inf)], 1)
    found = taylor(hidden, partial(torch.softmax, dim=-1), F.pad(relevance, (0, 1)))
    torch.testing.assert_close(found, F.pad(expected, (0, 1)))


def test_products_by_hand() -> None:
    """y = (1/4, 3/4) (2, -1)^T = -1/4: contributions 1/2 and -3/4 of y, so R = 1 gives the values (-2, 3), the
    weights the same, each halved where both take relevance; all to the values where weights are constants."""
    weights, values, relevance = torch.tensor([[0.25, 0.75]]), torch.tensor([[2.0], [-1.0]]), torch.ones(1, 1)
    a, v = halved((weights, values), torch.matmul, (True, False), relevance)
    torch.testing.assert_close(a, torch.tensor([[-1.0, 1.5]]))
    torch.testing.assert_close(v, torch.tensor([[-1.0], [1.5]]))
    none, v = to_values((weights, values), torch.matmul, (True, False), relevance)
    assert none is None
    torch.testing.assert_close(v, torch.tensor([[-2.0], [3.0]]))


# The slow twin: input times the gradient of a network in which some factors are constants


def _passing(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The identity rule: f(x) as x times a constant."""
    return x * (function(x) / x).detach()


def _half(x: Tensor) -> Tensor:
    """The uniform rule: the same value with half the gradient."""
    return x / 2 + (x / 2).detach()


def _norm(x: Tensor, layer: nn.LayerNorm) -> Tensor:
    """Layer-norm with its standard deviation as a constant."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + layer.eps).sqrt().detach() * layer.weight + layer.bias


def _attend(x: Tensor, layer: nn.MultiheadAttention, attention: Attention) -> Tensor:
    """Attention with products by halves, or with weights that are constants."""
    w_q, w_k, w_v = layer.in_proj_weight.chunk(3)
    b_q, b_k, b_v = layer.in_proj_bias.chunk(3)
    q, k, v = (
        F.linear(x, w, b).unflatten(-1, (layer.num_heads, -1)).transpose(1, 2)
        for w, b in ((w_q, b_q), (w_k, b_k), (w_v, b_v))
    )
    scores = q @ k.mT / q.shape[-1] ** 0.5
    values = _half(_half(scores).softmax(-1) @ v) if attention == "attnlrp" else scores.softmax(-1).detach() @ v
    return layer.out_proj(values.transpose(1, 2).flatten(2))


def twin(module: Transformer, image: Tensor, label: int, attention: Attention) -> Tensor:
    """x dy/dx of one image [1,3,H,W], summed over colours: [1,H,W]."""
    leaf = image.clone().requires_grad_()
    x = module.patches(leaf).flatten(2).transpose(1, 2)
    x = torch.cat([module.token, x], 1) + module.positions
    for block in module.layers:
        x = x + block.scale * _attend(_norm(x, block.norm1), block.attention, attention)
        x = x + block.second(_passing(F.gelu, block.first(_norm(x, block.norm2))))
    logit = module.head(_norm(x, module.norm)[:, 0])[0, label]
    return (torch.autograd.grad(logit, leaf)[0] * leaf).sum(1).detach()


@pytest.mark.parametrize("attention", ["attnlrp", "cp_lrp"])
def test_maps_are_the_twins(attention: Attention) -> None:
    """A transformer of random weights, biases among them, float64, against the twin, 1e-6."""
    network, images, targets = tiny_transformer(), random_images(4, 16).double(), several_targets()
    found = attribute(EXACT[attention], network, images, targets).values
    inputs = network.normalise(images)
    pairs = zip(targets.image.tolist(), targets.label.tolist(), strict=True)
    rows = [twin(network.module, inputs[row : row + 1], label, attention) for row, label in pairs]  # type: ignore[arg-type]
    assert_close(found, torch.cat(rows), CLOSE)


# Spellings of one network


def test_fused_and_written_out_attention_have_the_same_maps() -> None:
    """nn.MultiheadAttention, F.scaled_dot_product_attention and plain products; logits are the module's own."""
    images, targets = random_images(4, 16).double(), several_targets()
    usual = tiny_transformer()
    expected = {kind: attribute(EXACT[kind], usual, images, targets).values for kind in EXACT}
    for spelling in ("fused", "plain", "einsum"):
        other = tiny_transformer(spelling)
        tape = Tape.record(ForwardPass(other, images))
        torch.testing.assert_close(tape.logits.detach(), usual(usual.normalise(images)), rtol=1e-12, atol=1e-12)
        for kind, maps in expected.items():
            assert_close(attribute(EXACT[kind], other, images, targets).values, maps, CLOSE)


MASKS = {
    "causal": {"is_causal": True},
    "boolean": {"attn_mask": torch.ones(5, 5, dtype=torch.bool).tril()},
    "hidden": {"attn_mask": torch.zeros(5, 5).double().masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)},
    "added": {"attn_mask": torch.linspace(-1, 1, 25).double().view(5, 5)},
    "scale": {"scale": 0.3},
}


@pytest.mark.parametrize("options", MASKS.values(), ids=MASKS)
def test_masks_are_those_of_the_fused_kernel(options: dict[str, object]) -> None:
    """Logits as the network's own (1e-12), and maps as x dy/dx with products by halves or weights that are constants,
    the mask spelled out (float64, 1e-6): what is hidden takes nothing, what is added keeps its share."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 12, 4, 4, bias=False), nn.Linear(4, 2, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = F.pad(self.first(x).flatten(2), (0, 1), value=0.5).mT.chunk(3, -1)
            return self.last(F.scaled_dot_product_attention(q, k, v, **options)[:, 2])  # type: ignore[arg-type]

    network = Network(normal(Masked()), (0.5,) * 3, (0.25,) * 3).to(dtype=torch.float64)
    images = random_images(2, 8).double()
    tape = Tape.record(ForwardPass(network, images))
    torch.testing.assert_close(tape.logits.detach(), network(network.normalise(images)), rtol=1e-12, atol=1e-12)
    for attention, method in EXACT.items():
        leaf = network.normalise(images).requires_grad_()
        q, k, v = F.pad(network.module.first(leaf).flatten(2), (0, 1), value=0.5).mT.chunk(3, -1)  # type: ignore[operator]
        scores = q @ k.mT * options.get("scale", 0.5)  # type: ignore[operator]
        weights = _hiding(_half(scores) if attention == "attnlrp" else scores, **options).softmax(-1)  # type: ignore[arg-type]
        values = _half(weights @ v) if attention == "attnlrp" else weights.detach() @ v
        logits = network.module.last(values[:, 2])  # type: ignore[operator]
        expected = (torch.autograd.grad(logits[[0, 1], [0, 1]].sum(), leaf)[0] * leaf).sum(1).detach()
        found = attribute(method, network, images, Targets(torch.arange(2), torch.arange(2)))
        assert_close(found.values, expected, CLOSE)


def _hiding(scores: Tensor, is_causal: bool = False, attn_mask: Tensor | None = None, **options: object) -> Tensor:
    """Scores with the mask."""
    mask = torch.ones(5, 5, dtype=torch.bool).tril() if is_causal else attn_mask
    if mask is None or mask.dtype != torch.bool:
        return scores if mask is None else scores + mask
    return scores.masked_fill(~mask, -torch.inf)


WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "doubled": lambda w: w * 2,
    "divided": lambda w: w / 1.0,
    "head mask": lambda w: w * torch.ones(1, 2, 1, 1).double(),
    "dropout": lambda w: F.dropout(w * 1.0, 0.1, False),
    "talking heads": lambda w: F.linear(w.movedim(1, -1), torch.eye(2).double()).movedim(-1, 1),
    "in place": lambda w: w.mul_(1),
}


class Weighing(Attended):
    """Attention with something done to the weights behind the softmax."""

    change: Callable[[Tensor], Tensor]

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Values of queries [B,heads,N,d]."""
        return self.change((q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)) @ v


def weighing(change: Callable[[Tensor], Tensor]) -> Network:
    """The tiny transformer with such attention."""
    network = tiny_transformer("plain")
    for block in network.module.layers:  # type: ignore[union-attr]
        block.attention.__class__, block.attention.change = Weighing, change
    return network


@pytest.mark.parametrize("change", WEIGHTS.values(), ids=WEIGHTS)
def test_weights_stay_constants_behind_constant_steps(change: Callable[[Tensor], Tensor]) -> None:
    """CP-LRP gives values all of R whatever constants multiply or mix the weights: without biases, positions and class
    token maps sum to the logit, and where the steps change nothing they are the usual ones. Float64, 1e-6."""
    network, usual = weighing(change), tiny_transformer()
    for each in (network, usual):
        for name, parameter in each.module.named_parameters():
            if name.endswith(("bias", "token", "positions")):
                parameter.data.zero_()
    images, targets = random_images(4, 16).double(), several_targets()
    logits = network(network.normalise(images))
    found = attribute(EXACT["cp_lrp"], network, images, targets).values
    assert_close(found.sum((1, 2))[:, None], logits[targets.image, targets.label][:, None], CLOSE)
    if torch.allclose(logits, usual(usual.normalise(images))):
        assert_close(found, attribute(EXACT["cp_lrp"], usual, images, targets).values, CLOSE)


def test_cp_lrp_refuses_a_factor_that_is_a_softmaxs_in_part() -> None:
    """What is added to the weights takes relevance, and they do not: no rule says what the product hands to whom."""

    class Added(Attended):
        def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            scores = q @ k.mT
            return (scores.softmax(-1) + scores.relu()) @ v

    network, images, targets = tiny_transformer("plain"), random_images(4, 16).double(), several_targets()
    network.module.layers[0].attention.__class__ = Added  # type: ignore[index, union-attr]
    with pytest.raises(UnsupportedOp, match=r"output of a softmax in part.*cp_lrp.*attnlrp explains"):
        attribute(EXACT["cp_lrp"], network, images, targets)
    assert attribute(EXACT["attnlrp"], network, images, targets).values.isfinite().all()


# Invariants


@pytest.mark.parametrize("attention", ["attnlrp", "cp_lrp"])
def test_a_batch_is_its_images(attention: Attention) -> None:
    """Float64, 1e-10, of a method with its default stabilisers and of one with gamma in the patch convolution."""
    network, images, targets = tiny_transformer(), random_images(4, 16).double(), several_targets()
    for method in (LRP(Epsilon(), attention=attention), LRP(Epsilon(), first=Gamma(), attention=attention)):
        found = attribute(method, network, images, targets).values
        assert_close(found, attribute_alone(method, network, images, targets), 1e-10)


class Ledger:
    """What each kind of operation keeps to itself, and the relevance that arrives at all of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kept = dict[str, float]()
        for kind, handler in list(HANDLERS.items()):
            monkeypatch.setitem(HANDLERS, kind, partial(self._count, handler))

    def _count(
        self, handler: Callable[..., Relevances], table: RuleTable, op: Operation, relevance: Tensor, is_last: bool
    ) -> Relevances:
        found = handler(table, op, relevance, is_last)
        passed = sum(float(each.sum()) for each in found if each is not None)
        self.kept[op.kind] = self.kept.get(op.kind, 0) + float(relevance.sum()) - passed
        return found


@pytest.mark.parametrize("attention", ["attnlrp", "cp_lrp"])
def test_relevance_is_kept_or_counted(attention: Attention, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without biases, positions and class token all of the logit reaches the input but for what softmax keeps, the
    share of its expansion's bias; CP-LRP's is none, so its maps sum to the logit. Float64, 1e-9 of the logit."""
    network, images = tiny_transformer(), random_images(2, 16).double()
    for name, parameter in network.module.named_parameters():
        if name.endswith(("bias", "token", "positions")):
            parameter.data.zero_()
    ledger = Ledger(monkeypatch)
    tape = Tape.record(ForwardPass(network, images))
    start = torch.eye(5)[:2].double() * tape.logits.detach()
    found = tape.pull(EXACT[attention].table(), tape.logits, start, tape.inputs)
    softmax = ledger.kept.pop("softmax", 0)
    total = float(start.sum())
    assert abs(sum(ledger.kept.values())) <= 1e-9 * abs(total)
    assert abs(float(found.sum()) - total + softmax) <= 1e-9 * abs(total)
    assert (abs(softmax) > 1e-3 * abs(total)) == (attention == "attnlrp")


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["attnlrp", "cp_lrp"])
@pytest.mark.parametrize("name", ["vit_b_16", "swin_t", "swin_v2_t", "convnext_tiny", "maxvit_t"])
def test_relevance_is_kept_or_counted_on_torchvisions_networks(
    name: str, attention: Attention, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unmodified, random weights and biases, float64, one image: the logit is what arrives at the input and what is
    recorded as kept (biases, positions, softmax), 1e-6; a batch of 2 is 2 batches of 1, 1e-6."""
    from torchvision import models

    network = Network(normal(models.get_model(name, weights=None, num_classes=5), 0.02), (0.5,) * 3, (0.25,) * 3)
    for parameter_name, parameter in network.module.named_parameters():
        if parameter_name == "class_token":  # what is concatenated keeps relevance that no operation counts
            parameter.data.zero_()
    network.to(dtype=torch.float64)
    images = random_images(2, 224).double()
    ledger = Ledger(monkeypatch)
    tape, table = Tape.record(ForwardPass(network, images)), LRP(Epsilon(), attention=attention).table()
    start = torch.eye(5)[:2].double() * tape.logits.detach()
    found = tape.pull(table, tape.logits, start, tape.inputs)
    scale = float(start.abs().sum()) + sum(map(abs, ledger.kept.values()))
    assert abs(float(start.sum()) - float(found.sum()) - sum(ledger.kept.values())) <= 1e-6 * scale
    alone = Tape.record(ForwardPass(network, images[1:]))
    assert_close(found[1:], alone.pull(table, alone.logits, start[1:], alone.inputs), 1e-6)


# Who refuses what


class Normed(nn.Module):
    """Two convolutions with a layer-norm of channels between them, as ConvNeXt has it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 6, 3), nn.LayerNorm(6)
        self.second = nn.Conv2d(6, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.first(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return F.gelu(self.second(y)).mean((2, 3))


@pytest.mark.parametrize("rule", [Epsilon(1e-12), Gamma(0, 1e-12)], ids=["epsilon", "gamma"])
def test_layer_norm_has_a_rule_beside_epsilon_and_gamma(rule: Epsilon | Gamma) -> None:
    """Its size a constant, its mean part of it: x times the gradient of such a network, float64, 1e-6."""
    module = normal(Normed())
    network, images = Network(module, (0.5,) * 3, (0.25,) * 3).to(dtype=torch.float64), random_images(1, 8).double()
    leaf = network.normalise(images).requires_grad_()
    y = _norm(module.first(leaf).permute(0, 2, 3, 1), module.norm).permute(0, 3, 1, 2)
    logit = _passing(F.gelu, module.second(y)).mean((2, 3))[0, 1]
    expected = (torch.autograd.grad(logit, leaf)[0] * leaf).sum(1)
    found = attribute(LRP(rule, stabiliser=1e-12), network, images, Targets(torch.tensor([0]), torch.tensor([1])))
    assert_close(found.values, expected, CLOSE)


REFUSING = {
    "one-signed rules": (LRP(AlphaBeta(), attention="attnlrp"), "layer_norm", "for which LRP .AlphaBeta. has no rule"),
    "RAP": (RAP(), "layer_norm", "for which RAP has no rule"),
    "excitation": (ExcitationBackprop(), "layer_norm", "has no rule: attnlrp and cp_lrp explain transformers"),
    "epsilon without a choice": (LRP(Epsilon()), "matmul", "multiplies two activations .* has no rule"),
}


@pytest.mark.parametrize(("method", "name", "why"), REFUSING.values(), ids=REFUSING)
def test_others_refuse_transformers_by_name(method: Attributor, name: str, why: str) -> None:
    """The first operation on the way back without a rule, and which methods have one."""
    targets = Targets(torch.tensor([0]), torch.tensor([1]))
    with pytest.raises(UnsupportedOp, match=why) as caught:
        attribute(method, tiny_transformer(), random_images(1, 16).double(), targets)
    assert caught.value.name == name


def test_cp_lrp_names_the_softmax_that_a_network_ends_in() -> None:
    """A constant to CP-LRP, so nothing passes."""
    module = nn.Sequential(tiny_transformer().module, nn.Softmax(-1)).eval()
    network = Network(module, (0.5,) * 3, (0.25,) * 3).to(dtype=torch.float64)
    targets = Targets(torch.tensor([0]), torch.tensor([1]))
    with pytest.raises(ValueError, match=r"softmax in cp_lrp.*ends in a sigmoid or softmax, explain the part before"):
        attribute(EXACT["cp_lrp"], network, random_images(1, 16).double(), targets)


# Tokens first


class First(nn.Module):
    """Attention of tokens [N,B,D], or [B,N,D], with their mean as the logits."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.patches, self.batch_first = nn.Conv2d(3, 8, 4, 4), batch_first
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first, norm_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2)
        x = self.block(x.permute(0, 2, 1) if self.batch_first else x.permute(2, 0, 1))
        return x.mean(1 if self.batch_first else 0)


@pytest.mark.parametrize("count", [1, 3, 16])
@pytest.mark.parametrize("method", [*EXACT.values(), TransformerAttribution()], ids=[*EXACT, "transformer_attribution"])
def test_tokens_first_are_refused_by_name(method: Attributor, count: int) -> None:
    """Stabilisers and sums of an image would be those of a token of all images; 16 images have as many tokens each, 1
    has nothing that sizes could tell. With the batch first each is explained, and alone alike (float64, 1e-10)."""
    targets, images = Targets(torch.arange(count), torch.arange(count) % 5), random_images(count, 16).double()
    refused, usual = (
        Network(normal(First(batch_first)), (0.5,) * 3, (0.25,) * 3).to(dtype=torch.float64)
        for batch_first in (False, True)
    )
    with pytest.raises(ValueError, match=r"do not have the images of the batch in dimension 0 .*batch_first=True"):
        attribute(method, refused, images, targets)
    found = attribute(method, usual, images, targets).values
    assert_close(found, attribute_alone(method, usual, images, targets), 1e-10)


MOVES: dict[str, tuple[Callable[[Tensor], Tensor], int | None]] = {
    "permuted": (lambda x: x.permute(2, 0, 1), -2),
    "permuted by a list": (lambda x: torch.permute(x, [0, 2, 1]), -3),
    "back": (lambda x: x.permute(2, 0, 1).transpose(0, 1), -3),
    "queries": (lambda x: x.unflatten(-1, (3, -1)).permute(2, 0, 1, 3), -3),
    "first query": (lambda x: x.unflatten(-1, (3, -1)).permute(2, 0, 1, 3)[0], -3),
    "unbound": (lambda x: x.unflatten(-1, (3, -1)).permute(2, 0, 1, 3).unbind(0)[1], -3),
    "heads in rows": (lambda x: x.view(len(x), 4, 3, -1).transpose(1, 2).reshape(3 * len(x), 4, -1), -3),
    "heads out of rows": (lambda x: x.reshape(2 * len(x), 2, -1).view(len(x), 2, 2, -1), -4),
    "one token": (lambda x: x[:, 0], -2),
    "tokens by index": (lambda x: x[:, torch.tensor([0, 2])], -3),
    "images by index": (lambda x: x[torch.arange(len(x))], None),
    "all as one": (lambda x: x.permute(1, 0, 2).reshape(1, -1), None),
    "mean": (lambda x: x.mean(1), -2),
    "mean of images": (lambda x: x.mean(0), None),
    "einsum": (lambda x: torch.einsum("bid,bjd->jbi", x, x), -2),
    "products": (lambda x: x @ x.mT, -3),
    "stacked": (lambda x: torch.stack([x, x], 1), -4),
    "joined": (lambda x: torch.cat([x, x], 1), -3),
}


@pytest.mark.parametrize(("move", "place"), MOVES.values(), ids=MOVES)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_where_images_lie(move: Callable[[Tensor], Tensor], place: int | None, count: int) -> None:
    """Of [B,4 tokens,6], by hand, with one image, two and as many as tokens."""
    state = State()
    state.images = count
    mode, x = RelevanceMode(state, nn.Identity(), "fold"), torch.rand(count, 4, 6).requires_grad_()
    state.set_place(x, -3)
    with mode:
        value = move(x)
    if place is None and count == 1:
        assert state.place_of(value) != -value.ndim or len(value) == 1
    else:
        assert state.place_of(value) == place


@pytest.mark.parametrize("takes_one_sign", [True, False])
def test_the_alarm_advises_what_the_network_takes(takes_one_sign: bool) -> None:
    """Rules of one sign refuse layer-norms, so they are not advised for a network that has them."""
    peaks = [Peak("the input", torch.tensor([2e6]))]
    with pytest.raises(ValueError, match=r"more than 1e\+06 times .* larger rule.epsilon or stabiliser") as caught:
        check_size(peaks, torch.ones(1), "LRP", False, takes_one_sign)
    assert ("lrp_alpha1beta0" in str(caught.value)) == takes_one_sign
