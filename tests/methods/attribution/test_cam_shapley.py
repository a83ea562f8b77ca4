"""Ablation-, SHAP-, KSHAP- and LIME-CAM, and the shortcuts through heads that they share.

Exact answers come from all 2^K coalitions of a head with few channels, run one by one. Tolerances: 1e-10 in float64,
1e-5 in float32, relative to the largest coefficient; what is sampled says its own.
"""

from itertools import pairwise, permutations
from math import comb

import numpy as np
import pytest
import torch
from assay.harness.build import build
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.network import Network
from assay.harness.overrides import compose_config
from assay.harness.types import Attributor, Batch
from assay.methods.attribution.cam import GradCAM
from assay.methods.attribution.cam_ablation import AblationCAM
from assay.methods.attribution.heads import Additive, Blocks, Coalitions, Runs, games
from assay.methods.attribution.shapley import KernelShapCAM, LimeCAM, ShapCAM, kernel_shap, lasso, of_kernel_sizes
from conftest import (
    FEW_TARGETS,
    Known,
    assert_close,
    assert_nothing_left,
    attribute,
    attribute_alone,
    forward_pass,
    golden,
    known,
    random_images,
    several_targets,
    torchvision_module,
)
from torch import Tensor, nn

DOUBLE, SINGLE = 1e-10, 1e-5


class SmallHead(nn.Module):
    """Eight channels, a max-pool, and two linear layers with a ReLU between: 256 coalitions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.pool = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
        self.classifier = nn.Sequential(nn.Linear(8 * 4, 10), nn.ReLU(), nn.Dropout(), nn.Linear(10, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.pool(self.relu(self.conv(x))), 1))


class Gated(nn.Module):
    """A head that is no chain: the channels' mean gates them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.fc = nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv(x))
        return self.fc((x * x.mean((2, 3), keepdim=True).sigmoid()).mean((2, 3)))


class Repeated(SmallHead):
    """A head that reads one value twice between its linear layers."""

    def forward(self, x: Tensor) -> Tensor:
        first, _, _, last = self.classifier
        h = first(torch.flatten(self.pool(self.relu(self.conv(x))), 1))
        h = self.join(h)
        return last(h)

    def join(self, h: Tensor) -> Tensor:
        return h * h


class Doubled(Repeated):
    """The same with a sum."""

    def join(self, h: Tensor) -> Tensor:
        return h + h


class Squared(Repeated):
    """The same with the second operand by its name."""

    def join(self, h: Tensor) -> Tensor:
        return torch.mul(h, other=h)


def small(module: type[nn.Module] = SmallHead) -> tuple[Network, Tensor, Targets]:
    """The network in float64, two images 4x4, and three pairs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = Network(module(), (0.5,) * 3, (0.2,) * 3).to(dtype=torch.float64)
    targets = Targets(torch.tensor([1, 0, 1]), torch.tensor([0, 2, 1]))
    return network, random_images(2, 4).double(), targets


def subsets(channels: int) -> Tensor:
    """All masks [2^K,K] in float64."""
    return (torch.arange(2**channels)[:, None] >> torch.arange(channels) & 1).double()


def by_running(network: Network, images: Tensor, targets: Targets, masks: Tensor) -> Tensor:
    """The logit of each pair under each mask, by running the head: [S,P]."""
    forward = forward_pass(network, images, GradCAM("relu"))
    activation, head = forward.activation("relu"), forward.head("relu")
    with torch.no_grad():
        found = [
            head(masks[:, :, None, None] * activation[image], torch.full((len(masks),), image))[:, label]
            for image, label in zip(targets.image.tolist(), targets.label.tolist(), strict=True)
        ]
    return torch.stack(found, 1)


def exact_shapley(values: Tensor, channels: int) -> Tensor:
    """Eq. 4 of the paper, from the values [2^K,P] of all coalitions in binary order: [P,K]."""
    sizes, made = subsets(channels).sum(1), []
    for k in range(channels):
        without = torch.tensor([number for number in range(2**channels) if not number >> k & 1])
        weight = torch.tensor(
            [1 / (channels * comb(channels - 1, int(s))) for s in sizes[without]], dtype=torch.float64
        )
        made.append(weight @ (values[without + 2**k] - values[without]))
    return torch.stack(made, 1)


def coalitions(method: Attributor, network: Network, images: Tensor, targets: Targets) -> list[Coalitions]:
    """Of each image, in order."""
    forward = forward_pass(network, images, method, 16)
    layer = method.needs().layers[0]
    with torch.no_grad():
        return [game.coalitions for game in games(forward, layer, forward.activation(layer), targets)]


# Against all coalitions


@pytest.mark.parametrize(
    ("module", "kind"),
    [(SmallHead, Blocks), (Gated, Runs), (Repeated, Runs), (Doubled, Runs), (Squared, Runs)],
)
def test_coalitions_equal_running_the_head(module: type[nn.Module], kind: type) -> None:
    """Every mask, every order of five, and each channel left out, against the head run on masked activations; 1e-10."""
    network, images, targets = small(module)
    made = coalitions(GradCAM("relu"), network, images, targets)
    assert [type(each) for each in made] == [kind, kind]
    channels = made[0].channels
    expected = by_running(network, images, targets, subsets(channels))
    assert_close(made[0].logits(subsets(channels)), expected[:, [1]], DOUBLE)
    assert_close(made[1].logits(subsets(channels)), expected[:, [0, 2]], DOUBLE)
    whole = 2**channels - 1
    assert_close(made[1].without_each(), expected[[whole - 2**k for k in range(channels)]][:, [0, 2]], DOUBLE)
    orders = torch.stack([torch.randperm(channels, generator=torch.Generator().manual_seed(s)) for s in range(5)])
    for order, entering in zip(orders.tolist(), made[1].entering(orders), strict=True):
        numbers = np.cumsum([2**k for k in order])
        assert_close(entering, expected[numbers][:, [0, 2]], DOUBLE)


def test_all_permutations_give_the_shapley_value() -> None:
    """The mean over all 6! orders of what a channel adds is Eq. 4's sum over coalitions; 1e-10."""
    network, images, targets = small(Gated)
    (_, made) = coalitions(GradCAM("relu"), network, images, targets)
    values = by_running(network, images, targets, subsets(6))[:, [0, 2]]
    orders = torch.tensor(list(permutations(range(6))))
    assert_close(made.added(orders).mean(0).T, exact_shapley(values, 6), DOUBLE)


def test_shap_cam_nears_the_shapley_value() -> None:
    """2000 orders: cosine above .999 to the value from all coalitions, and the sum is F(A) - F(0) to 1e-10."""
    network, images, targets = small()
    values = by_running(network, images, targets, subsets(8))
    result = attribute(ShapCAM("relu", permutations=2000), network, images, targets).coefficients
    assert result is not None
    assert_close(result.sum(1)[:, None], (values[-1] - values[0])[:, None], DOUBLE)
    assert torch.cosine_similarity(result, exact_shapley(values, 8), 1).min() > 0.999


def test_kernel_shap_of_all_coalitions_is_the_shapley_value() -> None:
    """Least squares with the kernel's weights over all coalitions but the empty and the whole one; 1e-10."""
    network, images, targets = small()
    masks, values = subsets(8), by_running(network, images, targets, subsets(8))
    sizes = masks.sum(1)[1:-1]
    weights = torch.tensor([7 / (comb(8, int(s)) * s * (8 - s)) for s in sizes], dtype=torch.float64)
    found = kernel_shap(masks[1:-1], values[1:-1] - values[0], values[-1] - values[0], weights)
    assert_close(found.T, exact_shapley(values, 8), DOUBLE)


@pytest.mark.parametrize("count", [1, 16, 64, 640])
def test_kernel_shap_singles_no_channel_out(count: int) -> None:
    """K = 64, with fewer coalitions than channels and with more: in a symmetric game all have 1 / K, and in another
    game channels in another order have the same values in that order; float64, 1e-10."""
    generator = torch.Generator().manual_seed(0)
    masks = of_kernel_sizes(torch.rand(count, 65, generator=generator)).double()
    even = kernel_shap(masks, masks.mean(1, keepdim=True), torch.ones(1))
    assert_close(even.T, torch.full((1, 64), 1 / 64), DOUBLE)
    gains, total = torch.rand(count, 2, generator=generator), torch.tensor([0.5, 2])
    found, order = kernel_shap(masks, gains, total), torch.randperm(64, generator=generator)
    assert_close(kernel_shap(masks[:, order], gains, total).T, found[order].T, DOUBLE)
    assert_close(found.sum(0)[:, None], total[:, None], DOUBLE)


def test_kernel_shap_of_too_few_coalitions_has_the_least_norm() -> None:
    """N = 5 of K = 8: the pseudo-inverse of all constraints, Sum alpha = total among them, gives the solution of least
    norm; float64, 1e-10. (The masks of this seed leave the last channel undetermined, as not all do.)"""
    generator = torch.Generator().manual_seed(6)
    masks = of_kernel_sizes(torch.rand(5, 9, generator=generator)).double()
    truth = torch.randn(8, 1, generator=generator, dtype=torch.float64)
    constraints = torch.cat([masks, torch.ones(1, 8).double()])
    expected = torch.linalg.pinv(constraints) @ (constraints @ truth)
    assert_close(kernel_shap(masks, masks @ truth, truth.sum(0)).T, expected.T, DOUBLE)


@pytest.mark.parametrize("make", [KernelShapCAM, LimeCAM])
def test_at_least_one_coalition(make: type[KernelShapCAM] | type[LimeCAM]) -> None:
    """.01 of 8 channels is rounded up to one coalition: finite coefficients. KernelSHAP's still sum to F(A) - F(0),
    1e-10; those of a Lasso on one row are 0."""
    network, images, targets = small()
    result = attribute(make("relu", samples_per_channel=0.01), network, images, targets).coefficients
    assert result is not None
    ends = by_running(network, images, targets, subsets(8)[[0, -1]])
    expected = ends[1] - ends[0] if make is KernelShapCAM else torch.zeros(3)
    assert_close(result.sum(1)[:, None], expected[:, None], DOUBLE)


def test_kernel_shap_cam_nears_the_shapley_value() -> None:
    """4000 coalitions drawn from the kernel: cosine above .999; the sum is F(A) - F(0) to 1e-10."""
    network, images, targets = small()
    values = by_running(network, images, targets, subsets(8))
    result = attribute(KernelShapCAM("relu", samples_per_channel=500), network, images, targets).coefficients
    assert result is not None
    assert_close(result.sum(1)[:, None], (values[-1] - values[0])[:, None], DOUBLE)
    assert torch.cosine_similarity(result, exact_shapley(values, 8), 1).min() > 0.999


def test_sizes_are_drawn_from_the_kernel() -> None:
    """K = 6: P(s) ~ 1/5, 1/8, 1/9, 1/8, 1/5; 20,000 draws agree within .012 (three standard errors)."""
    generator = torch.Generator().manual_seed(0)
    sizes = of_kernel_sizes(torch.rand(20_000, 7, generator=generator)).sum(1)
    shares = torch.tensor([0, 1 / 5, 1 / 8, 1 / 9, 1 / 8, 1 / 5, 0])
    assert torch.allclose(sizes.bincount(minlength=7) / 20_000, shares / shares.sum(), atol=0.012)
    assert torch.equal(of_kernel_sizes(torch.rand(9, 3, generator=generator)).sum(1), torch.ones(9, dtype=torch.int64))


def test_lasso_meets_the_conditions_of_its_minimum() -> None:
    """All 256 coalitions with LIME's weights: the derivative of Eq. 3's first term is -beta sign(alpha_k), or at most
    beta where alpha_k is 0, and zero for the intercept; 1e-5 of beta. A beta above all derivatives leaves nothing."""
    network, images, targets = small()
    masks, values = subsets(8), by_running(network, images, targets, subsets(8))[:, :1]
    weights, beta = torch.exp(-4 * (8 - masks.sum(1)) / 8), 0.001
    alpha = lasso(masks, values, weights, beta)[:, 0]
    left = values[:, 0] - masks @ alpha
    left = left - (weights * left).sum() / weights.sum()  # the best intercept
    slope = -2 / 256 * (weights * left) @ masks
    active = alpha != 0
    assert active.any()
    assert torch.allclose(slope[active], -beta * alpha[active].sign(), atol=1e-5 * beta, rtol=0)
    assert (slope[~active].abs() <= beta * (1 + 1e-5)).all()
    assert not lasso(masks, values, weights, 100.0).any()


def test_lime_cam_nears_the_lasso_of_all_coalitions() -> None:
    """Each coalition has probability 2^-8: 16,000 draws give the coefficients of all 256 to a cosine of .995."""
    network, images, targets = small()
    masks, values = subsets(8), by_running(network, images, targets, subsets(8))
    energy = forward_pass(network, images, GradCAM("relu")).activation("relu").square().sum((2, 3))
    result = attribute(LimeCAM("relu", samples_per_channel=2000, beta=0.001), network, images, targets).coefficients
    assert result is not None
    for pair, image in enumerate(targets.image.tolist()):
        left_out = (1 - masks) @ energy[image] / energy[image].sum()
        expected = lasso(masks, values[:, [pair]], torch.exp(-left_out / 0.25), 0.001)[:, 0]
        assert torch.cosine_similarity(result[pair], expected, 0) > 0.995


# Linear heads


def test_on_a_linear_head_all_agree() -> None:
    """Ablation x S = SHAP = sum of A times the gradient, of which one pair's sum is f_c - b_c; 1e-10 (float64)."""
    network, images, _, _, layer = known("tiny_resnet", torch.float64)
    targets = several_targets()
    shap = attribute(ShapCAM(layer, permutations=1), network, images, targets).coefficients
    ablation = attribute(AblationCAM(layer), network, images, targets).coefficients
    forward = forward_pass(network, images, GradCAM(layer))
    activation, logit = forward.activation(layer), forward.logits[targets.image, targets.label]
    gradient = forward.head(layer).gradient(activation, targets)
    assert shap is not None
    assert ablation is not None
    assert_close(shap, (gradient * activation[targets.image]).sum((2, 3)), DOUBLE)
    assert_close(ablation * logit[:, None], shap, DOUBLE)
    bias = network.module.get_parameter("fc.bias")[targets.label]
    assert_close(shap.sum(1)[:, None], (logit - bias)[:, None], DOUBLE)
    assert [type(each) for each in coalitions(GradCAM(layer), network, images, targets)] == [Additive] * 4


@pytest.mark.parametrize(
    ("architecture", "layer", "kind"),
    [
        ("resnet18", "layer4", Additive),
        ("resnet18", "layer3", Runs),  # a shortcut: no chain
        ("mobilenet_v2", "features.18", Additive),
        ("densenet121", "relu", Additive),
        ("squeezenet1_1", "features.12", Blocks),
        ("alexnet", "features.11", Blocks),
        ("alexnet", "features.7", Blocks),  # convolutions first
    ],
)
def test_torchvision_heads(architecture: str, layer: str, kind: type) -> None:
    """Which shortcut each head admits, and that it gives what running the head gives; float32, 1e-5."""
    network = Network(torchvision_module(architecture), (0.5,) * 3, (0.25,) * 3)
    targets = Targets(torch.tensor([0, 0]), torch.tensor([5, 2]))
    forward = ForwardPass(network, random_images(1, 64 if kind is Runs else 96), (layer,), max_rows=16)
    activation = forward.activation(layer)
    with torch.no_grad():
        ((_, _, made),) = games(forward, layer, activation, targets)
        masks = (torch.rand(6, activation.shape[1], generator=torch.Generator().manual_seed(0)) < 0.5).float()
        expected = forward.head(layer)(masks[:, :, None, None] * activation, torch.zeros(6, dtype=torch.int64))
        assert type(made) is kind
        assert_close(made.logits(masks), expected[:, [5, 2]], SINGLE)
        assert_close(made.whole[None], forward.logits[:, [5, 2]], SINGLE)


# Ablation-CAM


@pytest.mark.parametrize("module", [Repeated, Doubled, Squared])
def test_ablation_cam_of_a_head_that_reads_a_value_twice(module: type[nn.Module]) -> None:
    """h * h or h + h between the linear layers: (S - S_k) / S by running the head without each channel; 1e-10."""
    network, images, targets = small(module)
    values = by_running(network, images, targets, subsets(8))
    without = values[[255 - 2**k for k in range(8)]]
    found = attribute(AblationCAM("relu"), network, images, targets).coefficients
    assert found is not None
    assert_close(found, ((values[-1] - without) / values[-1]).T, DOUBLE)


@pytest.mark.parametrize("name", ["tiny_vgg", "tiny_resnet"])
def test_golden_ablation_cam(name: str) -> None:
    """Weights and raw maps of pytorch-grad-cam 1.5.7 (tests/golden/cams.npz), one logit negative; float32, 1e-5."""
    tiny, arrays = known(name), {key: torch.from_numpy(value) for key, value in golden("cams").items()}
    result = attribute(AblationCAM(tiny.layer, signed=True), tiny.network, tiny.images, tiny.targets)
    assert result.coefficients is not None
    assert_close(result.coefficients, arrays[f"{name}.ablationcam.weights"], SINGLE)
    assert_close(result.values, arrays[f"{name}.ablationcam.raw"], SINGLE)


# Convergence


def convergence(images: int, permutations: int, runs: int) -> float:
    """Mean cosine between runs of SHAP-CAM on the embedded VGG-like network."""
    config = compose_config(["model=scenes_vgg"])
    network, scenes = build(config.model), build(config.dataset)
    batch = Batch.of([scenes[number] for number in range(images)])
    method = ShapCAM(config.model.notes["target_layer"], permutations=permutations)
    made = [attribute(method, network, batch.images, batch.targets, 0, 64, seed).coefficients for seed in range(runs)]
    pairs = [(a, b) for number, a in enumerate(made) for b in made[:number]]
    cosines = [torch.cosine_similarity(a.double(), b.double(), 1) for a, b in pairs if a is not None and b is not None]
    return float(torch.stack(cosines).mean())


@pytest.mark.slow
def test_convergence_of_shap_cam() -> None:
    """As in the supplement's Table 1: 1 - mu falls tenfold a decade from 10 orders on (7 to 13 times here, for 16
    images and four runs), to at most .002 at 1000."""
    distances = [1 - convergence(16, count, 4) for count in (10, 100, 1000)]
    assert distances[2] <= 0.002
    for before, after in pairwise(distances):
        assert 7 <= before / after <= 13


# Invariants

SAMPLED = [
    AblationCAM("features.8", signed=True),
    ShapCAM("features.8", signed=True, permutations=70),
    KernelShapCAM("features.8", signed=True, samples_per_channel=5),
    LimeCAM("features.8", signed=True, samples_per_channel=5),
]
NAMES = [type(method).__name__ for method in SAMPLED]


@pytest.mark.parametrize("targets", [several_targets(), FEW_TARGETS], ids=["several", "few"])
@pytest.mark.parametrize("method", SAMPLED, ids=NAMES)
def test_pairs_of_a_batch_equal_one_at_a_time(method: Attributor, targets: Targets) -> None:
    """Draws are the image's: batch, order of pairs and max_rows change nothing but rounding; float64, 1e-8 (Lasso
    stops at 1e-6 of its objective)."""
    tiny = known("tiny_vgg", torch.float64)
    together = attribute(method, tiny.network, tiny.images, targets, max_rows=64).values
    tolerance = 1e-6 if isinstance(method, LimeCAM) else 1e-8
    assert_close(together, attribute_alone(method, tiny.network, tiny.images, targets), tolerance)
    assert_nothing_left(tiny.network)


@pytest.mark.parametrize("method", SAMPLED[1:], ids=NAMES[1:])
def test_another_seed_draws_others(method: Attributor) -> None:
    """And the same seed the same."""
    tiny: Known = known("tiny_vgg")
    first, again, other = (
        attribute(method, tiny.network, tiny.images, tiny.targets, seed=seed).values for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (ShapCAM, {"permutations": 0}, "permutations=0"),
        (KernelShapCAM, {"samples_per_channel": 0}, "samples_per_channel=0"),
        (LimeCAM, {"samples_per_channel": -1}, "samples_per_channel=-1: give at least 0.01"),
        (LimeCAM, {"samples_per_channel": float("nan")}, "samples_per_channel=nan"),
        (LimeCAM, {"gamma": 0}, "gamma=0, beta=0.01: give gamma above 0, and beta of 0 or more"),
        (LimeCAM, {"beta": -1}, "gamma=0.5, beta=-1: give gamma above 0, and beta of 0 or more"),
    ],
)
def test_settings_without_meaning(make: type, options: dict[str, float], message: str) -> None:
    """ValueError names the setting and its value."""
    with pytest.raises(ValueError, match=message):
        make("layer", **options)
