"""Detectors in the report: densities and ROC curves of what was scored; tests that agree with `compare`."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from assay.harness import launch
from assay.harness.detectors import run
from assay.harness.overrides import compose_config
from assay.harness.results.compare import compare
from assay.harness.results.report import detected
from assay.harness.results.report.detected import tested as groups_of
from assay.harness.results.report.places import Place, places
from assay.harness.results.report.score_charts import histograms, rocs, sides
from assay.harness.results.report.scored import Detectors
from assay.harness.results.tidy import collect
from numpy.typing import NDArray

RUN = [
    *("experiment=ood_embedded", "dataset=scenes_hard", "dataset.size=120", "ood=[scenes_shapes,scenes_inverted]"),
    *("ood.scenes_shapes.size=50", "ood.scenes_inverted.size=30", "method=[energy,msp]"),
    *("metric=[ood,error_detection]", "metric.ood.resamples=400", "metric.error_detection.resamples=400"),
    *("compute.device=cpu", "compute.processes=1"),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two detectors, two ood sets and their average, wrong predictions; without the run's own pictures."""
    made = tmp_path_factory.mktemp("detectors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "_draw", lambda detection, folder: None)
        assert launch.run(compose_config([*RUN, f"results={made}"]), []) == 0
    return made


@pytest.fixture(scope="module")
def by_title(results: Path) -> dict[str, Place]:
    """The sections of its report."""
    return {place.title: place for place in places(collect(results))}


def unpacked(packed: Any) -> NDArray[np.float64]:
    """Numbers of a chart."""
    return np.frombuffer(base64.b64decode(packed["bdata"]), packed["dtype"]).astype(np.float64)


def test_every_quantity_is_tested_as_compare_does(results: Path, by_title: dict[str, Place]) -> None:
    """Two methods, so that Holm changes nothing: told apart where the paired difference's interval leaves out zero.

    Not asked where an end of it is within a tenth of its width of zero: percentiles there, a standard error here.
    """
    found = compare(results / "store", "energy", "msp").set_index(["dataset", "metric", "column"])
    detectors, compared = Detectors(results / "store"), 0
    for place in by_title.values():
        made = groups_of(place.shown, detectors)
        directed = place.shown[place.shown["higher_is_better"].notna() & (place.shown["subset"] == "all")]
        assert made.keys() == set(directed["column"])
        for row in directed.drop_duplicates("column").itertuples():
            interval = found.loc[(row.dataset, row.metric, row.stat)]
            low, high = interval["ci_low"], interval["ci_high"]
            if min(abs(low), abs(high)) > 0.1 * (high - low):
                compared += 1
                assert (len(made[row.column].groups) == 2) is bool(low > 0 or high < 0), row.column
    assert compared > 3


def test_few_images_are_not_tested(results: Path, by_title: dict[str, Place], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of sets of 50 and of 30 images where 31 are asked: the smaller one, and the average of both, have no test."""
    monkeypatch.setattr(detected, "LEAST", 31)
    place = by_title["scenes_hard against other sets"]
    tested = groups_of(place.shown, Detectors(results / "store"))
    directed = place.shown[place.shown["higher_is_better"].notna()]
    assert tested.keys() == set(directed[directed["dataset"] == "scenes_shapes"]["column"])


def test_what_is_drawn_is_what_was_scored(results: Path, by_title: dict[str, Place]) -> None:
    """Sides by name with all their images; areas beside the ROC curves are the rows'; densities have an area of one."""
    place = by_title["scenes_hard against other sets"]
    made = sides(place.shown, Detectors(results / "store"))
    sizes = {name: len(scores) for name, scores in made["msp"].items()}
    assert sizes == {"in distribution": 120, "scenes_inverted": 30, "scenes_shapes": 50}
    areas = place.shown[place.shown["stat"] == "auroc"].set_index(["dataset", "method"])["value"]
    for name, chart in rocs(made).items():
        lines = {line["name"].split()[0]: line for line in json.loads(chart)["data"]}
        for method, line in lines.items():
            assert line["name"] == f"{method} {areas[name, method]:.3f}"
            area = np.trapezoid(unpacked(line["y"]), unpacked(line["x"]))
            assert area == pytest.approx(areas[name, method], abs=2e-3)  # of at most 200 corners
    for line in json.loads(histograms(made)["energy"])["data"]:
        x, y = unpacked(line["x"]), unpacked(line["y"])
        assert (y[:-1] * np.diff(x)).sum() == pytest.approx(1)


def test_errors_are_told_from_right_predictions(results: Path, by_title: dict[str, Place]) -> None:
    """Of the test set; their number is that of the accuracy."""
    place = by_title["scenes_hard test"]
    made = sides(place.shown, Detectors(results / "store"))["msp"]
    assert list(made) == ["right predictions", "wrong predictions"]
    frame = pd.read_csv(results / "tidy/results.csv")
    area = frame[(frame.metric == "error_detection") & (frame.method == "msp") & (frame.stat == "auroc")]["value"].iloc[
        0
    ]
    right, wrong = made.values()
    assert len(right) + len(wrong) == 120
    above = (wrong[:, None] > right[None]).mean() + (wrong[:, None] == right[None]).mean() / 2
    assert area == pytest.approx(above, abs=1e-12)


def test_no_store_no_scores(by_title: dict[str, Place], tmp_path: Path) -> None:
    """A table without its store: nothing is drawn or tested."""
    nothing = Detectors(tmp_path / "store")
    for place in by_title.values():
        assert sides(place.shown, nothing) == {} and groups_of(place.shown, nothing) == {}
