"""LINe."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from assay.harness.detection import Features, LinearHead
from assay.harness.forward import ForwardPass
from assay.methods.ood.line import LINe, closed_form_contributions, integrated_contributions
from assay.methods.ood.logits import Energy
from assay.methods.ood.react import ReAct
from conftest import Known
from detection_toys import class_mean_training, features_of, line_dice, random_features, scores_of, training_of
from torch import Tensor

GOLDEN = [LINe(90, 90, 1.0), LINe(10, 90, 1.0), LINe(10, 10, 0.8)]


def golden_name(detector: LINe) -> str:
    return f"line_pa{detector.p_activation}_pw{detector.p_weight}_delta{detector.delta}"


def naive(detector: LINe, features: Features, class_means: Tensor) -> Tensor:
    """The definition with a mask [C,C,D] and votes [B,C,D], as the authors' code computes it: [B]."""
    weight, bias = features.linear_head()
    contribution = weight * class_means
    units = contribution > torch.quantile(contribution, detector.p_activation / 100, dim=1, keepdim=True)
    votes = contribution.abs()[:, None, :] * weight  # [l,C,D]
    thresholds = torch.quantile(votes.flatten(1), detector.p_weight / 100, dim=1)
    masks = votes > thresholds[:, None, None]
    a = features.tap().clamp(max=detector.delta) if detector.clip_activations else features.tap()
    label = (a @ weight.T + bias).argmax(1)
    kept = a * units[label] if detector.prune_activations else a
    matrix = weight * masks[label] if detector.prune_weights else weight.expand_as(masks[label])
    return -((kept[:, None, :] * matrix).sum(2) + bias).logsumexp(1)


# By hand


def test_by_hand() -> None:
    """C = W * class mean = (2, 1; 1, 4) of W = (2, 1; 1, 2), means (1, 1) and (1, 2).

    a = (3, 1/2) clipped at 1 predicts class 0 (2.5 against 2): unit 0 alone exceeds the median 1.5 of (2, 1). Votes
    |C[0]| W = (4, 1; 2, 2), median 2, so of W the 2 of (0,0) stays: z = (2, 0).
    """
    head = LinearHead(torch.tensor([[2.0, 1], [1, 2]]), torch.zeros(2))
    training = training_of(features_of(torch.tensor([[1.0, 1], [0, 2], [2, 2]]), head, torch.tensor([0, 1, 1])))
    detector = LINe(50, 50, 1.0)
    state = detector.fit(training)
    assert state["contribution"].tolist() == [[2, 1], [1, 4]]
    assert state["unit_threshold"].tolist() == [1.5, 2.5]
    assert state["weight_threshold"].tolist() == [2, 3]  # |C[1]| W = (2, 4; 1, 8)
    features = features_of(torch.tensor([[3, 0.5]]), head)
    assert detector.score(features, state).item() == pytest.approx(-math.log(math.e**2 + 1), abs=1e-6)
    for without, expected in [
        (replace(detector, clip_activations=False), -math.log(math.e**6 + 1)),
        (replace(detector, prune_activations=False), -math.log(math.e**2 + 1)),
        (replace(detector, prune_weights=False), -math.log(math.e**2 + math.e)),
    ]:
        assert without.score(features, state).item() == pytest.approx(expected, abs=1e-5), without


# Against the authors' code and the definition


@pytest.mark.parametrize("detector", GOLDEN, ids=golden_name)
def test_golden(detector: LINe) -> None:
    """tests/golden/line_dice.npz: contributions and masks of units, scores to 1e-5."""
    features, arrays = line_dice()
    training, name = class_mean_training(features, arrays["class_mean_activation"]), golden_name(detector)
    state = detector.fit(training)
    assert torch.allclose(state["contribution"].float(), arrays["class_contribution"], rtol=1e-5)
    assert torch.equal(state["contribution"] > state["unit_threshold"][:, None], arrays[f"{name}_unit_kept"])
    for label in range(7):
        votes = state["contribution"][label].abs() * arrays["weight"].double()
        assert torch.equal(votes > state["weight_threshold"][label], arrays[f"{name}_weight_kept"][label])
    assert torch.allclose(-detector.score(features, state), arrays[name], atol=1e-5, rtol=0)


@pytest.mark.parametrize("detector", [*GOLDEN, LINe(40, 60, 0.5, prune_weights=False)], ids=str)
def test_naive(detector: LINe) -> None:
    """Against masks [C,C,D] and votes [B,C,D] in float64; 1e-12."""
    train, test = random_features(), random_features(seed=1)
    training = training_of(train, 7)
    expected = naive(detector, test, training.moments().class_means)
    assert torch.allclose(scores_of(detector, test, training), expected, atol=1e-12, rtol=0)


def test_nothing_of_order_batch_classes_features_is_made() -> None:
    """1000 rows, 300 classes, 256 features: [B,C,D] would be 307 MB. Every tensor that scoring makes is at most [C,D]
    or [B,C], the state at most [C,D]."""
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            made = func(*args, **(kwargs or {}))
            if isinstance(made, Tensor):
                largest = max(largest, made.numel())
            return made

    train, test = random_features(900, 300, 256), random_features(1000, 300, 256, seed=1)
    state = LINe(10, 10, 0.8).fit(training_of(train))
    with Watch():
        LINe(10, 10, 0.8).score(test, state)
    assert largest <= 1000 * 300
    assert max(value.numel() for value in state.values()) == 300 * 256


# Contributions


def test_taylor_is_integrated_gradients_at_the_penultimate_layer() -> None:
    """a * gradient, n = 1, 7, 10 points of an integrated gradient and W * a, an image each; float64, 1e-12. The class
    means are those that LINe fits by either setting."""
    features = random_features()
    head = features.linear_head()
    expected = head.weight[features.labels] * features.tap()
    for steps in (1, 7, 10):
        found = integrated_contributions(head.__call__, features.tap(), features.labels, steps)
        assert torch.allclose(found, expected, atol=1e-12, rtol=0)
    training = training_of(features, 7)
    closed = LINe().fit(training)
    integrated = LINe(contributions="integrated_gradients", steps=3).fit(training)
    assert torch.allclose(closed["contribution"], closed_form_contributions(training), atol=0)
    for name in closed:
        assert torch.allclose(closed[name], integrated[name], atol=1e-12, rtol=0)


def test_integrated_contributions_at_an_inner_layer(tiny64: Known) -> None:
    """Through Network.head: for many points they sum to f(a) - f(0), and the Taylor contributions do not; the sum
    of n points is the right Riemann sum; float64, 1e-12."""
    forward = ForwardPass(tiny64.network, tiny64.images, (tiny64.layer,))
    activation, head, labels = forward.activation(tiny64.layer), forward.head(tiny64.layer), tiny64.targets.label
    gain = (head(activation) - head(torch.zeros_like(activation))).gather(1, labels[:, None])[:, 0]
    errors = []
    for steps in (1, 400):
        found = integrated_contributions(head, activation, labels, steps)
        errors.append(float((found.flatten(1).sum(1) - gain).abs().max() / gain.abs().max()))
    assert errors[1] < 0.01
    slow = torch.zeros_like(activation)
    for k in (1, 2, 3):
        slow += head.gradient(activation * k / 3, tiny64.targets) * activation / 3
    assert torch.allclose(integrated_contributions(head, activation, labels, 3), slow, atol=1e-12, rtol=0)


# Invariants


def test_without_pruning_it_is_react_and_energy() -> None:
    """Switched off, or delta infinite: exactly."""
    train, test = random_features(), random_features(seed=1)
    training = training_of(train)
    off = LINe(delta=0.7, prune_activations=False, prune_weights=False)
    assert torch.equal(scores_of(off, test, training), scores_of(ReAct(clip=0.7), test))
    assert torch.equal(scores_of(replace(off, delta=math.inf), test, training), scores_of(Energy(), test))


def test_percentiles_of_zero_drop_the_smallest_alone() -> None:
    """p = 0 and delta infinite: the strict `>` leaves out one unit and one weight of each class, no more; then the
    energy but for those (float64, 1e-12)."""
    train, test = random_features(), random_features(seed=1)
    training = training_of(train)
    weight, bias = test.linear_head()
    contribution = closed_form_contributions(training)
    logits = []
    for a, label in zip(test.tap(), test.predicted.tolist(), strict=True):
        row, left = contribution[label], weight.clone()
        left[:, row.argmin()] = 0
        left.view(-1)[(row.abs() * weight).argmin()] = 0
        logits.append(left @ a + bias)
    scores = scores_of(LINe(0, 0, math.inf), test, training)
    assert torch.allclose(scores, -torch.stack(logits).logsumexp(1), atol=1e-12, rtol=0)


def test_prediction_from_unclipped_features() -> None:
    """Where clipping changes the predicted class the scores differ, elsewhere they are equal."""
    train, test = random_features(), random_features(200, seed=1)
    training = training_of(train)
    changed = test.linear_head()(test.tap().clamp(max=0.3)).argmax(1) != test.predicted
    ours = [scores_of(LINe(50, 50, 0.3, predict_from=p), test, training) for p in ("clipped", "unclipped")]
    assert changed.any()
    assert torch.allclose(ours[0][~changed], ours[1][~changed], atol=1e-12)
    assert (ours[0][changed] - ours[1][changed]).abs().max() > 1e-3


def test_rows_without_a_label_count_for_no_class() -> None:
    """A label of -1 in the training set is left out of either form of the contributions."""
    features = random_features()
    unlabelled = replace(features, labels=torch.where(torch.arange(60) < 40, features.labels, -1))
    for form in ("closed_form", "integrated_gradients"):
        detector = LINe(contributions=form)
        part = detector.fit(training_of(features.rows(slice(0, 40))))["contribution"]
        assert torch.allclose(detector.fit(training_of(unlabelled, 9))["contribution"], part, atol=1e-12)


@pytest.mark.parametrize("form", ["closed_form", "integrated_gradients"])
def test_a_class_without_images_takes_the_mean_of_all(form: str) -> None:
    """W = (2, 1; 1, 2), two images of class 0 with mean (1, 3), none of class 1: C = (2, 3; 1, 6), and a warning."""
    head = LinearHead(torch.tensor([[2.0, 1], [1, 2]]), torch.zeros(2))
    training = training_of(features_of(torch.tensor([[0.0, 2], [2, 4]]), head, torch.tensor([0, 0])))
    with pytest.warns(UserWarning, match="1 of 2 classes have no training image"):
        detector = LINe(50, 50, 1.0, contributions=form)  # type: ignore[arg-type]
        assert detector.fit(training)["contribution"].tolist() == [[2, 3], [1, 6]]


def test_thresholds_are_numpys() -> None:
    """np.percentile over a row of C, and over the whole of |C[l]| W; exact."""
    training = training_of(random_features())
    state = LINe(30, 70).fit(training)
    contribution, weight = state["contribution"].numpy(), training.head.weight.numpy()
    assert np.array_equal(state["unit_threshold"].numpy(), np.percentile(contribution, 30, axis=1))
    expected = [np.percentile(np.abs(row) * weight, 70) for row in contribution]
    assert state["weight_threshold"].tolist() == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"p_activation": 101}, "p_activation=101: a percentile lies between 0 and 100"),
        ({"p_weight": -1}, "p_weight=-1: a percentile lies between 0 and 100"),
        ({"predict_from": "raw"}, "predict_from='raw': choose clipped or unclipped"),
        ({"contributions": "shap"}, "contributions='shap': choose closed_form or integrated_gradients"),
        ({"steps": 0}, "steps=0: give at least 1"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LINe(**settings)
