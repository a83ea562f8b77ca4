"""`make gpu-check` on the CPU: both parts end to end, and what they do with results that differ and races that fail."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytest
import torch
from assay.harness.config import ROOT
from assay.harness.engine.memory import Together
from assay.harness.results.gate.findings import Finding, RowChange, Verdict
from assay.harness.results.gate.sides import PART

from bench.floors import relevance
from bench.floors.subject import Runs, Subject
from bench.gpu import __main__ as program
from bench.gpu import settings, speed, tables
from bench.gpu.speed import Family


def _not_made() -> dict[str, Runs]:
    raise ValueError("no such layer")


@pytest.fixture
def few_races(monkeypatch: pytest.MonkeyPatch) -> None:
    """A family whose races go well, one with a race that fails, one that cannot be made."""

    def families(plan: speed.Plan, device: torch.device) -> Iterator[Family]:
        subject = Subject.of(plan.pooled, "layer4", 1, plan.side_px, plan.rows, device)
        yield Family("floors", 3, lambda: speed.looks(subject))
        yield Family("broken", 1, lambda: {"broken": {"floor: none": lambda: None, "assay": lambda: 1 // 0}})
        yield Family("not made", 1, _not_made)

    monkeypatch.setattr(speed, "families", families)


@pytest.mark.usefixtures("few_races")
def test_races_are_written_with_rates_and_failures_are_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    asked = ["--device", "cpu", "--small", "--parts", "speed", "--threads", "1"]
    assert program.main([*asked, "--out", str(tmp_path), "--scratch", str(tmp_path / "scratch")]) == 1
    (path,) = tmp_path.glob("cpu-*-1c-torch*.csv")
    found = pd.read_csv(path, keep_default_na=False).set_index("task")
    ours = found[found["contestant"] == "assay"]
    assert list(ours.index) == ["random", "center", "edges"]
    rate = ours["images_per_s"].astype(float) * ours["median_s"].astype(float)
    assert rate.tolist() == pytest.approx([3] * 3, rel=0.01)  # both are rounded
    assert found.loc["broken", "status"].startswith("failed: ZeroDivisionError")
    assert found.loc["not made", "status"] == "failed: ValueError: no such layer"
    assert "not timed: broken, not made" in capsys.readouterr().out


@pytest.mark.usefixtures("few_races")
def test_no_race_begins_when_the_time_is_over(tmp_path: Path) -> None:
    found = pd.concat(speed.timed(speed.SMALL, torch.device("cpu"), budget_s=0))
    assert set(found["status"][:-1]) == {"not run: out of time"}


def test_families_have_their_races() -> None:
    made = {family.name: family for family in speed.families(speed.SMALL, torch.device("cpu"))}
    assert {"gradients", "relevance", "patterns", "cams", "features"} <= made.keys()
    assert {"layouts", "forward-only settings", "batches"} <= made.keys()
    tasks = " ".join(task for name in ("gradients", "relevance") for task in made[name].make())
    assert all(name in tasks for name in ("gradient", "rap", "agf", "lrp_epsilon"))


def _small(images: int = 1) -> Subject:
    return Subject.of(speed.SMALL.pooled, "layer4", images, speed.SMALL.side_px, speed.SMALL.rows, torch.device("cpu"))


@pytest.mark.slow
def test_layouts_give_the_same_maps() -> None:
    """Up to rounding, 1e-4 of the largest value; the first contestant is the usual layout."""
    for runs in settings.layouts(_small()).values():
        assert list(runs) == [settings.USUAL, "channels_last"]
        usual, last = (run() for run in runs.values())
        assert isinstance(usual, torch.Tensor)
        torch.testing.assert_close(last, usual, rtol=0, atol=1e-4 * float(usual.abs().max()))


def test_forward_only_settings_are_applied() -> None:
    """RISE: layouts agree to rounding; eight bits move the map, by less than a tenth, in their contestants alone."""
    runs = next(iter(settings.forward_only(_small(), 4).values()))
    made = {name: cast(torch.Tensor, run()) for name, run in [*reversed(runs.items()), *runs.items()]}
    away = {
        name: float((each - made[settings.USUAL]).norm() / made[settings.USUAL].norm()) for name, each in made.items()
    }
    assert away["channels_last"] < 1e-5
    assert all(1e-5 < away[name] < 0.1 for name in ("bfloat16", "bfloat16, channels_last")), away


def test_batches_cover_all_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three images in batches of two: an image more than one batch, by the size that memory gives."""
    monkeypatch.setattr(settings, "together", lambda *_: Together(2))
    subject = _small(3)
    runs = settings.batches(subject)["GradCAM resnet18 by batch"]
    assert list(runs) == ["batches of 16", "compute.batch_size=auto: batches of 2"]
    for run in runs.values():
        before = subject.network.passes.forward
        run()
        assert subject.network.passes.forward == before + 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:PatternNet")
def test_patterns_are_timed_on_fifty_untrained_layers() -> None:
    """PatternNet's signal by patterns of what such layers read is beyond float32, and its map refused."""
    subject = Subject.of("resnet50", "layer4", 1, 64, 8, torch.device("cpu"))
    for runs in relevance.patterns(subject).values():
        assert bool(cast(torch.Tensor, runs["assay"]()).isfinite().all())


def test_a_run_that_fails_is_told_though_no_result_of_it_differs(tmp_path: Path, monkeypatch: Any) -> None:
    """Both sides lack it, so that the verdict alone would be `same`."""

    def run(work: tables.Work) -> str:
        return "exit code 1" if work.experiment == "ci_cue" else ""

    monkeypatch.setattr(tables.Work, "run", run)
    monkeypatch.setattr(tables, "_compared", lambda scratch: Verdict([], []))
    found = tables.compare("cpu", tmp_path / "scratch", ["ci_csv", "ci_cue"])
    assert found.verdict.code == 0 and found.code == 3
    assert [why.partition(":")[0] for why in found.failures] == ["ci_cue on cpu"] * 2


def test_all_experiments_of_the_gate_are_compared() -> None:
    """Those that `make check` runs."""
    checked = re.findall(r"\bci_\w+", (ROOT / "Makefile").read_text())
    assert sorted(tables.experiments()) == sorted(checked)
    assert tables.experiments()[0] == "ci_detectors"


@pytest.mark.slow
def test_tables_of_two_devices_are_compared(tmp_path: Path) -> None:
    """Two processes; here both on the CPU, so equal to the bit."""
    asked = ["--device", "cpu", "--small", "--parts", "tables", "--threads", "1", "--out", str(tmp_path)]
    assert program.main([*asked, "--scratch", str(tmp_path / "scratch")]) == 0
    (path,) = tmp_path.glob("*-check.csv")
    assert pd.read_csv(path).empty


def test_what_is_off_is_written_with_both_values() -> None:
    part = dict.fromkeys(PART, "") | {"metric": "miou", "method": "rap"}
    changed = Finding(part, "changed", [RowChange("mean of all [zero]", "value", 0.5, 0.25)], [])
    lost = Finding(part | {"method": "agf"}, "missing", [], [], "3 rows")
    found = tables.frame(Verdict([changed, Finding(part, "same", [], []), lost], [])).set_index("method")
    assert found.loc["rap", ["kind", "number", "cpu", "device"]].tolist() == [
        "changed",
        "mean of all [zero]",
        0.5,
        0.25,
    ]
    assert found.loc["agf", "kind"] == "missing" and "3 rows" in found.loc["agf", "said"]
    assert len(found) == 2 and list(tables.frame(Verdict([], []))) == [*PART, *tables.OFF]


@pytest.mark.usefixtures("few_races")
def test_a_folder_of_somebody_is_left_as_it_is(tmp_path: Path) -> None:
    """Of `--scratch` only what an earlier run has left there is removed; and no race at all is no error."""
    scratch = tmp_path / "mine"
    scratch.mkdir()
    (scratch / "thesis.txt").write_text("years")
    asked = ["--device", "cpu", "--small", "--parts", "speed", "--threads", "1", "--seconds", "0"]
    program.main([*asked, "--out", str(tmp_path / "out"), "--scratch", str(scratch)])
    assert (scratch / "thesis.txt").read_text() == "years"
