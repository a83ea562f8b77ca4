"""torchvision's data sets on made-up miniatures of their files; the shared textures."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torchvision.datasets as official
from assay.datasets import torchvision_sets
from assay.datasets.decoding import DataError
from assay.datasets.torchvision_sets import cifar10, cifar100, dtd, places365, svhn
from PIL import Image

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
NONE = {"mode": "none"}


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision takes any file that is there, whatever its checksum."""

    def is_there(path: str, md5: str | None = None) -> bool:
        return Path(path).is_file()

    for module in (official.cifar, official.svhn, official.places365):
        monkeypatch.setattr(module, "check_integrity", is_there)


def pickled(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps(content))


def numbered(count: int) -> np.ndarray:
    """CIFAR's rows of 3072 bytes: red = index, green = row of the picture, blue 0."""
    planes = np.zeros((count, 3, 32, 32), np.uint8)
    planes[:, 0] = np.arange(count)[:, None, None]
    planes[:, 1] = np.arange(32)[:, None]
    return planes.reshape(count, -1)


@pytest.mark.usefixtures("unchecked")
def test_cifar10(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    for name in (*(f"data_batch_{index}" for index in range(1, 6)), "test_batch"):
        pickled(folder / name, {"data": numbered(3), "labels": [4, 0, 9]})
    pickled(folder / "batches.meta", {"label_names": [f"class{index}" for index in range(10)]})
    data = cifar10(str(tmp_path), transform=NONE)
    sample = data[2]
    assert (len(data), data.split, data.classes[9]) == (3, "test", "class9")
    assert (sample.id, sample.targets, sample.size0, sample.boxes) == ("test/000002", (9,), (32, 32), {})
    assert (sample.image[:, 7, 0] * 255).round().tolist() == [2, 7, 0]
    train = cifar10(str(tmp_path), "train")
    assert len(train) == 15
    assert train.fingerprint() != data.fingerprint()


@pytest.mark.usefixtures("unchecked")
def test_cifar100_has_fine_labels(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    for name in ("train", "test"):
        pickled(folder / name, {"data": numbered(2), "fine_labels": [99, 5], "coarse_labels": [1, 2]})
    pickled(folder / "meta", {"fine_label_names": [f"fine{index}" for index in range(100)]})
    data = cifar100(str(tmp_path))
    assert (data[0].targets, data.classes[99]) == ((99,), "fine99")


@pytest.mark.usefixtures("unchecked")
def test_svhn(tmp_path: Path) -> None:
    pixels = np.zeros((32, 32, 3, 2), np.uint8)
    pixels[3, 5, :, 1] = (10, 20, 30)
    scipy.io.savemat(tmp_path / "test_32x32.mat", {"X": pixels, "y": np.array([[1], [10]])})
    data = svhn(str(tmp_path), transform=NONE)
    assert (len(data), data[0].targets, data[1].targets) == (2, (1,), (0,))  # 10 stands for the digit 0
    assert (data[1].image[:, 3, 5] * 255).round().tolist() == [10, 20, 30]


@pytest.mark.usefixtures("unchecked")
def test_svhn_of_the_cifar_benchmarks(tmp_path: Path) -> None:
    """The first 1000 of each digit in file order. Of 2300 images those at even places show a 1, and 1000 are taken;
    the others show a 2, and from place 1999 on a 0, none of them too often."""
    digits = np.tile([1, 2], 1300)[:2300]
    digits[1999::2] = 10  # from here on, 0 in place of 2
    pixels = np.zeros((32, 32, 3, 2300), np.uint8)
    pixels[0, 0, 0], pixels[0, 0, 1] = np.arange(2300) % 250, np.arange(2300) // 250
    scipy.io.savemat(tmp_path / "test_32x32.mat", {"X": pixels, "y": digits[:, None]})
    data = svhn(str(tmp_path), transform=NONE, select="first_1000_per_digit")
    kept = [i for i in range(2300) if not (digits[i] == 1 and i >= 2000)]
    assert len(data) == len(kept) == 1000 + 999 + 151
    found = (data.images[:, 0, 0, :2] @ [1, 250]).tolist()
    assert found == kept
    assert [int(label) for label in data.labels] == (digits[kept] % 10).tolist()
    assert data.fingerprint() != svhn(str(tmp_path), transform=NONE).fingerprint()
    with pytest.raises(DataError, match="select='1000': choose all or first_1000_per_digit"):
        svhn(str(tmp_path), select="1000")


def test_places365_by_a_list(tmp_path: Path) -> None:
    """The named images alone, in the list's order, without labels and without the devkit; counted and looked for."""
    folder = tmp_path / "test_256"
    folder.mkdir()
    for number in (1, 2, 3):
        Image.new("RGB", (20, 20)).save(folder / f"Places365_test_{number}.jpg")
    with pytest.raises(DataError, match=r"no file .*names\.txt\. It names the images .*places365_test_list\.txt"):
        places365(str(tmp_path), "test", list="names.txt")
    (tmp_path / "names.txt").write_text("Places365_test_3.jpg\nsomewhere/Places365_test_1.jpg\n")
    data = places365(str(tmp_path), "test", transform=NONE, list="names.txt", expected_count=2)
    assert [(data[i].id, data[i].targets) for i in range(len(data))] == [
        ("test_256/Places365_test_3.jpg", ()),
        ("test_256/Places365_test_1.jpg", ()),
    ]
    assert data.split == "test"
    with pytest.raises(DataError, match=r"2 images at .*test_256, the list names\.txt has 10000"):
        places365(str(tmp_path), "test", list="names.txt", expected_count=10000)
    (tmp_path / "names.txt").write_text("Places365_test_3.jpg\nPlaces365_test_4.jpg\n")
    with pytest.raises(DataError, match=r"no file .*Places365_test_4\.jpg\. Put the images that .*names\.txt names"):
        places365(str(tmp_path), "test", list="names.txt")


@pytest.mark.usefixtures("unchecked")
def test_places365(tmp_path: Path) -> None:
    (tmp_path / "categories_places365.txt").write_text("/b/bar 1\n/a/alley 0\n")
    (tmp_path / "places365_val.txt").write_text("Places365_val_1.jpg 1\nPlaces365_val_2.jpg 0\n")
    (tmp_path / "val_256").mkdir()
    with pytest.raises(DataError, match=r"no file .*val_256/Places365_val_1\.jpg and 1 more of 2"):
        places365(str(tmp_path))
    for name in ("Places365_val_1.jpg", "Places365_val_2.jpg"):
        Image.new("RGB", (20, 20)).save(tmp_path / "val_256" / name)
    data = places365(str(tmp_path), transform=NONE)
    assert data.classes == ["/a/alley", "/b/bar"]
    assert [(data[i].id, data[i].targets) for i in range(2)] == [
        ("val_256/Places365_val_1.jpg", (1,)),
        ("val_256/Places365_val_2.jpg", (0,)),
    ]


@pytest.mark.parametrize("base", ["dtd", "dtd/dtd"])  # the archive's own folder, and where torchvision puts it
def test_dtd(tmp_path: Path, base: str) -> None:
    for name in ("dotted/dotted_1.jpg", "banded/banded_1.jpg", "banded/banded_2.jpg"):
        path = tmp_path / base / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(path)
    data = dtd(str(tmp_path), transform=NONE, expected_count=3)
    assert data.classes == ["banded", "dotted"]
    with pytest.raises(DataError, match=r"3 images at .*images, DTD has 5640: .*expected_count=null"):
        dtd(str(tmp_path), expected_count=5640)
    assert [data[i].targets for i in range(3)] == [(0,), (0,), (1,)]
    with pytest.raises(DataError, match=r"no file .*labels/test2\.txt.*download=true"):
        dtd(str(tmp_path), "test", 2)
    (tmp_path / base / "labels").mkdir()
    (tmp_path / base / "labels" / "test2.txt").write_text("dotted/dotted_1.jpg\nbanded/banded_2.jpg\n")
    test = dtd(str(tmp_path), "test", 2, expected_count=5640)  # of every image: a partition's own list counts
    assert [(test[i].id, test[i].targets) for i in range(2)] == [
        ("dotted/dotted_1.jpg", (1,)),
        ("banded/banded_2.jpg", (0,)),
    ]
    (tmp_path / base / "images" / "banded" / "banded_2.jpg").write_text("corrupt")
    with pytest.raises(DataError, match=r"banded_2\.jpg cannot be read"):
        test[1]


@pytest.mark.parametrize("make", [cifar10, cifar100, svhn, dtd, places365])
def test_what_is_missing_says_what_to_do(tmp_path: Path, make: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match=r"Put .* at <root>.*dataset\.download=true"):
        make(str(tmp_path / "absent"))
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("make", [cifar10, cifar100, svhn, dtd, places365])
def test_splits_are_checked(tmp_path: Path, make: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match="split='holdout': choose one of"):
        make(str(tmp_path), "holdout")


def test_download_is_asked_of_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(root: str, **settings: Any) -> None:
        asked.append((root, settings))
        raise OSError("no connection")

    monkeypatch.setattr(official, "CIFAR10", refuse)
    with pytest.raises(DataError, match="no connection"):
        cifar10(str(tmp_path / "new"), download=True)
    assert asked == [(str(tmp_path / "new"), {"train": False, "download": True})]
    assert (tmp_path / "new").is_dir()


def test_torchvision_is_imported_late() -> None:
    assert "torchvision" not in vars(torchvision_sets)


@pytest.mark.skipif(not (SHARED / "dtd").is_dir(), reason=f"no textures at {SHARED / 'dtd'}")
@pytest.mark.realdata
def test_shared_textures() -> None:
    data = dtd(str(SHARED), transform={"mode": "crop"})
    assert (len(data), len(data.classes)) == (150, 10)
    assert tuple(data[0].image.shape) == (3, 224, 224)
