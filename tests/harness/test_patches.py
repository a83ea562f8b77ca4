"""Registers and class tokens behind the patches or among them, patches in another order: refused, no shifted map."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.network import Network
from assay.harness.patches import digits
from assay.harness.types import Attributor
from assay.methods.attribution.attention import AttentionRollout, GenericAttention, TransformerAttribution
from assay.methods.attribution.cam import GradCAM
from assay.methods.attribution.legrad import LeGrad
from conftest import assert_close, attribute, random_images
from torch import Tensor
from transformer_toys import Transformer, normal

Order = Callable[[Tensor, Tensor], Tensor]  # patches [B,16,D] and nine other tokens [B,9,D] -> tokens
PAIRS = Targets(torch.tensor([0, 1]), torch.tensor([2, 4]))
METHODS: list[Attributor] = [AttentionRollout(), GenericAttention(), TransformerAttribution(), LeGrad()]


class Ordered(Transformer):
    """`Transformer` whose tokens are put together by `order`; the logits read the first of them."""

    def __init__(self, order: Order) -> None:
        super().__init__("fused")
        self.order, self.others = order, torch.nn.Parameter(torch.zeros(1, 9, 8))

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = self.order(patches, self.others.expand(x.shape[0], -1, -1))
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens)[:, 0])


def network(order: Order) -> Network:
    return Network(normal(Ordered(order)), (0.5,) * 3, (0.25,) * 3).to(dtype=torch.float64)


WRONG: dict[str, Order] = {
    "registers last": lambda p, o: torch.cat([o[:, :1], p, o[:, 1:4]], 1),
    "registers of the image last": lambda p, o: torch.cat([o[:, :1], p, o[:, 1:3] + p.mean(1, keepdim=True)], 1),
    "a token in the middle": lambda p, o: torch.cat([o[:, :1], p[:, :8], o[:, 1:2], p[:, 8:]], 1),
    "halves of the patches exchanged": lambda p, o: torch.cat([o[:, :1], p[:, 8:], p[:, :8]], 1),
    "nine before, which make it 5 x 5": lambda p, o: torch.cat([o, p], 1),
}


@pytest.mark.parametrize("kind", WRONG)
def test_tokens_that_do_not_follow_the_image_are_no_map(kind: str) -> None:
    """By itself the layer is none; called tokens, it is refused; so are the methods that read attention."""
    made, images = network(WRONG[kind]), random_images(2, 16).double()
    with pytest.raises(ValueError, match=r"layer 'norm' gives \[2, \d+, 8\]"):
        attribute(GradCAM("norm"), made, images, PAIRS)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"layout tokens: .*(behind|no grid)"):
            attribute(GradCAM("norm", layout="tokens"), made, images, PAIRS)
    for method in METHODS:
        with pytest.raises(ValueError, match="class and other tokens must come first"):
            attribute(method, made, images, PAIRS)


RIGHT: dict[str, tuple[Order, int]] = {
    "class token": (lambda p, o: torch.cat([o[:, :1], p], 1), 1),
    "registers behind the class token": (lambda p, o: torch.cat([o[:, :5], p], 1), 5),
    "put between later": (
        lambda p, o: (lambda x: torch.cat([x[:, :1], o[:, 1:5], x[:, 1:]], 1))(torch.cat([o[:, :1], p], 1)),
        5,
    ),
    "a class token of the image": (lambda p, o: torch.cat([o[:, :1] + p.mean(1, keepdim=True), p], 1), 1),
}


@pytest.mark.parametrize("kind", RIGHT)
def test_others_before_the_patches_are_left_out(kind: str) -> None:
    """The map is the last 16 tokens, row by row, bit by bit; the attention methods have one of 4 x 4."""
    order, others = RIGHT[kind]
    made, images = network(order), random_images(2, 16).double()
    kept: list[Tensor] = []
    handle = made.module.get_submodule("norm").register_forward_hook(lambda _m, _i, output: kept.append(output))
    made(made.normalise(images))
    handle.remove()
    patches = kept[0][:, others:].transpose(1, 2).unflatten(2, (4, 4))
    assert_close(ForwardPass(made, images, ("norm",)).activation("norm"), patches, 1e-12)
    assert attribute(GradCAM("norm"), made, images, PAIRS).values.shape == (2, 4, 4)
    for method in METHODS:
        assert attribute(method, made, images, PAIRS).values.shape == (2, 4, 4)


def test_padding_behind_is_no_patch() -> None:
    """Zeros that no join puts there; the engine of the attention methods knows no padding of tokens."""
    made = network(lambda p, o: F.pad(torch.cat([o[:, :1], p], 1), (0, 0, 0, 2)))
    with pytest.raises(ValueError, match=r"layout tokens: the last tokens of 'norm' .* do not follow it"):
        attribute(GradCAM("norm", layout="tokens"), made, random_images(2, 16).double(), PAIRS)


def patches_of(index: Tensor) -> Order:
    return lambda p, o: torch.cat([o[:, :1], p[:, index.flatten()]], 1)


def join(p: Tensor, o: Tensor) -> Tensor:
    return torch.cat([o[:, :1], p], 1)


NUMBERS = torch.arange(16).view(4, 4)
SHUFFLED: dict[str, Order] = {
    "by columns": patches_of(NUMBERS.T),
    "by windows, as in Hiera": patches_of(NUMBERS.view(2, 2, 2, 2).permute(0, 2, 1, 3)),
    "all but the ends backwards": patches_of(
        torch.cat([NUMBERS.flatten()[:1], torch.arange(14, 0, -1), NUMBERS[-1, -1:]])
    ),
    "two in the middle exchanged": patches_of(torch.tensor([*range(6), 9, 7, 8, 6, *range(10, 16)])),
    "joined, then rolled": lambda p, o: join(p, o).roll(-1, 1),
    "joined, then halves exchanged": lambda p, o: join(p, o)[:, [0, *range(9, 17), *range(1, 9)]],
    "joined, then flipped": lambda p, o: torch.cat([o[:, :1], join(p, o)[:, 1:].flip(1)], 1),
}


@pytest.mark.parametrize("kind", SHUFFLED)
def test_any_other_order_is_no_map(kind: str) -> None:
    """Wherever it is made before the first attention."""
    made, images = network(SHUFFLED[kind]), random_images(2, 16).double()
    for cam in (GradCAM("norm"), GradCAM("norm", layout="tokens")):
        with pytest.raises(ValueError, match=r"layer 'norm' gives \[2, 17, 8\]|layout tokens: .*behind"):
            attribute(cam, made, images, PAIRS)
    for method in METHODS:
        with pytest.raises(ValueError, match="class and other tokens must come first"):
            attribute(method, made, images, PAIRS)


class Placed(Ordered):
    """Positions that are computed, and not only read, before the tokens are joined: as many rows, of no image."""

    def forward(self, x: Tensor) -> Tensor:
        positions = torch.cat([self.places[:, :1], self.places[:, 1:]], 1) * 1.0
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = join(patches, self.others.expand(x.shape[0], -1, -1)) + positions
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens)[:, 0])

    def __init__(self) -> None:
        super().__init__(join)
        self.places = torch.nn.Parameter(torch.zeros(1, 17, 8))


def test_positions_are_no_tokens_of_the_image() -> None:
    made = Network(normal(Placed()), (0.5,) * 3, (0.25,) * 3).to(dtype=torch.float64)
    assert attribute(GradCAM("norm"), made, random_images(2, 16).double(), PAIRS).values.shape == (2, 4, 4)


def test_digits_tell_any_two_cells_apart() -> None:
    """Of 5 cells: 1 and 3; 2 and 3; 4; and in turn all others. Each pair differs in both directions."""
    found = digits(5)
    assert [row.nonzero().flatten().tolist() for row in found[:3]] == [[1, 3], [2, 3], [4]]
    assert torch.equal(found[3:], ~found[:3])
    found = digits(196)
    assert all((found[:, a] & ~found[:, b]).any() for a in range(196) for b in range(196) if a != b)


@pytest.mark.parametrize(("side", "patch"), [(64, 16), (64, 13), (237, 14), (225, 14), (30, 7), (9, 5), (67, 4)])
def test_each_cell_has_a_pixel_of_its_patch(side: int, patch: int) -> None:
    """Also where patches leave a rest of the image out; cells by nearest neighbours, as they are changed."""
    count = side // patch
    cells = F.interpolate(torch.arange(count)[None, None, :].float(), side, mode="nearest")[0, 0].long()
    assert all((cells[number * patch : (number + 1) * patch] == number).any() for number in range(count))
