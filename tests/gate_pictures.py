"""Draws results/baselines/files: the few images that the gate reads as users' files are read.

    PYTHONPATH=. python tests/gate_pictures.py FOLDER

Embedded scenes of one to three shapes, enlarged to sizes that are not the networks', so that images are resized and
boxes are not. As PNG with a boxes.csv and a COCO JSON (polygons, a run-length crowd), and as JPEG in PASCAL's layout
with XML boxes and palette masks. Classes keep their index: scene class i is PASCAL class i.
"""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from assay.datasets.scenes import CLASSES, Scenes, tight_box
from assay.datasets.voc import CLASSES as VOC_CLASSES
from assay.datasets.voc import IGNORED
from PIL import Image

SIZES = ((96, 72), (72, 96), (80, 80), (110, 64))  # width, height
SCENES = {"coco": 40, "voc": 60, "parquet": 80}  # the first test scene of each kind; the gate's own are the first


class Drawn(NamedTuple):
    """A picture, and the mask [h,w] of each class in it."""

    name: str
    picture: Image.Image
    masks: dict[int, np.ndarray]

    def boxes(self) -> Iterator[tuple[int, tuple[int, int, int, int]]]:
        """Class and x0, y0, x1, y1, half-open."""
        return ((label, tight_box(mask)) for label, mask in self.masks.items())


def drawn(kind: str) -> Iterator[Drawn]:
    """A picture of each size."""
    scenes = Scenes("test", size=100)
    for number, size in enumerate(SIZES, SCENES[kind]):
        sample = scenes[number]
        pixels = Image.fromarray((sample.image * 255).round().byte().permute(1, 2, 0).numpy())
        assert isinstance(sample.mask, dict)
        masks = {label: enlarged(mask.numpy(), size) for label, mask in sample.mask.items()}
        yield Drawn(f"scene-{number}", pixels.resize(size, Image.Resampling.BICUBIC), masks)


def enlarged(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask at another size, (width, height), each pixel from the nearest."""
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def polygon(box: tuple[int, int, int, int]) -> list[float]:
    """The eight-cornered outline in a box: x, y, x, y, ..."""
    x0, y0, x1, y1 = box
    a, b = (x1 - x0) / 4, (y1 - y0) / 4
    corners = [(x0 + a, y0), (x1 - a, y0), (x1, y0 + b), (x1, y1 - b), (x1 - a, y1), (x0 + a, y1), (x0, y1 - b)]
    return [float(edge) for corner in [*corners, (x0, y0 + b)] for edge in corner]


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """COCO's uncompressed run-length code: runs of 0 and 1 by turns, columns first."""
    flat = mask.T.ravel()
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *ends, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def instances(pictures: list[Drawn]) -> dict[str, Any]:
    """COCO's JSON: polygons, but the last object of the last picture is a crowd."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, each in enumerate(pictures, 1):
        width, height = each.picture.size
        images.append({"id": number, "file_name": f"{each.name}.png", "width": width, "height": height})
        for label, (x0, y0, x1, y1) in each.boxes():
            about = {"id": len(annotations) + 1, "image_id": number, "category_id": label + 1, "iscrowd": 0}
            box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "segmentation": [polygon((x0, y0, x1, y1))]}
            annotations.append(about | box)
    annotations[-1] |= {"iscrowd": 1, "segmentation": run_lengths(list(pictures[-1].masks.values())[-1])}
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(CLASSES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco(folder: Path) -> None:
    """val2014/*.png, annotations/instances_val2014.json, boxes.csv, classes.txt."""
    pictures = list(drawn("coco"))
    (folder / "val2014").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for each in pictures:
        each.picture.save(folder / "val2014" / f"{each.name}.png", optimize=True)
    text = json.dumps(instances(pictures), indent=1)
    (folder / "annotations/instances_val2014.json").write_text(text + "\n")
    rows = [f"{each.name}.png,{CLASSES[c]},{','.join(map(str, box))}" for each in pictures for c, box in each.boxes()]
    (folder / "boxes.csv").write_text("\n".join(["image,class,x0,y0,x1,y1", *rows, ""]))
    (folder / "classes.txt").write_text("\n".join([*CLASSES, ""]))


def xml(each: Drawn, is_last: bool) -> str:
    """PASCAL's annotation: pixels counted from 1, both ends included; the last of several objects may be difficult."""
    width, height = each.picture.size
    objects = [
        f"  <object>\n    <name>{VOC_CLASSES[label]}</name>\n    <difficult>{int(is_last and number > 0)}</difficult>\n"
        f"    <bndbox><xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox>\n"
        "  </object>\n"
        for number, (label, (x0, y0, x1, y1)) in enumerate(each.boxes())
    ]
    size = f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>\n"
    return f"<annotation>\n{size}{''.join(objects)}</annotation>\n"


def write_voc(folder: Path) -> None:
    """PASCAL's devkit, and the class map that reads a network of scenes as one of PASCAL's classes."""
    home = folder / "VOCdevkit/VOC2007"
    for part in ("JPEGImages", "Annotations", "SegmentationClass"):
        (home / part).mkdir(parents=True)
    pictures = list(drawn("voc"))
    for each in pictures:
        each.picture.save(home / "JPEGImages" / f"{each.name}.jpg", quality=90)
        (home / "Annotations" / f"{each.name}.xml").write_text(xml(each, each is pictures[-1]))
        palette = np.zeros(each.picture.size[::-1], np.uint8)
        for label, mask in each.masks.items():
            palette[mask] = label + 1
            palette[mask ^ np.roll(mask, 1, 1)] = IGNORED  # a border, left and right
        Image.fromarray(palette).save(home / "SegmentationClass" / f"{each.name}.png", optimize=True)
    rows = [f"{VOC_CLASSES[index]},,{index},{name}" for index, name in enumerate(CLASSES)]
    (folder / "scenes_to_voc.csv").write_text("\n".join(["group,wnid,imagenet_index,name", *rows, ""]))


def write_parquet(folder: Path) -> None:
    """images.parquet, as Hugging Face has images: encoded, in a column of bytes and path."""
    images = []
    for each in drawn("parquet"):
        buffer = io.BytesIO()
        each.picture.save(buffer, "JPEG", quality=90)
        images.append({"bytes": buffer.getvalue(), "path": f"{each.name}.jpg"})
    pq.write_table(pa.table({"image": images}), folder / "images.parquet")


def write(folder: Path) -> None:
    """All of it, into a folder that is not there."""
    write_coco(folder)
    write_voc(folder)
    write_parquet(folder)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
