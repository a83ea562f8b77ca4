"""Conductance in closed form and by steps, and the detectors trained on it.

Tolerances are relative to each row's largest value: 1e-10 in float64; 1e-6 against captum, whose positions of steps
are float32 numbers.
"""

import re
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from assay.harness.build import build
from assay.harness.detection import Features, LinearHead, Reading, pooled
from assay.harness.forward import ForwardPass
from assay.harness.heads import Passes
from assay.harness.network import Network
from assay.harness.networks.cifar import CifarResNet
from assay.harness.seeds import SampleRng
from assay.harness.training import TrainingSet
from assay.methods.error.conductance import ErrorMLP
from assay.methods.error.units import (
    ActivationXGradient,
    Conductance,
    InternalInfluence,
    Rule,
    activation_x_gradient,
    conductance_linear_head,
    conductance_riemann,
    internal_influence,
)
from captum.attr import InternalInfluence as CaptumInfluence
from captum.attr import LayerConductance, LayerGradientXActivation
from conftest import Known, alone, assert_close, assert_nothing_left, known, random_images, torchvision_module
from detection_toys import random_features, training_of
from torch import Tensor, nn
from torchvision import models

RULES: tuple[Rule, ...] = ("right", "left", "trapezoid")
BASELINE_FEATURES = torch.linspace(0, 0.3, 12, dtype=torch.float64)[None]


def tiny_features(known: Known, inputs: Tensor) -> Features:
    """tiny_resnet's penultimate features of normalised inputs."""
    forward = ForwardPass(known.network, inputs, ("layer1",))
    weight, bias = (known.network.module.get_parameter(f"fc.{name}") for name in ("weight", "bias"))
    labels = torch.full((len(inputs),), -1)
    return Features(forward.logits, labels, pooled(forward.activation("layer1")), head=LinearHead(weight, bias))


def training(features: Features | None = None, size: int | None = None, seed: int = 0) -> TrainingSet:
    """A set whose features of any image are BASELINE_FEATURES; a third of the labels are wrong."""
    features = features or random_features(300)

    def features_of(images: Tensor) -> Features:
        assert images.shape == (1, 3, 2, 2)
        assert torch.equal(images, torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1).expand(1, 3, 2, 2))
        return replace(features.rows(slice(0, 1)), penultimate=BASELINE_FEATURES.to(features.tap()))

    network = Network(nn.Identity(), (0.1, 0.2, 0.3), (1, 1, 1))
    images = lambda rows: torch.zeros(len(rows), 3, 2, 2)  # noqa: E731
    return training_of(features, size, network=network, images=images, features_of=features_of, seed=seed)


def fit(detector: ErrorMLP, of: TrainingSet) -> dict[str, Tensor]:
    """Without the warning about few errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return detector.fit(of)


# Closed form, steps, captum


def test_closed_form_by_hand() -> None:
    """Prediction 1 of logits (1, 8): W[1] = (2, 3), a - a' = (1, 2) - (0.5, 0): (1, 6)."""
    head = LinearHead(torch.tensor([[1.0, 0], [2, 3]]), torch.zeros(2))
    a = torch.tensor([[1.0, 2]])
    features = Features(head(a), torch.tensor([0]), a, head=head)
    assert conductance_linear_head(features, torch.tensor([[0.5, 0]])).tolist() == [[1, 6]]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("n", [1, 10])
def test_closed_form_equals_steps(rule: Rule, n: int) -> None:
    """Under pooling and a linear layer any rule with any number of steps is the closed form: detection.md, 0.1."""
    tiny = known("tiny_resnet", torch.float64)
    features = tiny_features(tiny, tiny.images)
    closed = conductance_linear_head(features, tiny_features(tiny, torch.zeros_like(tiny.images[:1])).tap())
    stepped = conductance_riemann(
        ForwardPass(tiny.network, tiny.images, ("layer1",)), "layer1", features.predicted, rule, n
    )
    assert_close(stepped, closed, 1e-10)


def test_completeness() -> None:
    """Eq. 3: the closed form sums to f_pred(x) - f_pred(x'); float64, 1e-10."""
    tiny = known("tiny_resnet", torch.float64)
    features, zero = tiny_features(tiny, tiny.images), tiny_features(tiny, torch.zeros_like(tiny.images[:1]))
    label = features.predicted
    gain = features.logits.gather(1, label[:, None])[:, 0] - zero.logits[0, label]
    assert_close(conductance_linear_head(features, zero.tap()).sum(1)[None], gain[None], 1e-10)


def pass_of(network: Network, images: Tensor, layer: str = "features.8") -> ForwardPass:
    """A pass that keeps a layer; known networks normalise by mean 0 and deviation 1."""
    return ForwardPass(network, images, (layer,))


def captum(module: nn.Module, layer: str, inputs: Tensor, baseline: Tensor, labels: Tensor, n: int) -> Tensor:
    """captum's left rule, summed over the map."""
    oracle = LayerConductance(module, module.get_submodule(layer))
    method = "riemann_trapezoid"
    return oracle.attribute(inputs, baselines=baseline, n_steps=n, method=method, target=labels).flatten(2).sum(2)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("tiny_resnet", "layer1"),
        ("tiny_resnet", "layer1.0"),
        ("tiny_resnet", "layer1.1.conv2"),
        ("tiny_vgg", "features.8"),
        ("tiny_vgg", "features.3"),
    ],
)
@pytest.mark.parametrize("n", [1, 10])
def test_steps_equal_captum(name: str, layer: str, n: int) -> None:
    """captum 0.9 takes the gradient at the start of a step: the left rule. Run backwards, from x to x', minus it is
    the right rule, eq. 5 (detection.md, 3.9); the trapezoid is their mean. Inner layers as well, where a shortcut may
    cross the cut."""
    network, images, *_ = known(name, torch.float64)
    labels, zeros = network.module(images).argmax(1), torch.zeros_like(images)
    left = captum(network.module, layer, images, zeros, labels, n)
    right = -captum(network.module, layer, zeros, images, labels, n)
    expected = {"left": left, "right": right, "trapezoid": (left + right) / 2}
    for rule in RULES:
        assert_close(conductance_riemann(pass_of(network, images, layer), layer, labels, rule, n), expected[rule], 1e-6)
    if layer != "layer1" and n == 10:
        assert (left - right).abs().max() > 1e-3


def test_other_baseline_and_labels() -> None:
    """Any image as x', any class; against captum."""
    network, images, *_ = known("tiny_vgg", torch.float64)
    labels, baseline = torch.tensor([4, 0, 3, 3]), random_images(1, 16).double()
    expected = captum(network.module, "features.8", images, baseline.expand_as(images), labels, 4)
    found = conductance_riemann(pass_of(network, images), "features.8", labels, "left", 4, baseline)
    assert_close(found, expected, 1e-6)


def test_torchvision_network() -> None:
    """resnet18's layer4 and fc, with in-place ReLUs: closed form = steps; float64, 1e-10."""
    network = Network(torchvision_module("resnet18"), (0, 0, 0), (1, 1, 1)).to(dtype=torch.float64)
    images = random_images(2, 64).double()
    head = LinearHead(*(network.module.get_parameter(f"fc.{name}") for name in ("weight", "bias")))
    forward, zero = (ForwardPass(network, each, ("layer4",)) for each in (images, torch.zeros_like(images[:1])))
    penultimate = pooled(forward.activation("layer4"))
    features = Features(forward.logits, torch.zeros(2), penultimate, head=head)
    closed = conductance_linear_head(features, pooled(zero.activation("layer4")))
    assert_close(
        conductance_riemann(pass_of(network, images, "layer4"), "layer4", features.predicted, "right", 2), closed, 1e-10
    )


def test_more_steps_come_nearer_to_completeness() -> None:
    """At an inner layer eq. 5 misses f(x) - f(x'); the error falls with n, and the trapezoid's is smaller."""
    network, images, *_ = known("tiny_vgg", torch.float64)
    labels = network.module(images).argmax(1)
    gain = (network.module(images) - network.module(torch.zeros_like(images))).gather(1, labels[:, None])[:, 0]

    def error(rule: Any, n: int) -> float:
        found = conductance_riemann(pass_of(network, images, "features.3"), "features.3", labels, rule, n)
        return float((found.sum(1) - gain).abs().mean())

    assert error("right", 200) < error("right", 10) / 5
    assert error("trapezoid", 10) < error("right", 10)


def test_passes() -> None:
    """n = 10: the pass, n - 1 prefixes an image and one for x'; the head's forward and backward at n points (left and
    right; at n + 1 the trapezoid). In closed form the pass, one for x', and the head once. Nothing is left behind."""
    network, images, *_ = known("tiny_vgg")
    labels = torch.arange(4)
    network.prefix(images, "features.8")  # its graph is made, and compared with the module
    for rule, points in (("right", 10), ("left", 10), ("trapezoid", 11)):
        network.passes = Passes()
        found = conductance_riemann(pass_of(network, images), "features.8", labels, rule)  # type: ignore[arg-type]
        assert network.passes == Passes(forward=4 + 9 * 4 + 1, head=2 * 4 * points)
        assert not found.requires_grad
    assert_nothing_left(network)
    network, images, *_ = known("tiny_resnet")
    read(Conductance("layer1"), network, images)
    network.passes = Passes()
    read(Conductance("layer1"), network, images)
    assert network.passes == Passes(forward=4 + 1, head=2 * 4)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["tiny_vgg", "tiny_resnet"])
def test_an_image_has_its_own_whatever_the_batch(name: str, rule: Rule) -> None:
    """Alone, in another order, one or several steps at once; float64, 1e-10. A shortcut crosses tiny_resnet's cut."""
    network, images, *_ = known(name, torch.float64)
    layer, labels = ("features.3" if name == "tiny_vgg" else "layer1.1.conv2"), torch.arange(4)
    whole = conductance_riemann(pass_of(network, images, layer), layer, labels, rule, 5)
    for rows in (4, 9, 40):
        forward = ForwardPass(network, images.flip(0), (layer,), max_rows=rows)
        assert_close(conductance_riemann(forward, layer, labels.flip(0), rule, 5).flip(0), whole, 1e-10)
    alone = [
        conductance_riemann(pass_of(network, images[k : k + 1], layer), layer, labels[k : k + 1], rule, 5)
        for k in range(4)
    ]
    assert_close(torch.cat(alone), whole, 1e-10)


def test_memory_is_bounded_by_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more images at once than the pass allows, or than it has itself."""
    network, images, *_ = known("tiny_vgg")
    sizes: list[int] = []
    prefix = Network.prefix

    def counted(self: Network, inputs: Tensor, layer: str) -> Any:
        sizes.append(len(inputs))
        return prefix(self, inputs, layer)

    monkeypatch.setattr(Network, "prefix", counted)
    for rows, expected in ((1, [1, *[4] * 9]), (11, [1, *[8] * 4, 4]), (100, [1, 36])):
        forward = ForwardPass(network, images, ("features.8",), max_rows=rows)
        conductance_riemann(forward, "features.8", torch.arange(4))
        assert sizes == expected
        sizes.clear()


def test_bad_rule_and_steps() -> None:
    forward = pass_of(*known("tiny_vgg")[:2])
    with pytest.raises(ValueError, match="rule='middle': choose one of right, left, trapezoid"):
        conductance_riemann(forward, "features.8", torch.arange(4), "middle")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="steps=0: give at least 1"):
        conductance_riemann(forward, "features.8", torch.arange(4), n=0)


# Internal influence, activation x gradient


def test_units_by_hand() -> None:
    """f = (y1^2 + 3 y2, 0) of y = 2x (a map of two units), x = (1, 5), x' = 0, n = 2: df/dy is (0, 3), (2, 3), (4, 3)
    at the three points, y moves by (1, 5) a step. Right: conductance (2 + 4, 15 + 15), influence ((2 + 4) / 2, 3)."""

    class Squares(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.twice = nn.Conv2d(2, 2, 1, bias=False)
            self.twice.weight.data = 2 * torch.eye(2)[:, :, None, None]

        def forward(self, x: Tensor) -> Tensor:
            y = self.twice(x)[:, :, 0, 0]
            return torch.stack([y[:, 0] * y[:, 0] + 3 * y[:, 1], torch.zeros_like(y[:, 0])], 1)

    network = Network(Squares(), (0, 0), (1, 1))
    forward, label = pass_of(network, torch.tensor([[[[1.0]], [[5.0]]]]), "twice"), torch.tensor([0])
    assert conductance_riemann(forward, "twice", label, "right", 2).tolist() == [[6, 30]]
    assert conductance_riemann(forward, "twice", label, "left", 2).tolist() == [[2, 30]]
    assert conductance_riemann(forward, "twice", label, "trapezoid", 2).tolist() == [[4, 30]]
    assert internal_influence(forward, "twice", label, "right", 2).tolist() == [[3, 3]]
    assert internal_influence(forward, "twice", label, "trapezoid", 2).tolist() == [[2, 3]]
    assert activation_x_gradient(forward, "twice", label).tolist() == [[8, 30]]


@pytest.mark.parametrize(("name", "layer"), [("tiny_resnet", "layer1.1.conv2"), ("tiny_vgg", "features.3")])
def test_influence_and_activation_x_gradient_equal_captum(name: str, layer: str) -> None:
    """captum's InternalInfluence with riemann_right and riemann_left, and its LayerGradientXActivation; 1e-6."""
    network, images, *_ = known(name, torch.float64)
    labels, module = network.module(images).argmax(1), network.module.get_submodule(layer)
    forward = pass_of(network, images, layer)
    for rule in ("right", "left"):
        oracle = CaptumInfluence(network.module, module).attribute(
            images, torch.zeros_like(images), labels, n_steps=6, method=f"riemann_{rule}"
        )
        found = internal_influence(forward, layer, labels, rule, 6)
        assert_close(found, oracle.flatten(2).sum(2), 1e-6)
    product = LayerGradientXActivation(network.module, module).attribute(images, labels)
    assert_close(activation_x_gradient(forward, layer, labels), product.flatten(2).sum(2), 1e-10)


# As readings


def test_the_form_is_the_networks() -> None:
    """Closed where average pooling and a linear layer follow; what stands before a ReLU, or in VGG's features, is not.

    Setting of steps play no part in the closed form: readings that differ in them alone are one on disk.
    """
    resnet, vgg = known("tiny_resnet").network, known("tiny_vgg").network
    assert Conductance("layer1").about(resnet) == {"layer": "layer1", "form": "closed"}
    assert Conductance("layer1", steps=3).about(resnet) == InternalInfluence("layer1").about(resnet)
    stepped = {"layer": "layer1.1.conv2", "form": "riemann", "rule": "left", "steps": 3}
    assert Conductance("layer1.1.conv2", "left", 3).about(resnet) == stepped
    assert Conductance("features.8").about(vgg)["form"] == "riemann"
    with pytest.raises(ValueError, match=r"layer 'layer9' is not in .*did you mean"):
        ActivationXGradient("layer9").about(resnet)


@pytest.mark.parametrize(
    ("architecture", "closed", "stepped"),
    [
        ("resnet18", ["layer4", "avgpool"], ["layer3", "layer4.1.bn2"]),
        ("inception_v3", ["Mixed_7c"], ["Mixed_7a"]),
        ("densenet121", ["relu"], ["features.norm5"]),
        ("mobilenet_v2", ["features.18"], ["features.18.1"]),
        ("googlenet", ["inception5b"], ["inception5a"]),
        ("vgg16", ["classifier.6"], ["features.30", "avgpool"]),
        ("cifar_resnet20", ["layer3"], ["layer2"]),
    ],
)
def test_closed_forms_of_known_networks(
    architecture: str, closed: list[str], stepped: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the structure says: the block before pooling and a linear layer, and nothing before a ReLU."""
    monkeypatch.setattr("assay.harness.network.frozen", lambda module: module.eval())  # which asks for values
    with torch.device("meta"):
        module = CifarResNet(20) if architecture == "cifar_resnet20" else models.get_model(architecture)
    network = Network(module, (0, 0, 0), (1, 1, 1))
    assert [network.is_affine_behind(layer) for layer in closed] == [True] * len(closed)
    assert [network.is_affine_behind(layer) for layer in stepped] == [False] * len(stepped)


def read(reading: Any, network: Network, images: Tensor) -> Tensor:
    """The reading's values of images."""
    made: Tensor = reading.read(ForwardPass(network, images, (reading.layer,)), SampleRng(0, "test", [], []), {})
    return made


def test_readings_explain_the_predicted_class() -> None:
    """The functions at the predicted class; of the last block in one step; and of a class group its highest member."""
    network, images, *_ = known("tiny_vgg", torch.float64)
    labels, forward = network.module(images).argmax(1), pass_of(network, images, "features.3")
    found = read(Conductance("features.3", "left", 4), network, images)
    assert torch.equal(found, conductance_riemann(forward, "features.3", labels, "left", 4))
    assert torch.equal(
        read(InternalInfluence("features.3"), network, images), internal_influence(forward, "features.3", labels)
    )
    assert torch.equal(
        read(ActivationXGradient("features.3"), network, images), activation_x_gradient(forward, "features.3", labels)
    )
    grouped = Network(network.module, (0, 0, 0), (1, 1, 1), groups=[[0, 1, 2], [3, 4]]).to(dtype=torch.float64)
    assert torch.equal(read(Conductance("features.3", "left", 4), grouped, images), found)


# The detectors


@pytest.mark.parametrize("name", ["conductance_mlp", "features_mlp", "logits_mlp"])
def test_the_config_builds_the_class(name: str) -> None:
    """conf/method/<name>.yaml: the class' defaults but for the inputs."""
    built = build(alone("method", name).method[name])
    assert replace(built, inputs=("conductance",)) == ErrorMLP()
    assert list(built.inputs) == [name.removesuffix("_mlp")]


@pytest.mark.parametrize(
    "inputs",
    [
        *(["conductance"], ["features"], ["logits"], ["sorted_logits"], ["conductance", "sorted_logits"]),
        *(["activation"], ["activation_x_gradient"], ["internal_influence"]),
    ],
    ids=str,
)
def test_inputs(inputs: list[str]) -> None:
    """The state's means are those of the training inputs as defined, and the scores probabilities."""
    features, detector = random_features(300), ErrorMLP(inputs, epochs=1)
    head = features.linear_head()
    defined = {
        "conductance": head.weight[features.predicted] * (features.tap() - BASELINE_FEATURES),
        "activation": features.tap(),
        "activation_x_gradient": head.weight[features.predicted] * features.tap(),
        "internal_influence": head.weight[features.predicted],
        "features": features.tap(),
        "logits": features.logits,
        "sorted_logits": features.logits.sort(1).values.flip(1),
    }
    single = replace(features, penultimate=features.tap().float(), logits=features.logits.float())
    single = replace(single, head=LinearHead(*(value.float() for value in head)))
    state = fit(detector, training(single))
    expected = torch.cat([defined[name] for name in inputs], 1).float().mean(0)
    assert torch.allclose(state["input_mean"], expected, atol=1e-5)
    assert ("baseline" in state) == ("conductance" in inputs)
    assert detector.needs().penultimate == (not {"logits", "sorted_logits"} >= set(inputs))
    scores = detector.score(single, state)
    assert scores.shape == (300,)
    assert ((scores > 0) & (scores < 1)).all()


def singles(count: int = 300, seed: int = 0, wrong: float = 0.3) -> Features:
    """float32 features whose labels are the predictions, but where the two highest logits are close."""
    features = random_features(count, seed=seed, dtype=torch.float32)
    top = features.logits.topk(2, 1)
    close = (top.values[:, 0] - top.values[:, 1]) < wrong
    return replace(features, labels=torch.where(close, top.indices[:, 1], top.indices[:, 0]))


def test_units_of_a_layer_are_readings() -> None:
    """Columns are those of the readings, with the detector's rule and steps, and the layer's pooled activation."""
    inputs = ["internal_influence", "activation", "conductance", "logits", "activation_x_gradient"]
    detector, features = ErrorMLP(inputs, "second", "left", 3, epochs=1), singles()
    influence, conductance = InternalInfluence("second", "left", 3), Conductance("second", "left", 3)
    product = ActivationXGradient("second")
    readings: tuple[Reading, ...] = (influence, conductance, product)
    made: dict[Reading, Tensor] = {
        each: torch.randn(300, 3, generator=torch.Generator().manual_seed(k)) for k, each in enumerate(readings)
    }
    kept = replace(features, readings=made)
    assert detector.needs().readings == readings
    assert detector.needs().layers == ("second",) and not detector.needs().penultimate
    state = fit(detector, training_of(kept, 70))
    columns = [made[influence], kept.layers["second"], made[conductance], kept.logits, made[product]]
    assert torch.allclose(state["input_mean"], torch.cat(columns, 1).mean(0), atol=1e-6)
    assert "baseline" not in state and detector.score(kept, state).shape == (300,)
    with pytest.raises(ValueError, match=r"InternalInfluence.*not kept"):
        detector.score(features, state)


def test_it_finds_errors() -> None:
    """Where errors are close calls, sorted logits find new ones: AUROC above .95."""
    detector = ErrorMLP(["sorted_logits"], epochs=20)
    state, test = fit(detector, training(singles(2000))), singles(1000, seed=1)
    wrong = test.predicted != test.labels
    scores = detector.score(test, state)
    better = (scores[wrong][:, None] > scores[~wrong][None]).double().mean()
    assert better > 0.95


def test_few_errors_warn() -> None:
    """Below 200, with the count; n_train_errors is in the state either way; enough errors do not warn."""
    few = singles(300)
    errors = int((few.predicted != few.labels).sum())
    assert 0 < errors < 200
    with pytest.warns(UserWarning, match=f"{errors} errors among 300 training images; below 200"):
        state = ErrorMLP(epochs=1).fit(training(few))
    assert int(state["n_train_errors"]) == errors
    many = replace(few, labels=(few.predicted + 1) % 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert int(ErrorMLP(epochs=1).fit(training(many))["n_train_errors"]) == 300


def test_unlabelled_images_are_left_out() -> None:
    """Label -1 is neither right nor wrong: the fit is that without those rows; exact."""
    features = singles()
    unlabelled = replace(features, labels=torch.where(torch.arange(300) < 250, features.labels, -1))
    detector = ErrorMLP(epochs=1)
    ours, expected = (fit(detector, training(each)) for each in (unlabelled, features.rows(slice(0, 250))))
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


def test_repeatable_whatever_the_parts() -> None:
    """Equal to the bit for a seed, in parts of 7 or one; another seed trains another perceptron; a fit leaves the
    global random state alone."""
    detector, before = ErrorMLP(epochs=2), torch.random.get_rng_state()
    states = [fit(detector, training(singles(), size)) for size in (None, 7)]
    other = fit(detector, training(singles(), seed=1))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["weight0"], other["weight0"])
    assert torch.equal(before, torch.random.get_rng_state())


def test_batches_do_not_matter() -> None:
    """Together, in parts of 7, one by one; float32, 1e-5."""
    detector, test = ErrorMLP(["conductance", "sorted_logits"], epochs=2), singles(seed=1)
    state = fit(detector, training(singles()))
    together = detector.score(test, state)
    for size in (7, 1):
        parts = [detector.score(test.rows(slice(i, i + size)), state) for i in range(0, 300, size)]
        assert torch.allclose(torch.cat(parts), together, atol=1e-5)


@pytest.mark.parametrize(
    "change", [{"inputs": ["features"]}, {"epochs": 2}, {"batch_size": 60}, {"learning_rate": 0.01}], ids=str
)
def test_each_setting_matters(change: dict[str, Any]) -> None:
    before, after = (
        detector.score(singles(seed=1), fit(detector, training(singles())))
        for detector in (ErrorMLP(epochs=1), replace(ErrorMLP(epochs=1), **change))
    )
    assert not torch.allclose(before, after)


def test_the_baseline_is_the_mean_image() -> None:
    """Features of the image that is zero after normalisation, by the network itself (tiny_resnet); exact."""
    tiny = known("tiny_resnet")
    network = Network(tiny.network.module, (0.4, 0.5, 0.6), (0.5, 0.25, 0.125))
    moved = tiny._replace(network=network)
    images = random_images(20, 16)

    def features_of(batch: Tensor) -> Features:
        return tiny_features(moved, batch)

    features = replace(features_of(images), labels=torch.arange(20) % 5)
    read = lambda rows: images[torch.from_numpy(rows)]  # noqa: E731
    state = fit(ErrorMLP(epochs=1), training_of(features, network=network, images=read, features_of=features_of))
    zero = tiny.network.run(torch.zeros(1, 3, 16, 16), ("layer1",))[1]["layer1"].activation
    assert torch.allclose(state["baseline"], pooled(zero), atol=1e-6)
    assert np.isfinite(state["input_mean"].numpy()).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inputs": ["lcr"]}, "inputs=['lcr']: 'lcr' is not one of conductance, activation, "),
        ({"inputs": []}, "inputs=[]: choose from conductance"),
        ({"epochs": 0}, "epochs=0, batch_size=50: give at least 1 of each"),
        ({"steps": 0}, "steps=0: give at least 1"),
        ({"layer": "layer2", "inputs": ["logits"]}, "layer='layer2' is read by none of inputs=['logits']"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ErrorMLP(**settings)


def test_requires_fit_and_images() -> None:
    """A missing fit is named; so is a training set without a network, which the baseline takes."""
    with pytest.raises(ValueError, match=r"ErrorMLP\(.* requires fit: its state has no input_mean, baseline"):
        ErrorMLP().score(singles(), {})
    with pytest.raises(ValueError, match="this training set has features only"):
        fit(ErrorMLP(), training_of(singles()))
