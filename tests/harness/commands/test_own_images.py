"""`explain` and `detect` on a user's own images: what is written and printed, against the functions of Python."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from assay.datasets.scenes import CLASSES, Scenes
from assay.harness.commands import own_images
from assay.harness.commands.own_images import _overrides
from assay.harness.commands.program import call
from assay.harness.overrides import compose_config
from PIL import Image
from torchvision.transforms.functional import to_pil_image

import assay

FEW = ("model=scenes_resnet", "method=[gradcam]", "compute.device=cpu")
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two images, one with a name that is markup and holds a comma and an equals sign."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    scenes = Scenes("test", 4)
    to_pil_image(scenes[0].image).save(folder / "a.png")
    to_pil_image(scenes[1].image).save(folder / "more" / "<b>, c=1.png")
    return folder


def explain(words: Sequence[str], tmp_path: Path) -> int:
    return call(["explain", *words, *FEW, "--out", str(tmp_path / "out")])


def test_probabilities_and_classes_are_the_networks(photos: Path, tmp_path: Path, capsys: Capture) -> None:
    """Those of `assay.explain` for the same class, to the six digits that are printed; the highest first."""
    assert explain([str(photos / "a.png"), "target=top2", "--json"], tmp_path) == 0
    said = json.loads(capsys.readouterr().out)
    image = torch.tensor(np.asarray(Image.open(photos / "a.png"))).permute(2, 0, 1) / 255
    for each in said["explained"]:
        found = assay.explain("scenes_resnet", image, "gradcam", each["label"])
        assert each["probability"] == pytest.approx(found.probability, abs=1e-6)
        assert each["name"] == CLASSES[each["label"]]
    assert [each["label"] for each in said["best"][:2]] == [each["label"] for each in said["explained"]]
    assert len(said["best"]) == 5 and said["methods"] == ["gradcam"]
    assert Path(said["picture"]).read_bytes()[:4] == b"\x89PNG"


def test_a_folder_makes_one_page_that_asks_for_nothing(photos: Path, tmp_path: Path, capsys: Capture) -> None:
    """Every address in it is a picture inside it; a file's name is text, not markup."""
    assert explain([str(photos)], tmp_path) == 0
    page = (tmp_path / "out/explained.html").read_text()
    addresses = re.findall(r'(?:src|href)="(.*?)"', page)
    assert len(addresses) == 4  # of two images: the image, and one map
    assert all(address.startswith("data:image/png;base64,") for address in addresses)
    assert "&lt;b&gt;, c=1.png" in page and "<b>, c" not in page
    assert capsys.readouterr().out.endswith(f"2 images: {tmp_path / 'out/explained.html'}\n")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "a-explained.png",
        "<b>, c=1-explained.png",
        "explained.html",
    }


def test_a_page_holds_so_many(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large folder; every image has its picture, and the page says how many are not in it."""
    monkeypatch.setattr(own_images, "PAGED", 1)
    assert explain([str(photos)], tmp_path) == 0
    page = (tmp_path / "out/explained.html").read_text()
    assert page.count("<section>") == 1 and "And 1 more images" in page
    assert len([*(tmp_path / "out").glob("*-explained.png")]) == 2


def test_nothing_of_the_users_is_written_over(photos: Path, capsys: Capture) -> None:
    """Into the images' own folder, with names that meet: each image has a picture of its own, and stays as it is."""
    Image.open(photos / "a.png").convert("RGB").save(photos / "a.jpg")
    Image.open(photos / "a.png").save(photos / "a-2.png")
    before = {path: path.read_bytes() for path in photos.rglob("*.*")}
    files = [str(photos / name) for name in ("a.png", "a.jpg", "a-2.png")]
    assert call(["explain", *files, *FEW, "--out", str(photos), "--json"]) == 0
    pictures = {json.loads(line)["picture"] for line in capsys.readouterr().out.splitlines()}
    assert {Path(each).name for each in pictures} == {"a-explained.png", "a-explained-2.png", "a-2-explained.png"}
    assert {path: path.read_bytes() for path in before} == before


def test_classes_by_name_and_by_index(photos: Path, tmp_path: Path, capsys: Capture) -> None:
    """In the order asked for, from the option as from the word."""
    words = [str(photos / "a.png"), "--json"]
    assert explain([*words, "--target", f"{CLASSES[3]}, 1"], tmp_path) == 0
    said = json.loads(capsys.readouterr().out)
    assert [each["label"] for each in said["explained"]] == [3, 1]
    assert explain([*words, f"target={CLASSES[3]},1"], tmp_path) == 0
    assert json.loads(capsys.readouterr().out)["explained"] == said["explained"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target", "unicorn"], "target unicorn: no class has this name or index; its classes are disc, "),
        (["--target", str(len(CLASSES))], f"target {len(CLASSES)}: no class has this name or index"),
        (["target=top1", "--target", "top2"], "--target top2 and target=top1: give one of the two"),
        (["target=top0"], "protocol.targets=top0: choose one of labels, predicted, top1, top2, ..."),
        (["dataset.classes=voc"], "names 20 classes, and the network has 11 outputs"),
        (["dataset.classes=nowhere.txt"], "classes=nowhere.txt: no file "),
    ],
)
def test_what_cannot_be_asked_is_refused(
    words: list[str], message: str, photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Exit code 2, and a line that names the value and the valid ones; nothing is written."""
    assert explain([str(photos / "a.png"), *words], tmp_path) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_without_images(tmp_path: Path, capsys: Capture) -> None:
    """Named, with the pictures of phones that lie there unread."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/a.heic").touch()
    assert explain([str(tmp_path / "empty")], tmp_path) == 2
    assert f"no images below {tmp_path / 'empty'} (1 .heic below" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["a,b].png", 'quote".png', "back\\slash.png", "back\\", "${model}.png", "\\${seed}.png", "'.png", " "]
)
def test_any_path_reaches_the_data_set(name: str, tmp_path: Path) -> None:
    """Through Hydra's grammar, as it is."""
    config = compose_config(_overrides([str(tmp_path / name)], "top1", FEW))
    assert config.dataset.settings["files"] == [str(tmp_path / name)]


def test_verdicts_as_json(photos: Path, tmp_path: Path, capsys: Capture) -> None:
    """A line an image of the folder; the same verdict as in the table, the class by its name."""
    words = ["detect", str(photos), "model=scenes_resnet", "dataset.objects=[1,1]", "method=[msp]", "limit=12"]
    words += ["compute.device=cpu", "compute.processes=1", "--results", str(tmp_path / "results"), "--threshold=2"]
    assert call([*words, "--json"]) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(each["image"]).name for each in said] == ["a.png", "<b>, c=1.png"]
    assert all(each["predicted"] in CLASSES for each in said)
    assert [[row["method"], row["verdict"]] for each in said for row in each["detectors"]] == [["msp", "in"]] * 2
    assert call(words) == 0
    assert f"{said[0]['detectors'][0]['score']:.4f}" in capsys.readouterr().out


def test_an_image_that_is_edited_is_judged_anew(tmp_path: Path, capsys: Capture) -> None:
    """Also where its size in bytes stays: every BMP of one shape has one."""
    words = ["model=scenes_resnet", "dataset.objects=[1,1]", "method=[msp]", "limit=12", "compute.device=cpu"]
    words += ["compute.processes=1", "--results", str(tmp_path / "results"), "--threshold=2", "--json"]

    def score(image: torch.Tensor) -> float:
        to_pil_image(image).save(tmp_path / "mine.bmp")
        assert call(["detect", str(tmp_path / "mine.bmp"), *words]) == 0
        return float(json.loads(capsys.readouterr().out)["detectors"][0]["score"])

    scenes = Scenes("test", 4)
    assert score(scenes[0].image) != score(scenes[1].image)
