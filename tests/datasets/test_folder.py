"""A plain folder, with and without class folders; the shared textures."""

import re
from pathlib import Path

import pytest
from assay.datasets.decoding import DataError
from assay.datasets.folder import Folder
from assay.harness.build import build
from assay.harness.config import ConfigError
from assay.harness.overrides import compose_config
from PIL import Image

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "dtd" / "images"


def add(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 8)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("dog/1.png", "cat/2.JPG", "cat/1.png"):
        add(tmp_path / name)
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    return tmp_path


def test_class_folders(root: Path) -> None:
    data = Folder(str(root), transform={"mode": "none"})
    assert data.classes == ["cat", "dog"]
    found = [(data[i].id, data[i].targets, data[i].boxes) for i in range(len(data))]
    assert found == [("cat/1.png", (0,), {}), ("cat/2.JPG", (0,), {}), ("dog/1.png", (1,), {})]


def test_a_list_gives_the_order_of_classes(root: Path) -> None:
    (root / "wnids.txt").write_text("bird\ndog\ncat\n")
    data = Folder(str(root), wnids="wnids.txt")
    assert [data[i].targets for i in range(3)] == [(2,), (2,), (1,)]
    (root / "wnids.txt").write_text("bird\ndog\n")
    with pytest.raises(DataError, match="class folder 'cat' is not in the list of 2"):
        Folder(str(root), wnids="wnids.txt")
    with pytest.raises(DataError, match=r"no list of classes at .*one name a line"):
        Folder(str(root), wnids="absent.txt")


def test_without_labels(root: Path) -> None:
    add(root / "9.png")
    data = Folder(str(root), labels="none")
    assert len(data) == 4
    assert all(data[i].targets == () for i in range(4))
    with pytest.raises(DataError, match=r"9\.png lies in no class folder.*labels=none"):
        Folder(str(root))
    with pytest.raises(DataError, match="choose folder or none"):
        Folder(str(root), labels="auto")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder at .*Put images at"):
        Folder(str(tmp_path / "absent"))
    with pytest.raises(DataError, match="no images below"):
        Folder(str(tmp_path))


def test_the_expected_images(root: Path) -> None:
    """Their number, their names and sizes; each error says what was found and how to go on without."""
    with pytest.raises(DataError, match=r"3 images at .*this set has 8925: unpack .*expected_count=null"):
        Folder(str(root), expected_count=8925)
    with pytest.raises(DataError, match=r"names and sizes of the 3 images at .* give \w{20}, not 00: .*") as caught:
        Folder(str(root), expected_count=3, expected_listing="00")
    listing = re.search(r"give (\w{20})", str(caught.value))[1]  # type: ignore[index]
    assert len(Folder(str(root), expected_count=3, expected_listing=listing)) == 3
    (root / "dog" / "1.png").rename(root / "dog" / "2.png")
    with pytest.raises(DataError, match="expected_listing=null"):
        Folder(str(root), expected_count=3, expected_listing=listing)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("isun", "iSUN/iSUN_patches/{:04d}.jpeg"),
        ("lsun_c", "LSUN/test/{}.jpg"),
        ("lsun_r", "LSUN_resize/LSUN_resize/{}.jpg"),
        ("inaturalist", "iNaturalist/images/{}.jpg"),
        ("sun", "SUN/images/sun_{}.jpg"),
        ("places", "Places/images/p_{}.jpg"),
        ("textures", "dtd/images/dotted/dotted_{}.jpg"),
    ],
)
def test_ood_sets_in_their_archives_layout(
    name: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A miniature of each lies where the config looks; too few images are refused; no labels; the ID set's size."""
    monkeypatch.setenv("ASSAY_DATA", str(tmp_path))
    for number in range(3):
        add(tmp_path / file.format(number))
    with pytest.raises(ConfigError, match=r"3 images at .* has \d+: .*expected_count=null"):
        build(compose_config(["dataset=cifar10", f"ood=[{name}]"]).ood[name])
    config = compose_config(["dataset=cifar10", f"ood=[{name}]", f"ood.{name}.expected_count=null"])
    data = build(config.ood[name])
    assert (len(data), tuple(data[0].image.shape)) == (3, (3, 32, 32))
    assert (data[0].targets == ()) == (name != "textures")


def test_a_corrupt_image_is_named(root: Path) -> None:
    (root / "cat" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match=r"1\.png cannot be read"):
        Folder(str(root))[0]


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no textures at {SHARED}")
@pytest.mark.realdata
def test_shared_textures() -> None:
    data = Folder(str(SHARED), transform={"mode": "crop"})
    assert (len(data), len(data.classes)) == (150, 10)
    assert all(tuple(data[i].image.shape) == (3, 224, 224) for i in range(0, 150, 7))
