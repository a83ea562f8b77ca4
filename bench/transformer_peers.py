"""Peers of the methods for transformers, on the subject's own ViT-B/16: each where it can be imported.

- Chefer et al.'s code, of a clone of github.com/hila-chefer/Transformer-Explainability (MIT) whose folder the
  environment variable TRANSFORMER_EXPLAINABILITY names, and `einops`. It explains one image at a time.
- LXT (`lxt`, whose licence restricts its use), with the `transformers` that it imports. It has CP-LRP for this network.
- pytorch-grad-cam, of requirements-bench.txt.
"""

import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from bench.floors.subject import Subject, untouched

Run = Callable[[], object]
FOLDER = "TRANSFORMER_EXPLAINABILITY"
NAMES = {  # of torchvision's parameters: those of Chefer et al.'s
    "class_token": "cls_token",
    "encoder.pos_embedding": "pos_embed",
    "conv_proj": "patch_embed.proj",
    "encoder.layers.encoder_layer_": "blocks.",
    "ln_1": "norm1",
    "ln_2": "norm2",
    "self_attention.in_proj_": "attn.qkv.",
    "self_attention.out_proj": "attn.proj",
    "mlp.0": "mlp.fc1",
    "mlp.3": "mlp.fc2",
    "encoder.ln": "norm",
    "heads.head": "head",
}


def transformer_attribution(subject: Subject) -> Run:
    """Chefer et al. 2021 as published but for the device, and with weights that ask for no gradient."""
    network: Any = _chefer("ViT_LRP", subject.network.module)

    def run() -> Tensor:
        return torch.cat([_of_one(network, *each) for each in zip(subject.inputs, subject.targets.label, strict=True)])

    return run


def _of_one(network: Any, image: Tensor, label: Tensor) -> Tensor:
    """[1,N-1]."""
    logits = network(image[None].clone().requires_grad_())
    one_hot = nn.functional.one_hot(label, logits.shape[1])[None].to(logits)
    (one_hot * logits).sum().backward(retain_graph=True)
    found: Tensor = network.relprop(one_hot, method="transformer_attribution", alpha=1)
    return found.detach()


def attention_rollout(subject: Subject) -> Run:
    """The same authors' rollout, of all images at once."""
    network = _chefer("ViT_new", subject.network.module)
    baselines: Any = import_module("baselines.ViT.ViT_explanation_generator").Baselines(network)
    return lambda: baselines.generate_rollout(subject.inputs)


def _chefer(module: str, like: nn.Module) -> nn.Module:
    """Their network with the weights of torchvision's."""
    if (folder := os.environ.get(FOLDER)) is not None and folder not in sys.path:
        sys.path.append(folder)
    network: nn.Module = import_module(f"baselines.ViT.{module}").vit_base_patch16_224()
    network.load_state_dict({_renamed(name): value for name, value in like.state_dict().items()})
    for layer in network.modules():
        if isinstance(layer, nn.LayerNorm):
            layer.eps = 1e-6  # as torchvision's last one has
    return network.eval().requires_grad_(False)


def _renamed(name: str) -> str:
    for theirs, ours in NAMES.items():
        name = name.replace(theirs, ours)
    return name


def cp_lrp(subject: Subject) -> Run:
    """Input times gradient of a copy of the network whose layers are LXT's, which it would put into torch's classes."""
    patches: Mapping[Any, Callable[[type], bool]] = import_module("lxt.efficient.models.vit_torch").cp_LRP
    changed = {layer: type(layer.__name__, (layer,), {}) for layer in patches}
    assert all(patches[layer](changed[layer]) for layer in patches)
    module = _copy(subject)
    for each in module.modules():
        each.__class__ = changed.get(type(each), type(each))

    def run() -> Tensor:
        leaf = subject.inputs.clone().requires_grad_()
        logits = module(leaf).gather(1, subject.targets.label[:, None])
        (gradient,) = torch.autograd.grad(logits.sum(), leaf)
        return (gradient * leaf.detach()).sum(1)

    return run


def gradcam(subject: Subject) -> Run:
    """pytorch-grad-cam with the reshape that its documentation has for vision transformers."""
    peer = import_module("pytorch_grad_cam").GradCAM
    target = import_module("pytorch_grad_cam.utils.model_targets").ClassifierOutputTarget
    module = _copy(subject).requires_grad_(True)  # pytorch-grad-cam starts from the parameters' graph
    outputs = [target(int(label)) for label in subject.targets.label]

    def run() -> object:
        with peer(module, [module.get_submodule(subject.layer)], reshape_transform=_reshaped) as cam:
            return cam(subject.inputs, outputs)

    return run


def _reshaped(tokens: Tensor) -> Tensor:
    """[B,1+196,D] -> [B,D,14,14]."""
    return tokens[:, 1:].unflatten(1, (14, 14)).permute(0, 3, 1, 2)


def _copy(subject: Subject) -> nn.Module:
    module = untouched(subject.architecture)
    module.load_state_dict(subject.network.module.state_dict())
    return module


PEERS: dict[str, tuple[str, str, Callable[[Subject], Run]]] = {  # method -> name, distribution, what makes it
    "transformer_attribution": ("Chefer et al.'s code, image by image", "", transformer_attribution),
    "attention_rollout": ("Chefer et al.'s code", "", attention_rollout),
    "cp_lrp": ("LXT", "lxt", cp_lrp),
    "gradcam": ("pytorch-grad-cam", "grad-cam", gradcam),
}


def peer_of(method: str, subject: Subject) -> tuple[str, Run | None]:
    """The peer's name and run; a name that says why, and none, where it is not there."""
    if method not in PEERS:
        return "", None
    name, distribution, make = PEERS[method]
    try:
        return (f"{name} {version(distribution)}" if distribution else name), make(subject)
    except ModuleNotFoundError as error:
        return f"{name}: not there ({error})", None
