"""Gradient, input x gradient, integrated gradients, SmoothGrad.

Tolerances are relative to each map's largest value (`worst_difference`). In float64 two orders of the same sums
agree to about 1e-15 a layer; 1e-10 leaves room for deep networks and is far below any error of a formula. In
float32 the same effect is about 1e-7 a layer: 1e-5, DESIGN.md's bound across batch sizes.
"""

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from assay.harness.heads import Passes, Targets
from assay.harness.network import Network
from assay.harness.types import Attributor
from assay.methods.attribution.gradient import (
    BASELINES,
    RULES,
    Gradient,
    InputXGradient,
    IntegratedGradients,
    Reduce,
    SmoothGrad,
    reduce_channels,
)
from captum.attr import InputXGradient as CaptumInputXGradient
from captum.attr import IntegratedGradients as CaptumIntegratedGradients
from captum.attr import Saliency
from conftest import (
    FEW_TARGETS,
    TOY_INPUT,
    TOY_TARGETS,
    Known,
    assert_close,
    assert_nothing_left,
    attribute,
    attribute_alone,
    forward_pass,
    random_images,
    sample_rng,
    several_targets,
    torchvision_module,
)
from scipy.special import roots_legendre
from torch import Tensor, nn

pytestmark = pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")  # Captum
DOUBLE, SINGLE, CAPTUM_WEIGHTS = 1e-10, 1e-5, 1e-6
METHODS: list[Attributor] = [
    Gradient(),
    InputXGradient(),
    IntegratedGradients(steps=5),
    IntegratedGradients(steps=4, rule="trapezoid", baseline="white", reduce="l2"),
    SmoothGrad(samples=5),
]
CAPTUM_REDUCTIONS: dict[Reduce, Callable[[Tensor], Tensor]] = {
    "sum": lambda g: g[:, 0] + g[:, 1] + g[:, 2],
    "sum_abs": lambda g: g[:, 0].abs() + g[:, 1].abs() + g[:, 2].abs(),
    "max_abs": lambda g: torch.maximum(torch.maximum(g[:, 0].abs(), g[:, 1].abs()), g[:, 2].abs()),
    "l2": lambda g: torch.linalg.vector_norm(g, dim=1),
}


class Power(nn.Module):
    """One logit, (sum of the normalised input) to a power: its gradient along a line is known in closed form."""

    def __init__(self, exponent: int) -> None:
        super().__init__()
        self.exponent = exponent

    def forward(self, x: Tensor) -> Tensor:
        return x.sum((1, 2, 3)).pow(self.exponent)[:, None]


def one_pixel(exponent: int, value: float) -> tuple[Network, Tensor, Targets]:
    """A power network, one image of one pixel (value, 0, 0), and its only target."""
    network = Network(Power(exponent), (0, 0, 0), (1, 1, 1))
    return network, torch.tensor([value, 0.0, 0.0]).view(1, 3, 1, 1), Targets(torch.tensor([0]), torch.tensor([0]))


def resnet18() -> tuple[Network, Tensor, Targets]:
    """torchvision's ResNet-18 in float64 with random weights, and three pairs of two 64x64 images."""
    network = Network(torchvision_module("resnet18"), (0.5,) * 3, (0.25,) * 3).to(dtype=torch.float64)
    return network, random_images(2, 64).double(), Targets(torch.tensor([1, 0, 1]), torch.tensor([5, 2, 0]))


def smooth_network() -> Network:
    """Two layers with tanh in float64: without ReLU's kinks, Gauss points converge geometrically."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(96, 5), nn.Tanh()
        )
    return Network(module, (0.375, 0.5, 0.625), (0.25, 0.5, 0.125)).to(dtype=torch.float64)


# By hand


@pytest.mark.parametrize(
    ("reduce", "expected"),
    [
        ("sum", [[2, 0], [-2, 0]]),
        ("sum_abs", [[2, 4], [2, 2]]),
        ("max_abs", [[1, 2], [1, 1]]),
        ("l2", [[2**0.5, 8**0.5], [2**0.5, 2**0.5]]),
    ],
)
def test_gradient_of_toy(toy: Network, toy_image: Tensor, reduce: Reduce, expected: list[list[float]]) -> None:
    """Against ToyModule's gradient by hand; tolerance 1e-6 because only the square roots are inexact.

    z_0 = (3, -1), z_1 = (-3, 4) at pixels (a, b), so A_0a and A_1b are active.
    df_0/dx = 1 w_0 = (1,1,0) at a, -2 w_1 = (0,2,-2) at b; df_1/dx = -1 w_0 = (-1,-1,0) at a, 1 w_1 = (0,-1,1) at b.
    """
    values = attribute(Gradient(reduce), toy, toy_image, TOY_TARGETS).values
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float32).view(2, 1, 2), atol=1e-6, rtol=0)


def test_input_x_gradient_of_toy(toy: Network, toy_image: Tensor) -> None:
    """Against the product by hand, exactly (small integers), and with x the *normalised* input.

    Class 0: a (1,2,-1).(1,1,0) = 3, b (0,-1,3).(0,2,-2) = -8; class 1: a -3, b 1+3 = 4. Sums are the logits -5 and
    1, as the network has no biases. In pixel space class 0 at a would be (.625,.75,.375).(8,8,0) = 11 instead.
    """
    values = attribute(InputXGradient(), toy, toy_image, TOY_TARGETS).values
    assert values.tolist() == [[[3, -8]], [[-3, 4]]]
    assert values.sum((1, 2)).tolist() == [-5, 1] == toy.module(TOY_INPUT)[0].tolist()


@pytest.mark.parametrize(("rule", "steps"), [("gauss_legendre", 1), ("midpoint", 7), ("trapezoid", 2)])
def test_integrated_gradients_of_toy(toy: Network, toy_image: Tensor, rule: str, steps: int) -> None:
    """Against the hand value; 1e-6 because the weights of a rule sum to 1 up to rounding.

    Without biases the network is linear along the ray from 0, so the mean gradient is the gradient at x (the
    trapezoid's first point is 0 itself, where no unit is active: with 2 steps it weighs half).
    """
    values = attribute(IntegratedGradients(steps, rule), toy, toy_image, TOY_TARGETS).values
    factor = 0.5 if rule == "trapezoid" else 1
    expected = factor * torch.tensor([[[3.0, -8]], [[-3, 4]]])
    torch.testing.assert_close(values, expected, atol=1e-6, rtol=1e-6)


def test_integrated_gradients_from_black_and_white(toy: Network, toy_image: Tensor) -> None:
    """Against integrals by hand, class 0; 1e-5 relative: sums of 11 and 9 float32 gradients.

    Black is x' = (0 - .5) / .125 = -4 in each channel. At a, x - x' = (5,6,3), z_0 = -8 + 11 t is active for
    t > 8/11 (3 of 11 midpoints) with gradient (1,1,0): 3/11 (5+6) = 3; z_1 = -3t never. At b, x - x' = (4,3,7),
    z_0 = -8 + 7t never, z_1 = 4t always with gradient (0,2,-2): 6 - 14 = -8. Sum -5 = f_0(x) - 0.
    White is x' = 4: a z_0 = 8 - 5t always: (1,1,0).(-3,-2,-5) = -5. b z_0 = 8 - 9t active for t < 8/9 (8 of 9
    midpoints) with (2,2,0).(-4,-5,-1) = -18, z_1 = 4t with (0,2,-2).(-4,-5,-1) = -8: -16 - 8 = -24.
    Sum -29 = f_0(x) - f_0(white) = -5 - 24.
    """
    target = Targets(torch.tensor([0]), torch.tensor([0]))
    black = attribute(IntegratedGradients(11, "midpoint", "black"), toy, toy_image, target).values
    white = attribute(IntegratedGradients(9, "midpoint", "white"), toy, toy_image, target).values
    torch.testing.assert_close(black, torch.tensor([[[3.0, -8]]]), rtol=1e-5, atol=0)
    torch.testing.assert_close(white, torch.tensor([[[-5.0, -24]]]), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("rule", "steps", "mean"), [("gauss_legendre", 2, 1.0), ("midpoint", 2, 0.9375), ("trapezoid", 3, 1.125)]
)
def test_quadrature_of_a_cube(rule: str, steps: int, mean: float) -> None:
    """Against each rule's value of the integral of 3t^2 over [0,1], by hand; 1e-6 for float32 weights.

    f = (sum x)^3 with sum x = 2: map = 2 * 2^2 * mean(3 t^2). Two Gauss points are exact: 1. Midpoints 1/4, 3/4:
    3 (1/16 + 9/16) / 2 = .9375. Trapezoid 0, 1/2, 1 with weights 1/4, 1/2, 1/4: 3 (1/8 + 1/4) = 1.125.
    """
    values = attribute(IntegratedGradients(steps, rule), *one_pixel(3, 2.0)).values
    assert values.item() == pytest.approx(8 * mean, rel=1e-6)


def test_smoothgrad_of_a_square() -> None:
    """Against the closed form for the same noise; 1e-5 because 50 float32 gradients are added.

    f = s^2 with s = sum x, so df/dx = 2 s in each channel. x = (2,0,0): range 2, sigma = .1 * 2 = .2. The mean
    gradient is 2 (2 + .2 mean_i sum_c noise_ic).
    """
    network, image, target = one_pixel(2, 2.0)
    noise = sample_rng(target, 1).noise((3, 1, 1), image.device).normal(0, 50)
    values = attribute(SmoothGrad(samples=50, noise=0.1), network, image, target).values
    assert values.item() == pytest.approx(2 * (2 + 0.2 * float(noise.sum() / 50)), rel=1e-5)


def test_reductions_by_hand() -> None:
    """sum, sum_abs, max_abs and l2 of (3, -4, 0) are -1, 7, 4 and 5, exactly; another name is an error."""
    pixel = torch.tensor([3.0, -4, 0]).view(1, 3, 1, 1)
    assert [reduce_channels(pixel, how).item() for how in ("sum", "sum_abs", "max_abs", "l2")] == [-1, 7, 4, 5]
    with pytest.raises(ValueError, match=r"reduce='mean': choose one of sum, sum_abs, max_abs, l2"):
        reduce_channels(pixel, "mean")


# Against Captum and naive loops


def captum_targets(targets: Targets, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """One row a pair, as Captum needs it."""
    return inputs[targets.image], targets.label


@pytest.mark.parametrize("reduce", CAPTUM_REDUCTIONS)
def test_gradient_equals_captum(tiny64: Known, reduce: Reduce) -> None:
    """Against captum.attr.Saliency(abs=False), then the reduction written out; float64, 1e-10 of the maximum."""
    targets = several_targets()
    inputs, labels = captum_targets(targets, tiny64.images)
    signed = Saliency(copy.deepcopy(tiny64.network.module)).attribute(inputs.clone(), labels, abs=False)
    values = attribute(Gradient(reduce), tiny64.network, tiny64.images, targets).values
    assert_close(values, CAPTUM_REDUCTIONS[reduce](signed), DOUBLE)


def test_input_x_gradient_equals_captum(tiny64: Known) -> None:
    """Against captum.attr.InputXGradient, channels summed; float64, 1e-10."""
    targets = several_targets()
    inputs, labels = captum_targets(targets, tiny64.images)
    expected = CaptumInputXGradient(copy.deepcopy(tiny64.network.module)).attribute(inputs.clone(), labels)
    assert_close(attribute(InputXGradient(), tiny64.network, tiny64.images, targets).values, expected.sum(1), DOUBLE)


@pytest.mark.parametrize("steps", [1, 2, 9])
def test_integrated_gradients_equals_captum(tiny64: Known, steps: int) -> None:
    """Against Captum with its `gausslegendre` rule, the same number of steps, baseline 0; 1e-6, since Captum rounds
    the rule's weights to float32 (6e-8 each), whatever the inputs' type."""
    targets = several_targets()
    inputs, labels = captum_targets(targets, tiny64.images)
    expected = CaptumIntegratedGradients(copy.deepcopy(tiny64.network.module)).attribute(
        inputs, 0, labels, n_steps=steps, method="gausslegendre"
    )
    values = attribute(IntegratedGradients(steps), tiny64.network, tiny64.images, targets).values
    assert_close(values, expected.sum(1), CAPTUM_WEIGHTS)


def test_integrated_gradients_equals_naive_loop(tiny64: Known) -> None:
    """Against one torch.autograd call a pair and a point, with SciPy's Gauss points; float64, 1e-10."""
    targets, module = several_targets(), tiny64.network.module
    nodes, weights = roots_legendre(6)
    expected = []
    for row, label in zip(targets.image.tolist(), targets.label.tolist(), strict=True):
        image, total = tiny64.images[row], torch.zeros_like(tiny64.images[0])
        for node, weight in zip(nodes, weights, strict=True):
            leaf = (1 + (image - 1) * (node + 1) / 2)[None].requires_grad_()
            total += weight / 2 * torch.autograd.grad(module(leaf)[0, label], leaf)[0][0]
        expected.append(((image - 1) * total).sum(0))
    values = attribute(IntegratedGradients(6, baseline="white"), tiny64.network, tiny64.images, targets).values
    assert_close(values, torch.stack(expected), DOUBLE)


@pytest.mark.parametrize(
    ("rule", "captum_rule", "factor"), [("midpoint", "riemann_middle", 1), ("trapezoid", "riemann_trapezoid", 6 / 5)]
)
def test_other_rules_equal_captum(tiny64: Known, rule: str, captum_rule: str, factor: float) -> None:
    """Against Captum's Riemann rules with 6 points; 1e-6 (its weights are float32).

    Captum's trapezoid divides by n points, not n - 1 intervals: its weights sum to 5/6, so its maps are 5/6 of ours.
    """
    inputs, labels = captum_targets(tiny64.targets, tiny64.images)
    expected = CaptumIntegratedGradients(copy.deepcopy(tiny64.network.module)).attribute(
        inputs, 0, labels, n_steps=6, method=captum_rule
    )
    values = attribute(IntegratedGradients(6, rule), tiny64.network, tiny64.images, tiny64.targets).values
    assert_close(values, factor * expected.sum(1), CAPTUM_WEIGHTS)


def test_resnet18_equals_captum() -> None:
    """Gradient, input x gradient and integrated gradients on torchvision's ResNet-18 with a normalisation, several
    targets an image; float64, 1e-10 (twenty layers deep), and 1e-6 for integrated gradients (float32 weights)."""
    network, images, targets = resnet18()
    module = copy.deepcopy(network.module)
    inputs, labels = captum_targets(targets, (images - 0.5) / 0.25)
    black = torch.full_like(inputs[:1], -2.0)
    expected: dict[Attributor, Tensor] = {
        Gradient("sum"): Saliency(module).attribute(inputs.clone(), labels, abs=False),
        InputXGradient(): CaptumInputXGradient(module).attribute(inputs.clone(), labels),
        IntegratedGradients(3, baseline="black"): CaptumIntegratedGradients(module).attribute(
            inputs, black, labels, n_steps=3, method="gausslegendre"
        ),
    }
    for method, signed in expected.items():
        tolerance = CAPTUM_WEIGHTS if isinstance(method, IntegratedGradients) else DOUBLE
        assert_close(attribute(method, network, images, targets).values, signed.sum(1), tolerance)


def test_smoothgrad_equals_naive_loop(tiny64: Known) -> None:
    """Against one torch.autograd call a pair and a copy, over the same noise; float64, 1e-10."""
    targets, module = several_targets(), tiny64.network.module
    noise = sample_rng(targets, 4).noise((3, 16, 16), tiny64.images.device).normal(0, 5).double()
    expected = []
    for row, label in zip(targets.image.tolist(), targets.label.tolist(), strict=True):
        image, total = tiny64.images[row], torch.zeros_like(tiny64.images[0])
        for copy_ in range(5):
            leaf = (image + 0.15 * (image.max() - image.min()) * noise[row, copy_])[None].requires_grad_()
            total += torch.autograd.grad(module(leaf)[0, label], leaf)[0][0]
        expected.append((total / 5).abs().amax(0))
    values = attribute(SmoothGrad(samples=5), tiny64.network, tiny64.images, targets).values
    assert_close(values, torch.stack(expected), DOUBLE)


# Invariants


@pytest.mark.parametrize("baseline", BASELINES)
def test_integrated_gradients_is_complete(baseline: str) -> None:
    """Sum of the map = f_c(x) - f_c(x') on a smooth network with 32 Gauss points; float64, 1e-10 of the largest
    difference, as the quadrature has converged to rounding."""
    network, images, targets = smooth_network(), random_images(4, 16).double(), several_targets()
    start = {"mean": [0.375, 0.5, 0.625], "black": [0.0] * 3, "white": [1.0] * 3}[baseline]
    start_image = torch.tensor(start, dtype=torch.float64).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    total = attribute(IntegratedGradients(32, baseline=baseline), network, images, targets).values.sum((1, 2))
    drop = network(network.normalise(images)) - network(network.normalise(start_image))
    assert (total - drop[targets.image, targets.label]).abs().max() < DOUBLE * drop.abs().max()


def test_completeness_gap_of_relu_networks(tiny64: Known) -> None:
    """The gradient of a ReLU network jumps along the line, so the gap closes as 1/steps: below 1 % of the largest
    difference with 200 midpoints (two steps' share)."""
    method = IntegratedGradients(200, "midpoint")
    total = attribute(method, tiny64.network, tiny64.images, tiny64.targets, max_rows=100).values.sum((1, 2))
    drop = tiny64.network.module(tiny64.images) - tiny64.network.module(torch.zeros_like(tiny64.images))
    assert (total - drop[tiny64.targets.image, tiny64.targets.label]).abs().max() < 0.01 * drop.abs().max()


def test_mean_baseline_is_zero_in_normalised_space(toy: Network, toy_image: Tensor) -> None:
    """`mean` integrates from x' = 0, so its map sums to f(x) - f(0) = (-5, 1); 1e-6 for float32 weights. A grey
    0.5 image is that x' here, and from it `black` differs (test above)."""
    values = attribute(IntegratedGradients(3, baseline="mean"), toy, toy_image, TOY_TARGETS).values
    torch.testing.assert_close(values.sum((1, 2)), torch.tensor([-5.0, 1]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("steps", [1, 2, 5, 32])
@pytest.mark.parametrize("rule", RULES)
def test_rules_integrate_a_line(rule: str, steps: int) -> None:
    """Weights sum to 1 and every rule integrates t to 1/2, to 1e-14 (float64); points lie in [0,1]."""
    nodes, weights = RULES[rule](max(steps, 2))
    assert math.isclose(weights.sum(), 1, rel_tol=1e-14)
    assert math.isclose(nodes @ weights, 0.5, rel_tol=1e-14)
    assert np.all((nodes >= 0) & (nodes <= 1))


def test_smoothgrad_without_noise_is_gradient(tiny: Known) -> None:
    """noise=0 gives the gradient; float32, 1e-5: a mean of eight equal maps in batches of another size."""
    targets = several_targets()
    smooth = attribute(SmoothGrad(samples=8, noise=0), tiny.network, tiny.images, targets).values
    assert_close(smooth, attribute(Gradient(), tiny.network, tiny.images, targets).values, SINGLE)


@pytest.mark.parametrize("targets", [several_targets(), FEW_TARGETS], ids=["several", "few"])
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_pairs_of_a_batch_equal_one_at_a_time(tiny: Known, method: Attributor, targets: Targets) -> None:
    """Pairs of four images in one call (up to five an image, or none) against calls of one image and one target;
    float32, 1e-5."""
    together = attribute(method, tiny.network, tiny.images, targets).values
    assert_close(together, attribute_alone(method, tiny.network, tiny.images, targets), SINGLE)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_batch_of_eight_equals_eight_batches(tiny64: Known, method: Attributor) -> None:
    """Eight images together and one by one, one target each; float64, 1e-10 (rounding only)."""
    images = torch.cat([tiny64.images, tiny64.images.flip(3)])
    targets = Targets(torch.arange(8), torch.arange(8) % 5)
    together = attribute(method, tiny64.network, images, targets).values
    assert_close(together, attribute_alone(method, tiny64.network, images, targets), DOUBLE)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_order_of_pairs(tiny64: Known, method: Attributor) -> None:
    """Permuting the pairs permutes the maps; float64, 1e-10, as rounds of backward passes group other pairs."""
    targets, order = several_targets(), torch.randperm(9, generator=torch.Generator().manual_seed(1))
    permuted = attribute(method, tiny64.network, tiny64.images, Targets(*(value[order] for value in targets))).values
    assert_close(permuted, attribute(method, tiny64.network, tiny64.images, targets).values[order], DOUBLE)


@pytest.mark.parametrize("max_rows", [1, 9, 1000])
@pytest.mark.parametrize("method", [IntegratedGradients(steps=7), SmoothGrad(samples=7)], ids=repr)
def test_chunking_changes_nothing(tiny64: Known, method: Attributor, max_rows: int) -> None:
    """max_rows 1, 9 and 1000 (1, 2 and 7 points a pass) give the maps of max_rows 12; float64, 1e-10."""
    targets = several_targets()
    maps = [attribute(method, tiny64.network, tiny64.images, targets, max_rows=rows).values for rows in (max_rows, 12)]
    assert_close(maps[0], maps[1], DOUBLE)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_leaves_nothing_behind(tiny: Known, method: Attributor) -> None:
    """No hooks, gradients or graphs remain, the images are untouched, and the map is one [H,W] a pair."""
    images, targets = tiny.images.clone(), several_targets()
    result = attribute(method, tiny.network, images, targets)
    assert_nothing_left(tiny.network)
    assert torch.equal(images, tiny.images)
    assert not images.requires_grad
    assert not result.values.requires_grad
    assert result.values.shape == (9, 16, 16)
    assert result.coefficients is None


@pytest.mark.parametrize(
    ("method", "forward", "backward"),
    [
        (Gradient(), 4, 4),
        (InputXGradient(), 4, 4),
        (IntegratedGradients(steps=6), 24, 24),
        (SmoothGrad(samples=6), 24, 24),
    ],
    ids=repr,
)
@pytest.mark.parametrize("max_rows", [None, 8])
def test_passes(tiny: Known, method: Attributor, forward: int, backward: int, max_rows: int | None) -> None:
    """Four images, one target each: gradient methods take 1F+1B an image, averages n(F+B), counted exactly."""
    attribute(method, tiny.network, tiny.images, tiny.targets, max_rows=max_rows)
    assert tiny.network.passes == Passes(forward, backward, 0)


def test_further_targets_take_backward_passes_only(tiny: Known) -> None:
    """Images with up to five targets: still 1F an image; 5 rounds of 4 images = 20 B, exactly."""
    attribute(Gradient(), tiny.network, tiny.images, several_targets())
    assert tiny.network.passes == Passes(forward=4, backward=20, head=0)


def test_methods_share_one_forward_pass(tiny: Known) -> None:
    """Gradient and input x gradient on one ForwardPass: 1F+2B an image, and the second is x times the first (exact)."""
    forward = forward_pass(tiny.network, tiny.images, Gradient())
    rng = sample_rng(tiny.targets, 4)
    gradient = forward.input_gradient(tiny.targets)
    product = InputXGradient().attribute(forward, tiny.targets, rng).values
    assert tiny.network.passes == Passes(4, 8, 0)
    assert torch.equal(product, (tiny.images * gradient).sum(1))


def test_smoothgrad_depends_on_seed_and_name_alone(tiny: Known) -> None:
    """The same seed gives the same map (exactly), another seed or image name another one."""
    maps = [
        attribute(SmoothGrad(samples=3), tiny.network, tiny.images, tiny.targets, seed=seed, first=first).values
        for seed, first in [(0, 0), (0, 0), (1, 0), (0, 4)]
    ]
    assert torch.equal(maps[0], maps[1])
    assert not torch.equal(maps[0], maps[2])
    assert not torch.equal(maps[0], maps[3])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "simpson"}, r"rule='simpson': choose one of gauss_legendre, midpoint, trapezoid"),
        ({"baseline": "grey"}, r"baseline='grey': choose one of mean, black, white"),
        ({"steps": 0}, "give at least 1"),
        ({"steps": 1, "rule": "trapezoid"}, "give at least 2"),
    ],
)
def test_settings_are_checked(settings: dict, message: str) -> None:
    """A wrong setting fails when the method is built and names the choices."""
    with pytest.raises(ValueError, match=message):
        IntegratedGradients(**settings)


def test_smoothgrad_needs_a_copy() -> None:
    """samples=0 is an error."""
    with pytest.raises(ValueError, match="give at least 1"):
        SmoothGrad(samples=0)
