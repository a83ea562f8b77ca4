"""Some classes of ImageNet on a made-up miniature: parts that share no image, lists of ImageNet's classes."""

from pathlib import Path
from typing import Any

import pytest
from assay.datasets.decoding import DataError
from assay.datasets.imagenet_classes import LISTS, ImageNetClasses
from assay.harness.commands.program import call
from PIL import Image

SHARED = Path(__file__).resolve().parents[3] / "shared/data/imagenet/wnids.txt"
THREE = ("n03729826", "n01498041", "n07747607")  # in the order of the outputs


def lay_out(root: Path, wnids: tuple[str, ...], train: int, val: int) -> None:
    """<root>/{train,val}/<wnid>/*.JPEG: images of a colour each."""
    for split, count in {"train": train, "val": val}.items():
        for label, wnid in enumerate(wnids):
            for number in range(count):
                path = root / split / wnid / f"{wnid}_{number}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (12, 8), (40 * label, 20 * number, 90)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes, and one that no list names, of seven training and two test images."""
    lay_out(tmp_path, (*THREE, "n99999999"), 7, 2)
    (tmp_path / "three.txt").write_text("\n".join(THREE))
    (tmp_path / "classes.csv").write_text("wnid,name\nn03729826,matchstick\n")
    return tmp_path


def subset(root: Path, **settings: Any) -> ImageNetClasses:
    return ImageNetClasses(str(root), **{"images": "train", "classes": "three.txt", **settings})


def names(data: ImageNetClasses) -> list[str]:
    return [data[index].id for index in range(len(data))]


def test_parts_of_one_seed_share_no_image_and_are_balanced(root: Path) -> None:
    """Two to choose on, four to fit on, one left: together the seven of each class; labels are places in the list."""
    parts = [subset(root, first=0, count=2), subset(root, first=2, count=4), subset(root, first=6)]
    every = [name for part in parts for name in names(part)]
    assert len(every) == len(set(every)) == 21 and not any("n99999999" in name for name in every)
    for part, each in zip(parts, (2, 4, 1), strict=True):
        assert [part[index].targets[0] for index in range(len(part))] == sorted([0, 1, 2] * each)
        assert {name.split("/")[0] for name in names(part)} == set(THREE)
    assert names(parts[0])[0].startswith("n03729826/") and list(parts[0].classes) == ["matchstick", *THREE[1:]]


def test_the_seed_decides_which(root: Path) -> None:
    """The same again, and by another name of the list; another seed takes other images, with another fingerprint."""
    first, again, other = (subset(root, count=3, seed=seed) for seed in (0, 0, 1))
    assert names(first) == names(again) != names(other)
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"count": 6, "first": 2}, r"n03729826 has 5 images from number 2 on, 6 are asked for \(3 of 3 classes\)"),
        ({"first": 7}, "has 0 images from number 7 on, at least 1"),
        ({"images": "test"}, r"no images of n03729826, .* \(3 of 3 classes\) at .*test"),
        ({"classes": "imagenet50"}, r"\(47 of 50 classes\) at"),
        ({"classes": "four.txt"}, r"no file .*four\.txt, and no list among imagenet100, imagenet50"),
        ({"short": "no"}, "choose refuse or accept"),
        ({"count": 0}, "count=0"),
    ],
)
def test_what_is_not_there_is_named(settings: dict[str, Any], says: str, root: Path) -> None:
    """Class, number and place; nothing is left out in silence."""
    with pytest.raises(DataError, match=says):
        subset(root, **settings)


def test_a_class_with_fewer_images_is_said_where_it_is_accepted(root: Path) -> None:
    """As those of fewer than 1,300 images: what it has, and a remark; a class with none is refused all the same."""
    (root / "train/n01498041/n01498041_3.JPEG").unlink()
    made = subset(root, first=2, count=5, short="accept")
    assert len(made) == 14 and made.remarks == ["1 of 3 classes have fewer than 5 images here: n01498041 4"]
    assert subset(root, first=2, count=4, short="accept").remarks == []
    with pytest.raises(DataError, match="has 0 images"):
        subset(root, first=7, count=1, short="accept")


@pytest.mark.parametrize("count", [50, 100])
def test_a_shipped_list_is_of_imagenets_classes(count: int) -> None:
    """So many, each once, sorted, with the four classes of the paper's Tables 1 and 2."""
    listed = (LISTS / f"imagenet{count}.txt").read_text().split()
    assert len(set(listed)) == len(listed) == count and listed == sorted(listed)
    assert {"n01498041", "n02410509", "n03729826", "n07747607"} <= set(listed)
    if not SHARED.is_file():
        pytest.skip(f"no list of ImageNet's classes here: {SHARED}")
    assert set(listed) <= set(SHARED.read_text().split())


@pytest.mark.parametrize(
    ("count", "sizes", "train", "few"),
    [
        (50, (500, 50, 50), 3, ["train.count=2", "train.first=1", "validation.count=1"]),
        pytest.param(  # of which a class may have fewer than 1,150 to train on
            *(100, (1150, 150, 50), 2, ["train.first=1", "validation.count=1"]), marks=pytest.mark.slow
        ),
    ],
)
def test_the_experiment_is_ready_to_run(
    count: int,
    sizes: tuple[int, int, int],
    train: int,
    few: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On a miniature: the plan of all detectors and sets; without changes it says how many images are missing."""
    listed = tuple((LISTS / f"imagenet{count}.txt").read_text().split())
    lay_out(tmp_path / "imagenet", listed, train, 1)
    monkeypatch.setenv("ASSAY_DATA", str(tmp_path))
    words = ["plan", f"experiment=errors_imagenet{count}", "model.weights=null", f"results={tmp_path}"]
    assert call([*words, *few]) == 0
    said = capsys.readouterr().out
    assert f"test: imagenet{count}, {count} images" in said
    assert "images through the network" in said and f"validation: imagenet{count}_val, {count} images" in said
    assert {"conductance_mlp", "msp", "lcr", "unified_nn"} <= set(said.split())
    assert call(words) == 2
    assert f"{sizes[1]} are asked for ({count} of {count} classes)" in capsys.readouterr().err
