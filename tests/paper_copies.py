"""What the papers' commands read, made up and small: data sets as they are published, networks by layers' names."""

import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from assay.harness.networks import caffe, loading
from PIL import Image
from torch import nn

SIZE = (60, 40)  # width, height
WNIDS = [f"n{10000000 + 7 * number}" for number in range(1000)]


# Data sets


def picture(path: Path, seed: int) -> None:
    """Noise, as a JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "JPEG")


def xml(*names: str) -> str:
    """An annotation with a box of each class."""
    boxes = "<bndbox><xmin>{0}</xmin><ymin>9</ymin><xmax>{1}</xmax><ymax>30</ymax></bndbox>"
    objects = "".join(
        f"<object><name>{name}</name><difficult>0</difficult>{boxes.format(5 + 20 * place, 20 + 20 * place)}</object>"
        for place, name in enumerate(names)
    )
    return f"<annotation><size><width>{SIZE[0]}</width><height>{SIZE[1]}</height></size>{objects}</annotation>"


def imagenet(root: Path) -> None:
    """Two classes; of the validation set with boxes, of the training set without."""
    (root / "bbox/val").mkdir(parents=True)
    (root / "wnids.txt").write_text("\n".join(WNIDS))
    for number, wnid in enumerate((WNIDS[3], WNIDS[997])):
        for part in ("val", "train"):
            picture(root / part / wnid / f"{part}_{number}.JPEG", number)
        (root / f"bbox/val/val_{number}.xml").write_text(xml(wnid))


def imagenet_seg(root: Path) -> None:
    """One image with its mask, behind MATLAB's references."""
    root.mkdir(parents=True)
    image = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    mask = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    mask[9:30, 5:30] = 1
    with h5py.File(root / "gtsegs_ijcv.mat", "w") as file:
        images = file.create_dataset("/value/img", (1, 1), dtype=h5py.ref_dtype)
        masks = file.create_dataset("/value/gt", (1, 1), dtype=h5py.ref_dtype)
        cell = file.create_dataset("/#refs#/cell", (1, 1), dtype=h5py.ref_dtype)
        images[0, 0] = file.create_dataset("/#refs#/img", data=image.T).ref
        cell[0, 0] = file.create_dataset("/#refs#/mask", data=mask.T).ref
        masks[0, 0] = cell.ref


def voc(root: Path) -> None:
    """The test set of 2007 and, with masks, the validation set of 2012: an image of a dog and a person each."""
    for year, part in ((2007, "test"), (2012, "val")):
        folder = root / f"VOCdevkit/VOC{year}"
        for name in ("Annotations", "SegmentationClass", "ImageSets/Main", "ImageSets/Segmentation"):
            (folder / name).mkdir(parents=True)
        picture(folder / "JPEGImages/000001.jpg", year)
        (folder / "Annotations/000001.xml").write_text(xml("dog", "person"))
        mask = np.zeros((SIZE[1], SIZE[0]), np.uint8)
        mask[9:30, 5:20], mask[9:30, 25:40] = 12, 15
        drawn = Image.fromarray(mask).convert("P")
        drawn.putpalette([value for index in range(256) for value in (index, 255 - index, index)])
        drawn.save(folder / "SegmentationClass/000001.png")
        for listed in ("Main", "Segmentation"):
            (folder / f"ImageSets/{listed}/{part}.txt").write_text("000001\n")


def coco(root: Path) -> None:
    """An image of 2014 with a cat, and the categories of all classes."""
    picture(root / "val2014/COCO_val2014_000000000009.jpg", 9)
    image = {"id": 9, "file_name": "COCO_val2014_000000000009.jpg", "width": SIZE[0], "height": SIZE[1]}
    shape = [[5, 9, 30, 9, 30, 30, 5, 30]]
    cat = {"image_id": 9, "category_id": 17, "bbox": [5, 9, 25, 21], "segmentation": shape, "iscrowd": 0, "area": 525}
    content = {"categories": [{"id": n, "name": f"class {n}"} for n in range(1, 81)], "images": [image]}
    (root / "annotations").mkdir()
    (root / "annotations/instances_val2014.json").write_text(json.dumps(content | {"annotations": [cat]}))


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "imagenet": imagenet,
    "imagenet_seg": imagenet_seg,
    "voc": voc,
    "coco": coco,
}


def lay_out(folder: Path) -> Path:
    """All of them below a folder, where ASSAY_DATA may point."""
    for name, made in LAYOUTS.items():
        made(folder / name)
    return folder


# Networks

NARROW_VGG16 = [8, 8, "M", 8, 8, "M", 16, 16, 16, "M", 16, 16, 16, "M", 16, 16, 512, "M"]  # 13 convolutions, as its own


def narrow(classifier: Any, first: int, middle: int, last: int) -> None:
    """Put layers of 16 channels, linear ones or convolutions, between what a classifier reads and its outputs."""
    if isinstance(classifier[first], nn.Linear):
        classifier[first] = nn.Linear(classifier[first].in_features, 16)
        classifier[middle], classifier[last] = nn.Linear(16, 16), nn.Linear(16, classifier[last].out_features)
    else:
        classifier[first] = nn.Conv2d(classifier[first].in_channels, 16, classifier[first].kernel_size)
        classifier[middle], classifier[last] = nn.Conv2d(16, 16, 1), nn.Conv2d(16, classifier[last].out_channels, 1)


def _vgg16() -> nn.Module:
    from torchvision.models import vgg

    module = vgg.VGG(vgg.make_layers(NARROW_VGG16), init_weights=False)
    narrow(module.classifier, 0, 3, 6)
    return module


def _alexnet() -> nn.Module:
    from torchvision import models

    module = models.AlexNet()
    narrow(module.classifier, 1, 4, 6)
    return module


def _resnet50() -> nn.Module:
    from torchvision.models import resnet

    return resnet.ResNet(resnet.Bottleneck, [3, 4, 6, 3], width_per_group=8)


def _densenet121() -> nn.Module:
    from torchvision import models

    return models.densenet121()


def _inception_v3() -> nn.Module:
    from torchvision import models

    return models.inception_v3(transform_input=True, init_weights=False)


NETWORKS = {
    "vgg16": _vgg16,
    "alexnet": _alexnet,
    "resnet50": _resnet50,
    "densenet121": _densenet121,
    "inception_v3": _inception_v3,
}

CAFFE = dict(caffe.ARCHITECTURES)


def drawn(build: Callable[[], nn.Module]) -> nn.Module:
    """A network with seeded random weights; those that it is built with are never drawn."""
    with torch.device("meta"):
        module = build()
    module.to_empty(device="cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for layer in module.modules():
            if callable(reset := getattr(layer, "reset_parameters", None)):
                reset()
    return module.eval()


@cache
def torchvision_like(architecture: str) -> nn.Module:
    """A network whose layers have the names of torchvision's, and few channels."""
    return drawn(NETWORKS[architecture])


@cache
def caffe_like(architecture: str, classes: int, spatial: caffe.Spatial) -> nn.Module:
    """The same of the pointing game's networks."""

    def build() -> nn.Module:
        module = CAFFE[architecture](NETWORKS[architecture](), classes, spatial)
        if isinstance(module, caffe.CaffeVGG16):
            narrow(module.classifier, 0, 3, 6)
        return module

    return drawn(build)


def put_in_place(patch: pytest.MonkeyPatch) -> None:
    """These networks where published weights would be downloaded or read."""
    made = {name: partial(_of_caffe, name) for name in CAFFE}
    patch.setattr(caffe, "ARCHITECTURES", made)
    patch.setattr("torchvision.models.get_model", lambda architecture, **_: torchvision_like(architecture))
    patch.setattr(loading, "_find_published", lambda weights, url: None)
    patch.setattr(loading, "load_weights", lambda *_: [])


def _of_caffe(architecture: str, _: nn.Module, classes: int, spatial: caffe.Spatial) -> nn.Module:
    return caffe_like(architecture, classes, spatial)
