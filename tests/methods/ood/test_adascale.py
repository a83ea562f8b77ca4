"""AdaSCALE-A, and the features of perturbed images that it reads."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from assay.harness.build import build
from assay.harness.detection import Features, LinearHead, State
from assay.harness.detectors.features import head_of
from assay.harness.forward import ForwardPass
from assay.harness.heads import Passes
from assay.harness.network import Network
from assay.harness.training import TrainingSet
from assay.methods.ood.adascale import AdaSCALE, PerturbedFeatures
from assay.methods.ood.ash import SCALE
from conftest import Known, alone, assert_nothing_left, known, random_images
from detection_toys import features_of
from numpy.typing import NDArray
from scipy.special import logsumexp
from torch import Tensor, nn

WIDE = AdaSCALE(p_min=20, p_max=90, k_shift=15, k_correction=40, weight=3, samples=20)


def read(detector: AdaSCALE, network: Network, images: Tensor) -> Features:
    """Features of a pass, with the detector's reading."""
    forward = ForwardPass(network, images, input_graph=True, penultimate=True)
    unlabelled = torch.full((len(images),), -1)
    (reading,) = detector.needs().readings
    values = {reading: PerturbedFeatures(detector.share, detector.eps).of(forward)}
    return Features(forward.logits, unlabelled, forward.penultimate, head=head_of(forward), readings=values)


def fit(detector: AdaSCALE, network: Network, images: Tensor) -> State:
    """On images; their features in parts are not read."""
    return detector.fit(TrainingSet(lambda: iter([]), len(images), network, lambda rows: images[rows]))


def scores(detector: AdaSCALE, known: Known) -> Tensor:
    """Fitted on 24 random images, of four others."""
    state = fit(detector, known.network, random_images(24, 16).to(known.images))
    return detector.score(read(detector, known.network, known.images), state)


class Sums(nn.Module):
    """One pixel, three channels; features relu(x_0 + 2 x_1, x_2, x_0 - x_2, 1), logits their first two, times 1, -1."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 2, bias=False)
        self.last.weight.data = torch.tensor([[1.0, 0, 0, 0], [0, -1, 0, 0]])

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.last(torch.stack([x[:, 0] + 2 * x[:, 1], x[:, 2], x[:, 0] - x[:, 2], 1 + 0 * x[:, 0]], 1).relu())


# By hand


@pytest.mark.parametrize(
    ("share", "features"), [(1 / 3, [4, 1, 0, 1]), (2 / 3, [4.5, 1, 0.5, 1]), (1.0, [5.5, 1, 0.5, 1])]
)
def test_perturbed_features_by_hand(share: float, features: list[float]) -> None:
    """(1, 1.5, 1) predicts the first class, whose slopes are 1, 2 and 0: x_2 is least important and moves nowhere, then
    x_0 by + .5, then x_1. Images in [0,1] come through mean .5 and deviation 1/8, 1e-6."""
    network = Network(Sums(), (0.5,) * 3, (0.125,) * 3)
    forward = ForwardPass(network, torch.tensor([1, 1.5, 1]).view(1, 3, 1, 1) / 8 + 0.5, input_graph=True)
    assert PerturbedFeatures(share).of(forward)[0].tolist() == pytest.approx(features, abs=1e-6)


def test_scores_by_hand() -> None:
    """a = (4, 3, 1, 0), a' = (3, 5, 1, 0): Q over the largest half 1 + 2, C over the largest 5, so Q' = 3 + 2 * 3 = 9.
    Of training shifts 1, 9, 10, 20 half are not larger: p = 0 + .5 * 100, two of four are summed, r = 8 / 7."""
    detector = AdaSCALE(p_min=0, p_max=100, k_shift=50, k_correction=25, weight=2)
    (reading,) = detector.needs().readings
    head = LinearHead(torch.tensor([[1.0, 1, 1, 1], [0, 0, 2, 0]]), torch.tensor([0.0, 1]))
    plain = features_of(torch.tensor([[4.0, 3, 1, 0]]), head)
    features = replace(plain, readings={reading: torch.tensor([[3.0, 5, 1, 0]])})
    scale = math.exp(8 / 7)
    expected = -math.log(math.exp(8 * scale) + math.exp(2 * scale + 1))
    state = {"shifts": torch.tensor([1.0, 9, 10, 20], dtype=torch.float64)}
    assert detector.score(features, state).item() == pytest.approx(expected, rel=1e-6)


# OpenOOD's formula, an image at a time


def openood_scores(detector: AdaSCALE, module: nn.Module, last: nn.Linear, training: Tensor, images: Tensor) -> Any:
    """Written from OpenOOD's postprocessor and network with NumPy; its k1 counts what is summed of the perturbed
    features, its k2 what is summed of the shifts."""

    def both(image: Tensor) -> tuple[NDArray, NDArray]:
        caught: list[Tensor] = []
        handle = last.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0].detach()))
        x = image[None].clone().requires_grad_()
        module(x).max().backward()
        assert x.grad is not None
        gradient = x.grad.numpy().ravel()
        lowest = np.argsort(np.abs(gradient))[: int(gradient.size * detector.share)]
        step = np.zeros_like(gradient)
        step[lowest] = detector.eps * np.sign(gradient[lowest])
        module(x.detach() + torch.from_numpy(step).view_as(x))
        handle.remove()
        return caught[0][0].numpy(), caught[1][0].numpy()

    def shift(plain: NDArray, perturbed: NDArray) -> float:
        order = np.argsort(-plain)
        k1, k2 = (int(plain.size * each / 100) for each in (detector.k_correction, detector.k_shift))
        return (
            np.maximum(perturbed[order[:k1]], 0).sum() + detector.weight * np.abs(plain - perturbed)[order[:k2]].sum()
        )

    known_shifts = np.array([shift(*both(image)) for image in training])
    weight, bias = last.weight.detach().numpy(), last.bias.detach().numpy()

    def score(image: Tensor) -> float:
        plain, perturbed = both(image)
        percent = 1 - (known_shifts <= shift(plain, perturbed)).mean()
        percentile = detector.p_min + percent * (detector.p_max - detector.p_min)
        kept = plain.size - int(np.round(plain.size * percentile / 100))
        rectified = np.maximum(plain, 0)
        scale = rectified.sum() / np.sort(rectified)[::-1][:kept].sum()
        return -logsumexp(weight @ (plain * np.exp(scale)) + bias)

    return np.array([score(image) for image in images])


@pytest.mark.parametrize(
    "changed", [{}, {"share": 0.3, "eps": 0.1, "weight": 0.5}, {"k_shift": 60, "k_correction": 20}]
)
def test_openood_formula(tiny64: Known, changed: dict[str, Any]) -> None:
    """Float64; the images of a fit in two parts; relative 1e-10."""
    detector = replace(WIDE, samples=24, **changed)
    ending = tiny64.network.ending
    assert ending is not None
    training = random_images(24, 16).double()
    expected = openood_scores(detector, tiny64.network.module, ending.linear, training, tiny64.images)
    assert scores(detector, tiny64).tolist() == pytest.approx(expected.tolist(), rel=1e-10)


# Invariants


def test_the_config_builds_the_class() -> None:
    """conf/method/adascale.yaml holds exactly the class' settings with its defaults."""
    assert build(alone("method", "adascale").method["adascale"]) == AdaSCALE()


def test_one_percentile_is_scale(tiny64: Known) -> None:
    """p_min = p_max: no shift matters; float64, 1e-12."""
    fixed = replace(WIDE, p_min=60, p_max=60)
    expected = SCALE(60).score(read(fixed, tiny64.network, tiny64.images), {})
    assert torch.allclose(scores(fixed, tiny64), expected, rtol=1e-12, atol=0)


def test_unlike_all_training_images_is_scaled_least() -> None:
    """An image that moves more than all training images has p_min, one that moves less p_max; a row of zeros stays."""
    plain = features_of(torch.tensor([[4.0, 3, 1, 0]] * 2 + [[0.0] * 4]), LinearHead(torch.eye(4), torch.zeros(4)))
    (reading,) = WIDE.needs().readings
    moved = torch.tensor([[90.0, 3, 1, 0], [4, 3, 1, 0], [0, 0, 0, 0]])
    found = WIDE.score(replace(plain, readings={reading: moved}), {"shifts": torch.tensor([50.0, 60]).double()})
    expected = [SCALE(p).score(plain, {})[row] for row, p in enumerate([WIDE.p_min, WIDE.p_max, 50])]
    assert torch.allclose(found, torch.stack(expected))


def test_batch_of_four_equals_four_batches(tiny64: Known) -> None:
    """Perturbed features; float64, 1e-12."""
    together = read(WIDE, tiny64.network, tiny64.images)
    alone = [read(WIDE, tiny64.network, image[None]) for image in tiny64.images]
    (reading,) = WIDE.needs().readings
    assert torch.allclose(
        together.reading(reading), torch.cat([each.reading(reading) for each in alone]), atol=1e-12, rtol=0
    )


def test_passes(tiny: Known) -> None:
    """Of a test image one forward and one backward pass beside the shared one; of 20 drawn training images three each,
    and of no other image; nothing is left on the network."""
    state = fit(WIDE, tiny.network, random_images(24, 16))
    assert tiny.network.passes == Passes(forward=40, backward=20, head=0)
    features = read(WIDE, tiny.network, tiny.images)
    assert tiny.network.passes == Passes(forward=48, backward=24, head=0)
    assert len(state["shifts"]) == 20 and not WIDE.score(features, state).requires_grad
    assert_nothing_left(tiny.network)


@pytest.mark.parametrize(
    "changed",
    [
        *({"p_min": 5}, {"p_max": 97}, {"k_shift": 80}, {"k_correction": 5}, {"weight": 0.1}, {"share": 0.3}),
        *({"eps": 2.0}, {"samples": 5}),
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_each_setting_matters(changed: dict[str, Any]) -> None:
    """Another value gives some image of 16 another score; float32."""
    tiny = known("tiny_resnet")._replace(images=random_images(16, 16, seed=1))
    assert not torch.equal(scores(WIDE, tiny), scores(replace(WIDE, **changed), tiny))


def test_features_that_are_not_rectified_are_refused_or_taken_as_they_are() -> None:
    """`rectified` names them, at the fit as well. With keep, sums are of what is above 0, as in OpenOOD's code: C is
    that of relu(-9), not below the training shift -5, so that p = p_min; then r = (3 + 4 + 1) / (3 + 4)."""
    detector = AdaSCALE(p_min=50, p_max=75, k_correction=25, weight=0)
    (reading,) = detector.needs().readings
    plain = features_of(torch.tensor([[-1.0, 3, 4, 1]]), LinearHead(torch.eye(4), torch.zeros(4)))
    features = replace(plain, readings={reading: torch.tensor([[-1.0, 3, -9, 1]])})
    state = {"shifts": torch.tensor([-5.0]).double()}
    with pytest.raises(ValueError, match=r"AdaSCALE.*25 % of these features are negative.*negative=keep"):
        detector.score(features, state)
    kept = replace(detector, negative="keep").score(features, state)
    assert torch.allclose(kept, -(plain.tap() * math.exp(8 / 7)).logsumexp(1))
    signed = Network(nn.Sequential(nn.Flatten(), nn.Linear(3, 3), nn.Linear(3, 2)), (0,) * 3, (1,) * 3)
    with pytest.raises(ValueError, match=r"AdaSCALE.* of these features are negative"):
        fit(WIDE, signed, random_images(20, 1))


def test_errors() -> None:
    """Settings, and scores without a fit."""
    for settings, match in [
        ({"p_max": 101}, "p_max=101: a percentile lies between 0 and 100"),
        ({"p_min": 90}, "p_min=90, p_max=85: the smaller one first"),
        ({"k_shift": -1}, "k_shift=-1: a percentile lies"),
        ({"weight": -1}, "weight=-1: choose one from 0"),
        ({"share": 0}, "share=0: choose a share of the input's numbers above 0, at most 1"),
        ({"eps": 0}, "eps=0: choose a step above 0"),
        ({"samples": 0}, "samples=0: compare shifts with those of 1 training image or more"),
        ({"negative": "drop"}, "negative='drop': choose one of refuse, keep"),
    ]:
        with pytest.raises(ValueError, match=match):
            AdaSCALE(**settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"AdaSCALE.* requires fit"):
        AdaSCALE().score(features_of(torch.ones(1, 4), LinearHead(torch.eye(4), torch.zeros(4))), {})
