"""Gradient methods, DeepLIFT, Grad-CAM on ResNet-18 (and VGG-11) at 224 px: floor, ours, Captum, pytorch-grad-cam."""

from collections.abc import Iterator

import pandas as pd
from captum.attr import DeepLift as CaptumDeepLift
from captum.attr import GuidedBackprop as CaptumGuided
from captum.attr import IntegratedGradients as CaptumIntegrated
from captum.attr import NoiseTunnel, Saliency
from pytorch_grad_cam import GradCAM as PeerGradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor

from bench.floors import gradients
from bench.floors.subject import BATCH, Runs, Subject, no_inplace, untouched
from bench.timing import race

STEPS = 8


def tasks() -> Iterator[pd.DataFrame]:
    """One race a method."""
    subject = Subject.of("resnet18", "layer4", BATCH)
    peers = _peers(subject)
    for method, runs in gradients.contests(subject, STEPS).items():
        yield race(method, runs | peers.get(method, {}))
    yield race(f"deeplift resnet18 batch {BATCH}", gradients.deeplift(subject))  # its ReLUs are reused: Captum refuses
    yield _deeplift(Subject.of("vgg11", "features.20", BATCH))


def _peers(subject: Subject) -> dict[str, Runs]:
    module, inputs, labels = subject.bare, subject.inputs, subject.targets.label
    hooked = no_inplace("resnet18")
    trainable = untouched("resnet18").requires_grad_(True)  # pytorch-grad-cam starts from the parameters' graph
    return {
        "gradient": {"captum Saliency": lambda: Saliency(module).attribute(_leaf(inputs), target=labels)},
        "guided_backprop": {
            "captum GuidedBackprop": lambda: CaptumGuided(hooked).attribute(_leaf(inputs), target=labels)
        },
        f"integrated_gradients {STEPS} steps": {
            "captum IntegratedGradients": lambda: CaptumIntegrated(module).attribute(
                inputs, target=labels, n_steps=STEPS, internal_batch_size=BATCH
            )
        },
        f"smoothgrad {STEPS} samples": {
            "captum NoiseTunnel": lambda: NoiseTunnel(Saliency(module)).attribute(
                inputs, target=labels, nt_samples=STEPS, nt_samples_batch_size=1, stdevs=0.3
            )
        },
        "gradcam": {
            "pytorch-grad-cam": lambda: PeerGradCAM(trainable, [trainable.get_submodule("layer4.1")])(
                inputs, [ClassifierOutputTarget(int(label)) for label in labels]
            )
        },
    }


def _deeplift(subject: Subject) -> pd.DataFrame:
    """With the peer."""
    peer = CaptumDeepLift(no_inplace(subject.architecture))
    captum: Runs = {"captum DeepLift": lambda: peer.attribute(subject.inputs, target=subject.targets.label)}
    return race(f"deeplift {subject.architecture} batch {BATCH}", gradients.deeplift(subject) | captum)


def _leaf(inputs: Tensor) -> Tensor:
    return inputs.clone().requires_grad_()
