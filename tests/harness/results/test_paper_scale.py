"""RAP's and Hedging's tables and figures at the papers' scale, as far as can be without the papers' data and weights.

Their commands meet made-up copies of the data sets in the published layout, and networks whose layers have the
published names (`paper_copies`): settings are checked against network, data, methods and metrics. The slow test
evaluates an image of each.
"""

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
from assay.harness import launch
from assay.harness.commands.program import call
from assay.harness.overrides import compose_config, sweep
from assay.harness.results.tables.entries import NAMES, PATTERNS
from assay.harness.results.tables.filling import fill_table
from assay.harness.results.tables.missing import by_runs, fill_command
from assay.harness.results.tables.spec import names
from paper_copies import lay_out, put_in_place

EMPTY = pd.DataFrame(columns=[*NAMES, *PATTERNS, "status", "x"])
TABLES = [name for name in names() if name.startswith(("rap_", "hedging_"))]
GALLERIES = [
    ["experiment=hedging_figure3_vgg16"],
    ["experiment=hedging_figure3_resnet50"],
    ["experiment=hedging_figure4", "model=vgg16_voc07", "dataset=voc07", "protocol=pointing_game"],
    ["experiment=hedging_figure5", "model=inception_v3", "dataset=imagenet_val"],
]
OTHERS = [
    ["experiment=hedging_figure5", f"model={model}", "dataset=imagenet_val"]
    for model in ("alexnet", "vgg16", "resnet50", "densenet121")
]
FOLDERS = {"imagenet": "imagenet", "imagenet_val": "imagenet", "voc07": "voc", "voc12": "voc", "coco14": "coco"}
HERE = ["compute.device=cpu", "compute.processes=1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The copies."""
    return lay_out(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def reader(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who has the papers' data, and the networks."""
    monkeypatch.setenv("ASSAY_DATA", str(data))
    put_in_place(monkeypatch)


def commands(name: str, data: Path) -> list[list[str]]:
    """The words of the commands that fill a table's panels of the paper's own networks and data, folders put in."""
    table = fill_table(name, EMPTY)
    panels = {panel["label"]: panel for panel in table.panels if not panel.get("near")}
    of_panels = [(panels[label], entries) for label, entries in table.by_panel() if label in panels]
    ours = [(panel, [entry for entry in entries if not entry.external]) for panel, entries in of_panels]
    made = [fill_command(panel, alike) for panel, entries in ours for alike in by_runs(entries)]
    return [located(shlex.split(command)[2:], data) for command in dict.fromkeys(made)]


def located(words: list[str], data: Path) -> list[str]:
    """FOLDER is where the copy of the chosen data set lies; training images are ImageNet's."""
    chosen = dataset_of(words)
    folders = {"dataset.root=FOLDER": FOLDERS.get(chosen, chosen), "train.root=FOLDER": "imagenet"}
    return [word.replace("FOLDER", str(data / folders.get(word, ""))) for word in words]


def dataset_of(words: list[str]) -> str:
    """The data set that a command names."""
    (chosen,) = [word.removeprefix("dataset=") for word in words if word.startswith("dataset=")]
    return chosen


@pytest.mark.parametrize("name", TABLES)
def test_a_dry_run_has_nothing_to_say_against_it(
    name: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 0, a line for each method that the command names, and nothing written.

    Of a table one command of each data set, of a sweep its first job: a third of a second each.
    """
    asked = {dataset_of(words): words for words in reversed(commands(name, data))}
    assert asked and not any("FOLDER" in word for words in asked.values() for word in words)
    for words in asked.values():
        job = sweep(words)[0] if "-m" in words else words
        config = compose_config([*job, f"results={tmp_path}", "dry_run=true", *HERE])
        assert launch.run(config, words) == 0
        said = capsys.readouterr().out
        assert [method for method in config.method if not re.search(rf"\b{method}\b", said)] == []
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", GALLERIES, ids=" ".join)
def test_galleries_of_photographs_are_planned(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Figures 3 to 5 of Hedging are pictures alone: their maps can be made of these networks."""
    assert launch.run(compose_config([*words, f"results={tmp_path}", "dry_run=true", *HERE]), words) == 0
    assert "gradient_hedge" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_an_image_is_evaluated(name: str, data: Path, tmp_path: Path) -> None:
    """Every job of every sweep, to a result of each method and metric that did not fail."""
    for words in commands(name, data):
        for job in sweep(words):
            small = [word for word in job if not word.startswith("train.limit=")]
            config = compose_config([*small, f"results={tmp_path}", "limit=1", *HERE])
            assert launch.run(config, words) == 0
    rows = pd.read_csv(tmp_path / "tidy/results.csv")
    assert not rows["status"].str.startswith("failed").any()


@pytest.mark.slow
@pytest.mark.parametrize("words", [*GALLERIES, *OTHERS], ids=" ".join)
def test_a_gallery_is_drawn(words: list[str], tmp_path: Path) -> None:
    """Of one image."""
    picture = tmp_path / "gallery.png"
    assert call(["gallery", *words, *HERE, "--images", "1", "--out", str(picture)]) == 0
    assert picture.stat().st_size > 10_000
