"""Class-activation maps: each method against its floor, and against pytorch-grad-cam where that has it; 224 px.

Weights are random. Floors are bare loops over the network F and its head h, batched, as the methods are defined; a head
that is not run channel by channel can be faster than that. pytorch-grad-cam's Ablation-CAM takes minutes: one round
after the warm-up.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.network import Network
from assay.harness.networks.loading import torchvision_network
from assay.harness.seeds import SampleRng
from assay.harness.types import Attributor
from assay.methods.attribution.cam import CAM, GradCAM
from assay.methods.attribution.cam_ablation import AblationCAM
from assay.methods.attribution.cam_gradient import GradCAMpp, LayerCAM, XGradCAM
from assay.methods.attribution.lift import LRPCAM, LiftCAM
from assay.methods.attribution.rise import RISE
from assay.methods.attribution.score_cam import ScoreCAM
from assay.methods.attribution.shapley import KernelShapCAM, LimeCAM, ShapCAM
from pytorch_grad_cam import AblationCAM as PeerAblationCAM
from pytorch_grad_cam import ScoreCAM as PeerScoreCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from bench.timing import race

ROWS, ORDERS, MASKS = 32, 2, 64


class Subject(NamedTuple):
    """A network with images and classes, and the layer that is explained."""

    network: Network
    images: Tensor
    targets: Targets
    layer: str

    @classmethod
    def of(cls, architecture: str, layer: str, count: int) -> "Subject":
        """Seeded random weights and images."""
        torch.manual_seed(0)
        network = torchvision_network(architecture, weights=None)
        return cls(network, torch.rand(count, 3, 224, 224), Targets(torch.arange(count), torch.arange(count)), layer)

    def forward(self) -> ForwardPass:
        """A new forward pass."""
        return ForwardPass(self.network, self.images, (self.layer,), max_rows=ROWS)

    def ours(self, method: Attributor) -> Callable[[], Tensor]:
        """The method from images to maps."""
        names = [str(row) for row in range(len(self.images))]
        return lambda: method.attribute(self.forward(), self.targets, SampleRng(0, "bench", names, names)).values

    def floor(self, heads: int = 0, backwards: int = 0, forwards: int = 0) -> Callable[[], None]:
        """One forward pass, and so many more of each kind an image."""

        def run() -> None:
            forward = self.forward()
            activation, head = forward.activation(self.layer), forward.head(self.layer)
            with torch.no_grad():
                for rows in torch.arange(heads * len(activation)).split(ROWS):
                    head(activation[rows % len(activation)])
                for rows in torch.arange(forwards * len(activation)).split(ROWS):
                    self.network.module(forward.inputs[rows % len(activation)])
            for _ in range(backwards):
                head.gradient(activation, self.targets)

        return run


def tasks() -> Iterator[pd.DataFrame]:
    """One race a method, then those with a peer."""
    yield from _against_floors(Subject.of("resnet18", "layer4", 8), Subject.of("vgg16", "features.29", 1))
    yield _shap_cam(Subject.of("vgg16", "features.29", 1))
    for architecture, layer in (("vgg16", "features.29"), ("resnet50", "layer4")):
        yield _ablation_cam(Subject.of(architecture, layer, 1), architecture)
    yield _score_cam(Subject.of("resnet18", "layer2", 1))  # 128 channels


def _against_floors(pooled: Subject, dense: Subject) -> Iterator[pd.DataFrame]:
    """Gradient methods on ResNet-18; what masks channels on VGG16, whose head is large; masked images on ResNet-18."""
    gradient = pooled.floor(backwards=1)
    for make in (CAM, GradCAM, GradCAMpp, XGradCAM, LayerCAM):
        contestants = {"floor: 1F + head F+B": gradient, "assay": pooled.ours(make(pooled.layer))}
        yield race(f"{make.__name__} resnet18", contestants)
    for back in (LiftCAM, LRPCAM):
        contestants = {"floor: 1F + 2h + hB": dense.floor(heads=1, backwards=1), "assay": dense.ours(back(dense.layer))}
        yield race(f"{back.__name__} vgg16", contestants)
    for method in (AblationCAM(dense.layer), LimeCAM(dense.layer), KernelShapCAM(dense.layer)):
        contestants = {"floor: 1F + 512h": dense.floor(heads=512), "assay": dense.ours(method)}
        yield race(f"{type(method).__name__} vgg16", contestants)
    one = pooled._replace(images=pooled.images[:1], targets=Targets(torch.tensor([0]), torch.tensor([0])))
    for masked, count in ((ScoreCAM(one.layer), 512), (RISE(masks=MASKS), MASKS)):
        contestants = {f"floor: {1 + count}F": one.floor(forwards=count), "assay": one.ours(masked)}
        yield race(f"{type(masked).__name__} resnet18", contestants)


def _shap_cam(subject: Subject) -> pd.DataFrame:
    """Orders of channels over the head alone: run naively, and by blocks of its first linear layer."""
    forward, names = subject.forward(), ["0"]
    activation, head, label = forward.activation(subject.layer), forward.head(subject.layer), subject.targets.label
    channels = activation.shape[1]
    orders = SampleRng(0, "bench", names, names).uniform((ORDERS, channels))[0].argsort(1)

    def naive() -> Tensor:
        total = torch.zeros(channels)
        with torch.no_grad():
            empty = head(torch.zeros_like(activation))[0, label]
            for order in orders:
                place = order.argsort()
                masks = (place <= torch.arange(channels)[:, None]).float()
                parts = [head(part[:, :, None, None] * activation)[:, label] for part in masks.split(ROWS)]
                total[order] += torch.diff(torch.cat([empty[None], *parts]), dim=0)[:, 0]
        return total / ORDERS

    def ours() -> Tensor:
        method = ShapCAM(subject.layer, permutations=ORDERS)
        return method.coefficients(forward, activation, subject.targets, SampleRng(0, "bench", names, names))[0]

    assert torch.allclose(ours(), naive(), atol=1e-4 * float(naive().abs().max())), "not the same coefficients"
    contestants = {f"naive: {ORDERS} x 512h": naive, "assay": ours}
    return race(f"ShapCAM {ORDERS} orders, vgg16 head", contestants)


def _ablation_cam(subject: Subject, architecture: str) -> pd.DataFrame:
    """At equal maps, scaled and resized as the peer does."""
    module, output = subject.network.module, [ClassifierOutputTarget(int(subject.targets.label[0]))]
    inputs, made = subject.network.normalise(subject.images), list[Tensor]()

    def peer() -> None:
        with PeerAblationCAM(module, [_last(module, subject.layer)]) as cam:
            made.append(torch.from_numpy(cam(inputs, output)))

    ours = subject.ours(AblationCAM(subject.layer))
    contestants = {"assay": ours, "pytorch-grad-cam": peer}
    found = race(f"AblationCAM {architecture}", contestants, 1)
    assert torch.allclose(_scaled(ours()), made[0], atol=1e-2), "not the same map"
    return found


def _score_cam(subject: Subject) -> pd.DataFrame:
    """The peer's variant, in batches of its own size (16) and ours of ROWS."""
    module, output = subject.network.module, [ClassifierOutputTarget(int(subject.targets.label[0]))]
    inputs = subject.network.normalise(subject.images)

    def peer() -> None:
        with PeerScoreCAM(module, [_last(module, subject.layer)]) as cam:
            cam(inputs, output)

    ours = subject.ours(ScoreCAM(subject.layer, variant="paper", align_corners=True))
    return race("ScoreCAM paper, resnet18 layer2", {"assay": ours, "pytorch-grad-cam": peer})


def _last(module: nn.Module, layer: str) -> nn.Module:
    return module.get_submodule(layer)


def _scaled(maps: Tensor) -> Tensor:
    large = F.interpolate(maps[:, None], (224, 224), mode="bilinear")[:, 0]
    return (large - large.min()) / (large.max() - large.min() + 1e-7)
