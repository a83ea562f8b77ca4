"""Image parquet in Hugging Face's layout, made up and shared."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from assay.datasets.decoding import DataError
from assay.datasets.parquet import CACHED_GROUPS, Parquet
from assay.harness.types import Sample
from PIL import Image
from torch.utils.data import DataLoader

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no parquet files at {SHARED}")


def encoded(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, images: list[Any], labels: list[Any] | None, metadata: dict[str, str] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"image": images} | ({} if labels is None else {"label": labels})
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=2)


def cells(*values: int) -> list[dict[str, Any]]:
    return [{"bytes": encoded(value), "path": None} for value in values]


def load(root: Path, files: str = "*.parquet", **settings: object) -> Parquet:
    return Parquet(str(root), files, **{"transform": {"mode": "none"}, **settings})  # type: ignore[arg-type]


def test_rows_of_several_files_in_order(tmp_path: Path) -> None:
    write(tmp_path / "data/test-00001.parquet", cells(50, 60, 70), [1, 0, -1])
    write(tmp_path / "data/test-00000.parquet", cells(10, 20, 30, 40, 45), [0, 1, 2, None, 1])
    data = load(tmp_path, "data/test-*.parquet")
    assert (len(data), data.classes) == (8, ["0", "1", "2"])
    order = [3, 7, 0, 5, 1, 6, 2, 4]  # across groups and files
    red = {index: round(float(data[index].image[0, 0, 0]) * 255) for index in order}
    assert [red[index] for index in range(8)] == [10, 20, 30, 40, 45, 50, 60, 70]
    assert [data[index].targets for index in range(8)] == [(0,), (1,), (2,), (), (1,), (1,), (0,), ()]
    assert [data[index].id for index in (4, 5)] == ["data/test-00000/000004", "data/test-00001/000000"]
    assert data[0].size0 == (4, 6)
    for index in (8, -1):
        with pytest.raises(IndexError, match="choose 0 to 7"):
            data[index]


def test_few_groups_stay_in_memory(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", cells(*range(20)), None)
    data = load(tmp_path)
    assert [len(data[index].targets) for index in range(20)] == [0] * 20
    assert len(data.groups) == 10
    assert len(data.cache) == CACHED_GROUPS


def test_names_of_classes(tmp_path: Path) -> None:
    features = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    write(tmp_path / "hf.parquet", cells(1), [1], {"huggingface": json.dumps({"info": {"features": features}})})
    write(tmp_path / "plain.parquet", cells(1), [1], {"classes": "x,y"})
    assert load(tmp_path, "hf.parquet").classes == ["cat", "dog"]
    assert load(tmp_path, "plain.parquet").classes == ["x", "y"]
    assert load(tmp_path, "plain.parquet", classes=["p", "q", "r"]).classes == ["p", "q", "r"]
    with pytest.raises(DataError, match="label 1 is none of 1 classes"):
        load(tmp_path, "plain.parquet", classes=["p"])[0]


def test_bare_bytes_and_other_column_names(tmp_path: Path) -> None:
    table = pa.table({"img": [encoded(9)], "fine": [0], "name": ["x"]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert load(tmp_path, image_column="img", label_column="fine")[0].targets == (0,)
    with pytest.raises(DataError, match=r"a\.parquet has no column 'image' but img, fine, name"):
        load(tmp_path)
    with pytest.raises(DataError, match="column 'name' holds no whole numbers"):
        load(tmp_path, image_column="img", label_column="name")


def test_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file \*\.parquet at .*Put the parquet files"):
        load(tmp_path)
    write(tmp_path / "a.parquet", [{"bytes": encoded(1)[:40], "path": ""}, {"bytes": None, "path": "x.png"}], [0, 0])
    data = load(tmp_path)
    with pytest.raises(DataError, match=r"a\.parquet: row 0 cannot be read as an image"):
        data[0]
    with pytest.raises(DataError, match="row 1 holds no image bytes"):
        data[1]
    (tmp_path / "a.parquet").write_text("no parquet")
    with pytest.raises(DataError, match=r"a\.parquet is no parquet file"):
        load(tmp_path)


def test_fingerprint_follows_the_contents(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", cells(1, 2), [0, 1])
    before = load(tmp_path).fingerprint()
    assert load(tmp_path).fingerprint() == before
    write(tmp_path / "a.parquet", cells(1, 2), [1, 0])
    assert load(tmp_path).fingerprint() != before


@needs_shared
@pytest.mark.realdata
@pytest.mark.parametrize(
    ("file", "count", "first"), [("original-test.parquet", 1017, "cat"), ("test.parquet", 10000, "truck")]
)
def test_shared_cifar10(file: str, count: int, first: str) -> None:
    data = load(SHARED, file)
    assert (len(data), data.classes[3]) == (count, "cat")
    labels = np.bincount([data[index].targets[0] for index in range(1000)], minlength=10)
    assert labels.min() > 70
    assert tuple(data[0].image.shape) == (3, 32, 32)
    assert [data.classes[label] for label in data[0].targets] == [first]  # seen


@needs_shared
@pytest.mark.realdata
def test_shared_textures_have_no_labels() -> None:
    data = load(SHARED, "ood-textures-32.parquet")
    assert (len(data), data[599].targets, tuple(data[0].image.shape)) == (600, (), (3, 32, 32))


@needs_shared
@pytest.mark.realdata
def test_loader_processes_read_the_same() -> None:
    data = load(SHARED, "original-test.parquet")
    here = torch.stack([data[index].image for index in range(0, 60)])
    loader: DataLoader[Sample] = DataLoader(data, batch_size=20, num_workers=2, collate_fn=list)  # type: ignore[arg-type]
    there = torch.stack([s.image for samples in loader for s in samples][:60])
    assert torch.equal(here, there)


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    """Labels in some files alone would be lost in all; other names of classes would make a label mean two things."""
    image = {"bytes": encoded(1), "path": ""}
    pq.write_table(pa.table({"image": [image], "label": [0]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"image": [image]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet has no column 'label', and others of \*\.parquet have"):
        load(tmp_path)
    table = pa.table({"image": [image], "label": [0]})
    for name, classes in (("a", "cat,dog"), ("b", "dog,cat")):
        pq.write_table(table.replace_schema_metadata({"classes": classes}), tmp_path / f"{name}.parquet")
    with pytest.raises(DataError, match=r"b\.parquet names other classes \(dog, cat, \.\.\.\) than .*a\.parquet"):
        load(tmp_path)
    assert len(load(tmp_path, classes=["cat", "dog"])) == 2


def test_damaged_pages_are_named(tmp_path: Path) -> None:
    """Of labels, before anything is read; of images, when they are; in one line."""
    pq.write_table(pa.table({"image": [{"bytes": encoded(1), "path": ""}], "label": [0]}), tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    metadata = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0)
    message = r"a\.parquet cannot be read \(.*\): fetch the file again$"
    for name in ("label", "image.bytes"):
        (column,) = (metadata.column(n) for n in range(3) if metadata.column(n).path_in_schema == name)
        start = column.dictionary_page_offset
        (tmp_path / "a.parquet").write_bytes(whole[:start] + bytes([255] * 12) + whole[start + 12 :])
        with pytest.raises(DataError, match=message):
            load(tmp_path)[0]
