"""ASH in its three variants, and SCALE."""

import math

import pytest
import torch
from assay.harness.detection import LinearHead
from assay.methods.ood.ash import ASH, SCALE, Variant, scaled, shaped
from assay.methods.ood.logits import Energy
from detection_toys import features_of, random_features, scores_of


def test_by_hand() -> None:
    """p=50 of (1, 3, 4, 0): (0, 3, 4, 0) exp(8/7); W sums them, and twice the last but one."""
    values = torch.tensor([[1.0, 3, 4, 0]])
    scale = math.exp(8 / 7)
    assert shaped(values, 50)[0].tolist() == pytest.approx([0, 3 * scale, 4 * scale, 0], rel=1e-6)
    features = features_of(values, LinearHead(torch.tensor([[1.0, 1, 1, 1], [0, 0, 2, 0]]), torch.tensor([0.0, 1])))
    expected = -math.log(math.exp(7 * scale) + math.exp(8 * scale + 1))
    assert scores_of(ASH(50), features).item() == pytest.approx(expected, rel=1e-6)


def test_other_variants_by_hand() -> None:
    """p=50 of (1, 3, 4, 0): P keeps (0, 3, 4, 0), B makes it (0, 4, 4, 0) with the same sum 8; SCALE takes all times
    exp(8/7)."""
    values = torch.tensor([[1.0, 3, 4, 0]])
    assert shaped(values, 50, "p").tolist() == [[0, 3, 4, 0]]
    assert shaped(values, 50, "b").tolist() == [[0, 4, 4, 0]]
    scale = math.exp(8 / 7)
    assert scaled(values, 50)[0].tolist() == pytest.approx([scale, 3 * scale, 4 * scale, 0], rel=1e-6)


def test_how_many_are_kept() -> None:
    """D - round(p D / 100) as the authors count (12 features: 1 at p=90), at least one; a row of zeros stays one."""
    values = random_features().tap() + 0.1
    for percentile, kept in [(0, 12), (65, 4), (90, 1), (100, 1)]:
        assert torch.equal((shaped(values, percentile) > 0).sum(1), torch.full((60,), kept))
    assert not shaped(torch.zeros(2, 12), 90).any()


@pytest.mark.parametrize("percentile", [30, 65, 90])
def test_pytorch_ood(percentile: float) -> None:
    """pytorch-ood 0.4's ash-s, ash-p, ash-b and SCALE on maps of one cell; float64, relative 1e-12."""
    theirs = pytest.importorskip("pytorch_ood.detector")
    features = random_features()
    maps, share = features.tap()[:, :, None, None], percentile / 100
    head = lambda values: features.linear_head()(values.flatten(1))  # noqa: E731
    variants: tuple[Variant, ...] = ("s", "p", "b")
    pairs = [(ASH(percentile, each), theirs.ASH(None, head, f"ash-{each}", share)) for each in variants]
    for ours, oracle in [*pairs, (SCALE(percentile), theirs.SCALE(None, head, share))]:
        assert torch.allclose(scores_of(ours, features), oracle.predict_feature_maps(maps), rtol=1e-12, atol=0)


def test_keeping_all_is_the_energy_of_features_times_e() -> None:
    """p=0: scale exp(1); float64, 1e-12."""
    features = random_features()
    grown = features_of(features.tap() * math.e, features.linear_head())
    assert torch.allclose(scores_of(ASH(0), features), scores_of(Energy(), grown), atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", [ASH, SCALE])
def test_features_that_are_not_rectified_are_refused_or_taken_as_they_are(kind: type[ASH] | type[SCALE]) -> None:
    """A quarter of the numbers are negative: named. With `keep`, the formula as it stands, by hand; relative 1e-6."""
    features = features_of(torch.tensor([[-1.0, 3, 4, 2]]), LinearHead(torch.eye(4), torch.zeros(4)))
    with pytest.raises(ValueError, match=r"25 % of these features are negative.*negative=keep"):
        scores_of(kind(50), features)
    expected = torch.tensor([[0 if kind is ASH else -1.0, 3, 4, 0 if kind is ASH else 2]]) * math.exp(8 / 7)
    kept = scores_of(kind(50, negative="keep"), features)
    assert torch.allclose(kept, -expected.logsumexp(1), rtol=1e-6)


def test_bad_settings() -> None:
    for kind in (ASH, SCALE):
        with pytest.raises(ValueError, match="percentile=900: a percentile lies between 0 and 100"):
            kind(900)
        with pytest.raises(ValueError, match="negative='drop': choose one of refuse, keep"):
            kind(negative="drop")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="variant='x': choose one of s, p, b"):
        ASH(variant="x")  # type: ignore[arg-type]
