"""COCO instances on a made-up miniature (polygons, RLE, crowds, bad input) and on the shared images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from assay.datasets.coco import COCO, decode
from assay.datasets.decoding import DataError
from assay.harness.frames import rasterise_boxes
from PIL import Image
from pycocotools import mask as coco_mask

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no COCO images at {SHARED}")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
SIZE = (30, 40)  # height, width
PERSON, CAT, CUP = range(3)  # ranks of ids 1, 17, 47


def rectangle(x0: int, y0: int, x1: int, y1: int) -> list[list[float]]:
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def pixels(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    mask[y0:y1, x0:x1] = 1
    return mask


def rle(mask: np.ndarray) -> dict[str, Any]:
    """Uncompressed RLE, column by column, as COCO's crowds have it."""
    flat = mask.T.flatten()
    starts = np.flatnonzero(np.diff(np.concatenate([[0], flat, [2]]))) if flat[0] == 0 else None
    assert starts is not None
    return {"size": list(mask.shape), "counts": np.diff(np.concatenate([[0], starts])).tolist()}


def annotation(image: int, category: int, box: list[float], segmentation: Any, crowd: int = 0) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": box, "segmentation": segmentation, "iscrowd": crowd}


@pytest.fixture
def content() -> dict[str, Any]:
    """Image 5: a cat, a crowd of people and one of cups; image 9: nothing."""
    return {
        "categories": [{"id": 47, "name": "cup"}, {"id": 1, "name": "person"}, {"id": 17, "name": "cat"}],
        "images": [
            {"id": 9, "file_name": "000000000009.jpg", "height": 30, "width": 40},
            {"id": 5, "file_name": "000000000005.jpg", "height": 30, "width": 40},
        ],
        "annotations": [
            annotation(5, 17, [2, 3, 10, 8], rectangle(2, 3, 12, 11)),
            annotation(5, 17, [20.5, 3, 4.25, 5], rectangle(20, 3, 24, 8)),
            annotation(5, 1, [0, 20, 40, 10], rle(pixels(0, 20, 40, 30)), crowd=1),
            annotation(5, 1, [1, 1, 2, 2], rectangle(1, 1, 3, 3)),
            annotation(5, 47, [30, 1, 5, 5], rle(pixels(30, 1, 35, 6)), crowd=1),
        ],
    }


def write(root: Path, content: dict[str, Any]) -> Path:
    (root / "annotations").mkdir(exist_ok=True)
    (root / "val2017").mkdir(exist_ok=True)
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    for image in content["images"]:
        Image.new("RGB", (40, 30), (10, 200, 90)).save(root / "val2017" / image["file_name"])
    return root


def load(root: Path, **settings: object) -> COCO:
    return COCO(str(root), **{"transform": {"mode": "none"}, **settings})  # type: ignore[arg-type]


def test_by_hand(tmp_path: Path, content: dict[str, Any]) -> None:
    data = load(write(tmp_path, content))
    assert (len(data), data.split, data.classes) == (2, "val", ["person", "cat", "cup"])
    sample, empty = data[0], data[1]  # sorted by image id
    assert (sample.id, sample.size0) == ("000000000005", SIZE)
    assert sample.targets == (PERSON, CAT)  # cups come only as a crowd
    assert sample.boxes[CAT].tolist() == [[2, 3, 12, 11], [20.5, 3, 24.75, 8]]
    assert len(sample.boxes[PERSON]) == 2  # a crowd counts for the region
    assert isinstance(sample.mask, dict)
    assert sample.mask[PERSON].int().numpy().tolist() == (pixels(0, 20, 40, 30) | pixels(1, 1, 3, 3)).tolist()
    assert int(sample.mask[CAT].sum()) == 10 * 8 + 4 * 5
    assert sample.difficult == {PERSON: False, CAT: True, CUP: True}
    assert (empty.targets, empty.boxes, empty.mask) == ((), {}, {})


def test_crowds_can_be_targets(tmp_path: Path, content: dict[str, Any]) -> None:
    sample = load(write(tmp_path, content), crowd_only_targets=True)[0]
    assert sample.targets == (PERSON, CAT, CUP)
    assert isinstance(sample.mask, dict)
    assert sample.mask[CUP].int().numpy().tolist() == pixels(30, 1, 35, 6).tolist()


def test_compressed_rle_is_the_same(tmp_path: Path) -> None:
    mask = pixels(3, 4, 20, 9)
    code = coco_mask.encode(np.asfortranarray(mask))
    assert decode(code, SIZE).int().numpy().tolist() == mask.tolist()
    assert decode(rle(mask), SIZE).int().numpy().tolist() == mask.tolist()


@pytest.mark.parametrize("segmentation", [[], [[]], [[1, 1, 5, 5]]])
def test_a_polygon_without_area_covers_nothing(segmentation: list) -> None:
    assert not decode(segmentation, SIZE).any()


def test_masks_on_request(tmp_path: Path, content: dict[str, Any]) -> None:
    root = write(tmp_path, content)
    assert load(root, mask="none")[0].mask is None
    foreground = load(root, mask="foreground")
    mask, empty = foreground[0].mask, foreground[1].mask
    assert isinstance(mask, torch.Tensor)
    assert int(mask.sum()) == 400 + 4 + 100 + 25
    assert isinstance(empty, torch.Tensor)
    assert not empty.any()
    with pytest.raises(DataError, match="choose one of none, class, foreground"):
        load(root, mask="all")


def test_a_crop_moves_the_masks(tmp_path: Path, content: dict[str, Any]) -> None:
    sample = load(write(tmp_path, content), transform={"mode": "crop", "size": 30, "resize": 30})[0]
    assert isinstance(sample.mask, dict)
    assert {label: tuple(mask.shape) for label, mask in sample.mask.items()} == {PERSON: (30, 30), CAT: (30, 30)}
    assert int(sample.mask[CAT].sum()) == 7 * 8 + 4 * 5  # columns 5 to 34 remain
    assert sample.boxes[CAT].tolist() == [[0, 3, 7, 11], [15.5, 3, 19.75, 8]]


def test_excluded_classes(tmp_path: Path, content: dict[str, Any]) -> None:
    root = write(tmp_path, content)
    assert load(root, exclude_classes=["person"])[0].targets == (CAT,)
    with pytest.raises(DataError, match="exclude_classes: dog unknown; classes are person, cat, cup"):
        load(root, exclude_classes=["dog"])


def test_a_box_of_zero_area_is_dropped(tmp_path: Path, content: dict[str, Any]) -> None:
    content["annotations"] = [annotation(5, 17, [3, 3, 0, 5], rectangle(3, 3, 3, 8))]
    sample = load(write(tmp_path, content))[0]
    assert (sample.targets, sample.boxes, sample.mask) == ((), {}, {})


def test_missing_parts_say_what_to_do(tmp_path: Path, content: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"no file .*instances_val2014\.json.*Put the images at"):
        COCO(str(tmp_path), 2014)
    (write(tmp_path, content) / "val2017" / "000000000009.jpg").unlink()
    with pytest.raises(DataError, match=r"no file .*000000000009\.jpg"):
        load(tmp_path)


def test_a_corrupt_jpeg_is_named(tmp_path: Path, content: dict[str, Any]) -> None:
    path = write(tmp_path, content) / "val2017" / "000000000005.jpg"
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(DataError, match=r"000000000005\.jpg cannot be read"):
        load(tmp_path)[0]


def test_an_image_of_another_size_is_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    Image.new("RGB", (20, 15)).save(write(tmp_path, content) / "val2017" / "000000000005.jpg")
    with pytest.raises(DataError, match=r"is 20x15 pixels \(width x height\), the JSON says 40x30"):
        load(tmp_path)[0]


def test_a_bad_json_is_named(tmp_path: Path, content: dict[str, Any]) -> None:
    path = write(tmp_path, content) / "annotations" / "instances_val2017.json"
    for text in ("{", "[]", json.dumps({**content, "annotations": [annotation(5, 3, [0, 0, 1, 1], [])]})):
        path.write_text(text)
        with pytest.raises(DataError, match=r"instances_val2017\.json is no COCO instances file"):
            load(tmp_path)


def test_an_rle_of_another_size_is_named(tmp_path: Path, content: dict[str, Any]) -> None:
    content["annotations"] = [annotation(5, 1, [0, 0, 9, 9], {"size": [3, 3], "counts": [9]}, 1)]
    with pytest.raises(DataError, match=r"segmentation in 000000000005\.jpg: RLE of size \[3, 3\]"):
        load(write(tmp_path, content))[0]


@needs_shared
@pytest.mark.realdata
def test_shared_images() -> None:
    data = COCO(str(SHARED), transform={"mode": "shorter"})
    samples = [data[index] for index in range(len(data))]
    assert len(samples) == 100
    assert len(data.classes) == 80
    assert sum(len(b) for s in samples for b in s.boxes.values()) == 967
    for sample in samples:
        assert isinstance(sample.mask, dict)
        for label in sample.targets:
            mask, boxes = sample.mask[label], sample.boxes[label]
            assert (boxes >= 0).all()
            assert (boxes[:, 2:] <= torch.tensor(sample.size0[::-1])).all()
            grown = boxes + torch.tensor([-1.5, -1.5, 1.5, 1.5])
            inside = rasterise_boxes(grown[None], torch.tensor([sample.size0]))[0]
            assert mask.any()
            assert not (mask & ~inside).any(), (sample.id, data.classes[label])


@needs_shared
@pytest.mark.realdata
def test_masks_are_those_of_pycocotools(capsys: pytest.CaptureFixture[str]) -> None:
    from pycocotools.coco import COCO as Official

    official = Official(str(SHARED / "annotations" / "instances_val2017.json"))
    ids = sorted(official.getCatIds())
    data = COCO(str(SHARED))
    for index in range(0, 100, 9):
        sample = data[index]
        assert isinstance(sample.mask, dict)
        for label in sample.targets:
            found = official.loadAnns(official.getAnnIds(imgIds=[int(sample.id)], catIds=[ids[label]]))
            expected = np.logical_or.reduce([official.annToMask(each) for each in found])
            assert np.array_equal(sample.mask[label].numpy(), expected)


@needs_shared
@pytest.mark.realdata
def test_a_shared_image_in_detail() -> None:
    sample = COCO(str(SHARED), transform={"mode": "shorter"})[0]
    assert (sample.id, sample.size0, sample.targets) == ("000000000802", (640, 424), (69, 72))  # oven, refrigerator
    assert sample.boxes[69].tolist() == [pytest.approx([33.08, 289.08, 159.64, 520.63], abs=1e-3)]
    assert sample.difficult == {69: True, 72: True}  # 52,336 of 271,360 pixels are less than a quarter
