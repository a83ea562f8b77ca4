"""Images that cannot be read, in every data set of files: all are named, or they are left out and counted."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from assay.datasets.boxed_folder import BoxedFolder
from assay.datasets.coco import COCO
from assay.datasets.decoding import SHOWN, DataError
from assay.datasets.files import Files
from assay.datasets.folder import Folder
from assay.datasets.imagenet import ImageNet
from assay.datasets.joined import Joined
from assay.datasets.parquet import Parquet
from assay.datasets.part import Part
from assay.datasets.tiny_imagenet import TinyImageNet
from assay.datasets.torchvision_sets import dtd, places365
from assay.datasets.voc import VOC
from assay.harness.engine.request import Images
from assay.harness.engine.samples import Checked
from assay.harness.types import Dataset
from conftest import alone
from PIL import Image

NAMES = ("a", "b", "c", "d")  # b is half a file, d is a text
WNIDS = [f"n{number:08}" for number in range(1000)]


def encoded(form: str) -> bytes:
    sink = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (32, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(sink, form)
    return sink.getvalue()


def images(folder: Path, ending: str = "png") -> list[Path]:
    """Two images, half a one and a text, each with the name of an image."""
    folder.mkdir(parents=True, exist_ok=True)
    good = encoded("JPEG" if ending.lower() in ("jpg", "jpeg") else "PNG")
    paths = [folder / f"{name}.{ending}" for name in NAMES]
    for path, content in zip(paths, (good, good[: len(good) // 2], good, b"<html>"), strict=True):
        path.write_bytes(content)
    return paths


def a_folder(root: Path, unreadable: str) -> Dataset:
    images(root)
    return Folder(str(root), labels="none", unreadable=unreadable, split="x")


def some_files(root: Path, unreadable: str) -> Dataset:
    return Files([str(path) for path in images(root)], unreadable=unreadable, split="x")


def a_boxed_folder(root: Path, unreadable: str) -> Dataset:
    images(root)
    lines = ["image,class,x0,y0,x1,y1", *(f"{name}.png,owl,1,2,30,20" for name in NAMES)]
    (root / "boxes.csv").write_text("\n".join(lines))
    return BoxedFolder(str(root), unreadable=unreadable, split="x")


def voc(root: Path, unreadable: str) -> Dataset:
    folder = root / "VOCdevkit/VOC2012"
    images(folder / "JPEGImages", "jpg")
    (folder / "Annotations").mkdir()
    box = "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>30</xmax><ymax>20</ymax></bndbox>"
    for name in NAMES:
        text = f"<annotation><object><name>cat</name>{box}</object></annotation>"
        (folder / f"Annotations/{name}.xml").write_text(text)
    (folder / "ImageSets/Main").mkdir(parents=True)
    (folder / "ImageSets/Main/x.txt").write_text("\n".join(NAMES))
    return VOC(str(root), image_set="x", unreadable=unreadable)


def coco(root: Path, unreadable: str) -> Dataset:
    images(root / "x2017", "jpg")
    content = {
        "categories": [{"id": 3, "name": "owl"}],
        "images": [{"id": n, "file_name": f"{name}.jpg", "width": 40, "height": 32} for n, name in enumerate(NAMES)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 3, "bbox": [1, 2, 9, 9], "segmentation": [[1, 2, 9, 2, 9, 9]]}
            for n in range(len(NAMES))
        ],
    }
    (root / "annotations").mkdir()
    (root / "annotations/instances_x2017.json").write_text(json.dumps(content))
    return COCO(str(root), split="x", unreadable=unreadable)


def imagenet(root: Path, unreadable: str) -> Dataset:
    images(root / "val" / WNIDS[7], "JPEG")
    (root / "wnids.txt").write_text("\n".join(WNIDS))
    return ImageNet(str(root), annotations=None, split="x", unreadable=unreadable)


def tiny(root: Path, unreadable: str) -> Dataset:
    images(root / "val/images", "JPEG")
    (root / "wnids.txt").write_text("\n".join(WNIDS[:200]))
    lines = (f"{name}.JPEG\t{WNIDS[3]}\t1\t2\t20\t30" for name in NAMES)
    (root / "val/val_annotations.txt").write_text("\n".join(lines))
    return TinyImageNet(str(root), unreadable=unreadable)


def parquet(root: Path, unreadable: str) -> Dataset:
    """The second file's last row has no image."""
    for first in (0, 2):
        contents = [path.read_bytes() for path in images(root / "files")][first : first + 2]
        rows = [{"bytes": None if content == b"<html>" else content, "path": None} for content in contents]
        pq.write_table(pa.table({"image": rows, "label": [4, 5]}), root / f"{first}.parquet", row_group_size=1)
    return Parquet(str(root), "*.parquet", split="x", unreadable=unreadable)


def textures(root: Path, unreadable: str) -> Dataset:
    images(root / "dtd/images/dotted", "jpg")
    return dtd(str(root), unreadable=unreadable)


def places(root: Path, unreadable: str) -> Dataset:
    names = [path.name for path in images(root / "val_256", "jpg")]
    (root / "list.txt").write_text("\n".join(names))
    return places365(str(root), list="list.txt", unreadable=unreadable)


def joined(root: Path, unreadable: str) -> Dataset:
    return Joined({"one": a_folder(root / "1", unreadable), "two": a_folder(root / "2", "skip")}, "x")


def half(root: Path, unreadable: str) -> Dataset:
    return Part(a_folder(root, unreadable), seed=None)


Make = Callable[[Path, str], Dataset]
SETS = (a_folder, some_files, a_boxed_folder, voc, coco, imagenet, tiny, parquet, textures, places)
every = pytest.mark.parametrize("make", SETS, ids=lambda make: make.__name__)


@every
def test_all_are_named_at_once(make: Make, tmp_path: Path) -> None:
    """And the mend; what can be read is read."""
    data = make(tmp_path, "refuse")
    assert len(data) == 4
    assert len(data[0].image) == 3
    with pytest.raises(
        DataError, match=r"^2 of 4 images cannot be read \(unreadable=skip leaves them out\): "
    ) as caught:
        data[1]
    places = ["0.parquet: row 1 ", "2.parquet: row 1 "] if make is parquet else ["/b.", "/d."]
    assert all(place in str(caught.value) for place in places)
    assert "object at 0x" not in str(caught.value)


@every
def test_they_are_left_out_and_counted(make: Make, tmp_path: Path) -> None:
    """The same in each process and each run; the split and the fingerprint say so, the plan lists them."""
    data, whole = make(tmp_path / "1", "skip"), make(tmp_path / "2", "refuse")
    assert [Path(data[index].id).name for index in range(len(data))] == [Path(whole[each].id).name for each in (0, 2)]
    assert data.split == f"{whole.split}-2unreadable"
    assert data.fingerprint() != whole.fingerprint()
    checked = Checked("mine", data)
    said = list(Images("mine", checked, np.arange(2), 2, {"dataset": {"order": None}})._skipped())
    assert len(said) == 1 and said[0].startswith("mine: 2 images left out (unreadable=skip): ")


@pytest.mark.parametrize(("make", "lost"), [(joined, 4), (half, 2)], ids=["joined", "part"])
def test_sets_of_sets(make: Make, lost: int, tmp_path: Path) -> None:
    data = make(tmp_path, "skip")
    assert f"-{lost}unreadable" in data.split
    assert len(Checked("mine", data).skipped) == lost


def test_the_list_is_bounded(tmp_path: Path) -> None:
    for number in range(SHOWN + 5):
        (tmp_path / f"{number:02}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"^25 of 25 images cannot be read .*19\.png .*; and 5 more$"):
        Folder(str(tmp_path), labels="none")[0]


def test_a_set_of_nothing_but_such_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"none of 1 images below .* can be read: .*a\.png cannot be read as an image"):
        Folder(str(tmp_path), labels="none", unreadable="skip")


@pytest.mark.parametrize("name", ["voc07", "coco14", "imagenet", "tiny_imagenet", "parquet", "textures", "places365"])
def test_the_command_line_has_the_choice(name: str) -> None:
    assert alone("dataset", name).dataset.settings["unreadable"] == "refuse"
