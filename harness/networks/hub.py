"""Classifiers of timm and of the Hugging Face hub by name: `pip install ".[hub]"`."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..modules import fingerprint
from ..network import Activation, Network
from .weights import build_for


class Preprocessing(NamedTuple):
    """What a published network expects: normalisation of images in [0,1], and their height and width in pixels."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int]


class HubNetwork(Network):
    """A network that knows the size of image it was trained for (`preprocessing.size`)."""

    def __init__(self, module: nn.Module, preprocessing: Preprocessing, activation: Activation, digest: str) -> None:
        mean, std, size = preprocessing
        super().__init__(module, mean, std, activation, digest, input_size=size)
        self.preprocessing = preprocessing


class LogitsOnly(nn.Module):
    """A Hugging Face classifier as a network: its logits alone, from `pixel_values`. Layers are named `model. ...`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(pixel_values=images).logits


def timm_network(
    architecture: str,
    weights: str | None = "pretrained",
    sha256: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    activation: Activation = "softmax",
    classes: int | None = None,
) -> HubNetwork:
    """Any timm classifier by name; normalisation and size are those of timm's own configuration.

    Args:
        architecture: a name of `timm.list_models()`, with its tag if it has one (resnet50.a1_in1k).
        weights: `pretrained` (downloaded), a .safetensors or .pth file, or null for a seeded random network.
        sha256: checked against the file when given.
        mean, std: instead of timm's.
        classes: outputs; null: as many as the file's last layer, without a file timm's own number.
    """
    timm = _imported("timm")
    if not timm.is_model(architecture):
        near = ", ".join(timm.list_models(f"*{architecture.split('.')[0][:6]}*")[:10]) or "see timm.list_models()"
        raise ValueError(f"architecture={architecture!r} is not in timm {timm.__version__}; near: {near}")
    if classes is not None and weights == "pretrained":
        raise ValueError(f"classes={classes}: pretrained weights have their own classes; give a file, or weights=null")

    def made(count: int | None) -> Any:
        settings = {} if count is None else {"num_classes": count}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            is_pretrained = weights == "pretrained"
            return _downloaded(architecture, timm.create_model, architecture, pretrained=is_pretrained, **settings)

    is_file = weights not in (None, "pretrained")
    module, notes = build_for(made, str(weights), sha256, classes=classes) if is_file else (made(classes), [])
    config = timm.data.resolve_model_data_config(module)
    preprocessing = _preprocessing(mean or config["mean"], std or config["std"], config["input_size"][-2:])
    network = HubNetwork(module, preprocessing, activation, fingerprint(module.state_dict()))
    network.notes += notes
    return network


def hf_network(
    repository: str,
    revision: str = "main",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    activation: Activation = "softmax",
) -> HubNetwork:
    """An image classifier of the Hugging Face hub; normalisation and size are those of its image processor.

    Weights are read from safetensors only, and the repository's own code is never run. Most of these networks cannot
    be traced by torch.fx: their layers are cut in a graph of torch.export (`harness.exporting`).

    Args:
        repository: its name (microsoft/resnet-50), or a folder with config.json, preprocessor_config.json and
            model.safetensors.
        revision: branch, tag or commit; a commit makes the choice permanent.
        mean, std: instead of the processor's.
    """
    transformers = _imported("transformers")
    options = {"revision": revision, "trust_remote_code": False}
    load = transformers.AutoModelForImageClassification.from_pretrained
    module = LogitsOnly(_downloaded(repository, load, repository, use_safetensors=True, **options))
    settings = _processor(transformers, repository, options)
    preprocessing = _preprocessing(
        mean or settings["image_mean"], std or settings["image_std"], _height_and_width(settings)
    )
    return HubNetwork(module, preprocessing, activation, fingerprint(module.state_dict()))


def _processor(transformers: ModuleType, repository: str, options: dict[str, Any]) -> dict[str, Any]:
    """The image processor's settings; one that does not normalise has mean 0 and deviation 1."""
    load = transformers.AutoImageProcessor.from_pretrained
    settings: dict[str, Any] = _downloaded(repository, load, repository, **options).to_dict()
    if not settings.get("do_normalize", True):
        settings |= {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    if settings.get("do_rescale", True) and abs(settings.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        raise ValueError(
            f"{repository} rescales pixels by {settings['rescale_factor']}, not by 1/255: give mean and std for images "
            "in [0,1] in a module of your own (assay.harness.network.Network)"
        )
    return settings


def _height_and_width(settings: dict[str, Any]) -> tuple[int, int]:
    """The size that reaches the network: the crop if it crops, otherwise what it resizes to."""
    size = settings["crop_size"] if settings.get("do_center_crop") and settings.get("crop_size") else settings["size"]
    if isinstance(size, int):
        return size, size
    side = size.get("shortest_edge")
    return (size["height"], size["width"]) if side is None else (side, side)


def _preprocessing(mean: Sequence[float], std: Sequence[float], size: Sequence[int]) -> Preprocessing:
    return Preprocessing(tuple(mean), tuple(std), (int(size[0]), int(size[1])))


def _downloaded(name: str, load: Any, *arguments: Any, **settings: Any) -> Any:
    try:
        return load(*arguments, **settings)
    except OSError as error:
        raise ValueError(
            f"could not get {name} ({error}). Without a connection, give a local file (timm) or folder (Hugging Face)"
        ) from error


def _imported(package: str) -> Any:
    try:
        return __import__(package)
    except ImportError as error:
        raise ImportError(
            f'{package} is needed for this model and cannot be imported ({error}): pip install ".[hub]"'
        ) from error
