"""What a plan would take on many images: by hand from measured seconds, and never from none."""

from pathlib import Path

import pytest
from assay.harness import launch
from assay.harness.attribution.fleet import Fleet
from assay.harness.commands.program import call
from assay.harness.overrides import compose_config
from assay.harness.results.tidy import runs_table

WORDS = ["limit=8", "compute.shard_size=4", "compute.device=cpu", "compute.processes=1"]
CHOSEN = [*WORDS, "method=[gradcam,center]", "metric=[pointing_game]"]
Capture = pytest.CaptureFixture[str]


def plan(results: Path, capsys: Capture, *words: str) -> str:
    """What it says, in one line; it must end well."""
    capsys.readouterr()
    assert call(["plan", *CHOSEN, f"results={results}", *words]) == 0, capsys.readouterr().err
    return " ".join(capsys.readouterr().out.split())


def test_the_last_worker_counts() -> None:
    """Ten images in shards of four are three; of two workers one has two of them: two thirds of the time."""
    fleet = Fleet(10, 2, 4)
    assert (fleet.shards, fleet.wall_s(30.0)) == (3, 20.0)
    assert Fleet(10, 8, 4).wall_s(30.0) == 10.0  # no more than shards are of use


def test_seconds_of_a_bench(tmp_path: Path, capsys: Capture) -> None:
    """2 s for 4 images: a million take 500,000 s, 138.9 h; what has no row is named; of none, refused."""
    table = tmp_path / "card.csv"
    rows = ["GradCAM scenes_vgg,floor: 1F,1.0,4", "GradCAM scenes_vgg,assay,2.0,4", "center,assay,9.0,1"]  # of resnet50
    table.write_text("\n".join(["task,contestant,median_s,images", *rows]))
    said = plan(tmp_path, capsys, "--images", "1e6", "--workers", "4", f"--measured={table}")
    assert "gradcam 500 138.9 card" in said
    assert "1,000,000 images in 250,000 shards of 4: 138.9 h of one process; shared by 4: 34.7 h, and start-up" in said
    assert "; without (shared), center, metric pointing_game, of which nothing was measured" in said
    assert "1,000,000 files" in said and "of one method in 500 requests" in said
    assert "bytes: unknown before a run" in said
    assert call(["plan", *CHOSEN, "method=[edges]", "--images", "9", f"--measured={table}"]) == 2
    assert "no row of edges on scenes_vgg; its rows are GradCAM scenes_vgg, center" in capsys.readouterr().err
    table.write_text("task,contestant,median_s\n")
    assert call(["plan", *CHOSEN, "--images", "9", f"--measured={table}"]) == 2
    assert "has no column images" in capsys.readouterr().err


def test_seconds_and_bytes_of_earlier_runs(tmp_path: Path, capsys: Capture) -> None:
    """As the records of runs and the files of the store have them, times the images."""
    assert launch.run(compose_config([*CHOSEN, f"results={tmp_path}"]), []) == 0
    said = plan(tmp_path, capsys, "--images", "8e6")
    runs = runs_table(tmp_path / "runs")
    assert list(runs.method) == ["(shared)", "center", "gradcam", "metric pointing_game"]
    images = [8, 8, 8, 16]  # a metric measures each of both methods' maps
    assert list(runs.images) == images
    seconds = float(runs.method_wall_s.sum()) / 8
    assert f"8,000,000 images in 2,000,000 shards of 4: {8e6 * seconds / 3600:,.1f} h of one process" in said
    size = sum(path.stat().st_size for path in (tmp_path / "store").rglob("*.parquet"))
    assert f"{size / 8:.0f} bytes an image, measured on 8 stored ones" in said and "measured now" not in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--images", "0.5"], "0.5: give a whole number of at least 1"),
        (["--images", "many"], "many: give a whole number"),
        (["--images", "inf"], "inf: give a whole number"),
        (["--images", "nan"], "nan: give a whole number"),
        (["--workers", "2"], "--workers and --measured are about a fleet: say how many --images"),
        (["--images", "9", "--workers", "0"], "0: give a whole number of at least 1"),
    ],
    ids=str.split("half word infinite none alone nobody"),
)
def test_what_is_no_fleet_is_refused(words: list[str], told: str, capsys: Capture) -> None:
    """By the option's name."""
    assert call(["plan", *CHOSEN, *words]) == 2
    assert told in capsys.readouterr().err
