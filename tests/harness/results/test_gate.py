"""The gate: nothing changed is 0, planted mistakes are caught and named, in both directions."""

import re
import shlex
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import gate_pictures
import numpy as np
import pandas as pd
import pytest
from assay.harness import launch
from assay.harness.arguments import take_allow_flag
from assay.harness.commands.program import call
from assay.harness.commands.stored import check as check_command
from assay.harness.config import CONF, ConfigError, RunConfig, groups
from assay.harness.overrides import compose_config
from assay.harness.results.gate import CODES, check
from assay.harness.results.gate.comparing import SHOWN, Limits, compare_samples
from assay.harness.results.gate.findings import CHANGED, INCOMPARABLE, INCOMPLETE, SAME, Verdict, moved
from assay.harness.results.gate.sides import (
    SAMPLE,
    beside,
    read_current,
    read_samples,
    read_side,
    samples_file,
    write_side,
)
from assay.methods.attribution.cam import GradCAM
from assay.metrics import localization
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

ROOT = Path(__file__).resolve().parents[3]
COMMITTED = ROOT / "results/baselines/embedded.csv.gz"
SMALL = ["method=[gradcam,center]", "dataset=scenes", "limit=24", "compute.processes=1", "compute.device=cpu"]
METRICS = "metric=[pointing_game,energy_pointing_game,positive_ratio]"
UPDATE = ["--update", "--reason", "as it is"]


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
    assert gate(good, path, *UPDATE) == SAME
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
        gate(tmp_path, baseline, *UPDATE)
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


def test_large_numbers_may_move_in_proportion(rows: pd.DataFrame, baseline: Path, tmp_path: Path) -> None:
    """A tolerance is absolute up to 1 and relative above; a method that amplifies rounding has its own."""
    limits = Limits({"default": 0.01}, 0.0, {"lrp_epsilon": 0.1})
    assert (limits.of("miou"), limits.of("miou", "rap"), limits.of("miou", "lrp_epsilon")) == (0.01, 0.01, 0.1)
    about = dict.fromkeys(SAMPLE, "") | {"metric": "ood", "column": "score"}
    before = pd.DataFrame([about | {"sample_id": name} for name in "abcd"]).assign(value=[0.5, 50.0, -50.0, 50.0])
    now = before.assign(value=[0.511, 50.49, -50.51, 50.51])
    (only,) = next(iter(compare_samples(before, now, limits).values()))
    assert only.moved == 3 and [each[0] for each in only.most] == ["a", "c", "d"]


def test_numbers_are_told_apart() -> None:
    """At as many digits as it takes."""
    shown = [moved(0.3679, 0.434), moved(0.61961, 0.61963), moved(1.0, 1.0), moved(float("nan"), 1.0)]
    assert shown == ["0.3679 -> 0.434", "0.61961 -> 0.61963", "1 -> 1", "undefined -> 1"]


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


def test_update_is_reproducible(good: Path, baseline: Path, tmp_path: Path) -> None:
    """Equal bytes from equal results, the compressed file too; six digits; no cell key, which hides what moved."""
    again = tmp_path / baseline.name
    gate(good, again, *UPDATE)
    assert again.read_bytes() == baseline.read_bytes()
    assert samples_file(again).read_bytes() == samples_file(baseline).read_bytes()
    assert "cell_key" not in again.read_text()


def test_an_update_says_why(good: Path, rows: pd.DataFrame, tmp_path: Path) -> None:
    """A line an update: date, commit, how many results there are, changed, gone and new, and the reason."""
    baseline = tmp_path / "mine.csv.gz"
    with pytest.raises(ConfigError, match="--reason"):
        gate(good, baseline, "--update", "--reason", " ")
    assert not baseline.exists()
    assert gate(good, baseline, "--update", "--reason", "first,\nof two") == SAME
    before = read_side(baseline)
    other = before.rows[before.rows["metric"] != "positive_ratio"].copy()
    other.loc[headline(other), "value"] += 0.5
    write_side(before._replace(rows=other), baseline)
    assert gate(good, baseline, *UPDATE) == SAME
    noted = pd.read_csv(beside(baseline, "reasons.csv"), dtype=str)
    assert noted["reason"].tolist() == ["first, of two", "as it is"]
    assert noted[["results", "changed", "gone", "new"]].to_numpy().tolist() == [list("6006"), list("6102")]
    assert noted["commit"].str.fullmatch(r"[0-9a-f]{12}\+?").all() and noted["date"].str.startswith("20").all()


def test_any_two_runs_are_compared(good: Path, baseline: Path, rows: pd.DataFrame, tmp_path: Path) -> None:
    """Two folders, or a baseline and a folder, in either order; one run alone is a wrong request."""
    rows.loc[headline(rows), "value"] += 0.1
    verdict_of(rows, baseline, tmp_path)
    assert call(["check", str(good), str(good)]) == SAME
    assert call(["check", str(baseline), str(good)]) == SAME
    assert call(["check", str(good), str(tmp_path)]) == CHANGED
    assert call(["check", str(tmp_path), str(baseline)]) == CHANGED
    assert call(["check", str(good), str(tmp_path / "none")]) == INCOMPARABLE
    assert call(["check", str(good)]) == INCOMPARABLE


def test_what_cannot_be_compared_is_refused(good: Path, baseline: Path, rows: pd.DataFrame, tmp_path: Path) -> None:
    """No baseline, no results, two results for one row: errors that name the command (exit code 2)."""
    with pytest.raises(ConfigError, match="--update"):
        gate(good, tmp_path / "none.csv")
    with pytest.raises(ConfigError, match="make check"):
        gate(tmp_path / "none", baseline)
    with pytest.raises(ConfigError, match=r"two results for .* of center"):
        verdict_of(pd.concat([rows, rows[rows["method"] == "center"].assign(cell_key="0")]), baseline, tmp_path)


def test_exit_codes_are_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    """As they are in the code; that the command needs no torch is tested with the other commands."""
    assert call(["check", "--help"]) == 0
    assert CODES in " ".join(capsys.readouterr().out.split())


# Scores of detectors


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two detectors on sixteen known and sixteen unknown images."""
    chosen = ["model=scenes_resnet", "dataset=scenes_hard", "ood=[scenes_noise]", "method=[msp,margin]", "limit=16"]
    folder = tmp_path_factory.mktemp("scored")
    words = [*chosen, "metric=[error_detection,ood]", f"results={folder}", "compute.processes=1", "compute.device=cpu"]
    launch.run(compose_config(words), [])
    return folder


def test_scores_of_detectors_are_compared_by_image(scored: Path, tmp_path: Path) -> None:
    """Of known images and of unknown ones; half of the first moved by a hundredth: named, though no rank changed."""
    baseline = tmp_path / "scores.csv"
    assert gate(scored, baseline, *UPDATE) == SAME
    side = read_side(baseline)
    assert set(side.samples["dataset"]) == {"scenes_hard", "scenes_noise"}
    chosen = (side.samples["method"] == "msp") & (side.samples["dataset"] == "scenes_hard")
    side.samples.loc[chosen, "value"] *= np.where(np.arange(chosen.sum()) % 2, 1.01, 1)
    write_side(side, baseline)
    (only,) = check(baseline, scored).wrong
    assert only.part["method"] == "msp" and "means as before; score: 8 of 16 samples moved" in str(only)


# What the gate computes

GATE = ["ci_embedded", "ci_resnet", "ci_again", "ci_cue", "ci_csv", "ci_coco", "ci_voc", "ci_detectors"]
GATE += ["ci_grid", "ci_disconnected", "ci_committees", "ci_vit"]
EXTRAS = {"captum", "pytorch_ood", "zennit"}  # whose libraries are test extras
ATTENTION = {
    "attention_rollout",
    "attnlrp",
    "cp_lrp",
    "generic_attention",
    "legrad",
    "transformer_attribution",
}  # on ci_vit alone
REFUSING = {"agf", "cam", "deeplift", "fullgrad", "gradient_hedge", "rsp"}  # networks whose layers have a row a cell


@pytest.fixture(scope="module")
def gate_configs() -> dict[str, RunConfig]:
    """Every experiment of the gate."""
    return {name: compose_config([f"experiment={name}"]) for name in GATE}


def test_the_gates_experiments_keep_to_themselves(gate_configs: dict[str, RunConfig]) -> None:
    """All of them, and no other, are what `make check` runs: on the CPU, anew, in their folder, at most 64 images."""
    named = re.findall(r"experiment=(\S+)", (ROOT / "Makefile").read_text().split("\ncheck:")[1].split("\n\n")[0])
    assert sorted(",".join(named).split(",")) == sorted(GATE)
    assert sorted(path.stem for path in (CONF / "experiment").glob("ci_*.yaml")) == sorted(GATE)
    for config in gate_configs.values():
        assert (config.results, config.cache, config.compute.device) == ("results/check", "refresh", "cpu")
        assert config.limit is None or config.limit <= 64


def chosen_pairs(configs: dict[str, RunConfig]) -> set[tuple[str, str]]:
    """Every (method, metric) of some experiments."""
    return {pair for config in configs.values() for pair in product(config.method, config.metric)}


def test_nothing_of_conf_is_forgotten(gate_configs: dict[str, RunConfig]) -> None:
    """Every method x metric of conf/ of one kind; what is left out is named in the experiment's file."""
    methods, metrics = (set(groups()[name]) for name in ("method", "metric"))
    detectors, detection = set(gate_configs["ci_detectors"].method), set(gate_configs["ci_detectors"].metric)
    committees = set(gate_configs["ci_committees"].method)
    others = methods - detectors - committees - EXTRAS - ATTENTION
    wanted = {*product(detectors, detection), *product(others, metrics - detection)}
    wanted |= {*product(committees, ["error_detection"])}
    wanted |= {pair for name in ("ci_vit",) if name in GATE for pair in product(ATTENTION, gate_configs[name].metric)}
    assert chosen_pairs(gate_configs) == wanted - {*product(REFUSING, ["disconnection"])}
    for experiment, left_out in (("ci_embedded", EXTRAS), ("ci_disconnected", REFUSING)):
        told = (CONF / f"experiment/{experiment}.yaml").read_text()
        assert all(f"`{name}`" in told for name in left_out)


def test_the_committed_baseline_is_whole_and_small(gate_configs: dict[str, RunConfig]) -> None:
    """It has a row of every method x metric of the gate, on every data set; all of it is below 1 MB."""
    configs = gate_configs
    side = read_side(COMMITTED)
    assert set(side.rows[["method", "metric"]].itertuples(index=False, name=None)) == chosen_pairs(configs)
    assert {config.dataset.name for config in configs.values()} <= set(side.samples["dataset"])
    assert {each.name for config in configs.values() for each in config.ood.values()} <= set(side.samples["dataset"])
    files = [path for path in COMMITTED.parent.rglob("*") if path.is_file()]
    assert beside(COMMITTED, "reasons.csv") in files and sum(path.stat().st_size for path in files) < 1_000_000


def test_the_committed_pictures_are_what_is_drawn(tmp_path: Path) -> None:
    """Annotations to the byte, PNG to the pixel, JPEG within what encoders differ by."""
    gate_pictures.write(tmp_path)
    drawn = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    kept = COMMITTED.parent / "files"
    assert drawn == sorted(path.relative_to(kept) for path in kept.rglob("*") if path.is_file())
    for name in drawn:
        if name.suffix in (".png", ".jpg"):
            one, other = (np.asarray(Image.open(folder / name)).astype(int) for folder in (tmp_path, kept))
            assert np.abs(one - other).max() <= (0 if name.suffix == ".png" else 8), name
        elif name.suffix != ".parquet":
            assert (tmp_path / name).read_bytes() == (kept / name).read_bytes(), name


# A workflow of one's own

OWN_CODE = """
import torch
from dataclasses import dataclass
from typing import ClassVar
from torch import nn
from assay.harness.network import Network
from assay.harness.types import Attribution, Needs, Sample

PLACE = 1


def network():
    module = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Network(module, mean=[0.5] * 3, std=[0.5] * 3)


class Squares:
    classes, split = ("dark", "light"), "test"

    def __len__(self):
        return 2

    def __getitem__(self, index):
        image, box = torch.full((3, 8, 8), 0.2 + 0.5 * index), torch.tensor([[0.0, 0, 4, 4]])
        return Sample(f"square{index}", image, (index,), (8, 8), {index: box})

    def fingerprint(self):
        return "squares-1"


@dataclass(frozen=True)
class Corner:
    VERSION: ClassVar[int] = 1

    def needs(self):
        return Needs()

    def attribute(self, forward, targets, rng):
        values = torch.zeros(len(targets.image), 8, 8)
        values[:, PLACE, PLACE] = 1
        return Attribution(values)
"""
OWN_CONF = {
    "model/mine.yaml": "name: mine\n_target_: my_code.network\ntarget_layer: '0'\n",
    "dataset/squares.yaml": "name: squares\n_target_: my_code.Squares\ntolerance_px: 1\n",
    "method/corner.yaml": "# @package method.corner\n_target_: my_code.Corner\n",
}


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The repository that the example workflow speaks of."""
    files = {"my_code.py": OWN_CODE} | {f"my_conf/{name}": text for name, text in OWN_CONF.items()}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_code", raising=False)
    monkeypatch.setenv("ASSAY_ALLOW_TARGET", "")
    return tmp_path


def workflow(name: str) -> list[str]:
    """The words of a step of the example workflow."""
    steps = OmegaConf.load(ROOT / "docs/examples/own-ci.yml").jobs.check.steps
    return shlex.split(next(step["run"] for step in steps if step.get("name") == name))


def compute_own() -> int:
    """The workflow's step, in this process."""
    place, *words = workflow("Compute")
    assert (place, *words[:2]) == ("PYTHONPATH=.", "assay", "run")
    return launch.run(compose_config([*take_allow_flag(words[2:]), "limit=2", "compute.processes=1"]), [])


def test_the_example_workflow_runs(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its two commands: same on the same code, changed and named when the method explains another place."""
    assert compute_own() == 0
    place, *compared = workflow("Compare")
    baseline = compared[compared.index("--baseline") + 1]
    assert place == "assay" and call(["check", "--baseline", baseline, "--results", "build/assay", *UPDATE]) == SAME
    assert compute_own() == 0 and call(compared) == SAME
    monkeypatch.setattr(sys.modules["my_code"], "PLACE", 6)
    assert compute_own() == 0 and call(compared) == CHANGED
    assert "pointing_game | corner | mine" in (repository / "build/summary.md").read_text()


def test_the_largest_limit_of_metric_method_and_both_counts() -> None:
    limits = Limits({"default": 1e-5, "ood": 1e-3}, 0.1, {"agf": 3e-2}, {"pnorm": {"ood": 0.3}})
    assert [limits.of(*each) for each in (("ood", "msp"), ("ood", "agf"), ("ood", "pnorm"), ("miou", "pnorm"))] == [
        *(1e-3, 3e-2, 0.3, 1e-5)
    ]


def test_no_limit_of_a_gpu_is_below_the_cpus() -> None:
    """And each of its pairs names a method and a metric of conf/."""
    cpu, gpu, known = Limits.read(), Limits.read("check_gpu.yaml"), groups()
    assert all(
        gpu.of(metric, method) >= cpu.of(metric, method) for method in known["method"] for metric in known["metric"]
    )
    assert set(gpu.pair) <= set(known["method"]) and {m for each in gpu.pair.values() for m in each} <= set(
        known["metric"]
    )
