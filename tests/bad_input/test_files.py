"""Files that are not what they should be: each is refused by name with its mend, or read right; earlier work stays.

A case writes files below a folder and says which data set reads them. It is run as the command line runs it, in a
folder of results that holds a finished cell; that cell has the same bytes afterwards.
"""

import copy
import io
import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from assay.datasets.folder import Folder
from assay.harness import launch
from assay.harness.commands.program import call
from assay.harness.config import ConfigError, RunConfig
from assay.harness.console import exit_code
from assay.harness.detection import DetectorNeeds, Features, State
from assay.harness.overrides import compose_config
from assay.harness.pictures import Size, panels, tighten
from assay.harness.pictures import encoded as encoded_figure
from assay.harness.results.tables import read_tidy
from assay.harness.types import Sample
from PIL import Image
from torch import Tensor

import assay

RUN = ["model=scenes_vgg", "method=[edges]", "metric=[positive_ratio]", "compute.processes=1", "compute.device=cpu"]
PIXELS = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
REFUSED, FAILED, FINE = 2, 1, 0


def encoded(form: str = "PNG", pixels: np.ndarray = PIXELS, **how: Any) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, form, **how)
    return sink.getvalue()


def png_of(width: int, height: int) -> bytes:
    """A PNG that says it has so many pixels, of a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10))) + chunk(b"IEND", b"")


class Case(NamedTuple):
    """Files below a root (names may be bytes, contents None for a folder, a Path for a link), and what is said."""

    dataset: str
    files: dict[str | bytes, bytes | Path | None]
    code: int
    says: str
    settings: dict[str, Any] = {}  # noqa: RUF012  # of the data set

    def write(self, root: Path) -> None:
        for name, content in self.files.items():
            path = os.path.join(os.fsencode(root), os.fsencode(name))  # bytes
            os.makedirs(path if content is None else os.path.dirname(path), exist_ok=True)
            if isinstance(content, Path):
                os.symlink(content, path)
            elif content is not None:
                with open(path, "wb") as file:
                    file.write(content)


# Folders


def folder(code: int, says: str, **more: Any) -> Case:
    """Two classes of an image each, and more."""
    good: dict[str | bytes, Any] = {"a/0.png": encoded(), "b/0.png": encoded()}
    return Case("folder", good | more.pop("files", {}), code, says, more)


def image(name: str | bytes, content: bytes, code: int = REFUSED, says: str = "", **more: Any) -> Case:
    return folder(code, says, files={name: content}, **more)


EXIF = Image.Exif()
EXIF[0x0112] = 99
GIF = encoded("GIF", PIXELS, save_all=True, append_images=[Image.fromarray(255 - PIXELS)])

IMAGES = {
    "truncated_jpeg": image(
        "a/9.jpg", encoded("JPEG")[:900], says="1 of 3 images .*a/9.jpg cannot be read .*truncated"
    ),
    "empty": image("a/9.png", b"", says="a/9.png cannot be read as an image .no format that Pillow reads.: replace"),
    "text": image("a/9.png", b"<html>", says="a/9.png cannot be read as an image .no format"),
    "bomb": image("a/9.png", png_of(60_000, 60_000), says=r"a/9.png cannot .*3600000000 pixels. exceeds limit"),
    "two_broken": folder(
        REFUSED,
        r"2 of 4 images cannot be read \(unreadable=skip leaves them out\): .*a/8.png .*a/9.png",
        files={"a/8.png": b"", "a/9.png": b"x"},
    ),
    "broken_skipped": image("a/9.png", b"", FINE, "", unreadable="skip"),
    "skip_misspelt": image("a/9.png", b"", REFUSED, "unreadable='drop': choose refuse or skip", unreadable="drop"),
    "animated": image("a/9.gif", GIF, FINE),
    "exif_99": image("a/9.jpg", encoded("JPEG", exif=EXIF), FINE),
    "exif_broken": image("a/9.jpg", encoded("JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff\xff\xff"), FINE),
    "one_pixel": image("a/9.png", encoded(pixels=PIXELS[:1, :1]), FAILED, "1x1 pixels, width x height: a/9.png"),
    "too_small": image("b/9.png", encoded(pixels=PIXELS[:2, :2]), FAILED, "2x2 pixels, width x height: b/9.png"),
    "black": image("a/9.png", encoded(pixels=PIXELS * 0), FINE),
    "constant": image("a/9.png", encoded(pixels=PIXELS * 0 + 7), FINE),
    "negative_float": image("a/9.tiff", encoded("TIFF", np.full((64, 64), -1, np.float32)), says="a/9.tiff .*mode F"),
    "empty_class": folder(REFUSED, "class folder .*/c has no image but nothing in it", files={"c": None}),
    "one_class": Case("folder", {"a/0.png": encoded()}, FINE, ""),
    "no_class": image("9.png", encoded(), says="9.png lies in no class folder"),
    "link_loop": folder(REFUSED, "a/loop is a link back to .*which it lies in: remove", files={"a/loop": Path("..")}),
    "links_in_a_ring": folder(REFUSED, "is a link back to", files={"a/to_b": Path("../b"), "b/to_a": Path("../a")}),
    "link_to_itself": folder(REFUSED, "a/9.png cannot be opened .*Remove it", files={"a/9.png": Path("9.png")}),
    "dangling_link": folder(REFUSED, "a/9.png cannot be opened .*Remove it", files={"a/9.png": Path("gone.png")}),
    "no_utf8": image(b"a/caf\xe9.png", encoded(), says="bytes that are no UTF-8: rename it"),
    "longest_name": image("a/" + "x" * 251 + ".png", encoded(), FINE),
}

# boxes.csv

HEADER = "image,class,x0,y0,x1,y1\n"


def boxes(text: str | bytes, code: int, says: str = "") -> Case:
    content = text.encode() if isinstance(text, str) else text
    return Case("boxed_folder", {"a.png": encoded(), "boxes.csv": content}, code, says)


CSV = {
    "csv_empty": boxes("", REFUSED, r"boxes.csv:1: the header '' lacks image"),
    "csv_header_alone": boxes(HEADER, REFUSED, "boxes.csv has no box"),
    "csv_no_column": boxes("image,class,x0,y0,x1\na.png,o,1,2,3\n", REFUSED, "boxes.csv:1: .* lacks y1"),
    "csv_column_twice": boxes("image,class,x0,x0,y0,x1,y1\na.png,o,1,9,2,3,4\n", REFUSED, "header has x0 twice"),
    "csv_semicolons": boxes((HEADER + "a.png,o,1,2,9,9\n").replace(",", ";"), REFUSED, "parted by ';': save it with c"),
    "csv_no_image": boxes(HEADER + "b.png,o,1,2,9,9\n", REFUSED, "boxes.csv:2: no image at .*/b.png"),
    "csv_other_case": boxes(HEADER + "A.PNG,o,1,2,9,9\n", REFUSED, "boxes.csv:2: no image at .*/A.PNG"),
    "csv_away": boxes(HEADER + "../../a.png,o,1,2,9,9\n", REFUSED, "boxes.csv:2: ../../a.png is no name below"),
    "csv_no_class": boxes(HEADER + "a.png,,1,2,9,9\n", REFUSED, "boxes.csv:2: class is empty: give each box"),
    "csv_text": boxes(HEADER + "a.png,o,one,2,9,9\n", REFUSED, "boxes.csv:2: x0='one' is no number"),
    "csv_underscore": boxes(HEADER + "a.png,o,1_0,2,29,9\n", REFUSED, "boxes.csv:2: x0='1_0' is no number"),
    "csv_infinite": boxes(HEADER + "a.png,o,1,2,inf,9\n", REFUSED, r"boxes.csv:2: \[1.0, 2.0, inf, 9.0\] is no box"),
    "csv_nan": boxes(HEADER + "a.png,o,nan,2,9,9\n", REFUSED, r"boxes.csv:2: \[nan.* is no box"),
    "csv_inverted": boxes(HEADER + "a.png,o,9,2,1,9\n", REFUSED, "boxes.csv:2: .* is no box: give edges x0 < x1"),
    "csv_outside": boxes(HEADER + "a.png,o,1,2,90,9\n", REFUSED, r"boxes.csv:2: .* lies outside; .*a.png has 64x64"),
    "csv_shares": boxes(HEADER + "a.png,o,.1,.2,.7,.8\n", REFUSED, "are shares of the image: multiply x by"),
    "csv_latin1": boxes((HEADER + "a.png,ö,1,2,9,9\n").encode("latin-1"), REFUSED, "boxes.csv is no UTF-8 text"),
    "csv_zero_byte": boxes(HEADER + "a.png,o\0,1,2,9,9\n", REFUSED, "boxes.csv is no text, it has zero bytes"),
    "csv_open_quote": boxes(HEADER + '"a.png,o,1,2,9,9\n', REFUSED, "boxes.csv:2: no CSV .*quotation mark open"),
    "csv_mark": boxes(b"\xef\xbb\xbf" + (HEADER + "a.png,o,1,2,9,9\n").encode(), FINE),
    "csv_box_twice": boxes(HEADER + "a.png,o,1,2,9,9\n" * 2, FINE),
}

# COCO's JSON

BOX = {"id": 5, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 10], "segmentation": [[1, 2, 11, 2, 11, 12]]}
PICTURE = {"id": 1, "file_name": "a.png", "width": 64, "height": 64}
INSTANCES = {"categories": [{"id": 1, "name": "o"}], "images": [PICTURE], "annotations": [BOX]}


def coco(content: Any, says: str, code: int = REFUSED) -> Case:
    text = content if isinstance(content, str) else json.dumps(INSTANCES | content)
    where = "annotations/instances_val2017.json"
    return Case("coco17", {"val2017/a.png": encoded(), where: text.encode()}, code, says)


def box(**changed: Any) -> dict[str, Any]:
    return {"annotations": [BOX | changed]}


def rle(*counts: int) -> dict[str, Any]:
    return box(iscrowd=1, segmentation={"size": [64, 64], "counts": [*counts]})


JSON = {
    "json_truncated": coco(
        json.dumps(INSTANCES)[:-9], r"instances_val2017.json is no COCO instances file \(JSONDecode"
    ),
    "json_list": coco("[1, 2]", "no COCO .*it is no object with a list 'categories'"),
    "json_deep": coco("[" * 100_000, "no COCO instances file .RecursionError"),
    "json_no_images": coco({"images": None}, "it is no object with a list 'images'"),
    "json_no_bbox": coco({"annotations": [{"image_id": 1, "category_id": 1}]}, "entry 1 of annotations has no 'bbox'"),
    "json_three_edges": coco(box(bbox=[1, 2, 3]), r"annotation 5: bbox \[1, 2, 3\] is no x, y, width, height"),
    "json_text_edge": coco(box(bbox=["a", 2, 3, 4]), r"annotation 5: bbox \['a', 2, 3, 4\] is no x, y"),
    "json_infinite": coco(box(bbox=[1, 2, float("inf"), 4]), "annotation 5: bbox .*inf.* is no x, y"),
    "json_negative": coco(box(bbox=[9, 2, -3, 4]), "annotation 5: bbox .* has a negative width"),
    "json_outside": coco(box(bbox=[1, 2, 300, 4]), "annotation 5: .* lies outside of an image of 64x64 pixels"),
    "json_other_image": coco(box(image_id=77), "annotation 5 is of image 77, which `images` has not: leave it out"),
    "json_other_category": coco(box(category_id=7), "annotation 5 has category_id 7, categories are 1"),
    "json_image_twice": coco({"images": [PICTURE, PICTURE]}, "two images have the id 1"),
    "json_category_twice": coco({"categories": [{"id": 1, "name": "o"}] * 2}, "two categories have the id 1"),
    "json_name_twice": coco(
        {"categories": [{"id": 1, "name": "o"}, {"id": 2, "name": "o"}]}, "two categories have the name 'o'"
    ),
    "json_same_name": coco(
        {"images": [PICTURE, PICTURE | {"id": 2, "file_name": "a.png"}]}, "two images are called a: give each its own"
    ),
    "json_number_name": coco({"images": [PICTURE | {"file_name": 7}]}, "entry 1 of images has file_name=7: give a str"),
    "json_text_width": coco({"images": [PICTURE | {"width": "64"}]}, "entry 1 of images has width='64'"),
    "json_other_size": coco({"images": [PICTURE | {"width": 640}]}, "a.png is 64x64 pixels .* the JSON says 640x64"),
    "json_away": coco({"images": [PICTURE | {"file_name": "../a.png"}]}, "../a.png is no name below"),
    "json_crowd_text": coco(box(iscrowd="0"), "annotation 5: iscrowd='0': give 0 or 1"),
    "rle_short": coco(rle(5, 6), "segmentation in a.png: RLE of 2 counts that are not the image's 4096 pixels"),
    "rle_negative": coco(rle(-5, 4101), "segmentation in a.png: RLE of 2 counts"),
    "rle_no_code": coco(box(segmentation={"size": [64, 64], "counts": "garbage!!"}), "segmentation in a.png: "),
    "rle_other_size": coco(
        box(segmentation={"size": [64, 32], "counts": [2048]}), r"RLE of size \[64, 32\] in an image"
    ),
    "rle_no_size": coco(box(segmentation={"counts": [4096]}), "is neither polygons nor an RLE with size and counts"),
    "polygon_nan": coco(box(segmentation=[[1, 2, float("nan"), 4, 5, 6]]), "polygon .*nan.* is no list of numbers"),
    "polygon_odd": coco(box(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), "a polygon of 7 numbers"),
    "polygon_far": coco(box(segmentation=[[1, 2, 1e12, 2, 9, 9]]), "a polygon .* lies outside of an image of 64x64"),
    "crowd_alone": coco(rle(96, 4000), "", FINE),
    "no_annotation": coco({"annotations": []}, "", FINE),
}

# PASCAL VOC

OBJECT = "<object><name>cat</name><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>30</xmax><ymax>20</ymax></bndbox></object>"
LAUGHS = "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9))


def voc(xml: str, says: str, mask: bytes | None = None) -> Case:
    """Every error is found before the network's classes are looked at; no network has VOC's here."""
    where = "VOCdevkit/VOC2007/"
    files: dict[str | bytes, Any] = {
        f"{where}JPEGImages/a.jpg": encoded("JPEG"),
        f"{where}Annotations/a.xml": xml.encode(),
        f"{where}ImageSets/Main/test.txt": b"a\n",
        f"{where}ImageSets/Segmentation/test.txt": b"a\n",
    }
    extra: dict[str | bytes, Any] = {} if mask is None else {f"{where}SegmentationClass/a.png": mask}
    return Case("voc07", files | extra, REFUSED, says, {"mask": "none" if mask is None else "class"})


def annotated(inner: str = OBJECT) -> str:
    return f"<annotation>{inner}</annotation>"


def palette(values: np.ndarray) -> bytes:
    sink, picture = io.BytesIO(), Image.fromarray(values.astype(np.uint8)).convert("P")
    picture.save(sink, "PNG")
    return sink.getvalue()


XML = {
    "xml_classes": voc(annotated(), "voc07 has 20 classes .* and scenes_vgg 11 outputs: choose the network"),
    "xml_broken": voc(annotated()[:-9], "a.xml is no annotation in PASCAL/ILSVRC XML .unclosed"),
    "xml_empty": voc("", "a.xml is no annotation in PASCAL/ILSVRC XML .no element found"),
    "xml_html": voc("<html></html>", "a.xml is no annotation .*its root is <html>, not <annotation>"),
    "xml_size_text": voc(annotated(f"<size><width>x</width></size>{OBJECT}"), "a.xml is no annotation .*'x'"),
    "xml_no_box": voc(annotated("<object><name>cat</name></object>"), "a.xml .*the object 'cat' has no bndbox"),
    "xml_nan": voc(annotated(OBJECT.replace(">2<", ">nan<")), r"the object 'cat': \[nan, .* is no box"),
    "xml_infinite": voc(annotated(OBJECT.replace(">2<", ">-inf<")), r"the object 'cat': \[-inf, .* is no box"),
    "xml_inverted": voc(annotated(OBJECT.replace(">2<", ">50<")), "the object 'cat': .* is no box: give edges x0 < x1"),
    "xml_outside": voc(
        annotated(OBJECT.replace(">20<", ">200<")), "'cat': .* lies outside of an image of 64x64 pixels"
    ),
    "xml_difficult": voc(annotated(OBJECT.replace("<name>", "<difficult>yes</difficult><name>")), "difficult=yes: "),
    "xml_unknown": voc(annotated(OBJECT.replace("cat", "unicorn")), "a.xml: unicorn unknown; PASCAL VOC's classes are"),
    "xml_laughs": voc(
        f'<!DOCTYPE l [<!ENTITY a "lol">{LAUGHS}]>{annotated("<object>&j;</object>")}', "a.xml is no annot"
    ),
    "xml_external": voc(
        f'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>{annotated("<object>&x;</object>")}', "undefined entity"
    ),
    "mask_other_size": voc(
        annotated(), "SegmentationClass/a.png is 64x32, its image 64x64", palette(np.zeros((32, 64)))
    ),
    "mask_colours": voc(annotated(), "a.png has mode RGB, not a palette", encoded()),
    "mask_unknown": voc(annotated(), "palette indices that are no PASCAL VOC class", encoded(pixels=PIXELS[:, :, 0])),
    "mask_text": voc(annotated(), "SegmentationClass/a.png cannot be read as a PNG", b"no png"),
    "mask_bomb": voc(annotated(), "SegmentationClass/a.png cannot be read as a PNG .*exceeds", png_of(60_000, 60_000)),
}

# Parquet

ROW = {"bytes": encoded(), "path": None}


def parquet(images: list[Any], says: str, labels: Any = None, code: int = REFUSED, **how: Any) -> Case:
    table = pa.table({how.get("column", "image"): images, "label": [0] * len(images) if labels is None else labels})
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(how.get("metadata", {})), sink)
    return Case("parquet", {"a.parquet": sink.getvalue()[: how.get("stop")]}, code, says)


PARQUET = {
    "parquet_null": parquet([ROW, None], "1 of 2 images cannot be read .*a.parquet: row 1 holds no image bytes"),
    "parquet_text": parquet([{"bytes": b"text", "path": None}], "a.parquet: row 0 cannot be read as an image"),
    "parquet_column": parquet([ROW], "a.parquet has no column 'image' but picture, label", column="picture"),
    "parquet_numbers": parquet([5], "a.parquet: column 'image' holds int64, no image bytes"),
    "parquet_paths": parquet(["a.png"], "a.parquet: column 'image' holds string, no image bytes"),
    "parquet_float_label": parquet([ROW], "column 'label' holds no whole numbers: name another", [0.5]),
    "parquet_huge_label": parquet([ROW], "label 1000000000000 is no index of a class", [10**12]),
    "parquet_999": parquet([ROW], "parquet has 1000 classes .* and scenes_vgg 11 outputs: choose", [999]),
    "parquet_negative": parquet([ROW, ROW], "a/000000: label -5 is none of 1 classes", [-5, 0]),
    "parquet_truncated": parquet([ROW], "a.parquet is no parquet file .*fetch it again", stop=-40),
    "parquet_metadata": parquet([ROW], "a.parquet: its metadata are not Hugging Face's", metadata={"huggingface": "{"}),
    "parquet_nothing": parquet([None], "1 of 1 images cannot be read .*row 0 holds no image bytes"),
    "parquet_no_label": parquet([ROW, ROW], "", [0, None], FINE),
}

CASES = IMAGES | CSV | JSON | XML | PARQUET


class Earlier(NamedTuple):
    """A folder of results with one finished cell, and configs by data set: to compose one takes a while."""

    results: Path
    configs: dict[str, RunConfig]
    cell: Path

    def config(self, dataset: str, root: Path, settings: dict[str, Any]) -> RunConfig:
        if dataset not in self.configs:
            self.configs[dataset] = compose_config([*RUN, f"dataset={dataset}", f"results={self.results}"])
        config = copy.deepcopy(self.configs[dataset])
        config.dataset.settings.update({"root": str(root), "transform": {"mode": "none"}, **settings})
        return config

    def held(self) -> dict[str, bytes]:
        """Of the finished cell."""
        return {str(path): path.read_bytes() for path in sorted(self.cell.rglob("*")) if path.is_file()}


def outcome(config: RunConfig) -> int:
    """The exit code, as the command would end; what it says goes where the command says it."""
    try:
        return launch.run(config, [])
    except (ConfigError, OSError) as error:
        print(error)
        return exit_code(error)


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Earlier:
    results = tmp_path_factory.mktemp("results")
    assert launch.run(compose_config([*RUN, "dataset=scenes", "limit=4", f"results={results}"]), []) == 0
    (cell,) = (path.parent for path in (results / "store").glob("*/cell.json"))
    return Earlier(results, {}, cell)


@pytest.mark.parametrize("name", CASES)
def test_a_bad_file(name: str, earlier: Earlier, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its exit code, the message in one line, and the earlier cell as it was."""
    case, before = CASES[name], earlier.held()
    case.write(tmp_path)
    code = outcome(earlier.config(case.dataset, tmp_path, case.settings))
    said = "".join(capsys.readouterr())
    assert code == case.code, said
    if case.says:
        assert pd.Series([said]).str.contains(case.says).item(), said
    assert earlier.held() == before


# Right values


def test_an_animation_is_its_first_frame_and_a_wrong_exif_turns_nothing(tmp_path: Path) -> None:
    grey = np.repeat(PIXELS[:, :, :1], 3, 2)
    for name, content in (("0.gif", encoded("GIF", grey[:, :, 0], save_all=True)), ("1.png", encoded(pixels=grey))):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "2.png").write_bytes(encoded(pixels=grey, exif=EXIF))
    data = Folder(str(tmp_path), labels="none", transform={"mode": "none"})
    assert all(np.array_equal((data[n].image * 255).round().permute(1, 2, 0).numpy(), grey) for n in range(3))


NAMES = ("x\ny", "=HYPERLINK(1)", "-1", "+1", "@x", "NA", "nan", "<script>", "[red]", "a#1", "Ä", "X", "x", "$\\frac$")


def test_names_stay_what_they_are(tmp_path: Path) -> None:
    """Of files and of classes: line ends, markup, formulas, `NA`, two that differ in case; each sample once."""
    for name in NAMES:
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.png").write_bytes(encoded())
    data = Folder(str(tmp_path), transform={"mode": "none"})
    assert set(data.classes) == set(NAMES)
    table = assay.samples("scenes_vgg", data, "edges", "positive_ratio", overrides=["protocol=top1"])
    assert sorted(table["image_id"]) == sorted(f"{name}/{name}.png" for name in NAMES)
    assert table.filter(like="positive_ratio.").notna().all(None)


@pytest.mark.parametrize("name", ["NA", "nan", "None", "#N/A"])
def test_a_data_set_called_nothing(name: str, tmp_path: Path) -> None:
    """A reader of tables would take it for no data set."""
    words = [*RUN, "dataset=scenes", "limit=2", f"dataset.name='{name}'", f"results={tmp_path}"]
    with pytest.raises(ConfigError, match=r"dataset\.name=.* is what readers of tables take for no value: files are "):
        compose_config(words)


@pytest.mark.parametrize("word", ["dataset.name='=1+1'", "dataset.name='-1'", "dataset.name='@x'"])
def test_a_name_that_a_spreadsheet_would_compute(word: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.name=.* begins with .: .*not beginning with one of \. = \+ - @"):
        compose_config([*RUN, "dataset=scenes", word, f"results={tmp_path}"])


def test_a_split_that_a_spreadsheet_would_compute(earlier: Earlier, tmp_path: Path) -> None:
    folder(FINE, "").write(tmp_path)
    with pytest.raises(ConfigError, match=r"the split of dataset folder=.1.1 begins with ="):
        launch.run(earlier.config("folder", tmp_path, {"split": "=1+1"}), [])


# Samples of one id, one sample, one class, one score


class Twins:
    """Images of one id."""

    classes, split = ("a", "b"), "test"

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Sample:
        pixels = np.random.default_rng(index).random((3, 64, 64), np.float32)
        return Sample("twin", torch.from_numpy(pixels), (index % 2,), (64, 64))

    def fingerprint(self) -> str:
        return "twins"


@pytest.mark.parametrize(("method", "metric"), [("edges", "positive_ratio"), ("msp", "error_detection")])
def test_two_images_of_one_id(method: str, metric: str) -> None:
    """In tables they would be one image, and in a folder of maps one file."""
    with pytest.raises(ConfigError, match="1 ids stand for more than one image: 'twin'; give each sample its own id"):
        assay.evaluate("scenes_vgg", Twins(), method, metric)


def test_one_image_has_no_interval() -> None:
    rows = assay.evaluate("scenes_vgg", "scenes", "edges", "positive_ratio", overrides=["limit=1"])
    mean = rows[rows["stat"] == "mean"]
    assert (
        (mean["n"] == 1).all()
        and mean["value"].notna().all()
        and mean[["ci_low", "ci_high", "stderr"]].isna().all(None)
    )


class Same:
    """A detector that says the same of every image."""

    VERSION = 1

    def needs(self) -> DetectorNeeds:
        return DetectorNeeds()

    def score(self, features: Features, state: State) -> Tensor:
        return features.logits[:, 0] * 0


def test_no_errors_and_one_score() -> None:
    """Nothing to tell apart is undefined and says why; equal scores are a half."""
    overrides = ["dataset.size=3", "ood.scenes_noise.size=3", "metric.ood.resamples=20"]

    table = assay.evaluate(
        "scenes_vgg", "scenes", {"same": Same()}, ["ood", "error_detection"], ood=["scenes_noise"], overrides=overrides
    )
    of = table[table["metric"] == "ood"]
    assert (of.loc[of["stat"] == "auroc", "value"] == 0.5).all() and (of["stat"] == "auroc").any()
    errors = table[(table["metric"] == "error_detection") & (table["stat"] == "auroc")]
    assert errors["value"].isna().all() and errors["status"].str.startswith("undefined:").all()


# Left out and said


def test_what_is_left_out_is_left_out_of_each_run(earlier: Earlier, tmp_path: Path) -> None:
    """The second run has the same images: nothing is computed again; the split counts what is missing."""
    image("a/9.png", b"", FINE).write(tmp_path)
    config = earlier.config("folder", tmp_path, {"unreadable": "skip", "split": "mine"})
    runs = [launch.build_run(config, earlier.results / "store") for _ in range(2)]
    assert runs[0].run_id == runs[1].run_id
    assert launch.run(config, []) == 0
    assert runs[1].missing() == []
    table = read_tidy(earlier.results / "tidy/results.csv")
    assert set(table.loc[table["split"].str.startswith("mine"), "split"]) == {"mine-1unreadable"}
    assert any("1 images left out (unreadable=skip): " in line for line in runs[0].describe())


def test_judged_images_that_are_left_out_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One named twice, or that is none, is refused; skipped, it is said which one has no verdict."""
    image("a/9.png", b"no image", FINE).write(tmp_path)
    words = ["detect", "experiment=ood_embedded", "dataset.size=20", "method=[msp]", f"results={tmp_path / 'out'}"]
    good, bad = str(tmp_path / "a/0.png"), str(tmp_path / "a/9.png")
    assert call([*words, good, good]) == REFUSED
    assert f"two images are called {good}" in capsys.readouterr().err
    assert call([*words, good, bad]) == FAILED
    assert "9.png cannot be read as an image" in capsys.readouterr().err
    assert call([*words, good, bad, "ood.files.unreadable=skip"]) == FINE
    said = capsys.readouterr()
    assert good in said.out and bad not in said.out
    assert "files: 1 images left out (unreadable=skip): " in said.err and bad in said.err


def test_names_are_no_formulas_in_pictures(tmp_path: Path) -> None:
    """`$\\frac$` is a class' name; as a formula it would end a gallery."""
    figure, axes = panels(2, 2, Size(2, 2))
    for axis in axes:
        axis.set_title("$\\frac$")
        axis.set_xlabel("$^$")
    tighten(figure)
    assert encoded_figure(figure).startswith(b"\x89PNG")
