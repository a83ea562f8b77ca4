"""The sequential test, by hand and by what it promises."""

import re
from math import log

import pytest
import torch
from assay.methods.error.mutants.sequential import Sprt


def test_ratio_by_hand() -> None:
    """2 of 3 changed, rates .1 and .4: 2 log 4 + log(.6 / .9)."""
    found = Sprt(0.1, 0.4).ratio(torch.tensor([2]), torch.tensor([3]))
    assert float(found) == pytest.approx(2 * log(4) + log(0.6 / 0.9), rel=1e-12)


def test_walk_by_hand() -> None:
    """Bounds -+log 19 = -+2.94; a change is worth log 4 = 1.39, none is worth log(2/3) = -.405: three changes, or eight
    agreements in a row, end it; then nobody is asked."""
    test = Sprt(0.1, 0.4)
    rows = [
        [1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
        [0] * 10,
        [0, 1, 0, 1, 0, 1, 0, 0, 0, 0],
        [1, 1, 1, -1, -1, -1, -1, -1, -1, -1],
    ]
    walk = test.walk(torch.tensor(rows, dtype=torch.int8))
    assert walk.asked.tolist() == [3, 8, 10, 3]
    changed = torch.tensor([3, 0, 3, 3])
    assert torch.equal(walk.ratio, test.ratio(changed, walk.asked))


def test_errors_are_as_rare_as_promised() -> None:
    """4,000 images whose rates are the two: at most alpha and beta are called the other (400 mutants, so that every
    test ends), and far fewer mutants are asked than there are."""
    test = Sprt(0.1, 0.3, alpha=0.05, beta=0.02)
    for rate, other in (
        (0.1, lambda walk: walk.ratio >= test.bounds[1]),
        (0.3, lambda walk: walk.ratio <= test.bounds[0]),
    ):
        changed = torch.rand(4000, 400, generator=torch.Generator().manual_seed(0)) < rate
        walk = test.walk(changed.to(torch.int8))
        assert bool(test.ended(walk.ratio).all())
        assert float(other(walk).double().mean()) <= (0.05 if rate == 0.1 else 0.02)
        assert float(walk.asked.double().mean()) < 40


@pytest.mark.parametrize(
    ("settings", "words"),
    [((0.3, 0.1), "right=0.3, wrong=0.1: give rates"), ((0, 0.1), "right=0,"), ((0.1, 0.3, 0.6), "alpha=0.6")],
)
def test_settings_are_checked(settings: tuple[float, ...], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        Sprt(*settings)
