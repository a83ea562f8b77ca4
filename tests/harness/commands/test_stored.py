"""What runs have left, in the terminal: nothing hidden, nothing wider than it, no torch needed."""

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from assay.harness import launch
from assay.harness.commands.program import call
from assay.harness.overrides import compose_config
from assay.harness.results.overview import images_of, overview
from assay.harness.store.outcomes import Failure
from assay.harness.store.store import FEATURES, SAMPLES, SCORE, CellStore, Shard
from assay.harness.store.survey import cells
from assay.methods.attribution.floors import Center

ROOT = Path(__file__).resolve().parents[3]
SMALL = ["compute.device=cpu", "compute.processes=1", "dataset.size=12", "compute.shard_size=5"]
MAPS = [*SMALL, "method=[gradcam,center]", "metric=[pointing_game,energy_pointing_game,positive_ratio]"]
SCORES = [
    *(*SMALL, "model=scenes_resnet", "dataset.objects=[1,1]", "dataset@train=scenes_train", "train.objects=[1,1]"),
    *("train.size=50", "train.cue_share=0", "ood=[scenes_noise]", "ood.scenes_noise.size=7", "method=[msp,knn]"),
    *("method.knn.k=3", "metric=[ood]"),
]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder of two methods on 12 images and two detectors on 12 and 7."""
    results = tmp_path_factory.mktemp("results")
    for overrides in (MAPS, SCORES):
        assert launch.run(compose_config([*overrides, f"results={results}"]), []) == 0
    return results


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """80 columns, whatever terminal the tests run in."""
    monkeypatch.setenv("COLUMNS", "80")


def said(capsys: Capture, *words: str) -> str:
    """What a call prints, at most 80 columns wide where it is no path."""
    assert call(words) == 0
    text = capsys.readouterr().out
    assert max(len(line) for line in text.splitlines() if "/" not in line) <= 80
    return text


def test_status_shows_detectors_and_their_features(left: Path, capsys: Capture) -> None:
    """Images of scores, of maps, and of features; averages have none."""
    lines = [" ".join(line.split()) for line in said(capsys, "status", "--results", str(left)).splitlines()]
    keys = {
        (labels["dataset"], labels["method"]): cell.key[:8]
        for cell in cells(left / "store")
        for labels in [cell.cell()["labels"]]
    }
    assert f"{keys['scenes', 'knn']} knn 12" in lines
    assert f"{keys['scenes_noise', 'knn']} knn 7 ood done" in lines
    assert f"{keys['average', 'msp']} msp 0 ood done" in lines
    start = lines.index(f"{keys['scenes', 'center']} center 12 energy_pointing_game done, pointing_game done,")
    assert lines[start + 1] == "positive_ratio done"
    assert lines.index("scenes_vgg on scenes") < start < len(lines)
    assert "8 cells in" in lines[-2] and lines[-1] == "features of 3 data sets, 69 images; 1 fits"


def test_a_run_marks_the_floors(left: Path, capsys: Capture) -> None:
    """Those whose config says so; the note is no setting of theirs, and what is stored stays."""
    assert launch.run(compose_config([*MAPS, f"results={left}"]), []) == 0
    text = capsys.readouterr().out
    assert "center (floor)" in text and "gradcam (" not in text and "0 shards computed" in text


def test_status_of_what_is_open_failed_or_old(tmp_path: Path) -> None:
    """A shard of scores without rows, a failed metric, rows about fewer images, a cell of another version."""
    labels = {"model": "m", "dataset": "d", "kind": "ood"}
    for key, schema in [("open", None), ("torn", None), ("old", 1)]:
        identity = {"schema": schema or _schema()}
        CellStore(tmp_path, key).describe({"identity": identity, "labels": {**labels, "method": f"of {key}"}}, {})
    (tmp_path / FEATURES).mkdir()
    torn = CellStore(tmp_path, "torn")
    torn.describe({}, {"a": {"name": "ood"}, "b": {"name": "risk"}})
    torn.group("a").fail(Failure("why"))
    torn.group(SCORE).fail(Failure("why"))
    text = overview(tmp_path)
    assert "of torn   0        FAILED, ood FAILED, risk incomplete" in text
    assert "of open   0" in text and "of old" not in text
    assert "1 cells of another version of Assay" in text


def _schema() -> int:
    from assay.harness.store.identity import SCHEMA

    return SCHEMA


def test_images_of_overlapping_shards(tmp_path: Path) -> None:
    """Shards of other sizes, resumed: each image counts once; a hole is a hole."""
    group = CellStore(tmp_path, "cell").group(SAMPLES)
    for shard in (Shard(0, 8), Shard(4, 8), Shard(6, 12), Shard(20, 25)):
        group.write(shard, {})
    assert images_of(group) == 12 + 5


def test_compare_shows_every_difference(left: Path, capsys: Capture) -> None:
    """A heading that says where, a line a paired column."""
    text = said(capsys, "compare", "gradcam", "center", "--results", str(left))
    assert "gradcam - center, 95 % intervals" in text
    assert "scenes_vgg on scenes test, protocol standard" in text
    rows = {tuple(line.split()[:2]): line.split()[2:] for line in text.splitlines() if "[" in line}
    assert {metric for metric, _ in rows} >= {"pointing_game", "energy_pointing_game", "positive_ratio"}
    difference, low, high, n = rows["pointing_game", "hit"]
    assert float(low.strip("[,")) <= float(difference) <= float(high.strip("]")) and int(n) > 12


def test_rank_prints_draws_and_refuses(left: Path, capsys: Capture, tmp_path: Path) -> None:
    """Maps by their quantities, detectors by each of theirs; as JSON; of a run's config; what is not there is named."""
    place, drawn = ["--results", str(left)], tmp_path / "ranks.png"
    text = said(capsys, "rank", "--picture", str(drawn), *place)
    assert "attributions: mean ranks over" in text and "ood auroc ties=half: mean ranks over 1 block" in " ".join(
        text.split()
    )
    assert "pairs of 2 methods can be told apart from 6 on" in " ".join(text.split())
    assert drawn.read_bytes().startswith(b"\x89PNG")
    assert call(["rank", *MAPS, f"results={left}", "--format", "json"]) == 0
    (made,) = json.loads(capsys.readouterr().out)
    assert {each["method"] for each in made["methods"]} == {"gradcam", "center"}
    assert call(["rank", "--where", "stat=auroc", "--format", "csv", *place]) == 0
    heads, *rows = csv.reader(capsys.readouterr().out.splitlines())
    assert {row[heads.index("method")] for row in rows} == {"msp", "knn"}
    assert call(["rank", "--where", "method=msp", *place]) == 2
    assert "nothing to rank: no two methods" in capsys.readouterr().err
    assert call(["rank", "--picture", "ranks.gif", *place]) == 2
    assert call(["rank", "--results", str(tmp_path)]) == 2


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        ([*MAPS, "limit=5"], "center x pointing_game on scenes test[:5]"),
        ([*MAPS, "metric.pointing_game.tolerance_px=9"], "center x pointing_game on scenes, gradcam x pointing_game"),
        pytest.param([*MAPS, "seed=7"], "center x pointing_game on scenes", marks=pytest.mark.slow),
        ([*SCORES, "method.knn.k=4"], "knn x ood on scenes_noise"),
        pytest.param([*SCORES, "train.limit=40"], "knn x ood on scenes_noise", marks=pytest.mark.slow),
    ],
)
def test_rank_refuses_what_was_not_computed(left: Path, capsys: Capture, words: list[str], missing: str) -> None:
    """Other images, settings, seed, or training: named, with the command that computes it."""
    assert call(["rank", *words, f"results={left}"]) == 2
    text = " ".join(capsys.readouterr().err.split())
    assert "not computed with these settings" in text and missing in text
    assert "python run.py" in text and words[-1] in text


@pytest.mark.slow
def test_rank_takes_the_settings_asked_for(left: Path, capsys: Capture, tmp_path: Path) -> None:
    """Of detectors' runs too; beside another k, each k has its own scores; another seed of maps counts unless named."""
    results = tmp_path / "results"
    shutil.copytree(left, results)
    more = [[*SCORES, "method.knn.k=1"], [*MAPS, "seed=1", "limit=5"]]
    for overrides in more:
        assert launch.run(compose_config([*overrides, f"results={results}"]), []) == 0
    for words, names in ((SCORES, {"msp", "knn"}), (more[0], {"msp", "knn"}), (more[1][:-2], {"gradcam", "center"})):
        capsys.readouterr()
        assert call(["rank", *words, f"results={results}", "--format", "json"]) == 0
        assert all(
            {each["method"] for each in made["methods"]} == names for made in json.loads(capsys.readouterr().out)
        )
    assert call(["rank", *MAPS, "limit=5", f"results={results}"]) == 0  # of the one seed that has them
    assert call(["rank", *MAPS, "limit=5", "seed=0", f"results={results}"]) == 2


def test_rank_takes_the_newest_version(
    left: Path, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method whose VERSION has gone up: its older results are named and no method beside it."""
    results = tmp_path / "results"
    shutil.copytree(left, results)
    monkeypatch.setattr(Center, "VERSION", Center.VERSION + 1)
    words = [*MAPS, f"results={results}"]
    assert call(["rank", *words]) == 2  # not computed yet
    assert "center x pointing_game" in capsys.readouterr().err
    assert launch.run(compose_config(words), []) == 0
    capsys.readouterr()
    for chosen, left_out in ((words, []), ([*words[-1:], "--where", "kind=attribution"], ["center: "])):
        assert call(["rank", *chosen, "--format", "json"]) == 0
        (made,) = json.loads(capsys.readouterr().out)
        assert {each["method"] for each in made["methods"]} == {"gradcam", "center"}
        assert [each[:8] for each in made["left_out"] if "older version" in each] == left_out


def test_describe_a_cell(left: Path, capsys: Capture) -> None:
    """By the beginning of its key: its identity; too short a one is a misspelt config."""
    key = cells(left / "store")[0].key
    assert call(["describe", key[:8], "--results", str(left)]) == 0
    assert f'"{cells(left / "store")[0].cell()["labels"]["method"]}"' in capsys.readouterr().out
    assert call(["describe", key[:2], "--results", str(left)]) == 2


def test_gc_removes_nothing_unasked(left: Path, capsys: Capture) -> None:
    """What would go is said; with --yes it goes. Older than tomorrow is nothing yet."""
    root, place = left / "store", ["--results", str(left)]
    before = sorted(path for path in root.rglob("*.parquet"))
    text = said(capsys, "gc", "--features", *place)
    assert text.count("would remove") == 4 and "4 found, 0 leftovers; nothing removed: add --yes" in text
    assert "0 found" in said(capsys, "gc", "--older-than", "1", "--features", "--yes", *place)
    assert sorted(root.rglob("*.parquet")) == before
    future = time.time() + 3 * 86400
    for path in (root / FEATURES).rglob("*"):
        os.utime(path, (future, future))
    assert "8 cells" in said(capsys, "status", *place)


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # importing it raises
from assay.harness.commands.program import call
for words in {calls!r}:
    code = call(words)
    print("CODE", *words[:1], code, flush=True)
print("IMPORTED", *sorted({{"pandas", "matplotlib", "rich"}} & set(sys.modules)) if {quick!r} else "")
"""


def without_torch(calls: list[list[str]], where: Path, quick: bool = False) -> str:
    """Calls in one process that cannot import torch: what it prints."""
    code = WITHOUT_TORCH.format(calls=calls, quick=quick)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=where,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_reading_needs_no_torch(left: Path, tmp_path: Path) -> None:
    """These only read what is stored: they import no torch and build nothing."""
    place = ["--results", str(left)]
    baseline = ["--baseline", str(tmp_path / "embedded.csv")]
    calls = [
        *(["status", *place], ["table", "rap_table1", "--format", "csv", *place], ["gc", *place]),
        *(["check", *baseline, "--update", "--reason", "new", *place], ["check", *baseline, *place]),
    ]
    text = without_torch(calls, tmp_path)
    codes = [line.split()[1:] for line in text.splitlines() if line.startswith("CODE")]
    assert codes == [[words[0], "0"] for words in calls], text
    assert "table,panel,row,column,x,method" in text


def test_help_and_lists_import_nothing_slow(tmp_path: Path) -> None:
    """No torch, pandas, matplotlib nor rich before something is asked for that needs them."""
    calls = [["--help"], ["--version"], ["ls"], ["describe", "gradcam"], ["maps", "--help"], ["stats"]]
    assert without_torch(calls, tmp_path, quick=True).splitlines()[-1].split() == ["IMPORTED"]
