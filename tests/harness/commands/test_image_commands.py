"""Commands about single images: what they write and print, and what a method that fails costs."""

from pathlib import Path

import pytest
from assay.harness.commands.program import call
from PIL import Image

FEW = ["limit=2", "compute.device=cpu", "compute.processes=1"]
SCORES = [
    *("limit=12", "compute.device=cpu", "compute.processes=1", "model=scenes_resnet", "dataset.objects=[1,1]"),
    *("dataset@train=scenes_train", "train.limit=60"),
]
METHODS = '''from dataclasses import dataclass
from typing import ClassVar

from assay.methods.attribution.floors import Random
from assay.methods.ood.logits import MSP


@dataclass(frozen=True)
class Broken(Random):
    """A method that fails."""

    VERSION: ClassVar[int] = 1

    def attribute(self, forward, targets, rng):
        raise ValueError("no such map")


@dataclass(frozen=True)
class Mute(MSP):
    """A detector that fails."""

    VERSION: ClassVar[int] = 1

    def score(self, features, state):
        raise ValueError("no such score")
'''
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The options that make a method and a detector known that fail."""
    (tmp_path / "conf/method").mkdir(parents=True)
    for name, target in (("broken", "Broken"), ("mute", "Mute")):
        text = f"# @package method.{name}\n_target_: broken_methods.{target}\n"
        (tmp_path / f"conf/method/{name}.yaml").write_text(text)
    (tmp_path / "broken_methods.py").write_text(METHODS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("ASSAY_ALLOW_TARGET", "")  # what --allow-target adds to, undone afterwards
    return ["--config-dir", str(tmp_path / "conf"), "--allow-target", "broken_methods."]


def test_maps_of_the_others_are_written_when_one_method_fails(
    broken: list[str], tmp_path: Path, capsys: Capture
) -> None:
    """Exit code 1, a line that says which and why."""
    place = ["--out", str(tmp_path / "maps"), "--images", "1", "--format", "npz"]
    assert call(["maps", "method=[center,broken]", *FEW, *place, *broken]) == 1
    shown = capsys.readouterr()
    assert shown.out.endswith(f"of 1 images: {tmp_path / 'maps'}\n")
    assert shown.err.splitlines()[-1] == "FAILED broken: ValueError: no such map"
    assert {path.parent.name for path in (tmp_path / "maps").rglob("*.npz")} == {"center"}


def test_a_gallery_of_the_others_is_drawn_when_one_method_fails(
    broken: list[str], tmp_path: Path, capsys: Capture
) -> None:
    """Exit code 1, a line that says which and why."""
    path = tmp_path / "maps.png"
    assert call(["gallery", "method=[center,broken]", *FEW, "--out", str(path), "--images", "2", *broken]) == 1
    shown = capsys.readouterr()
    assert shown.out == f"2 images: {path}\n"
    assert shown.err.splitlines()[-1] == "FAILED broken: ValueError: no such map"
    assert path.is_file()


def test_maps_and_nothing_else_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """Below the results folder of the config, named after model and data set; no store."""
    monkeypatch.chdir(tmp_path)
    assert call(["maps", "method=[center]", *FEW, "results=elsewhere", "--images", "1", "--format", "npz"]) == 0
    folder = tmp_path / "elsewhere/maps/scenes_vgg-scenes"
    assert capsys.readouterr().out.endswith(f"of 1 images: {folder}\n")
    assert {path.suffix for path in tmp_path.rglob("*.*")} == {".npz"}


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_a_gallery_where_it_was_asked_for(suffix: str, tmp_path: Path, capsys: Capture) -> None:
    """As the name's end says."""
    path = tmp_path / f"maps{suffix}"
    assert call(["gallery", "method=[center]", *FEW, "--images", "1", "--out", str(path)]) == 0
    assert capsys.readouterr().out == f"1 images: {path}\n"
    assert path.read_bytes()[:4] == {".png": b"\x89PNG", ".svg": b"<?xm"}[suffix]


def test_the_verdicts_of_the_others_are_printed_when_one_detector_fails(
    broken: list[str], tmp_path: Path, capsys: Capture
) -> None:
    """Exit code 1; a table an image, and the line of who failed."""
    pictures = [tmp_path / "teal.png", tmp_path / "a=b.png"]
    for picture, colour in zip(pictures, ("teal", "white"), strict=True):
        Image.new("RGB", (64, 64), colour).save(picture)
    words = ["method=[energy,msp,mute]", *SCORES, "--results", str(tmp_path / "results"), "--threshold=-1e9"]
    assert call(["detect", *map(str, pictures), *words, *broken]) == 1
    shown = capsys.readouterr()
    assert "FAILED mute: ValueError: no such score" in shown.err
    assert [line.split(": ")[0] for line in shown.out.splitlines() if "/" in line] == [*map(str, pictures)]
    rows = [line.split() for line in shown.out.splitlines() if line.endswith("out")]
    assert [row[0] for row in rows] == ["energy", "msp"] * 2


def test_an_explanation_by_the_others_when_one_method_fails(broken: list[str], tmp_path: Path, capsys: Capture) -> None:
    """Exit code 1; the picture and the page have the other's map, and the page says why."""
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "teal.png")
    place = ["--out", str(tmp_path / "out")]
    assert call(["explain", str(tmp_path / "teal.png"), "method=[center,broken]", FEW[1], *place, *broken]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "FAILED broken: ValueError: no such map"
    page = (tmp_path / "out/explained.html").read_text()
    assert "<strong>broken failed:</strong> ValueError: no such map" in page
    assert page.count("<figcaption>center") == 1 and "<figcaption>broken" not in page
