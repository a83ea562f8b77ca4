"""Heads that are no one linear layer at the end: read off the graph where the logits are affine, named where not."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from assay.harness import affine
from assay.harness.detectors.features import head_of, linear_head, penultimate_of
from assay.harness.forward import ForwardPass
from assay.harness.heads import Head
from assay.harness.network import Network
from conftest import random_images
from torch import Tensor, fx, nn

End = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    """A convolution and ReLU, whose map [B,6,h,w] an end makes logits of, with whatever layers it takes."""

    def __init__(self, end: End) -> None:
        super().__init__()
        self.conv, self.end = nn.Conv2d(3, 6, 3), end
        self.fc, self.second, self.free = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(6, 4, bias=False)
        self.point, self.wide = nn.Conv2d(6, 4, 1), nn.Conv2d(6, 4, 3)
        self.pool, self.norm, self.drop = nn.AdaptiveAvgPool2d(1), nn.BatchNorm1d(4), nn.Dropout()
        self.matrix, self.scale = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.tensor(2.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self, self.conv(x).relu())


def network(end: End) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Net(end)
        module.norm.running_mean = torch.randn(4)
        module.norm.running_var = torch.rand(4) + 0.5
        return Network(module, (0,) * 3, (1,) * 3).to(dtype=torch.float64)


def mean(values: Tensor) -> Tensor:
    return values.mean((2, 3))


def tokens(a: Tensor) -> Tensor:
    """[B,18,6]: a class and a distillation token, then patches of 2x2 pixels of images 8x8, normed, each sees all."""
    patches = F.adaptive_avg_pool2d(a, 4).flatten(2).transpose(1, 2)
    first = torch.arange(12, dtype=a.dtype).sin().view(1, 2, 6).expand(a.size(0), -1, -1)
    whole = torch.cat([first, patches], 1)
    return F.layer_norm(whole * whole.mean(1, keepdim=True).exp(), (6,))


def two_tokens(a: Tensor) -> Tensor:
    return tokens(a)[:, :2].flatten(1)


def cosine(net: Net, a: Tensor) -> Tensor:
    return net.scale * F.linear(F.normalize(mean(a)), F.normalize(net.matrix))


# End -> the penultimate features that it has, of the map.
AFFINE: dict[str, tuple[End, Callable[[Tensor], Tensor]]] = {
    "no bias": (lambda net, a: net.free(mean(a)), mean),
    "temperature": (lambda net, a: net.fc(mean(a)) / net.scale, mean),
    "batch-norm behind": (lambda net, a: net.norm(net.fc(mean(a))), mean),
    "convolution behind the pooling": (lambda net, a: net.point(net.pool(a)).flatten(1), mean),
    "convolution before the pooling": (lambda net, a: net.pool(net.point(a)).flatten(1), mean),
    "a count read before": (lambda net, a: net.point(net.pool(a)).view(a.size(0), -1), mean),
    "a count and classes": (lambda net, a: net.point(net.pool(a)).view(a.shape[0], 4), mean),
    "a fixed number of places": (lambda net, a: net.point(a).view(-1, 4, 36).mean(2), mean),
    "convolution, sum": (lambda net, a: net.point(a).sum((2, 3)), mean),
    "convolution, mean": (lambda net, a: net.point(a).mean((2, 3)) / 2, mean),
    "convolution of the map's size": (
        lambda net, a: net.wide(F.adaptive_avg_pool2d(a, 1).expand(-1, -1, 3, 3)).flatten(1),
        mean,
    ),
    "two heads added": (lambda net, a: (net.fc(mean(a)) + net.second(mean(a))) / 2, mean),
    "two heads of one value": (lambda net, a: (lambda f: (net.fc(f) + net.second(f)) / 2)(mean(a)), mean),
    "two heads joined": (lambda net, a: (lambda f: torch.cat([net.fc(f), net.second(f)], 1))(mean(a)), mean),
    "two tokens": (lambda net, a: (lambda t: (net.fc(t[:, 0]) + net.second(t[:, 1])) / 2)(tokens(a)), two_tokens),
    "two tokens, one dropout": (
        lambda net, a: (lambda t: net.fc(net.drop(t[:, 0])) + net.second(net.drop(t[:, 1])))(tokens(a)),
        two_tokens,
    ),
    "two poolings": (
        lambda net, a: net.fc(mean(a)) - 2 * net.second(a.amax((2, 3))),
        lambda a: torch.cat([mean(a), a.amax((2, 3))], 1),
    ),
    "half of the map, and all": (
        lambda net, a: net.fc(a[:, :, :3].mean((2, 3))) + net.second(mean(a)),
        lambda a: torch.cat([a[:, :, :3].mean((2, 3)), mean(a)], 1),
    ),
    "a part of the features added": (lambda net, a: (lambda f: net.fc(f) + f[:, :4])(mean(a)), mean),
    "cosine": (cosine, lambda a: F.normalize(mean(a))),
    "normalised weights": (lambda net, a: F.linear(mean(a), F.normalize(net.matrix)), mean),
    "matrix product": (lambda net, a: mean(a) @ net.matrix.t() + net.scale, mean),
    "functional convolution": (lambda net, a: F.conv2d(net.pool(a), net.matrix[:, :, None, None]).flatten(1), mean),
}


@pytest.mark.parametrize("kind", AFFINE)
def test_affine_heads_are_read(kind: str) -> None:
    """Weight and bias make the network's logits of the features, of images that were not looked at; float64, 1e-12."""
    end, features = AFFINE[kind]
    made = network(end)
    head, images = linear_head(made, random_images(1, 8).double()[0]), random_images(5, 8).double() ** 2
    assert head is not None
    forward = ForwardPass(made, images, penultimate=True)
    expected = features(made.module.get_submodule("conv")(images).relu())
    assert torch.allclose(forward.penultimate, expected, atol=1e-12)
    assert torch.allclose(head(forward.penultimate), made.module(images), atol=1e-12, rtol=1e-12)
    assert torch.equal(forward.logits, made.module(images)) or torch.allclose(forward.logits, made.module(images))


OTHERS: dict[str, tuple[End, str | None]] = {
    "softmax": (lambda net, a: net.fc(mean(a)).softmax(1), "softmax"),
    "log_softmax": (lambda net, a: F.log_softmax(net.fc(mean(a)), 1), "log_softmax"),
    "ReLU behind a convolution": (lambda net, a: net.pool(net.point(a).relu()).flatten(1), "relu"),
    "a gate": (lambda net, a: (lambda f: net.fc(f) * f.mean(1, keepdim=True))(mean(a)), "mul"),
    "a cosine of the weights alone": (
        lambda net, a: F.linear(mean(a), net.matrix) / mean(a).norm(dim=1)[:, None],
        "truediv",
    ),
    "a kernel that sees neighbours": (lambda net, a: net.pool(net.wide(a)).flatten(1), "relu"),
    "two tokens, one a gate": (
        lambda net, a: (lambda t: net.fc(t[:, 0]) * net.fc(t[:, 1]).sigmoid())(tokens(a)),
        "mul",
    ),
    "a token beside one that is no affine function": (
        lambda net, a: (lambda t: net.fc(t[:, 0]) + net.second(t[:, 1]).relu())(tokens(a)),
        "relu",
    ),
    "all tokens": (lambda net, a: net.fc(tokens(a)).mean(1), "layer_norm"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_not_a_function_of_pooled_features_has_no_head(kind: str) -> None:
    """No head; and the last operation that is not affine is named."""
    end, last = OTHERS[kind]
    made = network(end)
    assert linear_head(made, random_images(1, 8).double()[0]) is None
    assert made.obstacle() == last


def test_maps_of_which_the_mean_does_not_make_the_logits_are_refused_batch_by_batch() -> None:
    """A pooling whose cells weigh differently on larger images (7 / 4 is not whole): found on that batch, too."""
    made = network(lambda net, a: F.adaptive_avg_pool2d(net.point(a), 4).mean((2, 3)))
    assert linear_head(made, random_images(1, 6).double()[0]) is not None  # a map of 4x4
    forward = ForwardPass(made, random_images(2, 9).double(), penultimate=True)
    with pytest.raises(
        ValueError, match="no penultimate features: the mean of relu over space does not make the logits"
    ):
        _ = forward.penultimate


def test_a_sum_over_the_map_has_weights_of_each_size() -> None:
    """Those of 6 x 6 places are 36 times the convolution's, of 4 x 4 16 times; a head of one size is refused at
    another, where it makes no logits."""
    made = network(lambda net, a: net.point(a).sum((2, 3)))
    point = made.module.get_submodule("point")
    assert isinstance(point, nn.Conv2d)
    heads = {size: linear_head(made, random_images(1, size).double()[0]) for size in (8, 6, 8)}
    for size, head in heads.items():
        assert head is not None
        assert torch.allclose(head.weight, (size - 2) ** 2 * point.weight.flatten(1), rtol=1e-12)
        forward = ForwardPass(made, random_images(2, size).double(), penultimate=True)
        assert torch.equal(penultimate_of(forward, head), forward.penultimate)
        other = heads[14 - size]
        assert other is not None
        with pytest.raises(ValueError, match=rf"images \[{size}, {size}\] have other weights .*a sum over the map"):
            penultimate_of(forward, other)


def test_weights_are_found_once_a_network_and_at_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three batches of two sizes: the units go through the head once, as maps of one place; moved, once more."""
    shapes: list[torch.Size] = []
    original = affine._logits

    def seen(head: Head, exact: fx.GraphModule, maps: Tensor) -> Tensor:
        shapes.append(maps.shape)
        return original(head, exact, maps)

    monkeypatch.setattr(affine, "_logits", seen)
    made = network(AFFINE["convolution before the pooling"][0])
    for size in (8, 8, 11):
        assert head_of(ForwardPass(made, random_images(3, size).double(), penultimate=True)) is not None
    assert shapes == [(7, 6, 1, 1)]
    made.to(dtype=torch.float32)
    assert linear_head(made, random_images(1, 8)[0]) is not None
    assert shapes == [(7, 6, 1, 1)] * 2


def test_units_in_parts_have_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two units at a time, where the network counts its images: the same to the bit."""
    whole = linear_head(network(AFFINE["a count read before"][0]), random_images(1, 8).double()[0])
    monkeypatch.setattr(affine, "NUMBERS", 12)
    parted = linear_head(network(AFFINE["a count read before"][0]), random_images(1, 8).double()[0])
    assert whole is not None and parted is not None
    assert torch.equal(whole.weight, parted.weight) and torch.equal(whole.bias, parted.bias)


def test_float32_weights_are_exact() -> None:
    """Found in float64: a 1x1 convolution's own weights and bias, to the last bit of float32."""
    made = network(AFFINE["convolution behind the pooling"][0]).to(dtype=torch.float32)
    head, point = linear_head(made, random_images(1, 8)[0]), made.module.get_submodule("point")
    assert head is not None and isinstance(point, nn.Conv2d) and point.bias is not None
    assert torch.allclose(head.weight, point.weight.flatten(1), rtol=1e-7, atol=0)
    assert torch.allclose(head.bias, point.bias, rtol=1e-7, atol=0)
