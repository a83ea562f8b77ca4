"""Class-activation maps: bare loops over the network F and its head h, batched, as the methods are defined.

A head that is not run channel by channel can be faster than that.
"""

from collections.abc import Callable
from typing import Any

import torch
from assay.harness.seeds import SampleRng
from assay.harness.types import Attributor
from assay.methods.attribution.cam import CAM, GradCAM
from assay.methods.attribution.cam_ablation import AblationCAM
from assay.methods.attribution.cam_gradient import GradCAMpp, LayerCAM, XGradCAM
from assay.methods.attribution.lift import LRPCAM, LiftCAM
from assay.methods.attribution.rise import RISE
from assay.methods.attribution.score_cam import ScoreCAM
from assay.methods.attribution.shapley import KernelShapCAM, LimeCAM, ShapCAM
from torch import Tensor

from bench.floors.subject import Runs, Subject

GRADIENT: tuple[Callable[[str], Any], ...] = (CAM, GradCAM, GradCAMpp, XGradCAM, LayerCAM)


def of_pooled(subject: Subject) -> dict[str, Runs]:
    """Gradient methods, whose head is run once."""
    floor = {"floor: 1F + head F+B": subject.heads(backwards=1)}
    made = {f"{make.__name__} {subject.architecture}": make(subject.layer) for make in GRADIENT}
    return {name: floor | {"assay": subject.ours(method)} for name, method in made.items()}


def of_dense(subject: Subject) -> dict[str, Runs]:
    """What runs a large head: once from the layer and from zero, or for each of the layer's channels."""
    channels = subject.forward().activation(subject.layer).shape[1]
    few = {"floor: 1F + 2h + hB": subject.heads(heads=1, backwards=1)}
    many = {f"floor: 1F + {channels}h": subject.heads(heads=channels)}
    made = {LiftCAM: few, LRPCAM: few, AblationCAM: many, LimeCAM: many, KernelShapCAM: many}
    return {
        f"{make.__name__} {subject.architecture}": floor | {"assay": subject.ours(make(subject.layer))}
        for make, floor in made.items()
    }


def of_masked_images(subject: Subject, masks: int) -> dict[str, Runs]:
    """Score-CAM, a pass for each channel of the layer, and RISE, one for each mask."""
    channels = subject.forward().activation(subject.layer).shape[1]
    made: tuple[tuple[Attributor, int], ...] = ((ScoreCAM(subject.layer), channels), (RISE(masks=masks), masks))
    return {
        f"{type(method).__name__} {subject.architecture}": {
            f"floor: {1 + count}F": subject.heads(forwards=count),
            "assay": subject.ours(method),
        }
        for method, count in made
    }


def shap_cam(subject: Subject, orders: int) -> dict[str, Runs]:
    """Orders of one image's channels over the head alone: run naively, and by blocks of its first linear layer."""
    forward = subject.forward()
    activation, head, label = forward.activation(subject.layer), forward.head(subject.layer), subject.targets.label
    channels, places = activation.shape[1], torch.arange(activation.shape[1], device=activation.device)
    drawn = _rng(subject).uniform((orders, channels))[0].argsort(1).to(activation.device)

    def naive() -> Tensor:
        total = activation.new_zeros(channels)
        with torch.no_grad():
            empty = head(torch.zeros_like(activation))[0, label]
            for order in drawn:
                masks = (order.argsort() <= places[:, None]).float()
                parts = [head(part[:, :, None, None] * activation)[:, label] for part in masks.split(subject.max_rows)]
                total[order] += torch.diff(torch.cat([empty[None], *parts]), dim=0)[:, 0]
        return total / orders

    def ours() -> Tensor:
        method = ShapCAM(subject.layer, permutations=orders)
        return method.coefficients(forward, activation, subject.targets, _rng(subject))[0]

    assert torch.allclose(ours(), naive(), atol=1e-4 * float(naive().abs().max())), "not the same coefficients"
    task = f"ShapCAM {orders} orders, {subject.architecture} head"
    return {task: {f"naive: {orders} x {channels}h": naive, "assay": ours}}


def _rng(subject: Subject) -> SampleRng:
    return SampleRng.of(0, "bench", subject.batch)
