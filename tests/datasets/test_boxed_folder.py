"""Boxes of one's own: a CSV with a line a box, or COCO's JSON with any classes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from assay.datasets.boxed_folder import BoxedFolder
from assay.datasets.decoding import DataError
from assay.harness.build import build
from assay.harness.overrides import compose_config
from PIL import Image

CSV = """image,class,x0,y0,x1,y1
photos/a b.png,owl,2,3,12,13
photos/a b.png,polar bear,20,0,40,30
c.png,polar bear,0,0,40,30
photos/a b.png,owl,0,0,1.5,1
"""
OWL, BEAR = 0, 1


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two images of 40x30 (width x height), one below a folder, one of which nothing is said; boxes.csv."""
    (tmp_path / "photos").mkdir()
    for name in ("photos/a b.png", "c.png", "unsaid.png"):
        Image.new("RGB", (40, 30), (120, 90, 60)).save(tmp_path / name)
    (tmp_path / "boxes.csv").write_text(CSV)
    return tmp_path


def load(root: Path, **settings: Any) -> BoxedFolder:
    return BoxedFolder(str(root), **{"transform": {"mode": "squash", "size": 20}, **settings})


def test_by_hand(root: Path) -> None:
    """Images in the order of the file, edges as they are written, the owl small and not alone."""
    data = load(root)
    assert (len(data), list(data.classes), data.split) == (2, ["owl", "polar bear"], "all")
    first, second = data[0], data[1]
    assert (first.id, first.targets, first.size0) == ("photos/a b.png", (OWL, BEAR), (30, 40))
    assert {label: boxes.tolist() for label, boxes in first.boxes.items()} == {
        OWL: [[2, 3, 12, 13], [0, 0, 1.5, 1]],
        BEAR: [[20, 0, 40, 30]],
    }
    assert first.difficult == {OWL: True, BEAR: False}  # 102 and 600 of 1200 pixels
    assert (second.id, second.targets, second.difficult) == ("c.png", (BEAR,), {BEAR: False})
    assert tuple(first.image.shape) == (3, 20, 20)


def test_any_text_file_that_a_spreadsheet_writes(root: Path) -> None:
    """A byte-order mark, Windows' line ends, other columns, spaces, quotes, blank lines, ./ before a name."""
    lines = [
        "id, Image ,CLASS,x0,y0,x1,y1",
        '7,"./photos/a b.png", owl ,2,3,12,13',
        "",
        "8,photos/a b.png,owl,0,0,1.5,1",
    ]
    (root / "boxes.csv").write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    data = load(root)
    assert (len(data), data[0].id) == (1, "photos/a b.png")
    assert data[0].boxes[OWL].tolist() == [[2, 3, 12, 13], [0, 0, 1.5, 1]]


def test_a_list_gives_the_order_of_classes(root: Path) -> None:
    (root / "classes.txt").write_text("red fox\npolar bear\nowl\n")
    assert load(root, classes="classes.txt")[0].targets == (1, 2)
    (root / "classes.txt").write_text("red fox\nowl\n")
    with pytest.raises(DataError, match=r"boxes\.csv:3: class 'polar bear' is none of red fox, owl"):
        load(root, classes="classes.txt")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("c.png,owl,2,3,x,13", r"boxes\.csv:6: x1='x' is no number"),
        ("c.png,owl,12,3,2,13", r"boxes\.csv:6: \[12.0, 3.0, 2.0, 13.0\] is no box: give edges x0 < x1"),
        ("c.png,owl,2,3,nan,13", r"boxes\.csv:6: .*nan.* is no box"),
        ("c.png,owl,.1,.2,.5,.9", r"boxes\.csv:6: \[0.1, 0.2, 0.5, 0.9\] are shares of the image: multiply"),
        ("c.png,owl,2,3,12", r"boxes\.csv:6: 5 cells \(c\.png,owl,2,3,12\), the header has 6"),
        ("d.png,owl,2,3,12,13", r"boxes\.csv:6: no image at .*d\.png"),
        ("/etc/d.png,owl,2,3,12,13", r"boxes\.csv:6: /etc/d\.png is no name below"),
    ],
)
def test_a_wrong_line_is_named(line: str, message: str, root: Path) -> None:
    (root / "boxes.csv").write_text(f"{CSV}{line}\n")
    with pytest.raises(DataError, match=message):
        load(root)


def test_a_box_outside_its_image_is_named(root: Path) -> None:
    """By more than what tools round: the boxes are of another size, or of the upright photograph."""
    (root / "boxes.csv").write_text(f"{CSV}c.png,owl,5,5,25,38\n")
    with pytest.raises(DataError, match=r"boxes\.csv:6: \[5.0, 5.0, 25.0, 38.0\] lies outside; .*c\.png has 40x30"):
        load(root)[1]
    (root / "boxes.csv").write_text(f"{CSV}c.png,owl,-0.5,5,40.5,31\n")
    assert load(root)[1].boxes[OWL].tolist() == [[0, 5, 40, 30]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,label,x0,y0,x1,y1\nc.png,owl,1,1,2,2\n", r"boxes\.csv:1: the header 'image,label,.* lacks class"),
        ("", r"boxes\.csv:1: the header '' lacks image, class"),
        ("image,class,x0,y0,x1,y1\n", r"boxes\.csv has no box"),
    ],
)
def test_a_file_without_boxes(text: str, message: str, root: Path) -> None:
    (root / "boxes.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        load(root)


def test_a_missing_file_and_another_kind(root: Path) -> None:
    with pytest.raises(DataError, match=r"no boxes at .*absent\.csv\. Write a CSV with the header image,class"):
        load(root, boxes="absent.csv")
    with pytest.raises(DataError, match=r"boxes=boxes\.xlsx: give a file that ends in \.csv or \.json"):
        load(root, boxes="boxes.xlsx")


# COCO's JSON


def instances(**image: Any) -> dict[str, Any]:
    """An owl, and a crowd of bears, without segmentations."""
    return {
        "categories": [{"id": 90, "name": "polar bear"}, {"id": 7, "name": "owl"}],
        "images": [{"id": 1, "file_name": "c.png", "width": 40, "height": 30, **image}],
        "annotations": [
            {"id": 5, "image_id": 1, "category_id": 7, "bbox": [2, 3, 10, 10]},
            {"id": 6, "image_id": 1, "category_id": 90, "bbox": [20, 0, 20, 30], "iscrowd": 1},
        ],
    }


def with_json(root: Path, content: dict[str, Any], **settings: Any) -> BoxedFolder:
    (root / "own.json").write_text(json.dumps(content))
    return load(root, boxes="own.json", **settings)


def test_a_json_of_any_classes(root: Path) -> None:
    """By category id, or in the order of a list; x, y, width, height become edges; a crowd is no target."""
    data = with_json(root, instances())
    sample = data[0]
    assert (list(data.classes), sample.id, sample.targets) == (["owl", "polar bear"], "c.png", (OWL,))
    assert {label: boxes.tolist() for label, boxes in sample.boxes.items()} == {
        OWL: [[2, 3, 12, 13]],
        BEAR: [[20, 0, 40, 30]],
    }
    (root / "classes.txt").write_text("polar bear\nowl\n")
    assert with_json(root, instances(), classes="classes.txt")[0].targets == (1,)
    assert with_json(root, instances(file_name="a b.png"), images="photos")[0].id == "a b.png"


def test_what_a_json_gets_wrong(root: Path) -> None:
    with pytest.raises(DataError, match=r"c\.png has 40x30 pixels .*own\.json says 80x60"):
        with_json(root, instances(width=80, height=60))[0]
    content = instances()
    content["annotations"][0]["category_id"] = 8
    with pytest.raises(DataError, match=r"own\.json is no COCO .*annotation 5 has category_id 8, categories are 7, 90"):
        with_json(root, content)
    content = instances()
    content["annotations"][0]["bbox"] = [2, 3, 0, 10]
    with pytest.raises(DataError, match=r"own\.json: annotation 1 of c\.png: \[2, 3, 2, 13\] is no box"):
        with_json(root, content)
    content = instances()
    content["images"].append({**content["images"][0], "id": 2})
    with pytest.raises(DataError, match=r"own\.json has .*c\.png as two images"):
        with_json(root, content)


# Photographs, broken files, identity


def test_boxes_of_a_photograph(root: Path) -> None:
    """Counted as the pixels lie in the file, or as they are shown: one of the two has the size of the JSON."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[:, :10] = 255  # stored: a strip at the left; shown: at the top
    Image.fromarray(pixels).save(root / "c.png", exif=exif)
    stored = with_json(root, instances(), transform={"mode": "none"})[0]
    assert stored.size0 == (30, 40)
    assert bool((stored.image[:, :, :10] == 1).all())
    content = instances(width=30, height=40)
    content["annotations"][1]["bbox"] = [0, 0, 30, 10]
    with pytest.raises(DataError, match=r"c\.png has 40x30 .*orientation=stored.* says 30x40: .*other orient"):
        with_json(root, content)[0]
    shown = with_json(root, content, orientation="upright", transform={"mode": "none"})[0]
    assert shown.size0 == (40, 30)
    x0, y0, x1, y1 = (int(edge) for edge in shown.boxes[BEAR][0])
    assert bool((shown.image[:, y0:y1, x0:x1] == 1).all())


def test_broken_images_are_named_or_skipped(root: Path) -> None:
    (root / "c.png").write_bytes((root / "c.png").read_bytes()[:40])
    with pytest.raises(DataError, match=r"1 of 2 images cannot be read .*c\.png"):
        load(root)[1]
    data = load(root, unreadable="skip")
    assert ([data[i].id for i in range(len(data))], data.split) == (["photos/a b.png"], "all-1unreadable")


def test_the_fingerprint_follows_boxes_and_classes(root: Path) -> None:
    made = [load(root).fingerprint()]
    assert load(root).fingerprint() == made[0]
    (root / "classes.txt").write_text("polar bear\nowl\n")
    made.append(load(root, classes="classes.txt").fingerprint())
    (root / "boxes.csv").write_text(CSV.replace("2,3,12,13", "2,3,12,14"))
    made.append(load(root).fingerprint())
    assert len(set(made)) == 3


def test_from_the_command_line(root: Path) -> None:
    config = compose_config(["dataset=boxed_folder", f"dataset.root={root}", "dataset.transform.size=64"])
    assert tuple(build(config.dataset)[0].image.shape) == (3, 64, 64)
