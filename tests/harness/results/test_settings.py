"""Results of one name and other settings are told apart wherever people read."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from assay.harness import launch
from assay.harness.commands.program import call
from assay.harness.overrides import compose_config
from assay.harness.results.floors import floors
from assay.harness.results.settings import apart, flat, named_apart, told_apart
from assay.harness.results.tidy import collect
from assay.harness.store.identity import SCHEMA
from assay.harness.store.outcomes import Finished
from assay.harness.store.store import CellStore

RUN = ["compute.device=cpu", "compute.processes=1", "dataset.size=12", "method=[integrated_gradients,center]"]
METRIC = ["metric=[pointing_game]"]
Capture = pytest.CaptureFixture[str]

ROW = {
    **{"model": "m", "dataset": "d", "reference": "", "split": "test", "protocol": "standard", "method": "ig"},
    **{"metric": "hits", "variant": "v", "subset": "all", "stat": "mean", "x": None, "column": "hits v"},
    **{"weights": "w", "seed": 0, "precision": "float32", "cell_key": "c" * 20, "metric_key": "k" * 20},
}


def row(steps: int = 8, metric: dict[str, Any] | None = None, data: str = "f", **others: Any) -> dict[str, Any]:
    """A tidy row of a method with `steps`."""
    made = {"method": {"steps": steps, "layer": "a"}, "metric": metric or {}, "data": data, "protocol": {"smooth": 0.0}}
    return {**ROW, "settings": json.dumps(made), **others}


def names(*rows: dict[str, Any], marked: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """Methods and columns as they are shown."""
    made = told_apart(pd.DataFrame(rows), marked)
    return list(zip(made["method"], made["column"], strict=True))


# By hand


def test_settings_that_differ_are_named() -> None:
    """What all share is not said; what some lack is `none`; nested ones have dotted names."""
    several = [flat({"steps": 8, "rule": {"epsilon": 0.1, "name": "a"}}), flat({"steps": 8, "rule": {"name": "a"}})]
    assert apart(several) == ["rule.epsilon=0.1", "rule.epsilon=none"]
    assert apart(several[:1]) == [""]
    assert named_apart(["a", "b", "a"], [{"x": 1}, {"x": 2}, {"x": 3}]) == ["a (x=1)", "b", "a (x=3)"]


@pytest.mark.parametrize(
    "change, said",
    [
        ({"steps": 16}, ["ig (steps=8)", "ig (steps=16)"]),
        ({"weights": "v"}, ["ig (weights=w)", "ig (weights=v)"]),
        ({"seed": 1}, ["ig (seed=0)", "ig (seed=1)"]),
        ({"precision": "float64"}, ["ig (precision=float32)", "ig (precision=float64)"]),
        ({"protocol": "top1"}, ["ig (protocol=standard)", "ig (protocol=top1)"]),
        ({"cell_key": "d" * 20}, ["ig (cccccccc/kkkkkkkk)", "ig (dddddddd/kkkkkkkk)"]),
        ({"model": "n", "steps": 16}, ["ig", "ig"]),
    ],
    ids=str,
)
def test_methods_are_told_apart(change: dict[str, Any], said: list[str]) -> None:
    """By whatever differs, at last by keys; results of two networks are none of one name."""
    assert names(row(), row(**change)) == [(each, "hits v") for each in said]


@pytest.mark.parametrize(
    "change, said",
    [
        ({"metric": {"tolerance": 4}}, ["metric.tolerance=none", "metric.tolerance=4"]),
        ({"split": "test[:9]"}, ["split=test", "split=test[:9]"]),
        ({"data": "g"}, ["data=f", "data=g"]),
        ({"variant": "u"}, ["variant=v", "variant=u"]),
    ],
    ids=str,
)
def test_quantities_are_told_apart(change: dict[str, Any], said: list[str]) -> None:
    """One name for what was taken in two ways, or of other data."""
    assert names(row(), row(**change)) == [("ig", f"hits v ({each})") for each in said]


def test_floors_are_marked_beside_their_settings() -> None:
    """Both remarks in one pair of brackets; the files say which methods are floors."""
    assert names(row(), row(steps=9), marked=("ig",)) == [
        ("ig (floor, steps=8)", "hits v"),
        ("ig (floor, steps=9)", "hits v"),
    ]
    assert floors() == ["center", "edges", "random"]


def test_floors_of_a_folder(tmp_path: Path) -> None:
    """A user's own: `--config-dir`."""
    (tmp_path / "method").mkdir()
    (tmp_path / "method/mine.yaml").write_text("_target_: mine.Mine\nfloor: true\n")
    (tmp_path / "method/other.yaml").write_text("# no floor\n_target_: mine.Other\n")
    assert floors([tmp_path]) == ["mine"]


def test_rows_say_how_they_were_taken(tmp_path: Path) -> None:
    """`settings` of a tidy row: the method's, the protocol's, the metric's, and the data's content; no class."""
    cell = CellStore(tmp_path / "store", "c")
    identity = {
        "schema": SCHEMA,
        "method": {"_target_": "X", "k": 5},
        "protocol": {"smooth": 0},
        "dataset": {"fingerprint": "f"},
    }
    labels = {"model": "m", "kind": "attribution", "method": "x", "dataset": "d", "protocol": "p"}
    metric = {"name": "hits", "paired": [], "identity": {"metric": {"_target_": "Y", "tolerance": 2}}}
    cell.describe({"identity": identity, "labels": labels}, {"k": metric})
    numbers = {"variant": "", "stat": "mean", "value": 0.5, "n": 4, "headline": True, "status": "ok", "x": None}
    cell.group("k").finish(4, Finished("r", "test", [numbers]))
    (settings,) = collect(tmp_path)["settings"]
    assert json.loads(settings) == {
        **{"method": {"k": 5}, "protocol": {"smooth": 0}, "metric": {"tolerance": 2}, "data": "f"},
    }


# Two runs in one store


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Integrated gradients with 2 and with 3 steps, and a floor; the pointing game at two tolerances."""
    results = tmp_path_factory.mktemp("two")
    runs = [["method.integrated_gradients.steps=2"], ["method.integrated_gradients.steps=3"]]
    for words in (*runs, [*runs[0], "metric.pointing_game.tolerance_px=4"]):
        assert launch.run(compose_config([*RUN, *METRIC, *words, f"results={results}"]), []) == 0
    return results


def said(capsys: Capture, *words: str) -> str:
    """What a call prints, on one line."""
    assert call(words) == 0
    return " ".join(capsys.readouterr().out.split())


def test_the_report_shows_both(left: Path, capsys: Capture) -> None:
    """A row each, with the numbers of results.csv; the floor is marked."""
    said(capsys, "report", "--results", str(left))
    page = (left / "report/index.html").read_text()
    tidy = pd.read_csv(left / "tidy/results.csv")
    for steps in (2, 3):
        (value,) = tidy[
            tidy["settings"].str.contains(f'"steps":{steps},', regex=False)
            & (tidy["variant"] == "tol=2px,box")
            & (tidy["stat"] == "mean")
            & (tidy["subset"] == "all")
        ]["value"]
        shown = page.split(f'<th scope="row">integrated_<wbr>gradients (steps={steps})</th>')[1].split("<small>")[0]
        assert f"{value:.3f}" in shown
    assert '<th scope="row">center (floor)</th>' in page


def test_status_shows_both(left: Path, capsys: Capture) -> None:
    """Cells by their settings, metrics by theirs."""
    text = said(capsys, "status", "--results", str(left))
    assert "(steps=2)" in text and "(steps=3)" in text and " center 12" in text
    assert "pointing_game (tolerance_px=2) done" in text and "pointing_game (tolerance_px=4) done" in text


def test_compare_shows_both(left: Path, capsys: Capture) -> None:
    """A table each, and a line each for the two tolerances."""
    text = said(capsys, "compare", "integrated_gradients", "center", "--results", str(left))
    assert "first with steps=2" in text and "first with steps=3" in text
    assert "pointing_game (tolerance_px=2) hit" in text and "pointing_game (tolerance_px=4) hit" in text
