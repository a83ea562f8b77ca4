"""Lists of images with labels: OpenOOD's, on made-up miniatures of them."""

from pathlib import Path

import numpy as np
import pytest
from assay.datasets.decoding import DataError
from assay.datasets.image_list import ImageList
from assay.harness.build import build
from assay.harness.config import ConfigError
from assay.harness.detectors.known import is_known
from assay.harness.overrides import compose_config
from PIL import Image

OPENOOD = {  # ood set -> below images_*/, the list, and its published number of images
    "ssb_hard": ("largescale", "imagenet/test_ssb_hard.txt", 49_000),
    "ninco": ("largescale", "imagenet/test_ninco.txt", 5_879),
    "openimage_o": ("largescale", "imagenet/test_openimage_o.txt", 15_869),
    "openood_inaturalist": ("largescale", "imagenet/test_inaturalist.txt", None),
    "openood_textures": ("classic", "imagenet/test_textures.txt", None),
    "openood_cifar10": ("classic", "cifar100/test_cifar10.txt", None),
    "openood_cifar100": ("classic", "cifar10/test_cifar100.txt", None),
    "openood_tin": ("classic", "cifar10/test_tin.txt", None),
    "openood_mnist": ("classic", "cifar10/test_mnist.txt", None),
    "openood_svhn": ("classic", "cifar10/test_svhn.txt", None),
    "openood_places365": ("classic", "cifar10/test_places365.txt", None),
}

SHIFTED = [f"openood_imagenet_{name}" for name in ("v2", "c", "r")]  # sets of the test set's classes


def put(root: Path, *names: str) -> None:
    """Small images, each of another grey."""
    for grey, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 6, 3), grey, np.uint8)).save(root / name)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three images, one of them with a space in its name, and their list in another order beside the folder."""
    put(tmp_path / "images", "a/0.png", "a/1 x.png", "b/2.png", "b/unlisted.png")
    (tmp_path / "list.txt").write_text("b/2.png 1\na/0.png 0\n\na/1 x.png -1\n")
    return tmp_path / "images"


def test_images_in_the_lists_order(root: Path) -> None:
    data = ImageList(str(root), "../list.txt", classes=["cat", "dog"], transform={"mode": "none"})
    samples = [data[index] for index in range(len(data))]
    assert [sample.id for sample in samples] == ["b/2.png", "a/0.png", "a/1 x.png"]
    assert [sample.targets for sample in samples] == [(1,), (0,), ()]
    assert [round(float(sample.image[0, 0, 0] * 255)) for sample in samples] == [2, 0, 1]
    assert list(data.classes) == ["cat", "dog"]
    unlabelled = ImageList(str(root), "../list.txt", labels="none")
    assert [unlabelled[index].targets for index in range(3)] == [()] * 3
    assert unlabelled.fingerprint() != data.fingerprint()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "names no image"),
        ("a/0.png\n", r"line 1, 'a/0.png': write `relative/path label`"),
        ("a/0.png 0\nb/2.png one\n", r"line 2, 'b/2.png one': write `relative/path label`"),
        ("a/0.png 2\n", "no class 2; they are 0 to 1, and -1 for none"),
        ("a/0.png -2\n", "no class -2"),
        ("a/0.png 0\na/0.png 1\n", r"two images are called a/0.png"),
        ("../list.txt 0\n", "leads out of the root"),
        ("/a/0.png 0\n", "leads out of the root"),
        (
            "a/0.png 0\na/7.png 0\na/8.png 0\n",
            r"no file .*a/7.png and 1 more of 3. Put the images that .*bad.txt names at",
        ),
    ],
)
def test_what_a_list_must_not_say(text: str, says: str, root: Path) -> None:
    (root / "bad.txt").write_text(text)
    with pytest.raises(DataError, match=says):
        ImageList(str(root), "bad.txt", classes=["cat", "dog"])


def test_the_expected_number(root: Path) -> None:
    """Counted before the images are looked for."""
    assert len(ImageList(str(root), "../list.txt", expected_count=3)) == 3
    with pytest.raises(DataError, match=r"3 images at .*the published list list.txt has 4: .*expected_count=null"):
        ImageList(str(root), "../list.txt", expected_count=4)
    with pytest.raises(DataError, match=r"no file .*absent.txt. It names the images to take"):
        ImageList(str(root), "absent.txt")
    with pytest.raises(DataError, match="labels='folder': choose list or none"):
        ImageList(str(root), "../list.txt", labels="folder")


@pytest.mark.parametrize("name", OPENOOD)
def test_openoods_sets_in_their_layout(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A miniature of each lies where the config looks; another number than the published one is refused; no labels,
    whatever the list says; the in-distribution set's size."""
    monkeypatch.setenv("ASSAY_DATA", str(tmp_path))
    folder, listed, count = OPENOOD[name]
    put(tmp_path / f"openood/images_{folder}", "set/0.png", "set/1.png")
    file = tmp_path / "openood/benchmark_imglist" / listed
    file.parent.mkdir(parents=True)
    file.write_text("set/1.png 7\nset/0.png -1\n")
    config = compose_config(["dataset=cifar10", f"ood=[{name}]"])
    assert config.ood[name].settings["expected_count"] == count
    if count:
        with pytest.raises(ConfigError, match=rf"2 images at .*has {count}: .*expected_count=null"):
            build(config.ood[name])
        config = compose_config(["dataset=cifar10", f"ood=[{name}]", f"ood.{name}.expected_count=null"])
    data = build(config.ood[name])
    assert [data[index].id for index in range(2)] == ["set/1.png", "set/0.png"]
    assert (data[0].targets, tuple(data[0].image.shape)) == ((), (3, 32, 32))


@pytest.mark.parametrize(
    ("experiment", "near", "far"),
    [
        ("openood_cifar10", 2, 4),
        ("openood_cifar100", 2, 4),
        ("openood_imagenet", 2, 3),
    ],
)
def test_openoods_groups_hold_every_set_once(experiment: str, near: int, far: int) -> None:
    """Near and far of the paper's Table 1; every CIFAR list is of the benchmark's own in-distribution set."""
    config = compose_config([f"experiment={experiment}"])
    groups = config.metric["ood"].settings["groups"]
    assert (len(groups["near"]), len(groups["far"])) == (near, far)
    assert sorted([*groups["near"], *groups["far"]]) == sorted(config.ood)
    benchmark = experiment.removeprefix("openood_")
    lists = [each.settings["list"] for each in (config.dataset, *config.ood.values())]
    assert all(each.startswith(f"../benchmark_imglist/{benchmark}/") for each in lists)
    assert len(lists) == 1 + near + far


@pytest.mark.parametrize(
    ("name", "listed", "count"),
    [
        ("openood_cifar10", "cifar10/test_cifar10.txt", 9_000),
        ("openood_cifar100", "cifar100/test_cifar100.txt", 9_000),
        ("openood_imagenet", "imagenet/test_imagenet.txt", 45_000),
    ],
)
def test_the_in_distribution_sets_are_labelled(
    name: str, listed: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASSAY_DATA", str(tmp_path))
    put(tmp_path / f"openood/images_{'largescale' if 'imagenet' in name else 'classic'}", "test/cat/3.png")
    file = tmp_path / "openood/benchmark_imglist" / listed
    file.parent.mkdir(parents=True)
    file.write_text("test/cat/3.png 3\n")
    with pytest.raises(ConfigError, match=rf"has {count}: "):
        build(compose_config([f"dataset={name}"]).dataset)
    data = build(compose_config([f"dataset={name}", "dataset.expected_count=null"]).dataset)
    assert data[0].targets == (3,)


@pytest.mark.parametrize("name", SHIFTED)
def test_openoods_shifted_sets_are_known(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A miniature of each: the list's labels over ImageNet's classes, and the mark that full_spectrum asks for."""
    monkeypatch.setenv("ASSAY_DATA", str(tmp_path))
    put(tmp_path / "openood/images_largescale", "set/0.png", "set/1.png")
    file = tmp_path / f"openood/benchmark_imglist/imagenet/test_{name.removeprefix('openood_')}.txt"
    file.parent.mkdir(parents=True)
    file.write_text("set/1.png 999\nset/0.png 7\n")
    choice = compose_config(["dataset=openood_imagenet", f"ood=[{name}]"]).ood[name]
    data = build(choice)
    assert [(data[index].id, data[index].targets) for index in range(2)] == [("set/1.png", (999,)), ("set/0.png", (7,))]
    assert (len(data.classes), is_known(choice)) == (1000, True)


def test_openoods_full_spectrum_holds_every_set_once() -> None:
    """Near and far as without shifted sets, of which there are three, in no group."""
    config = compose_config(["experiment=openood_imagenet_fs"])
    settings = config.metric["full_spectrum"].settings
    groups = settings["groups"]
    assert [len(groups["near"]), len(groups["far"]), settings["shifted"]] == [2, 3, SHIFTED]
    assert sorted([*groups["near"], *groups["far"], *SHIFTED]) == sorted(config.ood)
    plain = compose_config(["experiment=openood_imagenet"]).metric["ood"].settings["groups"]
    assert groups == plain
