"""The committed class maps, and the errors of a damaged one."""

from pathlib import Path

import pandas as pd
import pytest
from assay.harness.network import Network
from assay.harness.networks.class_maps import read_class_map
from assay.harness.networks.loading import class_groups
from conftest import ToyModule

ROOT = Path(__file__).resolve().parents[3]
MAPS = ROOT / "harness" / "networks" / "class_tables"
IMAGENET = ROOT.parent / "shared" / "data" / "imagenet" / "classes.csv"
VOC = [
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
]
COCO = [
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
    *("elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee"),
    *("skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard"),
    *("tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch"),
    *("potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
    *("microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear"),
    *("hair drier", "toothbrush"),
]
CLASSES = {"imagenet_to_voc": VOC, "imagenet_to_coco": COCO}
SAME = {  # VOC's name of a class and COCO's
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}


@pytest.mark.parametrize("name", CLASSES)
def test_a_committed_map_is_consistent(name: str) -> None:
    table = pd.read_csv(MAPS / f"{name}.csv")
    assert list(table.columns) == ["group", "wnid", "imagenet_index", "name"]
    assert table.notna().all(axis=None)
    assert table["wnid"].str.fullmatch(r"n\d{8}").all()
    assert not table["wnid"].duplicated().any()
    # ImageNet's index is the rank of the wnid, so both must rise together.
    assert table.sort_values("imagenet_index")["wnid"].is_monotonic_increasing
    groups = list(dict.fromkeys(table["group"]))
    assert groups == [name for name in CLASSES[name] if name in groups]


@pytest.mark.parametrize("name", CLASSES)
def test_indices_wnids_and_names_are_imagenets(name: str) -> None:
    if not IMAGENET.is_file():
        pytest.skip(f"no {IMAGENET}")
    known = pd.read_csv(IMAGENET).set_index("index")
    table = pd.read_csv(MAPS / f"{name}.csv").set_index("imagenet_index")
    pd.testing.assert_frame_equal(table[["wnid", "name"]], known.loc[table.index], check_names=False)


def test_voc_groups() -> None:
    members = dict(zip(VOC, read_class_map("harness/networks/class_tables/imagenet_to_voc.csv", VOC), strict=True))
    assert members["dog"] == list(range(151, 269))  # 118 breeds
    assert members["cat"] == list(range(281, 286))  # domestic ones
    assert len(members["bird"]) == 59
    assert members["horse"] == [339]
    assert members["person"] == []
    assert [name for name in VOC if not members[name]] == ["person"]


def test_coco_groups() -> None:
    members = dict(zip(COCO, read_class_map("harness/networks/class_tables/imagenet_to_coco.csv", COCO), strict=True))
    assert members["kite"] == []  # ImageNet's kite is a bird
    assert members["bear"] == [294, 295, 296, 297]
    assert members["person"] == []
    assert sum(map(bool, members.values())) == 61


def test_the_two_maps_agree_where_the_classes_are_the_same() -> None:
    voc = dict(zip(VOC, read_class_map(MAPS / "imagenet_to_voc.csv", VOC), strict=True))
    coco = dict(zip(COCO, read_class_map(MAPS / "imagenet_to_coco.csv", COCO), strict=True))
    different = [name for name in VOC if voc[name] != coco[SAME.get(name, name)]]
    assert different == ["car"]  # COCO has trucks, VOC counts vans and pickups as cars
    assert set(voc["car"]) - set(coco["car"]) <= set(coco["truck"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("dog,n1,151,a\nwolf,n2,269,b\n", r"groups \['wolf'\] are no classes .* its classes: dog, cat"),
        ("dog,n1,151,a\ncat,n2,151,b\n", r"ImageNet indices \[151\] appear twice"),
        ("dog,n1,1000,a\n", r"outside 0\.\.999"),
    ],
)
def test_a_wrong_row_is_named(rows: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "map.csv"
    path.write_text("group,wnid,imagenet_index,name\n" + rows)
    with pytest.raises(ValueError, match=message):
        read_class_map(path, ["dog", "cat"])


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "map.csv"
    path.write_text("group,index\ndog,151\n")
    with pytest.raises(ValueError, match="lacks the columns wnid, imagenet_index, name"):
        read_class_map(path, ["dog"])


def test_a_missing_file_names_the_shipped_ones() -> None:
    with pytest.raises(FileNotFoundError, match=r"class_tables/imagenet_to_coco\.csv, .*imagenet_to_voc\.csv"):
        read_class_map("imagenet_to_mnist.csv", VOC)


def test_members_are_plain_sorted_integers(tmp_path: Path) -> None:
    path = tmp_path / "map.csv"
    path.write_text("group,wnid,imagenet_index,name\ncat,n3,285,c\ndog,n1,152,a\ncat,n2,281,b\n")
    members = read_class_map(path, ["cat", "person", "dog"])
    assert members == [[281, 285], [], [152]]
    assert type(members[0][0]) is int


def test_outputs_with_names_of_their_own_are_not_grouped() -> None:
    """As of CLIP, whose rows may have another order than ImageNet's classes."""
    network = Network(ToyModule(), [0.0] * 3, [1.0] * 3)
    network.classes = ["cat", "dog"]
    with pytest.raises(ValueError, match=r"outputs have names \(cat, dog, \.\.\.\): give it the data set's own"):
        class_groups(network, "imagenet_to_voc", VOC)
