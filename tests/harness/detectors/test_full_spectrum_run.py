"""Runs of metric full_spectrum: which sets join the test set, what rows say of it, what is refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from assay.harness import launch
from assay.harness.config import ConfigError
from assay.harness.detectors import run as detectors_run
from assay.harness.overrides import compose_config
from assay.harness.results.compare import compare
from assay.harness.results.report.scored import Detectors
from assay.harness.store.survey import cells
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

RUN = [
    *(
        "experiment=full_spectrum_embedded",
        "method=[msp,energy]",
        "ood=[corrupted_noise,scenes_shapes,scenes_inverted]",
    ),
    *("metric.full_spectrum.shifted=[corrupted_noise]", "metric.full_spectrum.groups.far=[scenes_inverted]"),
    *("dataset.size=30", "ood.scenes_shapes.size=20", "ood.scenes_inverted.size=20"),
    *("metric.full_spectrum.resamples=50", "compute.device=cpu", "compute.processes=1"),
]


def run(words: list[str]) -> None:
    """Compute and summarise in this process, without pictures, which are most of the time of a run this small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detectors_run, "_draw", lambda *_: None)
        assert launch.run(compose_config(words), []) == 0


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two detectors on 30 hard scenes, their noisy versions, and two unknown sets of 20."""
    folder = tmp_path_factory.mktemp("spectrum")
    run([*RUN, f"results={folder}"])
    return folder


def scores(folder: Path, method: str, dataset: str, stop: int) -> NDArray[np.float64]:
    """A detector's stored scores of a set."""
    found = [
        each.group("score").read(stop)["score"].to_numpy(np.float64)
        for each in cells(folder / "store")
        if (each.cell()["labels"]["method"], each.cell()["labels"]["dataset"]) == (method, dataset)
    ]
    return found[0]


def test_rows_are_of_the_joined_set(results: Path) -> None:
    """AUROC of scikit-learn over the stored scores, test and noisy images as one side, to 1e-12; the row says who they
    are, and there is none of the noisy set; accuracy counts 60 images."""
    tidy = pd.read_csv(results / "tidy/results.csv")
    assert set(tidy["metric"]) == {"full_spectrum"} and set(tidy["reference"]) == {"scenes_hard + corrupted_noise"}
    assert set(tidy["dataset"]) == {"scenes_shapes", "scenes_inverted", "average", "average near", "average far"}
    known = np.concatenate([scores(results, "msp", name, 30) for name in ("scenes_hard", "corrupted_noise")])
    asked = tidy[(tidy["method"] == "msp") & (tidy["stat"] == "auroc")].set_index("dataset")["value"]
    for name in ("scenes_shapes", "scenes_inverted"):
        unknown = scores(results, "msp", name, 20)
        truth = np.repeat([0, 1], [len(known), len(unknown)])
        assert asked[name] == pytest.approx(roc_auc_score(truth, np.concatenate([known, unknown])), abs=1e-12)
    assert asked["average near"] == asked["scenes_shapes"] and asked["average far"] == asked["scenes_inverted"]
    assert tidy.loc[tidy["stat"] == "accuracy", "n"].tolist() == [60, 60]


def test_detectors_compare_on_the_joined_set(results: Path) -> None:
    """Differences are those of the run's rows, to 1e-12; a report's charts show the joined scores."""
    frame, tidy = compare(results / "store", "energy", "msp"), pd.read_csv(results / "tidy/results.csv")
    frame = frame[frame["column"] == "auroc"]
    assert set(frame["dataset"]) == set(tidy["dataset"])
    for row in frame.itertuples():
        place = tidy[(tidy["stat"] == "auroc") & (tidy["dataset"] == row.dataset)].set_index("method")["value"]
        assert row.difference == pytest.approx(place["energy"] - place["msp"], abs=1e-12)
    detectors = Detectors(results / "store")
    judged = detectors.judgement(next(tidy[tidy["dataset"] == "scenes_shapes"].itertuples()))
    assert judged is not None
    made = detectors.scores(judged)
    assert made is not None and (len(made.inside.scores), len(made.inside.once())) == (60, 30)


def test_what_joins_is_part_of_the_key(results: Path) -> None:
    """Noise of another strength: the same test and unknown sets under the same metric, other rows beside the old."""
    before = pd.read_csv(results / "tidy/results.csv")
    run([*RUN, "ood.corrupted_noise.severity=5", f"results={results}"])
    after = pd.read_csv(results / "tidy/results.csv")
    added = after[~after["metric_key"].isin(before["metric_key"])]
    assert len(after) == 2 * len(before) and set(added["cell_key"]) == set(before["cell_key"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["metric.full_spectrum.shifted=[corrupted_jpeg]"], "corrupted_jpeg is no set of this run"),
        (["ood.corrupted_noise.known=false"], "corrupted_noise counts as unknown.*ood.corrupted_noise.known=true"),
        (["metric.full_spectrum.groups.near=[corrupted_noise]"], "corrupted_noise is in the average near of unknown"),
        (
            [
                "metric.full_spectrum.shifted=[corrupted_noise,scenes_shapes,scenes_inverted]",
                "metric.full_spectrum.groups=null",
                "+ood.scenes_shapes.known=true",
                "+ood.scenes_inverted.known=true",
            ],
            "all sets of the run count as in distribution",
        ),
        (["metric.full_spectrum.shifted=[]"], r"shifted=\[\]: list sets of the test set's classes"),
    ],
)
def test_a_set_on_both_sides_or_none_is_refused(words: list[str], says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        launch.run(compose_config([*RUN, *words, f"results={tmp_path}"]), [])
