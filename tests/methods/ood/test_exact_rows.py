"""The rows that were measured before on the same files: CIFAR-10's DenseNet-BC against Textures.

ID: the 1017 images of `original-test`; OOD: the 600 of `ood-textures-32`; class means from the 5085 of
`original-train`. FPR95 with ID as the positive class by the index rule, AUROC by scikit-learn; within 0.35 and 0.1
points. The features take minutes on a core and are computed once a session.
"""

import io
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from assay.harness.build import build
from assay.harness.detection import Features, LinearHead, pooled
from assay.harness.forward import ForwardPass
from assay.harness.network import Network
from assay.harness.overrides import compose_config
from assay.harness.training import TrainingSet
from assay.methods.ood.dice import DICE, DICEReAct
from assay.methods.ood.line import LINe
from assay.methods.ood.logits import MSP, Energy, MaxLogit
from assay.methods.ood.mahalanobis import Mahalanobis
from assay.methods.ood.react import ReAct
from detection_toys import scores_of, training_of
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import Tensor

SHARED = Path(__file__).resolve().parents[4] / "shared"
WEIGHTS, IMAGES = SHARED / "weights/cifar10-densenet_bc100.safetensors", SHARED / "data/cifar10"
PENULTIMATE = "relu"  # averaged over space, it is the input of `fc`

pytestmark = [
    pytest.mark.slow,
    pytest.mark.realdata,
    pytest.mark.skipif(not WEIGHTS.is_file() or not IMAGES.is_dir(), reason=f"no real network and images at {SHARED}"),
]


class Row(NamedTuple):
    """A detector, its FPR95 and its AUROC in percent."""

    detector: Any
    fpr95: float
    auroc: float


ROWS = [
    Row(MSP("probability"), 66.00, 87.68),
    Row(MaxLogit(), 58.50, 87.41),
    Row(Energy(), 56.83, 87.36),
    Row(ReAct(clip=1.6), 44.17, 92.09),
    Row(ReAct(clip=1.0), 45.83, 90.80),
    Row(DICE(90), 45.83, 88.50),
    Row(DICEReAct(90, 1.0), 31.17, 94.26),
    Row(LINe(90, 90, 1.0), 29.17, 94.81),
    Row(LINe(90, 90, math.inf), 47.00, 88.75),
    Row(LINe(90, 90, 1.0, clip_activations=False), 47.00, 88.75),
    Row(LINe(10, 90, 1.0), 30.00, 94.72),
    Row(LINe(10, 10, 1.0), 30.17, 94.51),
    Row(Mahalanobis(), 34.67, 87.12),
]


class Sets(NamedTuple):
    """Features of the test images, of the OOD images, and the training set."""

    test: Features
    ood: Features
    training: TrainingSet


def read(name: str) -> tuple[Tensor, Tensor]:
    """Images [N,3,32,32] in [0,1] and labels, -1 where the file has none."""
    table = pq.read_table(IMAGES / f"{name}.parquet").to_pydict()
    opened = [Image.open(io.BytesIO(image["bytes"])).convert("RGB") for image in table["image"]]
    images = torch.stack([torch.from_numpy(np.array(each)).permute(2, 0, 1) / 255 for each in opened])
    return images, torch.tensor(table.get("label", [-1] * len(images)))


def features(network: Network, name: str) -> Features:
    images, labels = read(name)
    head = LinearHead(network.module.get_parameter("fc.weight"), network.module.get_parameter("fc.bias"))
    kept = []
    for batch in images.split(50):
        forward = ForwardPass(network, batch, (PENULTIMATE,))
        kept.append((forward.logits, pooled(forward.activation(PENULTIMATE))))
    logits, penultimate = (torch.cat(each) for each in zip(*kept, strict=True))
    return Features(logits, labels, penultimate, head=head)


@pytest.fixture(scope="session")
def sets() -> Sets:
    overrides = ["model=cifar_densenet_bc100", f"model.weights={WEIGHTS}"]
    network = build(compose_config(overrides).model)
    test, ood, train = (features(network, name) for name in ("original-test", "ood-textures-32", "original-train"))
    return Sets(test, ood, training_of(train, 512))


def measured(test: Tensor, ood: Tensor) -> tuple[float, float]:
    """FPR95, ID positive, and AUROC of scores that are higher for OOD; percent."""
    inside, outside = (-scores.double().numpy() for scores in (test, ood))
    threshold = np.sort(inside)[round(0.05 * len(inside))]
    is_id = np.repeat([1, 0], [len(inside), len(outside)])
    auroc = roc_auc_score(is_id, np.concatenate([inside, outside]))
    return 100 * float((outside > threshold).mean()), 100 * float(auroc)


def test_the_files_are_those(sets: Sets) -> None:
    """Numbers of images, the checkpoint's accuracy, and logits that are the head's of the kept features, exactly."""
    assert [len(sets.test), len(sets.ood), sets.training.count] == [1017, 600, 5085]
    assert float((sets.test.predicted == sets.test.labels).double().mean()) == pytest.approx(0.9410, abs=1e-3)
    assert torch.allclose(sets.test.linear_head()(sets.test.tap()), sets.test.logits, atol=1e-5)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.detector))
def test_row(sets: Sets, row: Row) -> None:
    found = measured(*(scores_of(row.detector, each, sets.training) for each in (sets.test, sets.ood)))
    print(f"{row.detector}: {found[0]:.2f}/{found[1]:.2f}, expected {row.fpr95:.2f}/{row.auroc:.2f}")
    assert abs(found[0] - row.fpr95) <= 0.35
    assert abs(found[1] - row.auroc) <= 0.1
