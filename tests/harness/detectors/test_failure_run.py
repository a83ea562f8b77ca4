"""A run that ranks failures of several sources: rows of each set and of all together, and what counts as known."""

from pathlib import Path

import pandas as pd
import pytest
from assay.harness import launch
from assay.harness.config import ConfigError
from assay.harness.detectors.plan import Detection
from assay.harness.detectors.run import DetectorRun
from assay.harness.engine.rank import Rank
from assay.harness.engine.request import Request
from assay.harness.overrides import compose_config
from assay.harness.results.tidy import collect

SMALL = [
    *("experiment=failure_embedded", "ood=[corrupted_noise,scenes_shapes]", "method=[msp]", "metric=[failure]"),
    *("dataset.size=24", "validation.size=4", "ood.scenes_shapes.size=16", "metric.failure.resamples=20"),
    *("compute.device=cpu", "compute.processes=1"),
]


def run(results: Path, *overrides: str) -> tuple[Detection, pd.DataFrame]:
    """Compute and summarise in this process, without pictures; the tidy table."""
    made = DetectorRun.of(Request.of(compose_config([*SMALL, *overrides]), results / "store"))
    made.prepare(Rank(0, 1))
    assert made.compute(Rank(0, 1)).failures == {}
    made.summarise()
    return made.detection, collect(results)


def counted(frame: pd.DataFrame) -> dict[str, tuple[int, float]]:
    """Data set -> number of images and of failures."""
    rows = frame[frame.stat == "n_failures"]
    return {row.dataset: (row.n, row.value) for row in rows.itertuples()}


def test_every_source_has_rows_and_all_together(tmp_path: Path) -> None:
    """24 hard scenes, their noisy versions, and 16 unknown ones beside the 24; failures are the network's errors and
    all unknown images. The sets stand beside the test set in `reference`. With the noisy ones called unknown every one
    of them is a failure, under keys of their own, and a caution says that they have labels."""
    detection, frame = run(tmp_path)
    wrong, noisy = (int(detection.sets[place].table("msp").is_error.sum()) for place in ("test", "corrupted_noise"))
    assert counted(frame) == {
        "scenes_hard": (24, wrong),
        "corrupted_noise": (24, noisy),
        "scenes_shapes": (40, wrong + 16),
        "together": (64, wrong + noisy + 16),
    }
    assert set(frame.kind) == {"failure"} and set(frame.reference) == {"scenes_hard"}
    assert frame[frame.stat == "auroc"].status.eq("ok").all()
    unknown, other = run(tmp_path, "ood.corrupted_noise.known=false")
    rows = other[(other.dataset == "corrupted_noise") & (other.stat == "n_failures")]
    assert sorted(rows.value) == sorted([noisy, wrong + 24]) and rows.metric_key.nunique() == 2
    assert any("corrupted_noise: labelled by the classes of scenes_hard" in each for each in unknown.cautions())
    assert not any("labelled by" in each for each in detection.cautions())


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["ood=[]"], r"metric failure needs sets to be told from scenes_hard: ood=\[NAME"),
        (
            ["ood=[folder]", "ood.folder.root=results/baselines/files/val2014", "+ood.folder.known=true"],
            "other classes than scenes_hard",
        ),
    ],
)
def test_what_says_nothing_is_refused(overrides: list[str], says: str, tmp_path: Path) -> None:
    """No other set; a set of known images whose labels are of another list."""
    kept = [each for each in SMALL if not each.startswith("ood")]
    with pytest.raises(ConfigError, match=says):
        launch.run(compose_config([*kept, *overrides, f"results={tmp_path}"]), [])
