"""Gradient methods, DeepLIFT and Grad-CAM: their passes."""

from collections.abc import Callable

import torch
from assay.methods.attribution.cam import GradCAM
from assay.methods.attribution.deeplift import DeepLIFT
from assay.methods.attribution.gradient import Gradient, InputXGradient, IntegratedGradients, SmoothGrad
from assay.methods.attribution.guided import Deconvnet, GuidedBackprop
from torch import Tensor

from bench.floors.subject import Runs, Subject


def contests(subject: Subject, steps: int) -> dict[str, Runs]:
    """The floor and ours, by method; steps: of Integrated Gradients, and samples of SmoothGrad.

    The subject's layer is the last before a pooled linear head that is called `fc`.
    """
    once = {"floor: 1F+1B": subject.passes()}
    often = {f"floor: {steps}F+{steps}B": subject.passes(steps)}
    return {
        "gradient": once | {"assay": subject.ours(Gradient())},
        "input_x_gradient": once | {"assay": subject.ours(InputXGradient())},
        "guided_backprop": once | {"assay": subject.ours(GuidedBackprop())},
        "deconvnet": once | {"assay": subject.ours(Deconvnet())},
        f"integrated_gradients {steps} steps": often | {"assay": subject.ours(IntegratedGradients(steps=steps))},
        f"smoothgrad {steps} samples": often | {"assay": subject.ours(SmoothGrad(samples=steps))},
        "gradcam": {"floor: 1F + head F+B": _gradcam(subject), "assay": subject.ours(GradCAM(layer=subject.layer))},
    }


def deeplift(subject: Subject) -> Runs:
    """The floor: a forward pass of images and baselines, and the gradient of the images' logits."""
    inputs, gradient, module = subject.inputs, subject.passes(), subject.bare

    def floor() -> None:
        with torch.no_grad():
            module(torch.zeros_like(inputs))
        gradient()

    return {
        "floor: 2F+1B": floor,
        "assay baseline mean (one row for all)": subject.ours(DeepLIFT()),
        "assay baseline blur (one row an image)": subject.ours(DeepLIFT("blur")),
    }


def _gradcam(subject: Subject) -> Callable[[], None]:
    inputs, labels, module = subject.inputs, subject.targets.label[:, None], subject.bare

    def run() -> None:
        kept: list[Tensor] = []
        handle = module.get_submodule(subject.layer).register_forward_hook(lambda _m, _i, output: kept.append(output))
        with torch.no_grad():
            module(inputs)
        handle.remove()
        activation = kept[0].requires_grad_()
        logits = module.fc(module.avgpool(activation).flatten(1))  # type: ignore[operator]
        (gradient,) = torch.autograd.grad(logits.gather(1, labels).sum(), activation)
        (gradient.mean((2, 3))[:, :, None, None] * activation).sum(1).relu()

    return run
