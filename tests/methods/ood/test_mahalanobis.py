"""Mahalanobis distance, with and without a step in the input and a calibration."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from assay.harness.detection import DetectorNeeds, Features, LinearHead, State, pooled
from assay.harness.forward import ForwardPass
from assay.harness.heads import Passes
from assay.harness.network import Network
from assay.harness.training import TrainingSet
from assay.methods.ood import mahalanobis
from assay.methods.ood.mahalanobis import Gaussian, Mahalanobis, fgsm_images
from conftest import Known, assert_nothing_left, known, random_images
from detection_toys import features_of, random_features, scores_of, training_of
from sklearn.covariance import EmpiricalCovariance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor

LAYERS = ("features.3", "features.8")  # of tiny_vgg


def tiny_training(network: Network, count: int = 60, size: int = 20, seed: int = 0) -> TrainingSet:
    """Random images [n,3,16,16] with the classes that the network predicts, but for every fifth; features of LAYERS."""
    images = random_images(count, 16, seed)
    forward = ForwardPass(network, images, LAYERS)
    labels = torch.where(torch.arange(count) % 5 == 0, torch.arange(count) // 5 % 5, forward.logits.argmax(1))
    layers = {layer: pooled(forward.activation(layer)) for layer in LAYERS}
    features = Features(forward.logits, labels, layers=layers)
    network.passes = Passes()
    return training_of(features, size, network=network, images=lambda rows: images[torch.from_numpy(rows)])


def image_scores(detector: Mahalanobis, network: Network, images: Tensor, state: State) -> Tensor:
    needs = detector.needs()
    forward = ForwardPass(network, images, needs.layers, needs.images)
    layers = {layer: pooled(forward.activation(layer)) for layer in needs.layers}
    return detector.score_images(
        forward, Features(forward.logits, torch.full((len(images),), -1), layers=layers), state
    )


# By hand


def test_by_hand() -> None:
    """Class 0 at (0, +-1), class 1 at (4 +- 2, 0): means (0, 0), (4, 0), covariance diag(8, 2) / 4.

    (1, 2): half of 1 / 2 + 4 / 0.5 to class 0 is 4.25, nearer than half of 9 / 2 + 8 to class 1.
    """
    rows = torch.tensor([[0.0, 1], [0, -1], [6, 0], [2, 0]])
    head = LinearHead(torch.eye(2), torch.zeros(2))
    training = training_of(features_of(rows, head, torch.tensor([0, 0, 1, 1])), size=3)
    state = Mahalanobis().fit(training)
    assert state["means.penultimate"].tolist() == [[0, 0], [4, 0]]
    assert torch.allclose(state["precision.penultimate"], torch.diag(torch.tensor([0.5, 2]).double()))
    assert scores_of(Mahalanobis(), features_of(torch.tensor([[1.0, 2]]), head), training).item() == pytest.approx(4.25)


# Against scikit-learn, the definition and pytorch-ood


@pytest.mark.parametrize("layer", [None, "first"])
def test_sklearn(layer: str | None) -> None:
    """EmpiricalCovariance of the class-centred features, its precision and distances; float64, 1e-10 relative."""
    train, test = random_features(), random_features(seed=1)
    values = train.tap(layer)
    means = torch.stack([values[train.labels == label].mean(0) for label in range(5)])
    oracle = EmpiricalCovariance(assume_centered=True).fit((values - means[train.labels]).numpy())
    detector = Mahalanobis(None if layer is None else [layer])
    state = detector.fit(training_of(train, 7))
    name = layer or "penultimate"
    assert torch.allclose(state[f"precision.{name}"], torch.from_numpy(oracle.precision_), rtol=1e-10)
    each = [oracle.mahalanobis((test.tap(layer) - mean).numpy()) for mean in means]
    expected = torch.from_numpy(np.min(each, 0)) / 2
    assert torch.allclose(detector.score(test, state), expected, rtol=1e-10)


def test_a_direction_without_variance() -> None:
    """A constant feature makes the covariance singular: the pseudo-inverse is scikit-learn's, and ignores it."""
    train, test = random_features(), random_features(seed=1)
    constant = features_of(torch.cat([train.tap(), torch.ones(60, 1)], 1), _widened(train.linear_head()), train.labels)
    moved = features_of(torch.cat([test.tap(), torch.full((60, 1), 5.0)], 1), _widened(test.linear_head()))
    expected = scores_of(Mahalanobis(), test, training_of(train))
    assert torch.allclose(scores_of(Mahalanobis(), moved, training_of(constant)), expected, rtol=1e-8)


@pytest.mark.parametrize("offset", [0.0, 10.0, 1e4])
def test_few_images_far_from_zero(offset: float) -> None:
    """20 training images of 3 classes and 24 features that lie at `offset`, as behind a shifted layer: the covariance
    has rank 17, and the scores are scikit-learn's (EmpiricalCovariance on rows whose offset is taken away in
    float64), 1e-6 relative; none is negative, and all OOD images are further out than all others: AUROC 1."""
    base, axes = torch.Generator().manual_seed(0), torch.eye(24)
    labels = torch.arange(20) % 3
    steps = torch.randint(-64, 65, (20, 24), generator=base) / 64  # exact in float32, also at 1e4
    train = offset + 4 * axes[labels] + steps
    spread = steps.double() - torch.stack([steps[labels == c].double().mean(0) for c in range(3)])[labels]
    away = torch.linalg.svd(spread).Vh[0].float()
    inside = offset + (4 * axes[labels] + steps.roll(3, 0)).float()
    outside = (offset + 4 * axes[labels] + 40 * away).float()
    head = LinearHead(torch.zeros(3, 24), torch.zeros(3))
    state = Mahalanobis().fit(training_of(features_of(train, head, labels), 7))
    means = torch.stack([train[labels == c].double().mean(0) for c in range(3)])
    oracle = EmpiricalCovariance(assume_centered=True).fit(spread.numpy())
    assert np.linalg.matrix_rank(oracle.precision_, hermitian=True) == 17
    scores = []
    for values in (inside, outside):
        each = [oracle.mahalanobis((values.double() - mean).numpy()) for mean in means]
        scores.append(Mahalanobis().score(features_of(values, head), state))
        assert torch.allclose(scores[-1], torch.from_numpy(np.min(each, 0)) / 2, rtol=1e-6)
        assert bool((scores[-1] >= 0).all())
    assert roc_auc_score(np.repeat([0, 1], 20), torch.cat(scores)) == 1


def test_a_negative_distance_is_refused() -> None:
    """A precision with a negative eigenvalue is none."""
    gaussian = Gaussian(torch.zeros(1, 2).double(), torch.diag(torch.tensor([1.0, -1])).double())
    assert gaussian.distance(torch.tensor([[2.0, 1]])).item() == 1.5
    with pytest.raises(ValueError, match="a squared distance of -3: the precision has negative eigenvalues"):
        gaussian.distance(torch.tensor([[2.0, 1], [1, 2]]))


def test_features_without_spread_are_refused() -> None:
    """Constant within each class: every distance would be zero."""
    labels = torch.arange(12) % 3
    head = LinearHead(torch.zeros(3, 3), torch.zeros(3))
    with pytest.raises(ValueError, match="constant within each class"):
        Mahalanobis().fit(training_of(features_of(0.1 * torch.eye(3)[labels], head, labels), 5))


def _widened(head: LinearHead) -> LinearHead:
    return LinearHead(torch.cat([head.weight, torch.zeros(len(head.weight), 1)], 1), head.bias)


def test_one_image_a_class_is_refused() -> None:
    """Their covariance within classes would be zero, and so every distance."""
    features = random_features(5)
    with pytest.raises(ValueError, match="no class has two training images"):
        Mahalanobis().fit(training_of(features))


def test_a_class_without_images_is_nobodys_neighbour() -> None:
    """Its mean would be zero; with classes 0 to 3 alone the fit is that of a network with four classes; exact."""
    train, test = random_features(), random_features(seed=1)
    kept = train.rows(train.labels < 4)
    assert kept.linear_head().weight.shape[0] == 5
    narrow = features_of(
        kept.tap(), LinearHead(kept.linear_head().weight[:4], kept.linear_head().bias[:4]), kept.labels
    )
    expected = scores_of(Mahalanobis(), test, training_of(narrow))
    assert torch.equal(scores_of(Mahalanobis(), test, training_of(kept)), expected)


def test_pytorch_ood() -> None:
    """pytorch-ood 0.4 divides the covariance by nothing and adds a ridge of 1e-6: its score times N is ours; 1e-6."""
    oracle = pytest.importorskip("pytorch_ood.detector").Mahalanobis
    train, test = random_features(dtype=torch.float32), random_features(seed=1, dtype=torch.float32)
    theirs = oracle(None).fit_features(train.tap(), train.labels).predict_features(test.tap())
    ours = scores_of(Mahalanobis(), test, training_of(train))
    assert torch.allclose(ours.float(), theirs * 60, rtol=1e-4)


def test_large_features_lose_no_digits() -> None:
    """Features moved by 1000: the nearest class and its distance are found to 1e-6 all the same."""
    train, test = random_features(), random_features(seed=1)
    far = [features_of(each.tap() + 1000, each.linear_head(), each.labels) for each in (train, test)]
    expected = scores_of(Mahalanobis(), test, training_of(train))
    assert torch.allclose(scores_of(Mahalanobis(), far[1], training_of(far[0])), expected, rtol=1e-6)


# With a step in the input


def naive_distance(network: Network, layer: str, gaussian: Gaussian, image: Tensor, noise: float) -> Tensor:
    """One image, by autograd through hooks on the module: the step, then the distance."""
    kept: list[Tensor] = []
    handle = network.module.get_submodule(layer).register_forward_hook(lambda _, __, out: kept.append(out))
    x = image[None].clone().requires_grad_()
    network.module(x)
    differences = kept[0].mean((2, 3)) - gaussian.means
    half = ((differences @ gaussian.precision) * differences).sum(1) / 2
    half.min().backward()
    assert x.grad is not None
    network.module(x.detach() - noise * torch.where(x.grad >= 0, 1.0, -1.0).double())
    handle.remove()
    differences = kept[1].mean((2, 3)) - gaussian.means
    return ((differences @ gaussian.precision) * differences).sum(1).min().detach() / 2


@pytest.mark.parametrize("layer", LAYERS)
def test_step_naive(layer: str) -> None:
    """One layer and one size of step against autograd on the module; float64, 1e-9 relative."""
    network, images, *_ = known("tiny_vgg", torch.float64)
    detector = Mahalanobis([layer], [0.01])
    state = detector.fit(tiny_training(network))
    gaussian = Gaussian(state[f"means.{layer}"], state[f"precision.{layer}"])
    expected = torch.stack([naive_distance(network, layer, gaussian, image, 0.01) for image in images])
    assert torch.allclose(image_scores(detector, network, images, state), expected, rtol=1e-9)


def test_step_brings_the_image_nearer() -> None:
    """A small step lowers the distance of every image."""
    network, images, *_ = known("tiny_vgg", torch.float64)
    training = tiny_training(network)
    state = Mahalanobis(LAYERS[:1]).fit(training)
    plain = image_scores(Mahalanobis(LAYERS[:1]), network, images, state)
    stepped = Mahalanobis(LAYERS[:1], [1e-4])
    assert (image_scores(stepped, network, images, stepped.fit(training)) < plain).all()


def test_pytorch_ood_step() -> None:
    """pytorch-ood 0.4's MahalanobisODIN with the same mean and precision, in units of pixels; float64, 1e-9."""
    oracle = pytest.importorskip("pytorch_ood.detector").MahalanobisODIN
    std = (0.5, 0.25, 0.125)
    network = Network(known("tiny_vgg").network.module, (0.4, 0.5, 0.6), std).to(dtype=torch.float64)
    images = random_images(4, 16, seed=3)
    detector = Mahalanobis(LAYERS[:1], [0.002])
    state = detector.fit(tiny_training(network))
    body = network.module.get_submodule("features")[:4]  # type: ignore[index]
    theirs = oracle(lambda x: body(x).mean((2, 3)), eps=0.002, norm_std=list(std))
    theirs._base.mu, theirs._base.precision = state[f"means.{LAYERS[0]}"], state[f"precision.{LAYERS[0]}"]
    expected = theirs.predict(network.normalise(images))
    assert torch.allclose(image_scores(detector, network, images, state), expected, rtol=1e-9)


# Calibration


SEVERAL = Mahalanobis(LAYERS, (0.0, 0.01, 0.001), "fgsm", images=20)


def test_fgsm_by_hand(tiny64: Known) -> None:
    """x + eps sign of the gradient of -log p_label in pixels, clamped to [0,1]; float64, 1e-12."""
    network = Network(tiny64.network.module, (0.4, 0.5, 0.6), (0.5, 0.25, 0.125)).to(dtype=torch.float64)
    images, labels = random_images(4, 16).double(), torch.tensor([0, 4, 2, 1])
    x = images.clone().requires_grad_()
    loss = -network.module((x - network.mean) / network.std).log_softmax(1).gather(1, labels[:, None]).sum()
    (gradient,) = torch.autograd.grad(loss, x)
    expected = (images + 0.05 * torch.where(gradient >= 0, 1.0, -1.0)).clamp(0, 1)
    assert torch.allclose(fgsm_images(network, images, labels, 0.05), expected, atol=1e-8)


def test_calibration() -> None:
    """The size of step is one of those given; new FGSM images score higher than their originals."""
    network = known("tiny_vgg", torch.float64).network
    training = tiny_training(network)
    state = SEVERAL.fit(training)
    assert float(state["noise"]) in SEVERAL.noise
    assert state["weight"].shape == (2,)
    images = random_images(40, 16, seed=5)
    clean = image_scores(SEVERAL, network, images, state)
    fgsm = fgsm_images(network, images, network.module(network.normalise(images)).argmax(1), 0.05)
    assert image_scores(SEVERAL, network, fgsm, state).mean() > clean.mean()


def test_calibration_is_the_regression_of_the_definition() -> None:
    """Without a step, from the training features themselves: every second of 40 images and their FGSM images fit a
    logistic regression that predicts as ours does (ours also chooses C by cross-validation); other half chooses."""
    network = known("tiny_vgg", torch.float64).network
    training = tiny_training(network, 40)
    detector = Mahalanobis(LAYERS, [0.0], "fgsm", images=20)
    state = detector.fit(training)
    assert not detector.needs().images
    bank, images = training.bank, training.images(np.arange(40))
    adversarial = ForwardPass(network, fgsm_images(network, images, bank.labels, 0.05), LAYERS)
    layers = {layer: pooled(adversarial.activation(layer)) for layer in LAYERS}
    sets = [bank, Features(adversarial.logits, bank.labels, layers=layers)]
    distances = [detector._plain(each, detector._gaussians(state))[::2] for each in sets]
    values, out = torch.cat(distances), np.repeat([0, 1], 20)
    scaled = ((values - values.mean(0)) / values.std(0)).numpy()
    ours = (values @ state["weight"] + state["bias"]).numpy()
    agreement = [
        np.corrcoef(ours, LogisticRegression(C=c).fit(scaled, out).decision_function(scaled))[0, 1]
        for c in np.logspace(-4, 4, 10)
    ]
    assert max(agreement) > 1 - 1e-6


def test_calibration_is_repeatable_and_depends_on_its_seed() -> None:
    """Two fits of one training set are equal to the bit; another seed draws other images."""
    network = known("tiny_vgg", torch.float64).network
    first, again = (SEVERAL.fit(tiny_training(network)) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    few = Mahalanobis(LAYERS, (0.0,), "fgsm", images=10)
    sets = [tiny_training(network), tiny_training(network)]
    sets[1].seed = 1
    weights = [few.fit(each)["weight"] for each in sets]
    assert not torch.equal(*weights)


# Invariants


def test_head_only_without_a_step() -> None:
    """noise [0] needs no image, one layer or several; the same scores either way; a step needs images."""
    network, images, *_ = known("tiny_vgg", torch.float64)
    detector = Mahalanobis(LAYERS[1:])
    assert not detector.needs().images
    assert not Mahalanobis().needs().images
    assert Mahalanobis().needs().penultimate
    assert Mahalanobis(LAYERS, [0.0, 0.1], "fgsm").needs() == DetectorNeeds(False, LAYERS, True, True)
    state = detector.fit(tiny_training(network))
    forward = ForwardPass(network, images, LAYERS)
    features = Features(forward.logits, torch.zeros(4), layers={LAYERS[1]: pooled(forward.activation(LAYERS[1]))})
    assert torch.equal(detector.score(features, state), image_scores(detector, network, images, state))


@pytest.mark.parametrize("detector", [SEVERAL, Mahalanobis(LAYERS[:1], [0.01])], ids=["several", "one"])
def test_batch_of_four_equals_four_batches(detector: Mahalanobis) -> None:
    """Float64, 1e-9 relative."""
    network, images, *_ = known("tiny_vgg", torch.float64)
    state = detector.fit(tiny_training(network))
    together = image_scores(detector, network, images, state)
    alone = torch.cat([image_scores(detector, network, image[None], state) for image in images])
    assert torch.allclose(together, alone, rtol=1e-9)


def test_passes() -> None:
    """Scoring with a step: the shared forward, and a backward and a forward for each of two layers. Calibration on 40
    images: 40 FGSM passes of either kind, then, for 80 images, 1 + 2 * 2 forwards (two sizes, two layers) and 2
    backwards."""
    network, images, *_ = known("tiny_vgg", torch.float64)
    training = tiny_training(network)
    state = SEVERAL.fit(training)
    assert network.passes == Passes(forward=40 + 80 * 5, backward=40 + 80 * 2)
    network.passes = Passes()
    state["noise"] = torch.tensor(0.01).double()
    found = image_scores(SEVERAL, network, images, state)
    assert network.passes == Passes(forward=4 * 3, backward=4 * 2)
    assert not found.requires_grad
    assert_nothing_left(network)


def test_each_setting_matters() -> None:
    """Other layers, noise, FGSM size and number of images give other scores."""
    network, images, *_ = known("tiny_vgg", torch.float64)
    training = tiny_training(network)

    def scores(*settings: Any) -> Tensor:
        detector = Mahalanobis(*settings)
        return image_scores(detector, network, images, detector.fit(training))

    base = scores(LAYERS, [0.01], "fgsm", 0.05, 20)
    others = [
        (LAYERS[:1], [0.01], "fgsm", 0.05, 20),
        (LAYERS, [0.02], "fgsm", 0.05, 20),
        (LAYERS, [0.01], "fgsm", 0.1, 20),
        (LAYERS, [0.01], "fgsm", 0.05, 15),
    ]
    assert all((scores(*other) != base).any() for other in others)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"calibration": "odin"}, "calibration='odin': choose none or fgsm"),
        ({"noise": []}, "name at least one of each"),
        ({"layers": []}, "name at least one of each"),
        ({"noise": [0.01]}, "run the network again: name the layers"),
        ({"calibration": "fgsm"}, "run the network again: name the layers"),
        ({"layers": ["a", "b"]}, "layers=['a', 'b'], noise=[0.0]: several are combined and chosen by calibration=fgsm"),
        ({"layers": ["a"], "noise": [0, 0.1]}, "several are combined and chosen by calibration=fgsm"),
        ({"images": 3}, "images=3: give at least 10"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Mahalanobis(**settings)


def test_other_errors() -> None:
    """A missing fit, a step without images, too few images to calibrate on: each is named."""
    with pytest.raises(ValueError, match=r"requires fit: its state has no means\.penultimate, precision\.penultimate"):
        Mahalanobis().score(random_features(), {})
    with pytest.raises(ValueError, match=r"steps from the images: call score_images, or set noise=\[0\]"):
        Mahalanobis(LAYERS, [0.1], "fgsm").score(random_features(), {})
    with pytest.raises(ValueError, match="12 labelled training images are too few to calibrate on: 20 or more"):
        SEVERAL.fit(tiny_training(known("tiny_vgg", torch.float64).network, 12))


def test_images_are_read_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """40 images, 7 at a time: the same state; 1e-9."""
    network = known("tiny_vgg", torch.float64).network
    whole = SEVERAL.fit(tiny_training(network))
    monkeypatch.setattr(mahalanobis, "ROWS", 7)
    parts = SEVERAL.fit(tiny_training(network))
    assert all(torch.allclose(whole[name], parts[name], rtol=1e-6) for name in whole)
