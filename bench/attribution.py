"""Gradient methods, DeepLIFT, Grad-CAM on ResNet-18 (and VGG-11) at 224 px: floor, ours, Captum, pytorch-grad-cam."""

from collections.abc import Callable, Iterator

import pandas as pd
import torch
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.network import Network
from assay.harness.networks.loading import torchvision_network
from assay.harness.seeds import SampleRng
from assay.harness.types import Attributor
from assay.methods.attribution.cam import GradCAM
from assay.methods.attribution.deeplift import DeepLIFT
from assay.methods.attribution.gradient import Gradient, IntegratedGradients, SmoothGrad
from assay.methods.attribution.guided import GuidedBackprop
from captum.attr import DeepLift as CaptumDeepLift
from captum.attr import GuidedBackprop as CaptumGuided
from captum.attr import IntegratedGradients as CaptumIntegrated
from captum.attr import NoiseTunnel, Saliency
from pytorch_grad_cam import GradCAM as PeerGradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from bench.timing import race

BATCH, STEPS = 8, 8


def tasks() -> Iterator[pd.DataFrame]:
    """One race a method."""
    network, module = torchvision_network("resnet18", weights=None), _untouched("resnet18")
    torch.manual_seed(0)
    images, labels = torch.rand(BATCH, 3, 224, 224), torch.arange(BATCH)
    inputs = network.normalise(images)
    targets = Targets(torch.arange(BATCH), labels)
    ours = _Ours(network, images, targets)
    hooked = _no_inplace("resnet18")
    trainable = _untouched("resnet18").requires_grad_(True)  # pytorch-grad-cam starts from the parameters' graph

    def floor(repeats: int = 1) -> None:
        for _ in range(repeats):
            leaf = inputs.clone().requires_grad_()
            torch.autograd.grad(module(leaf).gather(1, labels[:, None]).sum(), leaf)

    yield race(
        "gradient",
        {
            "floor: 1F+1B": floor,
            "assay": ours(Gradient()),
            "captum Saliency": lambda: Saliency(module).attribute(_leaf(inputs), target=labels),
        },
    )
    yield race(
        "guided_backprop",
        {
            "floor: 1F+1B": floor,
            "assay": ours(GuidedBackprop()),
            "captum GuidedBackprop": lambda: CaptumGuided(hooked).attribute(_leaf(inputs), target=labels),
        },
    )
    yield race(
        f"integrated_gradients {STEPS} steps",
        {
            f"floor: {STEPS}F+{STEPS}B": lambda: floor(STEPS),
            "assay": ours(IntegratedGradients(steps=STEPS)),
            "captum IntegratedGradients": lambda: CaptumIntegrated(module).attribute(
                inputs, target=labels, n_steps=STEPS, internal_batch_size=BATCH
            ),
        },
    )
    yield race(
        f"smoothgrad {STEPS} samples",
        {
            f"floor: {STEPS}F+{STEPS}B": lambda: floor(STEPS),
            "assay": ours(SmoothGrad(samples=STEPS)),
            "captum NoiseTunnel": lambda: NoiseTunnel(Saliency(module)).attribute(
                inputs, target=labels, nt_samples=STEPS, nt_samples_batch_size=1, stdevs=0.3
            ),
        },
    )
    yield _deeplift("resnet18")  # whose ReLUs are reused: Captum refuses
    yield _deeplift("vgg11", CaptumDeepLift(_no_inplace("vgg11")))
    yield race(
        "gradcam",
        {
            "floor: 1F + head F+B": lambda: _bare_gradcam(module, inputs, labels),
            "assay": ours(GradCAM(layer="layer4")),
            "pytorch-grad-cam": lambda: PeerGradCAM(trainable, [trainable.get_submodule("layer4.1")])(
                inputs, [ClassifierOutputTarget(int(label)) for label in labels]
            ),
        },
    )


def _deeplift(architecture: str, peer: CaptumDeepLift | None = None) -> pd.DataFrame:
    """The floor: a forward pass of images and baselines, and the gradient of the images' logits."""
    network, module = torchvision_network(architecture, weights=None), _untouched(architecture)
    torch.manual_seed(0)
    images, labels = torch.rand(BATCH, 3, 224, 224), torch.arange(BATCH)
    inputs, ours = network.normalise(images), _Ours(network, images, Targets(torch.arange(BATCH), labels))

    def floor() -> None:
        with torch.no_grad():
            module(torch.zeros_like(inputs))
        leaf = _leaf(inputs)
        torch.autograd.grad(module(leaf).gather(1, labels[:, None]).sum(), leaf)

    runs: dict[str, Callable[[], object]] = {
        "floor: 2F+1B": floor,
        "assay baseline mean (one row for all)": ours(DeepLIFT()),
        "assay baseline blur (one row an image)": ours(DeepLIFT("blur")),
    }
    if peer is not None:
        runs["captum DeepLift"] = lambda: peer.attribute(inputs, target=labels)
    return race(f"deeplift {architecture} batch {BATCH}", runs)


class _Ours:
    """A method of this project with the forward pass that it needs, from images to maps."""

    def __init__(self, network: Network, images: Tensor, targets: Targets) -> None:
        self.network, self.images, self.targets = network, images, targets
        names = [str(i) for i in range(len(images))]
        self.rng = SampleRng(0, "bench", names, names)

    def __call__(self, method: Attributor) -> Callable[[], object]:
        need = method.needs()

        def run() -> object:
            forward = ForwardPass(self.network, self.images, need.layers, need.input_graph)
            return method.attribute(forward, self.targets, self.rng)

        return run


def _untouched(architecture: str) -> nn.Module:
    """The same weights without our wrapper, in-place ReLUs and all."""
    from torchvision import models

    module: nn.Module = models.get_model(architecture, weights=None)
    module.load_state_dict(torchvision_network(architecture, weights=None).module.state_dict())
    return module.eval().requires_grad_(False)


def _no_inplace(architecture: str) -> nn.Module:
    """Captum's hooks do not bear in-place ReLUs."""
    module = _untouched(architecture)
    for layer in module.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = False
    return module


def _leaf(inputs: Tensor) -> Tensor:
    return inputs.clone().requires_grad_()


def _bare_gradcam(module: nn.Module, inputs: Tensor, labels: Tensor) -> None:
    kept: list[Tensor] = []
    handle = module.get_submodule("layer4").register_forward_hook(lambda _m, _i, output: kept.append(output))
    with torch.no_grad():
        module(inputs)
    handle.remove()
    activation = kept[0].requires_grad_()
    logits = module.fc(module.avgpool(activation).flatten(1))  # type: ignore[operator]
    (gradient,) = torch.autograd.grad(logits.gather(1, labels[:, None]).sum(), activation)
    (gradient.mean((2, 3))[:, :, None, None] * activation).sum(1).relu()
