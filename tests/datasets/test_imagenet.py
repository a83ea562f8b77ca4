"""The ImageNet loader on a made-up miniature of the official layout."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from assay.datasets.annotations import read_voc_xml
from assay.datasets.decoding import DataError
from assay.datasets.imagenet import ImageNet, read_wnids
from PIL import Image

WNIDS = [f"n{10000000 + 7 * i}" for i in range(1000)]
CAT, DOG, OTHER = WNIDS[3], WNIDS[997], WNIDS[500]
INDEX = {wnid: i for i, wnid in enumerate(WNIDS)}

Box = tuple[str, int, int, int, int]  # name, xmin, ymin, xmax, ymax


def xml(*boxes: Box, size: tuple[int, int] = (120, 80)) -> str:
    """An annotation in ILSVRC's form of an image of (width, height)."""
    objects = "".join(
        f"<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin>"
        f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for name, x0, y0, x1, y1 in boxes
    )
    about = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    return f"<annotation><folder>val</folder>{about}{objects}</annotation>"


def jpeg(path: Path, size: tuple[int, int], seed: int) -> None:
    """A noisy JPEG of (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "JPEG")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two class folders, three images of 120x80 and 60x90, with boxes; wnids.txt in no order."""
    (tmp_path / "wnids.txt").write_text("\n".join(reversed(WNIDS)) + "\n")
    annotations = tmp_path / "bbox" / "val"
    annotations.mkdir(parents=True)
    for name, wnid, size, boxes in [
        ("val_2", CAT, (120, 80), [(CAT, 10, 20, 29, 39), (CAT, 0, 0, 119, 79)]),
        ("val_1", CAT, (60, 90), [(CAT, 5, 6, 5, 6), (DOG, 0, 0, 59, 89), ("n00000000", 1, 1, 2, 2)]),
        ("val_3", DOG, (120, 80), [(OTHER, 0, 0, 9, 9)]),
    ]:
        jpeg(tmp_path / "val" / wnid / f"{name}.JPEG", size, seed=len(name) + size[0])
        (annotations / f"{name}.xml").write_text(xml(*boxes, size=size))
    return tmp_path


def dataset(root: Path, **settings: Any) -> ImageNet:
    """The loader with small images."""
    return ImageNet(str(root), **({"transform": {"mode": "squash", "size": 32}} | settings))


def test_samples_in_order_with_their_class_index(root: Path) -> None:
    """Sorted by folder and name; the target is the rank of the folder's wnid among the 1000, sorted."""
    data = dataset(root)
    assert len(data) == 3
    samples = [data[i] for i in range(3)]
    assert [sample.id for sample in samples] == [f"{CAT}/val_1", f"{CAT}/val_2", f"{DOG}/val_3"]
    assert [sample.targets for sample in samples] == [(3,), (3,), (997,)]
    assert [sample.size0 for sample in samples] == [(90, 60), (80, 120), (80, 120)]
    assert all(sample.image.shape == (3, 32, 32) for sample in samples)
    assert data.split == "val"


def test_boxes_are_half_open(root: Path) -> None:
    """Inclusive corners from 0: the last pixel's far edge is one more; boxes of other classes too, no unknown names."""
    data = dataset(root)
    assert {c: b.tolist() for c, b in data[1].boxes.items()} == {3: [[10, 20, 30, 40], [0, 0, 120, 80]]}
    assert {c: b.tolist() for c, b in data[0].boxes.items()} == {3: [[5, 6, 6, 7]], 997: [[0, 0, 60, 90]]}
    assert list(data[2].boxes) == [500]  # the image's own class has no box


def test_boxes_from_one(root: Path) -> None:
    """PASCAL counts from 1: (1, 1, 120, 80) is the whole image of 120x80, one pixel is one pixel."""
    path = root / "one.xml"
    path.write_text(xml((CAT, 1, 1, 120, 80), (CAT, 6, 7, 6, 7)))
    assert read_voc_xml(path, INDEX, 1, (120, 80))[3].tolist() == [[0, 0, 120, 80], [5, 6, 6, 7]]
    assert read_voc_xml(path, INDEX, 0, (120, 80))[3].tolist() == [[1, 1, 121, 81], [6, 7, 7, 8]]
    (root / "bbox" / "val" / "val_2.xml").write_text(path.read_text())
    assert dataset(root, box_origin=1)[1].boxes[3].tolist() == [[0, 0, 120, 80], [5, 6, 6, 7]]
    assert dataset(root, box_origin=0)[1].boxes[3].tolist() == [[1, 1, 120, 80], [6, 7, 7, 8]]  # clipped to the image


def test_difficult_is_small_and_in_company(root: Path) -> None:
    """val_1: one pixel of class 3 beside a whole-image 997; val_2: alone."""
    data = dataset(root)
    assert data[0].difficult == {3: True, 997: False}
    assert data[1].difficult == {3: False}


def test_shorter_keeps_the_image_as_frame(root: Path) -> None:
    """Network input 32 px on the shorter side; boxes in pixels of the original."""
    sample = dataset(root, transform={"mode": "shorter", "size": 32})[1]
    assert sample.image.shape == (3, 32, 48)
    assert sample.size0 == (80, 120)
    assert sample.boxes[3].tolist() == [[10, 20, 30, 40], [0, 0, 120, 80]]


def test_a_crop_moves_boxes_and_drops_the_vanished(root: Path) -> None:
    """120x80 -> 60x40 (a half) -> the central 32x32, from (14, 4): by hand, to 1e-4 px.

    val_2: (10,20,30,40) becomes x from -9 to 1 and y from 6 to 16, so a column of 1 px stays; the whole image
    becomes the whole crop. val_3: (0,0,10,10) lies outside, so its class has no box.
    """
    data = dataset(root, transform={"mode": "crop", "size": 32, "resize": 40})
    sample = data[1]
    assert sample.size0 == (32, 32)
    torch.testing.assert_close(sample.boxes[3], torch.tensor([[0.0, 6, 1, 16], [0, 0, 32, 32]]), rtol=0, atol=1e-4)
    assert data[2].boxes == {}
    assert data[2].targets == (997,)
    assert data[2].difficult == {}


def test_without_annotations(root: Path) -> None:
    """`annotations: null`: images and labels alone, no XML is looked for."""
    for path in (root / "bbox" / "val").iterdir():
        path.unlink()
    data = dataset(root, annotations=None)
    assert data[0].boxes == {}
    assert data[0].targets == (3,)


def test_class_names(root: Path) -> None:
    """wnids until a classes.csv names them; one that it lacks keeps its wnid."""
    assert list(dataset(root).classes) == WNIDS
    (root / "classes.csv").write_text(f'index,wnid,name\n3,{CAT},"tabby, cat"\n')
    assert dataset(root).classes[3] == "tabby, cat"
    assert dataset(root).classes[997] == DOG


def test_other_folders_and_files_are_left_out(root: Path) -> None:
    """Folders that are no class, files that are no image."""
    jpeg(root / "val" / "extra" / "x.JPEG", (8, 8), 0)
    (root / "val" / CAT / "readme.txt").write_text("x")
    assert len(dataset(root)) == 3


@pytest.mark.parametrize(
    ("annotated", "expected"),
    [
        ((120, 80), [20, 10, 50, 30]),  # the file's own size
        ((240, 160), [10, 5, 25, 15]),  # annotated at twice the size: half-open [20, 50) x [10, 30), halved
        ((60, 40), [40, 20, 100, 60]),
        ((0, 0), [20, 10, 50, 30]),  # as some tools write: no size
        ((121, 80), [20 * 120 / 121, 10, 50 * 120 / 121, 30]),  # sides were rounded
    ],
)
def test_boxes_of_an_image_annotated_at_another_size(
    annotated: tuple[int, int], expected: list[float], root: Path
) -> None:
    """Scaled to the file: by hand, for a file of 120x80 and a box 20..49 x 10..29, both ends included."""
    (root / "bbox" / "val" / "val_2.xml").write_text(xml((CAT, 20, 10, 49, 29), size=annotated))
    assert dataset(root)[1].boxes[3].tolist() == [pytest.approx(expected)]


@pytest.mark.parametrize("annotated", [(80, 120), (120, 120), (500, 375)])
def test_an_annotation_of_another_image_is_refused(annotated: tuple[int, int], root: Path) -> None:
    """Turned, cropped, or somebody else's: both sizes are named."""
    (root / "bbox" / "val" / "val_2.xml").write_text(xml((CAT, 20, 10, 49, 29), size=annotated))
    width, height = annotated
    with pytest.raises(DataError, match=rf"val_2\.xml: annotates an image of {width}x{height} .* file has 120x80"):
        dataset(root)[1]


def test_fingerprint(root: Path) -> None:
    """Changes when an image or an annotation is added or changes size; not with the folder's place."""
    first = dataset(root).fingerprint()
    assert dataset(root).fingerprint() == first
    moved = root.rename(root.parent / "moved")
    assert dataset(moved).fingerprint() == first
    jpeg(moved / "val" / DOG / "val_4.JPEG", (8, 8), 0)
    second = dataset(moved).fingerprint()
    (moved / "bbox" / "val" / "val_4.xml").write_text(xml((DOG, 0, 0, 3, 3)))
    third = dataset(moved).fingerprint()
    (moved / "bbox" / "val" / "val_4.xml").write_text(xml((DOG, 0, 0, 30, 30)))
    assert len({first, second, third, dataset(moved).fingerprint()}) == 4


def test_fingerprint_covers_the_class_list(root: Path) -> None:
    """Another wnids.txt gives other labels for the same files."""
    first, label = dataset(root).fingerprint(), dataset(root)[2].targets
    (root / "wnids.txt").write_text("\n".join([*(w for w in WNIDS if w != WNIDS[0]), "n99999999"]))
    assert dataset(root)[2].targets != label
    assert dataset(root).fingerprint() != first


# What can be wrong with a folder


def break_nothing_there(root: Path) -> Path:
    (root / "val").rename(root / "elsewhere")
    return root / "val"


def break_no_class_list(root: Path) -> Path:
    (root / "wnids.txt").unlink()
    return root / "wnids.txt"


def break_no_annotation(root: Path) -> Path:
    (root / "bbox" / "val" / "val_1.xml").unlink()
    return root / "bbox" / "val" / "val_1.xml"


def break_cut_image(root: Path) -> Path:
    path = root / "val" / CAT / "val_1.JPEG"
    path.write_bytes(path.read_bytes()[:200])
    return path


def break_cut_xml(root: Path) -> Path:
    path = root / "bbox" / "val" / "val_1.xml"
    path.write_text(path.read_text()[:-20])
    return path


def break_empty_xml(root: Path) -> Path:
    path = root / "bbox" / "val" / "val_1.xml"
    path.write_text("")
    return path


def break_no_number(root: Path) -> Path:
    path = root / "bbox" / "val" / "val_1.xml"
    path.write_text(path.read_text().replace("<xmin>5</xmin>", "<xmin>left</xmin>"))
    return path


def break_no_box(root: Path) -> Path:
    path = root / "bbox" / "val" / "val_1.xml"
    path.write_text(path.read_text().replace("bndbox", "box"))
    return path


@pytest.mark.parametrize(
    ("damage", "advice"),
    [
        (break_nothing_there, r"dataset.root=/path/to/root.*obtained from its owners"),
        (break_no_class_list, r"wnids.txt.*one a line, sorted"),
        (break_no_annotation, r"has no annotation at.*<root>/<annotations>/\*.xml"),
        (break_cut_image, r"cannot be read as an image.*replace or remove"),
        (break_cut_xml, r"is no annotation in PASCAL/ILSVRC XML"),
        (break_empty_xml, r"is no annotation in PASCAL/ILSVRC XML"),
        (break_no_number, r"is no annotation in PASCAL/ILSVRC XML.*left"),
        (break_no_box, r"is no annotation in PASCAL/ILSVRC XML.*the object 'n10000021' has no bndbox"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_every_damage_names_the_file_and_the_way_out(root: Path, damage: Callable[[Path], Path], advice: str) -> None:
    """A DataError with the path of what is missing or broken, and what to do about it."""
    path = damage(root)
    with pytest.raises(DataError, match=advice) as caught:
        dataset(root)[0]
    assert str(path) in str(caught.value)


def test_an_incomplete_class_list_is_named(root: Path) -> None:
    """999 lines: the file has the wrong number of lines, it is not missing."""
    (root / "wnids.txt").write_text("\n".join(WNIDS[1:]))
    with pytest.raises(DataError, match="999") as caught:
        dataset(root)
    assert str(root / "wnids.txt") in str(caught.value)
    assert "no " + str(root / "wnids.txt") not in str(caught.value)


def test_folders_that_are_no_classes_are_named(root: Path) -> None:
    """All images in one folder `val/`, as the archive unpacks: the folders must be sorted by class first."""
    for path in (root / "val").glob("*/*.JPEG"):
        path.rename(root / "val" / path.name)
    with pytest.raises(DataError, match="wnid"):
        dataset(root)


def test_a_thousand_folders_need_no_list(root: Path) -> None:
    """The whole of ImageNet: the folders themselves are the classes, in the order of their names."""
    (root / "wnids.txt").unlink()
    for wnid in WNIDS:
        (root / "val" / wnid).mkdir(exist_ok=True)
    assert [dataset(root)[i].targets for i in range(3)] == [(3,), (3,), (997,)]


def test_wnids_from_a_file(root: Path) -> None:
    """Sorted; a missing file and a wrong number of lines (or a repeated one) are named."""
    path = root / "wnids.txt"
    assert read_wnids(path) == WNIDS
    path.write_text("\n".join([*WNIDS[1:], WNIDS[1]]))
    with pytest.raises(DataError, match=rf"{path} lists 999 wnids, ImageNet has 1000"):
        read_wnids(path)
    path.unlink()
    with pytest.raises(DataError, match=rf"no list of ImageNet's wnids at {path}"):
        read_wnids(path)


def test_what_would_shift_or_lose_classes(tmp_path: Path) -> None:
    """A wnid twice in the list, images of a wnid that it has not, a table of names without its columns."""
    wnids = [f"n{number:08}" for number in range(1000)]
    (tmp_path / "wnids.txt").write_text("\n".join([*wnids, wnids[3]]))
    with pytest.raises(DataError, match=r"wnids\.txt has 1001 lines for 1000 wnids: put each once"):
        read_wnids(tmp_path / "wnids.txt")
    (tmp_path / "wnids.txt").write_text("\n".join(wnids))
    for wnid in (wnids[0], "n99999999"):
        (tmp_path / "val" / wnid).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "val" / wnid / "a.png")
    with pytest.raises(DataError, match="has images of n99999999, which the list of wnids has not"):
        ImageNet(str(tmp_path), annotations=None)
    (tmp_path / "val/n99999999").rename(tmp_path / "val/other")
    (tmp_path / "classes.csv").write_text("id,name\n1,owl\n")
    with pytest.raises(DataError, match=r"classes\.csv has no columns wnid and name"):
        _ = ImageNet(str(tmp_path), annotations=None).classes
