"""A plain folder, with and without class folders; the shared textures."""

from pathlib import Path

import pytest
from PIL import Image

from datasets.folder import Folder
from datasets.images import DataError

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
    with pytest.raises(DataError, match="no list of class folders"):
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
