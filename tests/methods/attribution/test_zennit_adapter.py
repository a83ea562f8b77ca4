"""Zennit's composites through the adapter: equal to Zennit alone, the same in any batch, and the network untouched.

Tolerances are relative to each map's largest value: 1e-10 in float64.
"""

import copy
import sys
from typing import Any

import pytest
import torch
from assay.harness.heads import Passes, Targets
from assay.harness.network import Network
from assay.harness.networks.loading import torchvision_network
from assay.harness.types import Attributor
from assay.methods.attribution.adapters import pair_seeds, seeded
from assay.methods.attribution.guided import Deconvnet, GuidedBackprop
from assay.methods.attribution.zennit_adapter import ATTRIBUTORS, Zennit
from conftest import (
    TOY_TARGETS,
    Known,
    assert_close,
    assert_nothing_left,
    attribute,
    attribute_alone,
    random_images,
    sample_rng,
    several_targets,
    torchvision_module,
)
from torch import Tensor, nn

zennit = pytest.importorskip("zennit")

from zennit.attribution import Gradient, IntegratedGradients, SmoothGrad  # noqa: E402
from zennit.canonizers import SequentialMergeBatchNorm  # noqa: E402
from zennit.composites import COMPOSITES  # noqa: E402
from zennit.torchvision import ResNetCanonizer, VGGCanonizer  # noqa: E402

DOUBLE = 1e-10


def bounded(module: nn.Module) -> Network:
    """In float64, normalised with mean 0.5 and standard deviation 0.25: black is -2, white is 2."""
    return Network(module, (0.5,) * 3, (0.25,) * 3).to(dtype=torch.float64)


def directly(
    module: nn.Module, inputs: Tensor, labels: Tensor, name: str, canonizers: list[Any] | None = None, **options: Any
) -> Tensor:
    """Zennit alone on a copy of the module, from one at the label: [P,H,W], channels summed."""
    composite = COMPOSITES[name](**options, canonizers=canonizers or [])
    with Gradient(copy.deepcopy(module), composite) as attributor:
        logits = module(inputs)
        return attributor(inputs.clone().requires_grad_(), torch.eye(logits.shape[1]).to(logits)[labels])[1].sum(1)


# By hand


def test_toy(toy: Network, toy_image: Tensor) -> None:
    """epsilon_plus on ToyModule by hand; 1e-5 for Zennit's stabilisers of 1e-6.

    A_0 = 3 at pixel a, A_1 = 4 at b. The linear layer gives them, for class 0, V_0 A = 3 and -8 of the logit -5, for
    class 1 -3 and 4 of 1. The convolution hands all of a unit's relevance to its own pixel, in shares of the positive
    terms w x. From the logit: (3, -8) and (-3, 4); from one, divided by the logit: (-.6, 1.6) and (-3, 4).
    """
    for start, expected in [("logit", [[3.0, -8], [-3, 4]]), ("one", [[-0.6, 1.6], [-3, 4]])]:
        values = attribute(Zennit(start=start), toy, toy_image, TOY_TARGETS).values  # type: ignore[arg-type]
        torch.testing.assert_close(values[:, 0], torch.tensor(expected), atol=1e-4, rtol=0)


# Against Zennit alone


@pytest.mark.parametrize("name", COMPOSITES)
def test_every_composite_equals_zennit(tiny64: Known, name: str) -> None:
    """Every registered composite on both networks, several targets an image; box rules from black to white, which the
    network's normalisation puts at -2 and 2; float64, 1e-10."""
    network, targets = bounded(copy.deepcopy(tiny64.network.module)), several_targets()
    images = tiny64.images.sigmoid()
    inputs = ((images - 0.5) / 0.25)[targets.image]
    box = {"low": torch.tensor(-2.0), "high": torch.tensor(2.0)} if name == "epsilon_gamma_box" else {}
    expected = directly(network.module, inputs, targets.label, name, [SequentialMergeBatchNorm()], **box)
    assert_close(attribute(Zennit(name), network, images, targets, max_rows=5).values, expected, DOUBLE)


@pytest.mark.parametrize(("architecture", "canonizer"), [("resnet18", ResNetCanonizer), ("mobilenet_v2", VGGCanonizer)])
def test_torchvision_networks_are_canonized(architecture: str, canonizer: type) -> None:
    """`auto` finds torchvision's blocks (in-place ReLUs, called twice in a block) and elsewhere merges batch-norms, as
    VGGCanonizer does; float64, 1e-10."""
    network, images = bounded(torchvision_module(architecture)), random_images(2, 32).double()
    targets = Targets(torch.tensor([1, 0, 1]), torch.tensor([5, 2, 0]))
    inputs = ((images - 0.5) / 0.25)[targets.image]
    expected = directly(network.module, inputs, targets.label, "epsilon_alpha2_beta1", [canonizer()])
    assert_close(attribute(Zennit("epsilon_alpha2_beta1"), network, images, targets).values, expected, DOUBLE)


def test_options_and_attributors_equal_zennit(tiny64: Known) -> None:
    """epsilon=0.1 and zero_params; integrated gradients of 4 points; float64, 1e-10."""
    targets, module = several_targets(), tiny64.network.module
    inputs = tiny64.images[targets.image]
    options: dict[str, Any] = {"epsilon": 0.1, "zero_params": ["bias"]}
    found = attribute(Zennit(options=options, canonizer="none"), tiny64.network, tiny64.images, targets).values
    assert_close(found, directly(module, inputs, targets.label, "epsilon_plus", **options), DOUBLE)
    path = Zennit("beta_smooth", {"beta_smooth": 2.0}, "none", "integrated_gradients", {"n_iter": 4})
    composite, one = COMPOSITES["beta_smooth"](beta_smooth=2.0), torch.eye(5).double()[targets.label]
    attributor = IntegratedGradients(copy.deepcopy(module), composite, n_iter=4)
    expected = attributor(inputs.clone().requires_grad_(), one)[1].sum(1)
    assert_close(attribute(path, tiny64.network, tiny64.images, targets).values, expected, DOUBLE)


def test_smoothgrad_equals_zennit_under_its_seed(tiny64: Known) -> None:
    """Each pair is one call of Zennit with its own seed, which depends on the pair's name alone; float64, 1e-10."""
    targets, module = several_targets(), copy.deepcopy(tiny64.network.module)
    method = Zennit("guided_backprop", canonizer="none", attributor="smoothgrad", attributor_options={"n_iter": 3})
    found = attribute(method, tiny64.network, tiny64.images, targets).values
    attributor = SmoothGrad(module, COMPOSITES["guided_backprop"](), n_iter=3)
    for pair, seed in enumerate(pair_seeds(sample_rng(targets, 4))):
        with seeded(seed, torch.device("cpu")):
            inputs = tiny64.images[targets.image[pair : pair + 1]].requires_grad_()
            expected = attributor(inputs, torch.eye(5).double()[targets.label[pair : pair + 1]])[1]
        assert_close(found[pair : pair + 1], expected.sum(1), DOUBLE)


# Against our own methods


@pytest.mark.parametrize(
    ("name", "ours"), [("guided_backprop", GuidedBackprop("sum")), ("deconvnet", Deconvnet("sum"))]
)
def test_rules_of_relus_equal_ours(tiny64: Known, name: str, ours: Attributor) -> None:
    """Without a canonizer (merged batch-norms still divide by sqrt(1 + eps)); float64, 1e-10."""
    targets = several_targets()
    expected = attribute(ours, tiny64.network, tiny64.images, targets).values
    found = attribute(Zennit(name, canonizer="none"), tiny64.network, tiny64.images, targets).values
    assert_close(found, expected, DOUBLE)


def test_start_at_the_logit_scales_the_map(tiny64: Known) -> None:
    """Every rule is linear in the relevance that it is given: logit * map from one; float64, 1e-10."""
    targets = several_targets()
    one, logit = (
        attribute(Zennit(canonizer="none", start=start), tiny64.network, tiny64.images, targets).values
        for start in ("one", "logit")
    )
    logits = tiny64.network.module(tiny64.images)[targets.image, targets.label]
    assert_close(logit, logits[:, None, None] * one, DOUBLE)


def test_relevance_is_conserved_on_a_canonized_network() -> None:
    """excitation_backprop (z+ in every layer, no bias with zero_params) from one: maps sum to 1 on torchvision's
    ResNet-18, whose additions are normalised; float64, 1e-3 for the stabilisers."""
    network, images = bounded(torchvision_module("resnet18")), random_images(2, 64).double()
    targets = Targets(torch.tensor([1, 0, 1]), torch.tensor([5, 2, 0]))
    method = Zennit("excitation_backprop", {"zero_params": ["bias"]})
    sums = attribute(method, network, images, targets).values.sum((1, 2))
    torch.testing.assert_close(sums, torch.ones(3).double(), atol=1e-3, rtol=0)


# Batches, and what is left behind


@pytest.mark.parametrize("attributor", ATTRIBUTORS)
@pytest.mark.parametrize("name", COMPOSITES)
def test_any_batch_and_leaves_nothing(tiny64: Known, name: str, attributor: str) -> None:
    """Three images together as one by one (float64, 1e-10); hooks, weights, logits and generators are as before."""
    images, targets = tiny64.images[:3], Targets(torch.arange(3), torch.tensor([4, 0, 2]))
    options = {} if attributor == "gradient" else {"n_iter": 2}
    method = Zennit(name, attributor=attributor, attributor_options=options)
    module, generator = tiny64.network.module, torch.get_rng_state()
    logits, weights = module(images), {key: value.clone() for key, value in module.state_dict().items()}
    together = attribute(method, tiny64.network, images, targets).values
    assert not together.requires_grad and together.isfinite().all()
    assert_close(together, attribute_alone(method, tiny64.network, images, targets), DOUBLE)
    assert_nothing_left(tiny64.network)
    assert torch.equal(torch.get_rng_state(), generator)
    assert module.state_dict().keys() == weights.keys()  # a merge adds biases
    assert all(torch.equal(value, weights[key]) for key, value in module.state_dict().items())
    assert torch.equal(module(images), logits)


def test_passes_are_counted(tiny: Known) -> None:
    """Nine pairs 9F+9B beside the 4F that are shared; three points of integrated gradients 27F+27B."""
    points = Zennit(attributor="integrated_gradients", attributor_options={"n_iter": 3})
    for method, count in [(Zennit(), 9), (points, 27)]:
        tiny.network.passes = Passes()
        attribute(method, tiny.network, tiny.images, several_targets())
        assert tiny.network.passes == Passes(4 + count, count)


# Errors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"composite": "epsilon_pluss"}, "'epsilon_pluss' is no composite of zennit. Did you mean 'epsilon_plus'"),
        ({"canonizer": "resnet50"}, "'resnet50' is no canonizer of zennit. Did you mean 'resnet'"),
        ({"attributor": "occlusion"}, "'occlusion' is no attributor of zennit"),
        ({"start": "ones"}, "'ones' is no start of zennit. Did you mean 'one'"),
        ({"options": {"epsilom": 1}}, "'epsilom' is no option of zennit's composite epsilon_plus. Did you mean"),
        ({"options": {"layer_map": []}}, "'layer_map' is no option"),
        ({"attributor_options": {"n_iter": 3}}, "'n_iter' is no option of zennit's attributor gradient"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings: dict[str, Any], message: str) -> None:
    """When the method is built, before anything is computed."""
    with pytest.raises(ValueError, match=message):
        Zennit(**settings)


class NormsOutOfOrder(nn.Module):
    """Two convolutions and two batch-norms that are declared crosswise."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm_of_second = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.second, self.norm_of_first = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        for norm, spread in ((self.norm_of_first, 3.0), (self.norm_of_second, 0.1)):
            assert norm.running_var is not None
            norm.running_var.fill_(spread)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm_of_first(self.first(x)).relu()
        return self.norm_of_second(self.second(out)).relu().mean((2, 3))


def test_a_canonizer_that_does_not_fit_is_an_error() -> None:
    """DenseNet's batch-norms stand before their convolutions, of other widths; and batch-norms of equal widths, which
    merge without complaint into another network: ValueError names the way out, which works."""
    targets = Targets(torch.tensor([0, 1]), torch.tensor([1, 0]))
    for network in (torchvision_network("densenet121", None), Network(NormsOutOfOrder(), (0.5,) * 3, (0.25,) * 3)):
        with pytest.raises(ValueError, match=r"canonizer=auto does not fit .* use canonizer=none"):
            attribute(Zennit(), network, random_images(2, 32), targets)
        assert attribute(Zennit(canonizer="none"), network, random_images(2, 32), targets).values.isfinite().all()
        assert_nothing_left(network)


def test_without_zennit_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named."""
    monkeypatch.setitem(sys.modules, "zennit.composites", None)
    with pytest.raises(ImportError, match=r"zennit cannot be imported .*pip install '.\[adapters\]'"):
        Zennit()
