"""Groups that no test tells apart: p-values and Holm's correction by hand and against SciPy; groups by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from assay.harness.results.compare.differences import error_measured
from assay.harness.results.report.cliques import LEVEL, cliques, holm, sign_flips
from assay.harness.results.report.detected import DRAWS, Drawn, p_values
from assay.harness.results.report.paired import Tables, paired
from assay.harness.store.identity import SCHEMA
from assay.harness.store.outcomes import Finished
from assay.harness.store.store import CellStore, Shard
from scipy.stats import permutation_test


def test_holm_by_hand() -> None:
    """Of three: .01 x 3, .02 x 2, .03 x 1, none below the one before it; at most 1."""
    assert holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]).tolist() == []


def test_sign_flips_by_hand() -> None:
    """Four images, the first method better by 1 in each: of 16 signs two reach 4, p = 1/8; alike: p = 1."""
    p = sign_flips(np.array([[1.0, 0.0, 1.0]] * 4), list("abcd"))
    assert p[0, 1] == p[1, 0] == 2 / 16
    assert p[0, 2] == p[0, 0] == 1
    together = sign_flips(np.array([[1.0, 0.0]] * 4), list("aabb"))  # pairs of an image flip together: two signs
    assert together[0, 1] == 2 / 4


@pytest.mark.parametrize("images", [8, 40])
def test_sign_flips_are_scipys(images: int) -> None:
    """Against SciPy's paired permutation test: all signs (equal to 1e-12), or drawn ones (to .04: SciPy doubles a
    one-sided share, whose standard error with 10,000 draws is .005)."""
    rng = np.random.default_rng(images)
    values = rng.normal([0.0, 0.25, 0.5], 1, (images, 3)).round(2)
    found = sign_flips(values, np.arange(images))
    for one, two in ((0, 1), (0, 2), (1, 2)):
        expected = permutation_test(
            (values[:, one] - values[:, two],),
            lambda each, axis: each.mean(axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=10_000,
            random_state=1,
        ).pvalue
        assert found[one, two] == pytest.approx(expected, abs=1e-12 if images == 8 else 0.04)


def test_many_methods_can_be_told_apart() -> None:
    """Of 20 methods 190 pairs are tested: enough signs are drawn for the smallest of them to pass Holm's .05 / 190."""
    values = np.random.default_rng(0).normal(0, 0.01, (60, 20)) + np.arange(20)
    assert len(cliques([f"m{n}" for n in range(20)], sign_flips(values, np.arange(60)), "").groups) == 20


def test_groups_by_hand() -> None:
    """a~b and b~c, a and c apart: two groups that share b; d is alone. The best is a: b is not told from it."""
    p = np.full((4, 4), 1e-6)
    for one, two in ((0, 1), (1, 2)):
        p[one, two] = p[two, one] = 0.9
    made = cliques(["a", "b", "c", "d"], p, "")
    assert made.groups == [["a", "b"], ["b", "c"], ["d"]]
    assert made.best == ["a", "b"]


def test_detectors_by_hand() -> None:
    """Two standard errors of 10 images: .0766 (t with 9 degrees); no difference: 1; a certain one of .5: 2 x .5^10."""
    noise = np.tile([0.01, -0.01], 200) * np.sqrt(399 / 400)  # a standard deviation of .01 with 399 degrees of freedom
    still = np.zeros(400)
    p = p_values([Drawn(0.9, noise, 10), Drawn(0.88, still, 10)])
    assert p[0, 1] == pytest.approx(0.0766, abs=1e-4)
    p = p_values([Drawn(1.0, still + 1, 10), Drawn(1.0, still + 1, 10), Drawn(0.5, still + 0.5, 10)])
    assert p[0, 1] == 1
    assert p[0, 2] == pytest.approx(2 * 0.5**10)


@pytest.mark.slow
def test_equal_detectors_are_rarely_told_apart() -> None:
    """200 times two detectors that find 6 wrong ones of 100 alike: at 5 % no more than 6 % are told apart (2.5 % to
    4 %; a normal ratio's tail tells one in ten)."""
    rng, alarms, wrong = np.random.default_rng(0), 0, np.arange(100) < 6
    for _ in range(200):
        common = wrong + rng.normal(0, 0.7, 100)
        made = [error_measured(common + rng.normal(0, 0.7, 100), wrong, DRAWS) for _ in range(2)]
        alarms += p_values([Drawn(each.values["auroc"], each.resampled["auroc"], 6) for each in made])[0, 1] < LEVEL
    assert alarms / 200 <= 0.06


def stored(root: Path, key: str, hit: list[float], shown: list[bool]) -> None:
    """A finished cell: pairs i0#1, i0#2, i1#1, i2#1 with `hit`, of which some are `difficult`."""
    cell = CellStore(root, key)
    who = {"position": np.array([0, 0, 1, 2]), "sample_id": np.array(["i0#1", "i0#2", "i1#1", "i2#1"], dtype=object)}
    described: dict[str, Any] = {"samples": {}, "m": {"name": "toy", "paired": ["other", "hit"], "identity": {}}}
    cell.describe({"identity": {"schema": SCHEMA}, "labels": {}}, described)
    cell.group("samples").write(Shard(0, 3), who | {"image_id": np.array(["i0", "i0", "i1", "i2"], dtype=object)})
    measured = {"hit": np.array(hit), "other": np.zeros(4), "difficult": np.array(shown)}
    cell.group("m").write(Shard(0, 3), who | measured)
    cell.group("m").finish(3, Finished("r", "test", []))


def row(key: str, value: float, **others: Any) -> dict[str, Any]:
    """A result row of a stored cell."""
    about = {"method": key, "cell_key": key, "metric_key": "m", "split": "test", "subset": "all", "value": value}
    return about | others


def test_the_column_behind_a_number(tmp_path: Path) -> None:
    """The one whose mean is the value of every method; of a subset its pairs; none where a number is no such mean."""
    stored(tmp_path, "a", [1, 0, 1, 1], [True, True, False, True])
    stored(tmp_path, "b", [0, 0, 1, 0], [True, True, False, True])
    tables = Tables(tmp_path)
    made = paired(pd.DataFrame([row("a", 0.75), row("b", 0.25)]), tables)
    assert made is not None
    assert made.values.tolist() == [[1, 0], [0, 0], [1, 1], [1, 0]]
    assert made.images.tolist() == ["i0", "i0", "i1", "i2"] and made.methods == ["a", "b"]
    part = paired(pd.DataFrame([row("a", 2 / 3, subset="difficult"), row("b", 0.0, subset="difficult")]), tables)
    assert part is not None
    assert part.samples.tolist() == ["i0#1", "i0#2", "i2#1"]
    assert paired(pd.DataFrame([row("a", 0.75), row("b", 0.26)]), tables) is None
    assert paired(pd.DataFrame([row("a", 0.75), row("b", 0.25, split="val")]), tables) is None
    stored(tmp_path, "c", [1, 0, np.inf, 1], [True] * 4)
    assert paired(pd.DataFrame([row("a", 0.75), row("c", np.inf)]), tables) is None  # nothing to test
