"""The shared networks on the shared images: the accuracies of ../shared/weights/README.md, within one point.

ImageNet: the README's 1000 train images (one a class) are not all here. The 500 that are (every second class) may
differ by three points, the 95 % half-width of a share of .83 among 500, 3.3 points, less what the two sets share.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from assay.harness.build import build
from assay.harness.network import Network
from assay.harness.overrides import compose_config
from PIL import Image
from torch import Tensor

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
DATA, WEIGHTS = SHARED / "data", SHARED / "weights"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.realdata,
    pytest.mark.skipif(not WEIGHTS.is_dir() or not DATA.is_dir(), reason=f"no real networks and images at {SHARED}"),
]


class Known(NamedTuple):
    """A preset, its weights, a set of images, and the share that the README says is right."""

    model: str
    weights: str
    images: str
    accuracy: float
    tolerance: float


KNOWN = [
    Known("cifar_resnet20", "cifar10-resnet20", "cifar10/original-test.parquet", 0.916, 0.01),
    Known("cifar_densenet_bc100", "cifar10-densenet_bc100", "cifar10/original-test.parquet", 0.941, 0.01),
    Known("cifar_resnet56", "cifar10-resnet56", "cifar10/original-test.parquet", 0.934, 0.01),  # on all 10,000
    Known("cifar_resnet20", "cifar10-resnet20", "cifar10/test.parquet", 0.804, 0.01),
    Known("cifar_resnet56", "cifar10-resnet56", "cifar10/test.parquet", 0.825, 0.01),
    Known("cifar_densenet_bc100", "cifar10-densenet_bc100", "cifar10/test.parquet", 0.820, 0.01),
    Known("resnet50", "imagenet-resnet50", "imagenet/sample", 0.833, 0.03),
    Known("mobilenet_v2", "imagenet-mobilenet_v2", "imagenet/sample", 0.836, 0.03),
    Known("squeezenet1_1", "imagenet-squeezenet1_1", "imagenet/sample", 0.610, 0.03),
]


def as_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 255  # [3,H,W]


def parquet_images(path: Path) -> Iterator[tuple[Tensor, int]]:
    """All images of the lossless file; of the JPEG file the README's 1000: files 0000 to 0099 of each class."""
    table = pq.read_table(path).to_pydict()
    for image, label in zip(table["image"], table["label"], strict=True):
        if path.name.startswith("original") or int(Path(image["path"]).stem) < 100:
            yield as_tensor(Image.open(io.BytesIO(image["bytes"]))), label


def imagenet_images(folder: Path) -> Iterator[tuple[Tensor, int]]:
    """torchvision's test crop: shorter side 256, the middle 224 x 224."""
    classes = pd.read_csv(folder.parent / "classes.csv").set_index("wnid")["index"]
    for path in sorted(folder.glob("*/*")):
        image = Image.open(path).convert("RGB")
        scale = 256 / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
        left, top = (image.width - 224) // 2, (image.height - 224) // 2
        yield as_tensor(image.crop((left, top, left + 224, top + 224))), int(classes[path.parent.name])


def measured(network: Network, samples: Iterator[tuple[Tensor, int]]) -> tuple[float, int]:
    """Share of right top-1 classes, and the number of images."""
    images, labels = zip(*samples, strict=True)
    batches = torch.stack(images).split(50)
    with torch.no_grad():
        top = torch.cat([network(network.normalise(batch)).argmax(1) for batch in batches])
    return float((top == torch.tensor(labels)).double().mean()), len(labels)


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: f"{known.weights}-{known.images.partition('/')[2]}")
def test_a_shared_network_reaches_the_accuracy_of_the_readme(known: Known) -> None:
    overrides = [f"model={known.model}", f"model.weights={WEIGHTS / known.weights}.safetensors"]
    network = build(compose_config(overrides).model)
    read = imagenet_images if known.images.startswith("imagenet") else parquet_images
    accuracy, count = measured(network, read(DATA / known.images))
    print(f"{known.model} on {known.images}: {accuracy:.4f} of {count} (README {known.accuracy})")
    assert abs(accuracy - known.accuracy) <= known.tolerance
