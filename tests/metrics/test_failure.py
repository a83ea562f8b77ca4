"""One ranking of failures: what counts as one, of which images, and which are drawn together."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from assay.harness.stats import unseen
from assay.harness.types import ResultRow
from assay.metrics.error_detection import ErrorDetection
from assay.metrics.failure import FailureDetection
from numpy.typing import ArrayLike

QUICK = FailureDetection(resamples=100)


def table(scores: ArrayLike, wrong: ArrayLike, known: bool = True, ids: Sequence[str] | None = None) -> pd.DataFrame:
    """A score table; of an unknown set no image has a label, and no prediction is called wrong."""
    flags = np.asarray(wrong, dtype=bool)
    names = [f"image{row}" for row in range(len(flags))] if ids is None else list(ids)
    columns = {
        "image_id": names,
        "label": 0 if known else -1,
        "predicted": flags.astype(int),
        "is_error": flags & known,
    }
    return pd.DataFrame(columns | {"score": np.asarray(scores, dtype=float), "known": known})


def values(rows: list[ResultRow], *stats: str) -> list[float | None]:
    """Values of these stats, in the first variant of each."""
    return [next(row.value for row in rows if row.stat == stat) for stat in stats]


def drawn(n: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores, and errors that are likelier where these are high."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 1, n).round(2)
    return scores, rng.random(n) < 1 / (1 + np.exp(1 - 2 * scores))


def test_by_hand() -> None:
    """Test: right 1 2, wrong 4. Blurred: right 1.5, wrong 3 5. Unknown: 6 and 0, whatever is predicted.

    Alone both known sets are perfect. Among the test set's, the unknown ones and the wrong 4 win 4 of 6 pairs against 1
    and 2. Together 3, 4, 5, 6 win all three pairs against 1, 1.5, 2, and 0 none: 12 of 15; with 3 of 8 right the AUGRC
    is (3/15)(3/8)(5/8) + (5/8)^2 / 2.
    """
    sets = {"blur": table([1.5, 3, 5], [0, 1, 1]), "far": table([6, 0], [0, 0], known=False)}
    made = QUICK.summarize(table([1, 2, 4], [0, 0, 1]), sets)
    assert list(made) == ["test", "blur", "far", "together"]
    found = {name: values(rows, "n_failures", "auroc") for name, rows in made.items()}
    expected = {"test": [1, 1], "blur": [2, 1], "far": [3, 4 / 6], "together": [5, 12 / 15]}
    assert {name: pytest.approx(each) for name, each in expected.items()} == found
    assert {name: rows[0].n for name, rows in made.items()} == {"test": 3, "blur": 3, "far": 5, "together": 8}
    assert values(made["together"], "augrc") == pytest.approx([3 / 15 * 15 / 64 + 25 / 128])
    assert values(made["together"], "risk") != [None]


def test_an_unknown_image_is_a_failure_whatever_its_label() -> None:
    """A set of other kinds whose labels happen to agree with the predictions."""
    labelled = table([6, 0], [0, 0]).assign(known=False)
    assert (labelled["label"] == labelled["predicted"]).all()
    made = QUICK.summarize(table([1, 2, 4], [0, 0, 1]), {"far": labelled})
    assert values(made["far"], "n_failures", "auroc") == pytest.approx([3, 4 / 6])


def test_a_known_image_without_a_label_is_neither() -> None:
    """It is left out of its set, of the test set, and of all together."""
    test = table([1, 2, 4, 9], [0, 0, 1, 0]).assign(label=[0, 0, 0, -1])
    made = QUICK.summarize(test, {"blur": test.assign(score=[1.5, 3, 5, 9])})
    assert [rows[0].n for rows in made.values()] == [3, 3, 6]


def test_the_test_set_alone_is_error_detection() -> None:
    """The same rows with the same intervals, but for the count's name."""
    frame = table(*drawn())
    ours = {(r.stat, r.variant, r.x): r for r in FailureDetection(50).summarize(frame, {})["test"]}
    theirs = {(r.stat, r.variant, r.x): r for r in ErrorDetection(50).summarize(frame, {})["test"]}
    shared = ours.keys() & theirs.keys()
    assert len(shared) == len(ours) - 1 > 20
    assert all(ours[key] == theirs[key] for key in shared)


def test_versions_of_an_image_are_drawn_together() -> None:
    """A copy of the test set adds no image: the standard errors of both together are those of one (1e-12). As other
    images (other names) they are about 1/sqrt(2) of them."""
    frame = table(*drawn())
    other = frame.assign(image_id=[f"other{row}" for row in range(len(frame))])
    errors = {}
    for name, copy in (("copy", frame), ("other", other)):
        made = FailureDetection(400).summarize(frame, {"set": copy})
        errors[name] = [next(r.stderr for r in made[place] if r.stat == "auroc") for place in ("test", "together")]
    assert errors["copy"][1] == pytest.approx(errors["copy"][0], abs=1e-12)
    assert errors["other"][1] == pytest.approx(errors["other"][0] / np.sqrt(2), rel=0.15)


def test_versions_of_an_image_are_one_image_to_a_bound() -> None:
    """Right 0 .. 9, wrong 10 .. 19, and a copy: told apart, the AUROC of both may be as low as one set's, by 10 wrong
    images; 1e-12."""
    frame = table(np.arange(20), np.arange(20) >= 10)
    made = FailureDetection(50).summarize(frame, {"copy": frame})
    for rows in (made["test"], made["together"]):
        row = next(r for r in rows if r.stat == "auroc")
        assert (row.value, row.ci_method) == (1, "clopper_pearson")
        assert row.ci_low == pytest.approx(1 - unseen(10), abs=1e-12)


def test_only_the_order_of_the_scores_counts() -> None:
    """A growing function of all scores changes no row."""
    sets = {"blur": table(*drawn(seed=1)), "far": table((drawn(80, 2)[0] + 1).round(2), np.zeros(80), known=False)}
    moved = []
    for change in (lambda s: s, lambda s: np.exp(s) - 5):
        each = {name: frame.assign(score=change(frame["score"])) for name, frame in sets.items()}
        frame = table(*drawn())
        moved.append(QUICK.summarize(frame.assign(score=change(frame["score"])), each))
    assert moved[0] == moved[1]


def test_what_cannot_be_ranked() -> None:
    """A score that is no number: its set's rows and those of all say so; the test set has its own."""
    sets = {"far": table([np.nan, 1], [0, 0], known=False)}
    made = QUICK.summarize(table([1, 2, 4], [0, 0, 1]), sets)
    for place, n in (("far", 5), ("together", 5)):
        status = {row.status for row in made[place] if row.stat == "auroc"}
        assert status == {f"undefined:1 of {n} scores are not a number"}
    assert values(made["test"], "auroc") == [1]
    with pytest.raises(ValueError, match="resamples=1"):
        FailureDetection(resamples=1)
