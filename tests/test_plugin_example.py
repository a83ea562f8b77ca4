"""docs/examples/plugin: a model, a data set, a method, a metric and a detector of a package, from run to report."""

import importlib
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import forks
import pandas as pd
import pytest
import torch
from assay.harness import launch
from assay.harness.build import ALLOW_VARIABLE
from assay.harness.commands.program import call
from assay.harness.config import ConfigError
from assay.harness.detection import Features
from assay.harness.overrides import compose_config
from assay.harness.plugins import CHOOSE
from assay.harness.types import Dataset
from plugin_site import EXAMPLE, forget_example, install_example

import assay

ROOT, RUN = forks.ROOT, forks.RUN
FEW = ["limit=8", "compute.device=cpu", "compute.processes=1"]
ON_DISCS = ["model=example_colours", "dataset=example_discs"]
METRICS = "metric=[example_mass_centre,pointing_game]"
MAPS = [*ON_DISCS, "method=[example_occlusion,gradcam,center]", METRICS, *FEW]
TRAINED = ["dataset@train=example_discs", "train.seed=1", "train.limit=40", "ood=[scenes_noise]"]
SCORES = [*ON_DISCS, *TRAINED, "method=[example_class_means,msp]", "metric=[ood]", *FEW]
CONFIGS = EXAMPLE / "assay_example/conf"
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder on Python's path in which the package is installed."""
    folder = tmp_path_factory.mktemp("site")
    install_example(folder)
    forget_example()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv(ALLOW_VARIABLE, "")
        patch.delenv(CHOOSE, raising=False)
        yield folder
    forget_example()


@pytest.fixture(scope="module")
def results(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one run of maps and one of detectors; no option says where the package is."""
    folder = tmp_path_factory.mktemp("results")
    for words in (MAPS, SCORES):
        assert launch.run(compose_config([*words, f"results={folder}"]), []) == 0
    return folder


def said(words: list[str], capsys: Capture) -> str:
    """What a call prints."""
    assert call(words) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def table(results: Path) -> pd.DataFrame:
    """Of the rows that stand for all."""
    rows = pd.read_csv(results / "tidy/results.csv")
    return rows[rows["subset"] == "all"].set_index(["method", "metric", "stat"])


def test_each_module_is_short() -> None:
    """At most forty lines each, and there are five."""
    lines = {path.stem: len(path.read_text().splitlines()) for path in (EXAMPLE / "assay_example").glob("*.py")}
    assert {"model", "dataset", "method", "metric", "detector"} < lines.keys()
    assert max(lines.values()) <= 40


# Run


def test_its_metric_tells_its_method_from_a_floor(results: Path) -> None:
    """The network sees colour alone, so what it looks at is the disc: 8 of 8, with Wilson's interval."""
    rows = table(results)
    share = rows.loc[("example_occlusion", "example_mass_centre", "mean")]
    assert (share.value, share.n, share.status, share.ci_method) == (1.0, 8, "ok", "wilson")
    assert (share.ci_low, share.ci_high) == pytest.approx((1 / (1 + 1.959964**2 / 8), 1.0))
    assert rows.loc[("example_occlusion", "pointing_game", "mean")].value == 1.0
    assert rows.loc[("center", "example_mass_centre", "mean")].value == near_the_middle() / 8


def near_the_middle() -> int:
    """Of the first eight discs, boxes within 2 px of the image's middle, pixel (32, 32): by hand, of their edges."""
    boxes = [next(iter(discs()[index].boxes.values()))[0].tolist() for index in range(8)]
    return sum(math.hypot(off(x0, x1), off(y0, y1)) <= 2 for x0, y0, x1, y1 in boxes)


def discs() -> Dataset:
    """The data set, imported where it is installed."""
    module = importlib.import_module("assay_example.dataset")
    made: Dataset = module.Discs(size=200, seed=0)
    return made


def off(low: float, high: float) -> float:
    """Distance of pixel 32 from the pixels low to high - 1."""
    return max(low - 32, 32 - (high - 1), 0)


def test_its_detector_tells_noise_from_discs(results: Path) -> None:
    """Grey noise has no colour: its features are far from all three classes' means, each time."""
    rows = pd.read_csv(results / "tidy/results.csv")
    auroc = rows[(rows.method == "example_class_means") & (rows.stat == "auroc") & (rows.dataset == "scenes_noise")]
    assert auroc.value.tolist() == [1.0] and auroc.n.tolist() == [8]


def test_its_scores_do_not_depend_on_the_batch(site: Path) -> None:
    """Features far from 0, means near them: a distance taken by products would be off by as much as it is."""
    scorer = importlib.import_module("assay_example.detector").ClassMeans("l")
    taken = torch.randn(40, 16, generator=torch.Generator().manual_seed(0)) + 30
    state = {"means": taken[:30] + 1e-2}

    def scores(rows: torch.Tensor) -> torch.Tensor:
        none = torch.zeros(len(rows), dtype=torch.long)
        return scorer.score(Features(logits=rows[:, :3], labels=none, layers={"l": rows}), state)

    assert torch.equal(scores(taken), torch.cat([scores(row[None]) for row in taken]))
    torch.testing.assert_close(scores(taken)[:30], torch.full((30,), 0.04), rtol=1e-3, atol=0)  # 1e-2 in 16 directions


def test_what_happened_names_the_release(results: Path) -> None:
    """In runs.csv, each method of both runs."""
    assert set(pd.read_csv(results / "tidy/runs.csv").plugins) == {"assay-example 0.1.0"}


# What comes after a run


@pytest.mark.parametrize(
    ("words", "sweep", "before", "anew"),
    [
        (MAPS, "method.example_occlusion.side=8,16", "1/1 shards", "0/1 shards"),
        (SCORES, "method.example_class_means.layer=null,blur", "done", "to do"),
    ],
    ids=["maps", "scores"],
)
def test_a_plan_finds_what_is_done(
    words: list[str], sweep: str, before: str, anew: str, results: Path, capsys: Capture
) -> None:
    """Of a sweep over the plug-in's setting the first job is the finished run, and the second has this method to do."""
    lines = said(["plan", *words, sweep, f"results={results}"], capsys).splitlines()
    ours = [line for line in lines if sweep.split(".")[1] in line.split()[1:2]]
    assert [state for line in ours for state in (before, anew) if state in line] == (
        [before, anew] if words == MAPS else [before, before, anew, anew]
    )


def test_gallery(results: Path, tmp_path: Path, capsys: Capture) -> None:
    """A picture of all three methods."""
    said(["gallery", *MAPS, "--images", "2", "--out", str(tmp_path / "maps.png"), f"results={results}"], capsys)
    assert (tmp_path / "maps.png").stat().st_size > 10_000


def test_compare(results: Path, capsys: Capture) -> None:
    """The metric's paired column, and detectors by the ranks of their scores."""
    text = said(["compare", "example_occlusion", "center", "--results", str(results)], capsys)
    assert "example_mass_centre" in text and "hit" in text
    assert "auroc" in said(["compare", "example_class_means", "msp", "--results", str(results)], capsys)


def test_report(results: Path, capsys: Capture) -> None:
    """All five names, and the release, on the page."""
    said(["report", "--results", str(results)], capsys)
    page = (results / "report/index.html").read_text()
    names = ["colours", "discs", "occlusion", "mass_centre", "class_means"]
    assert [name for name in names if f"example_{name}" not in page] == []
    assert "assay-example 0.1.0" in page


def test_from_python(site: Path) -> None:
    """By name, as ours are."""
    rows = assay.evaluate(
        "example_colours", "example_discs", "example_occlusion", "example_mass_centre", overrides=FEW[:2]
    )
    assert rows.value.tolist() == [1.0] and rows.n.tolist() == [8]
    scorer = assay.fit("example_class_means", "example_colours", "example_discs", overrides=["train.limit=40"])
    known, grey = (scorer.score(image[None]) for image in (discs()[0].image, torch.full((3, 64, 64), 0.4)))
    assert known < grey


# The same as a folder


def test_as_a_folder_it_has_the_same_keys(results: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not installed, but named by two options: everything is found in the store of the package's runs."""
    monkeypatch.setattr(sys, "path", [str(EXAMPLE), *(place for place in sys.path if place != str(site))])
    monkeypatch.setenv(ALLOW_VARIABLE, "assay_example.")
    forget_example()
    for words in (MAPS, SCORES):
        with pytest.raises(ConfigError, match="'example_"):
            compose_config(words)
        config = compose_config([f"--config-dir={CONFIGS}", *words, f"results={results}", "cache=only"])
        assert launch.run(config, []) == 0
    assert sys.modules["assay_example"].__file__ == str(EXAMPLE / "assay_example/__init__.py")
    forget_example()


@pytest.mark.slow
def test_installed_by_pip_in_several_processes(tmp_path: Path) -> None:
    """pip's own work in a folder of its own; helper processes and torchrun's ranks see what it has left there."""
    options = ["-q", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--no-index"]
    shutil.copytree(EXAMPLE, tmp_path / "source")
    pip = [sys.executable, "-m", "pip", "install", *options, "--target", f"{tmp_path}/site", f"{tmp_path}/source"]
    subprocess.run(pip, check=True)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    asked = [*MAPS[:-1], "compute.shard_size=2"]
    tables = []
    for name, command in {
        "one": [sys.executable, RUN, "compute.processes=1"],
        "two": [sys.executable, RUN, "compute.processes=2"],
        "ranks": [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", RUN],
    }.items():
        words = [*command, *asked, f"results={tmp_path / name}"]
        done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr  # others do what a dead one leaves
        tables.append((tmp_path / name / "tidy/results.csv").read_bytes())
    assert tables[1:] == tables[:1] * 2
