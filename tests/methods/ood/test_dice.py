"""DICE, alone and after ReAct's clipping."""

import math

import pytest
import torch
from assay.harness.detection import LinearHead
from assay.methods.ood.dice import DICE, DICEReAct
from assay.methods.ood.percentiles import percentile
from detection_toys import features_of, line_dice, mean_training, random_features, scores_of, training_of


def test_by_hand() -> None:
    """Mean (1, 2), W = (1, -1; 3, 1): V = (1, -2; 3, 2), median 1.5, so 3 and 1 stay: z = (0, 3 a_0 + a_1) + b."""
    head = LinearHead(torch.tensor([[1.0, -1], [3, 1]]), torch.tensor([0.5, -1]))
    training = training_of(features_of(torch.tensor([[0.0, 1], [2, 3]]), head, torch.tensor([0, 1])))
    assert DICE(50).fit(training)["weight"].tolist() == [[0, 0], [3, 1]]
    features = features_of(torch.tensor([[2.0, 1]]), head)
    expected = -math.log(math.exp(0.5) + math.exp(6))
    assert scores_of(DICE(50), features, training).item() == pytest.approx(expected, abs=1e-6)
    clipped = -math.log(math.exp(0.5) + math.exp(1.5 * 3 + 1 - 1))
    assert scores_of(DICEReAct(50, 1.5), features, training).item() == pytest.approx(clipped, abs=1e-6)


def test_percentile_is_strict() -> None:
    """Whatever the matrix, its smallest entry does not exceed its 0th percentile, and none its 100th."""
    weight = DICE(0).fit(training_of(random_features()))["weight"]
    assert int((weight == 0).sum()) == 1
    assert not DICE(100).fit(training_of(random_features()))["weight"].any()
    assert percentile(torch.tensor([0.0, 1, 2, 4]), 50).item() == 1.5


@pytest.mark.parametrize("p", [10, 70, 90])
def test_golden_dice(p: int) -> None:
    """Masks of tests/golden/line_dice.npz exactly, scores to 1e-5."""
    features, arrays = line_dice()
    training = mean_training(features, arrays["mean_activation"])
    assert torch.equal(DICE(p).fit(training)["weight"] != 0, arrays[f"dice_p{p}_weight_kept"])
    assert torch.allclose(-scores_of(DICE(p), features, training), arrays[f"dice_p{p}"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("p", [10, 70, 90])
def test_golden_dice_react(p: int) -> None:
    """Clipped at 1, masks from unclipped means; 1e-5."""
    features, arrays = line_dice()
    scores = scores_of(DICEReAct(p, 1.0), features, mean_training(features, arrays["mean_activation"]))
    assert torch.allclose(-scores, arrays[f"dice_react_p{p}_c1.0"], atol=1e-5, rtol=0)


def test_pytorch_ood() -> None:
    """pytorch-ood 0.4 fitted on the same rows; it works in float32, so 1e-5."""
    oracle = pytest.importorskip("pytorch_ood.detector").DICE
    train, test = random_features(dtype=torch.float32), random_features(seed=1, dtype=torch.float32)
    for p in (30, 90):
        theirs = oracle(None, *test.linear_head(), p / 100).fit_features(train.tap(), train.labels)
        ours = scores_of(DICE(p), test, training_of(train, 7))
        assert torch.allclose(ours, theirs.predict_features(test.tap()), atol=1e-5, rtol=0)


def test_dice_react_with_and_without_a_number() -> None:
    """clip=null takes ReAct's percentile; a clip above every activation is DICE; exact."""
    train, test = random_features(), random_features(seed=1)
    training = training_of(train)
    c = float(percentile(train.tap(), 80))
    by_number, by_percentile = DICEReAct(70, c), DICEReAct(70, None, 80)
    assert torch.equal(scores_of(by_number, test, training), scores_of(by_percentile, test, training))
    assert torch.equal(scores_of(DICEReAct(70, 1e9), test, training), scores_of(DICE(70), test, training))


def test_errors() -> None:
    """Percentiles out of range and a missing fit are named."""
    for make, name in [
        (lambda: DICE(-1), "percentile=-1"),
        (lambda: DICEReAct(101), "percentile=101"),
        (lambda: DICEReAct(clip_percentile=200), "clip_percentile=200"),
    ]:
        with pytest.raises(ValueError, match=f"{name}: a percentile lies between 0 and 100"):
            make()
    with pytest.raises(ValueError, match=r"DICE\(.*requires fit: its state has no weight"):
        DICE().score(random_features(), {})
