"""Tiny-ImageNet on a made-up miniature and on the shared validation images."""

import warnings
from pathlib import Path

import pytest
import torch
from assay.datasets.decoding import DataError
from assay.datasets.tiny_imagenet import TinyImageNet
from PIL import Image

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SHARED = DATA / "tiny-imagenet-200"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no Tiny-ImageNet images at {SHARED}")

LINES = ["val_0.JPEG\tn02\t0\t4\t63\t63", "val_1.JPEG\tn01\t9\t5\t9\t40", "val_2.JPEG\tn03\t10\t20\t11\t21"]


def write(root: Path, lines: list[str]) -> Path:
    (root / "val" / "images").mkdir(parents=True)
    (root / "wnids.txt").write_text("n03\nn01\nn02\n")
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    for line in lines:
        Image.new("RGB", (64, 64), (1, 2, 3)).save(root / "val" / "images" / line.split("\t")[0])
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write(tmp_path, LINES)


def load(root: Path, **settings: object) -> TinyImageNet:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TinyImageNet(str(root), **{"transform": {"mode": "none"}, **settings})  # type: ignore[arg-type]


def test_by_hand(root: Path) -> None:
    data = load(root)
    assert (len(data), data.split, data.classes) == (3, "val", ["n01", "n02", "n03"])
    assert [data[i].targets for i in range(3)] == [(1,), (0,), (2,)]
    assert data[0].id == "val_0"
    assert data[0].boxes[1].tolist() == [[0, 4, 64, 64]]  # both ends are included
    assert data[2].boxes[2].tolist() == [[10, 20, 12, 22]]
    assert data[0].difficult == {1: False}


def test_a_void_box_is_counted_and_left_out(root: Path) -> None:
    with pytest.warns(UserWarning, match="1 published boxes have no area"):
        data = TinyImageNet(str(root))
    assert (data[1].boxes, data[1].targets, data[1].difficult) == ({}, (0,), {})


def test_labels_of_imagenet(root: Path) -> None:
    names = sorted({"n01", "n02", "n03", *(f"m{index:03d}" for index in range(997))})
    (root / "imagenet.txt").write_text("\n".join(names))
    data = load(root, imagenet_wnids="imagenet.txt")
    assert [data[i].targets for i in range(3)] == [(998,), (997,), (999,)]
    assert len(data.classes) == 1000
    assert data.fingerprint() != load(root).fingerprint()
    (root / "imagenet.txt").write_text("\n".join(names[:-1]))
    with pytest.raises(DataError, match="lists 999 wnids, ImageNet has 1000"):
        load(root, imagenet_wnids="imagenet.txt")
    (root / "imagenet.txt").write_text("\n".join([*names[:-1], "z"]))
    with pytest.raises(DataError, match=r"val_annotations\.txt:3: 'n03' is in no list"):
        load(root, imagenet_wnids="imagenet.txt")


def test_train_folders(root: Path) -> None:
    folder = root / "train" / "n02"
    (folder / "images").mkdir(parents=True)
    (folder / "n02_boxes.txt").write_text("n02_7.JPEG\t1\t2\t30\t40\n")
    Image.new("RGB", (64, 64)).save(folder / "images" / "n02_7.JPEG")
    sample = load(root, split="train")[0]
    assert (sample.id, sample.targets, sample.boxes[1].tolist()) == ("n02_7", (1,), [[1, 2, 31, 41]])


@pytest.mark.parametrize("file", ["wnids.txt", "val/val_annotations.txt", "val/images/val_2.JPEG"])
def test_missing_files_are_named(root: Path, file: str) -> None:
    (root / file).unlink()
    with pytest.raises(DataError, match=f"no file .*{file}.*Put the official folder"):
        load(root)


def test_bad_lines_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"val_annotations\.txt:2: 'val_1.JPEG.*' is no annotation"):
        load(write(tmp_path, [LINES[0], "val_1.JPEG\tn01\t1\t2\tx\t9"]))


def test_split_is_checked(root: Path) -> None:
    with pytest.raises(DataError, match="choose train or val"):
        load(root, split="test")


def test_a_corrupt_image_is_named(root: Path) -> None:
    (root / "val" / "images" / "val_0.JPEG").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(DataError, match=r"val_0\.JPEG cannot be read"):
        load(root)[0]


@needs_shared
@pytest.mark.realdata
def test_shared_images() -> None:
    with pytest.warns(UserWarning, match="8 published boxes have no area"):
        data = TinyImageNet(str(SHARED), transform={"mode": "none"})
    samples = [data[index] for index in range(len(data))]
    assert len(samples) == 1500
    assert sum(len(sample.boxes) for sample in samples) == 1492
    for sample in samples:
        assert tuple(sample.image.shape) == (3, 64, 64)
        for box in sample.boxes.values():
            assert (box >= 0).all()
            assert (box <= torch.tensor([64.0])).all()
    first = samples[0]  # "val_100.JPEG n03026506 29 9 63 63"; the wnid is the 91st of the sorted list
    assert (first.id, first.targets, first.boxes[90].tolist()) == ("val_100", (90,), [[29, 9, 64, 64]])


@needs_shared
@pytest.mark.realdata
def test_shared_images_as_imagenet() -> None:
    data = load(SHARED, imagenet_wnids="../imagenet/wnids.txt")
    assert data[0].targets == (496,)  # line 497 of wnids.txt
    assert data.classes[496] == "n03026506"
