"""The gate: nothing changed is 0, planted mistakes are caught and named, in both directions."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from assay.harness import launch
from assay.harness.commands.program import call
from assay.harness.commands.stored import check as check_command
from assay.harness.config import CONF, ConfigError
from assay.harness.overrides import compose_config
from assay.harness.results.gate import CODES, check
from assay.harness.results.gate.baseline import SAMPLE, read_current, read_samples, samples_file
from assay.harness.results.gate.comparing import SHOWN, Limits, compare_samples
from assay.harness.results.gate.findings import CHANGED, INCOMPLETE, SAME, Verdict
from assay.methods.attribution.cam import GradCAM
from assay.metrics import localization
from omegaconf import OmegaConf
from torch import Tensor

SMALL = ["method=[gradcam,center]", "dataset=scenes", "limit=24", "compute.processes=1", "compute.device=cpu"]
METRICS = "metric=[pointing_game,energy_pointing_game,positive_ratio]"


def compute(results: Path, *overrides: str) -> Path:
    """24 embedded images in this process, so that what is planted in it takes effect; 44 pairs."""
    launch.run(compose_config([*SMALL, METRICS, f"results={results}", *overrides]), [])
    return results


def gate(results: Path, baseline: Path, *options: str) -> int:
    """`python -m harness check` in this process: its exit code."""
    words = ["--results", str(results), "--baseline", str(baseline), *options]
    return int(check_command.main(words, standalone_mode=False))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the code as it is."""
    return compute(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def baseline(good: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The baseline that `--update` makes of them."""
    path = tmp_path_factory.mktemp("baselines") / "embedded.csv"
    assert gate(good, path, "--update") == SAME
    return path


# Planted mistakes


def test_code_that_did_not_change_passes(baseline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Computed anew: exit code 0, nothing named but the verdict."""
    assert gate(compute(tmp_path), baseline) == SAME
    assert capsys.readouterr().out.splitlines()[-1] == "same: 6 (method, metric) results"


def test_a_planted_sign_flip_is_caught_and_named(
    baseline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Grad-CAM's signed map negated: its three metrics change, the center's do not; hits flip, samples are named."""
    right = GradCAM.attribute

    def flipped(self: GradCAM, *arguments: Any) -> Any:
        made = right(replace(self, signed=True), *arguments)
        return replace(made, values=-made.values)

    monkeypatch.setattr(GradCAM, "attribute", flipped)
    assert gate(compute(tmp_path), baseline) == CHANGED
    told = capsys.readouterr().out.splitlines()
    changed = [line for line in told if line.startswith("changed:")]
    assert len(changed) == 3 and all(" of gradcam on scenes_vgg (scenes test[:24])" in line for line in changed)
    hits = next(line for line in changed if "pointing_game of" in line and "energy" not in line)
    assert "mean of all [tol=2px,box]" in hits and "of 44 samples flipped, first: test-0000" in hits
    assert told[-1] == "3 changed of 6 (method, metric) results"


def test_a_planted_off_by_one_in_the_tolerance_is_caught_and_named(
    baseline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`<=` instead of `<`: scores only rise, and are caught all the same; exactly the pairs at 2 px flip 0 -> 1."""

    def is_hit(distance: Tensor, tolerance: Tensor) -> Tensor:
        return distance <= tolerance

    monkeypatch.setattr(localization, "is_hit", is_hit)
    assert gate(compute(tmp_path), baseline) == CHANGED
    told = capsys.readouterr().out.splitlines()
    changed = [line for line in told if line.startswith("changed:")]
    assert changed and all("changed: pointing_game of " in line for line in changed)
    center = next(line for line in changed if "pointing_game of center" in line)
    at_tolerance = _samples_at(tmp_path, "center", distance=2.0)
    assert f"hit: {len(at_tolerance)} of 44 samples flipped" in center
    assert all(f"{name} (0 -> 1)" in center for name in at_tolerance[:SHOWN])


def _samples_at(results: Path, method: str, distance: float) -> list[str]:
    """Samples whose arg-max is exactly so far from the object."""
    rows = read_current(results)
    row = rows[(rows["method"] == method) & (rows["metric"] == "pointing_game")].iloc[0]
    paths = sorted((results / "store" / row["cell_key"] / row["metric_key"]).glob("*.parquet"))
    table = pd.concat([pd.read_parquet(path) for path in paths])
    return sorted(table.loc[table["distance_px"] == distance, "sample_id"])


def test_a_planted_failure_is_named(
    baseline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A method that raises: exit code 3 with its reason, though the rest is as before; never a baseline."""

    def broken(self: GradCAM, *arguments: Any) -> Any:
        raise ValueError("planted")

    monkeypatch.setattr(GradCAM, "attribute", broken)
    assert gate(compute(tmp_path), baseline) == INCOMPLETE
    told = capsys.readouterr().out
    assert "failed: pointing_game of gradcam on scenes_vgg" in told and "ValueError: planted" in told
    before = baseline.read_bytes()
    with pytest.raises(ConfigError, match="not a baseline"):
        gate(tmp_path, baseline, "--update")
    assert baseline.read_bytes() == before


# Tables made by hand


@pytest.fixture
def rows(good: Path) -> pd.DataFrame:
    """The good results' tidy rows, to be changed."""
    return read_current(good)


def verdict_of(rows: pd.DataFrame, baseline: Path, folder: Path) -> Verdict:
    """The verdict on a tidy table without a store."""
    (folder / "tidy").mkdir(exist_ok=True)
    rows.to_csv(folder / "tidy/results.csv", index=False)
    return check(baseline, folder)


def headline(rows: pd.DataFrame, metric: str = "pointing_game") -> int:
    """Where the mean of all of Grad-CAM is."""
    wanted = {"method": "gradcam", "metric": metric, "stat": "mean", "subset": "all"}
    return int(rows.index[(rows[list(wanted)] == pd.Series(wanted)).all(axis=1)][0])


@pytest.mark.parametrize("metric", ["pointing_game", "energy_pointing_game"])
@pytest.mark.parametrize("share, code", [(0.99, SAME), (1.01, CHANGED), (-0.99, SAME), (-1.01, CHANGED)])
def test_tolerance_is_absolute_a_metric_and_both_ways(
    metric: str, share: float, code: int, rows: pd.DataFrame, baseline: Path, tmp_path: Path
) -> None:
    """Just inside and just outside of the metric's tolerance, up and down; both values at six digits."""
    place = headline(rows, metric)
    stored = float(f"{rows.loc[place, 'value']:.6g}")
    rows.loc[place, "value"] = stored + share * Limits.read().of(metric)
    verdict = verdict_of(rows, baseline, tmp_path)
    assert verdict.code == code
    assert [finding.part["metric"] for finding in verdict.wrong] == [metric] * (code == CHANGED)


@pytest.mark.parametrize("column, value", [("n", 43), ("value", np.nan), ("ci_low", 0.0)])
def test_other_samples_an_undefined_value_or_another_interval_is_a_change(
    column: str, value: float, rows: pd.DataFrame, baseline: Path, tmp_path: Path
) -> None:
    """The value may be the same: what it stands on is not."""
    rows.loc[headline(rows), column] = value
    verdict = verdict_of(rows, baseline, tmp_path)
    assert verdict.code == CHANGED
    assert [change.what for change in verdict.wrong[0].rows] == [column]


def test_missing_rows_are_told_apart_from_changes(rows: pd.DataFrame, baseline: Path, tmp_path: Path) -> None:
    """One row, or all of a metric: exit code 3 even when something else changed."""
    place = headline(rows)
    verdict = verdict_of(rows.drop(index=place), baseline, tmp_path)
    assert verdict.code == INCOMPLETE and "mean of all [tol=2px,box]" in str(verdict.wrong[0])
    rows.loc[headline(rows, "positive_ratio"), "value"] += 0.5
    verdict = verdict_of(rows[rows["metric"] != "energy_pointing_game"], baseline, tmp_path)
    assert verdict.code == INCOMPLETE
    assert sorted(finding.kind for finding in verdict.wrong) == ["changed", "missing", "missing"]


def test_new_rows_and_other_weights_are_remarks(rows: pd.DataFrame, baseline: Path, tmp_path: Path) -> None:
    """A metric added since, and a retrained network: said, and no verdict by themselves."""
    added = rows[rows["metric"] == "pointing_game"].assign(metric="miou")
    verdict = verdict_of(pd.concat([rows, added]).assign(weights="scenes_vgg@new"), baseline, tmp_path)
    assert verdict.code == SAME
    assert any("the weights of scenes_vgg" in remark and "scenes_vgg@new" in remark for remark in verdict.remarks)
    assert any(f"{len(added)} rows are not in the baseline, first: miou of " in remark for remark in verdict.remarks)


def test_samples_that_move_while_the_mean_stays_are_a_change(good: Path, baseline: Path, tmp_path: Path) -> None:
    """The baseline's positive ratios of Grad-CAM shuffled among samples: equal means, found by the samples."""
    other = tmp_path / baseline.name
    other.write_bytes(baseline.read_bytes())
    samples = read_samples(samples_file(baseline))
    chosen = (samples["method"] == "gradcam") & (samples["metric"] == "positive_ratio")
    samples.loc[chosen, "value"] = samples.loc[chosen, "value"].to_numpy()[::-1]
    samples.to_csv(samples_file(other), index=False)
    verdict = check(other, good)
    assert verdict.code == CHANGED
    assert "positive_ratio of gradcam" in str(verdict.wrong[0]) and "means as before" in str(verdict.wrong[0])


def test_most_changed_samples_come_first() -> None:
    """Undefined now (infinitely far), then by distance; equal undefined values and small moves do not count."""
    about = dict.fromkeys(SAMPLE, "") | {"metric": "energy_pointing_game", "column": "inside_share"}
    nan = float("nan")
    before = pd.DataFrame([about | {"sample_id": name} for name in "abcde"]).assign(value=[0.1, 0.2, 0.3, 0.4, nan])
    now = before.assign(value=[0.1, 0.25, nan, 0.9, nan])
    moves = compare_samples(before, now, Limits({"default": 0.01}, 0.05))
    (only,) = next(iter(moves.values()))
    assert (only.moved, only.total, only.flips) == (3, 5, False)
    assert only.most == ["c (0.3 -> undefined)", "d (0.4 -> 0.9)", "b (0.2 -> 0.25)"]


# Files and the command line


def test_junit_and_markdown_name_the_change(rows: pd.DataFrame, baseline: Path, tmp_path: Path) -> None:
    """JUnit: a case a metric and cell, one failure; Markdown: a line a finding."""
    rows.loc[headline(rows), "value"] = 0.0
    verdict_of(rows, baseline, tmp_path)
    xml, text = tmp_path / "made/junit.xml", tmp_path / "made/summary.md"
    assert gate(tmp_path, baseline, "--junit", str(xml), "--markdown", str(text)) == CHANGED
    suite = ElementTree.parse(xml).getroot()
    assert suite.attrib == {"name": "check", "tests": "6", "failures": "1", "errors": "0"}
    failed = [case for case in suite if len(case)]
    assert [case.attrib for case in failed] == [{"classname": "scenes_vgg.scenes.gradcam", "name": "pointing_game"}]
    assert "pointing_game of gradcam" in failed[0][0].get("message", "")
    assert "| pointing_game | gradcam | scenes_vgg | mean of all [tol=2px,box] |" in text.read_text()


def test_update_is_reproducible_and_small(good: Path, baseline: Path, tmp_path: Path) -> None:
    """Equal bytes from equal results, the compressed file too; six digits; no cell key, which hides what moved."""
    again = tmp_path / baseline.name
    gate(good, again, "--update")
    assert again.read_bytes() == baseline.read_bytes()
    assert samples_file(again).read_bytes() == samples_file(baseline).read_bytes()
    assert "cell_key" not in again.read_text()
    per_value = samples_file(baseline).stat().st_size / len(read_samples(samples_file(baseline)))
    assert per_value * 2 * 7 * 3 * 115 < 300_000  # networks x methods x columns x pairs of 60 images


def test_what_cannot_be_compared_is_refused(good: Path, baseline: Path, rows: pd.DataFrame, tmp_path: Path) -> None:
    """No baseline, no results, two results for one row: errors that name the command (exit code 2)."""
    with pytest.raises(ConfigError, match="--update"):
        gate(good, tmp_path / "none.csv")
    with pytest.raises(ConfigError, match="experiment=ci_embedded"):
        gate(tmp_path / "none", baseline)
    with pytest.raises(ConfigError, match=r"two results for .* of center"):
        verdict_of(pd.concat([rows, rows[rows["method"] == "center"].assign(cell_key="0")]), baseline, tmp_path)


def test_exit_codes_are_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    """As they are in the code; that the command needs no torch is tested with the other commands."""
    assert call(["check", "--help"]) == 0
    assert CODES in " ".join(capsys.readouterr().out.split())


@pytest.fixture(params=["scenes_vgg", "scenes_resnet"])
def gate_config(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The experiment that the gate compares, for each of its networks."""
    yield compose_config(["experiment=ci_embedded", f"model={request.param}"])


def test_the_gates_experiment_keeps_to_itself(gate_config: Any) -> None:
    """On the CPU, anew, in its own folder; every metric that it measures has a tolerance, its own or the default."""
    assert (gate_config.results, gate_config.cache, gate_config.compute.device) == ("results/check", "refresh", "cpu")
    assert (gate_config.limit, gate_config.method["integrated_gradients"].settings["steps"]) == (60, 8)
    assert all(Limits.read().of(metric) < 0.01 for metric in gate_config.metric)
    assert OmegaConf.load(CONF / "check.yaml").tolerance.default == 0.005
