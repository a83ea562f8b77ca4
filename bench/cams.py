"""Class-activation maps: each method against its floor, and against pytorch-grad-cam where that has it; 224 px.

Weights are random; floors: bench/floors/cams.py. pytorch-grad-cam's Ablation-CAM takes minutes: one round after the
warm-up.
"""

from collections.abc import Iterator, Mapping

import pandas as pd
import torch
import torch.nn.functional as F
from assay.methods.attribution.cam_ablation import AblationCAM
from assay.methods.attribution.score_cam import ScoreCAM
from pytorch_grad_cam import AblationCAM as PeerAblationCAM
from pytorch_grad_cam import ScoreCAM as PeerScoreCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor

from bench.floors import cams
from bench.floors.subject import Runs, Subject
from bench.timing import race

ORDERS, MASKS = 2, 64


def tasks() -> Iterator[pd.DataFrame]:
    """Gradient methods on ResNet-18; what masks channels on VGG16, whose head is large; then those with a peer."""
    dense = Subject.of("vgg16", "features.29", 1)
    yield from _races(cams.of_pooled(Subject.of("resnet18", "layer4", 8)))
    yield from _races(cams.of_dense(dense))
    yield from _races(cams.of_masked_images(Subject.of("resnet18", "layer4", 1), MASKS))
    yield from _races(cams.shap_cam(dense, ORDERS))
    for subject in (dense, Subject.of("resnet50", "layer4", 1)):
        yield _ablation_cam(subject)
    yield _score_cam(Subject.of("resnet18", "layer2", 1))  # 128 channels


def _races(contests: Mapping[str, Runs]) -> Iterator[pd.DataFrame]:
    return (race(task, runs) for task, runs in contests.items())


def _ablation_cam(subject: Subject) -> pd.DataFrame:
    """At equal maps, scaled and resized as the peer does."""
    module, output = subject.network.module, [ClassifierOutputTarget(int(subject.targets.label[0]))]
    inputs, made = subject.inputs, list[Tensor]()

    def peer() -> None:
        with PeerAblationCAM(module, [module.get_submodule(subject.layer)]) as cam:
            made.append(torch.from_numpy(cam(inputs, output)))

    ours = subject.ours(AblationCAM(subject.layer))
    found = race(f"AblationCAM {subject.architecture}", {"assay": ours, "pytorch-grad-cam": peer}, 1)
    assert torch.allclose(_scaled(ours()), made[0], atol=1e-2), "not the same map"
    return found


def _score_cam(subject: Subject) -> pd.DataFrame:
    """The peer's variant, in batches of its own size (16) and ours of the subject's."""
    module, output = subject.network.module, [ClassifierOutputTarget(int(subject.targets.label[0]))]
    inputs = subject.inputs

    def peer() -> None:
        with PeerScoreCAM(module, [module.get_submodule(subject.layer)]) as cam:
            cam(inputs, output)

    ours = subject.ours(ScoreCAM(subject.layer, variant="paper", align_corners=True))
    return race("ScoreCAM paper, resnet18 layer2", {"assay": ours, "pytorch-grad-cam": peer})


def _scaled(maps: Tensor) -> Tensor:
    large = F.interpolate(maps[:, None], (224, 224), mode="bilinear")[:, 0]
    return (large - large.min()) / (large.max() - large.min() + 1e-7)
