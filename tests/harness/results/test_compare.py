"""Paired comparison: differences by hand on the same samples."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from assay.harness import stats
from assay.harness.config import ConfigError
from assay.harness.results.compare import compare
from assay.harness.results.text import differences
from assay.harness.store.identity import SCHEMA
from assay.harness.store.outcomes import Finished
from assay.harness.store.store import CellStore, Shard

IMAGES = ["i0", "i0", "i1", "i2"]  # image 0 has two annotated classes
SAMPLES = ["i0#3", "i0#5", "i1#3", "i2#0"]
POSITIONS = np.array([0, 0, 1, 2])


@dataclass
class Stored:
    """One finished cell with a metric `toy` that is paired in `hit` and `energy`."""

    root: Path
    key: str
    method: str
    hit: list[bool]
    energy: list[float]
    labels: dict[str, Any] = field(default_factory=dict)
    data: str = "d1"
    order: tuple[int, ...] = (0, 1, 2, 3)
    stops: tuple[int, ...] = (3,)
    metric_key: str = "m1"
    settings: dict[str, Any] = field(default_factory=dict)
    taken: dict[str, Any] = field(default_factory=dict)

    def write(self) -> CellStore:
        """Put it into the store, rows in any order of samples."""
        cell, rows = CellStore(self.root, self.key), list(self.order)
        shared = {"model": "net", "dataset": "data", "protocol": "standard", "seed": 0, "precision": "float32"}
        shared["weights"] = "net@w"
        identity = {"schema": SCHEMA, "model": {"fingerprint": "w"}, "dataset": {"fingerprint": self.data}}
        identity |= {"method": {"_target_": self.method} | self.settings, "protocol": {"targets": "labels"}}
        described = {
            "samples": {},
            self.metric_key: {"name": "toy", "paired": ["hit", "energy"], "identity": self.taken},
        }
        cell.describe({"identity": identity, "labels": shared | {"method": self.method} | self.labels}, described)
        who = {"position": POSITIONS[rows], "sample_id": np.array(SAMPLES, dtype=object)[rows]}
        images = {"image_id": np.array(IMAGES, dtype=object)[rows]}
        cell.group("samples").write(Shard(0, 3), who | images)
        measured = {"hit": np.array(self.hit)[rows], "energy": np.array(self.energy)[rows]}
        cell.group(self.metric_key).write(Shard(0, 3), who | measured | {"only_a_column": POSITIONS[rows]})
        for stop in self.stops:
            split = "val" if stop == 3 else f"val[:{stop}]"
            cell.group(self.metric_key).finish(stop, Finished("r", split, []))
        return cell


HIT_A, HIT_B = [True, False, True, True], [False, False, True, False]
ENERGY_A, ENERGY_B = [0.5, 0.25, 1.0, 0.75], [0.25, 0.5, 0.5, 0.25]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two methods; the second one's rows lie in another order."""
    Stored(tmp_path, "aaaaaa1111", "gradcam", HIT_A, ENERGY_A).write()
    Stored(tmp_path, "bbbbbb2222", "center", HIT_B, ENERGY_B, order=(2, 0, 1, 3)).write()
    return tmp_path


def test_differences_by_hand(store: Path) -> None:
    """hit: (1 + 0 + 0 + 1) / 4 = 1/2; energy: (1/4 - 1/4 + 1/2 + 1/2) / 4 = 1/4; exact in binary.

    The interval is that of `stats.mean` on the per-sample differences, which resamples images.
    """
    frame = compare(store, "gradcam", "center").set_index("column")
    assert frame["difference"].to_dict() == {"hit": 0.5, "energy": 0.25}
    assert frame["n"].tolist() == [4, 4]
    assert frame[["model", "dataset", "split", "protocol", "metric"]].drop_duplicates().to_numpy().tolist() == [
        ["net", "data", "val", "standard", "toy"]
    ]
    expected = stats.mean(np.array(ENERGY_A) - np.array(ENERGY_B), IMAGES)
    assert expected.ci_method == "cluster_bootstrap"
    assert frame.loc["energy", ["ci_low", "ci_high"]].tolist() == [expected.ci_low, expected.ci_high]
    assert frame.loc["hit", "ci_low"] <= 0.5 <= frame.loc["hit", "ci_high"]


def test_the_other_way_round_changes_the_sign(store: Path) -> None:
    """Differences are negated exactly, intervals mirrored to 1e-12 (quantiles interpolate from the other end)."""
    one, other = compare(store, "gradcam", "center"), compare(store, "center", "gradcam")
    assert (one["difference"] == -other["difference"]).all()
    np.testing.assert_allclose(one["ci_low"], -other["ci_high"], rtol=0, atol=1e-12)


def test_a_difference_that_is_the_same_in_all_images(store: Path) -> None:
    """Two cells with the same columns: 0 on each of 3 images. Outcomes may differ in images that were not seen, of
    which 3 images miss a share 1 - .025^(1/3) at most: that far reaches the interval. Of other quantities nothing is
    known, and the table says so instead of [0, 0]."""
    Stored(store, "cccccc3333", "copy", HIT_A, ENERGY_A).write()
    frame = compare(store, "gradcam", "copy")
    assert frame["difference"].tolist() == [0, 0]
    made = frame.set_index("column")[["ci_low", "ci_high", "ci_method"]].to_dict("index")
    unseen = 1 - 0.025 ** (1 / 3)
    assert [made["hit"]["ci_low"], made["hit"]["ci_high"]] == pytest.approx([-unseen, unseen], rel=1e-12)
    assert made["hit"]["ci_method"] == "clopper_pearson"
    assert (
        made["energy"]["ci_method"] == "constant"
        and np.isnan([made["energy"]["ci_low"], made["energy"]["ci_high"]]).all()
    )
    lines = [line for line in differences(frame).splitlines() if line.startswith("toy")]
    assert [" ".join(line.split()) for line in lines] == [
        "toy hit 0.000 [-0.708, 0.708] 4",
        "toy energy 0.000 the same in all images 4",
    ]


def test_one_image_has_no_interval(tmp_path: Path) -> None:
    """Nothing to resample: a dash, and no `nan`."""
    for key, method, hits in (("aaaaaa1111", "gradcam", HIT_A), ("bbbbbb2222", "center", HIT_B)):
        Stored(tmp_path, key, method, hits, ENERGY_A, stops=(1,)).write()
    text = differences(compare(tmp_path, "gradcam", "center"))
    assert [line.split()[2:] for line in text.splitlines() if line.startswith("toy")] == [
        ["0.500", "-", "2"],
        ["0.000", "-", "2"],
    ]


def test_two_settings_of_one_metric_are_two_lines(store: Path) -> None:
    """The same metric under two tolerances: each line says which."""
    for key, method, hits in (("aaaaaa1111", "gradcam", HIT_A), ("bbbbbb2222", "center", HIT_B)):
        for tolerance in (2, 4):
            about = {"metric": {"_target_": "Toy", "tolerance": tolerance}}
            Stored(store, key, method, hits, ENERGY_A, metric_key=f"t{tolerance}", taken=about).write()
    frame = compare(store, "gradcam", "center")
    assert frame.loc[frame["column"] == "hit", "metric"].tolist() == [
        "toy (_target_=Toy, tolerance=2)",
        "toy (_target_=Toy, tolerance=4)",
        "toy (_target_=none, tolerance=none)",
    ]


def test_two_settings_of_one_method_by_key(store: Path) -> None:
    """Beginnings of cell keys, at least six characters, tell them apart."""
    Stored(store, "dddddd4444", "gradcam", HIT_B, ENERGY_B).write()
    frame = compare(store, "aaaaaa", "dddddd44").set_index("column")
    assert frame["difference"].to_dict() == {"hit": 0.5, "energy": 0.25}
    with pytest.raises(ConfigError, match="'aaaaa' is not a method with results"):
        compare(store, "aaaaa", "dddddd")


def test_only_common_prefixes_are_compared(store: Path) -> None:
    """A run of 2 images and one of 2 and 3: the first two images alone, by hand (1 + 0 + 0) / 3."""
    Stored(store, "cccccc3333", "edges", HIT_B, ENERGY_B, stops=(2,)).write()
    Stored(store, "eeeeee5555", "random", HIT_A, ENERGY_A, stops=(2, 3)).write()
    frame = compare(store, "random", "edges").set_index("column")
    assert frame["split"].tolist() == ["val[:2]"] * 2
    assert frame["n"].tolist() == [3, 3]
    assert frame.loc["hit", "difference"] == pytest.approx(1 / 3, rel=1e-12)


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": {"model": "other"}},
        {"labels": {"dataset": "other"}},
        {"labels": {"protocol": "other"}},
        {"labels": {"seed": 1}},
        {"labels": {"precision": "float64"}},
        {"data": "d2"},
        {"stops": ()},
        {"metric_key": "m2"},
    ],
    ids=str,
)
def test_what_differs_in_more_than_the_method_is_not_compared(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Another model, data set (by name or content), protocol, seed, precision or metric, or nothing finished."""
    Stored(tmp_path, "aaaaaa1111", "gradcam", HIT_A, ENERGY_A).write()
    Stored(tmp_path, "bbbbbb2222", "center", HIT_B, ENERGY_B, **changes).write()
    with pytest.raises(ConfigError, match="gradcam and center have no finished metric on the same model"):
        compare(tmp_path, "gradcam", "center")


def test_unknown_methods_are_answered_with_those_that_have_results(store: Path) -> None:
    """A typo, and an empty store."""
    with pytest.raises(
        ConfigError, match=r"'gradcm' is not a method with results. Did you mean gradcam\? Valid: center"
    ):
        compare(store, "gradcm", "center")
    with pytest.raises(ConfigError, match="is not a method with results"):
        compare(store / "nothing", "gradcam", "center")
