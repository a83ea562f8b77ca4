"""Classifiers of timm and of the Hugging Face hub by name: `pip install ".[hub]"`.

Nothing is downloaded unless `download` says so: files lie in a folder, or in the cache of an earlier download.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..choices import check_choice
from ..modules import fingerprint
from ..network import Activation, Network
from .hub_layers import places_of
from .loading import _seeded
from .weights import build_for


class Preprocessing(NamedTuple):
    """What a published network expects: normalisation of images in [0,1], and their height and width in pixels."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int]


PLACES = ("_name_or_path", "transformers_version")  # of a config: where it lay, and who wrote it


class HubNetwork(Network):
    """A network that knows the size of image it was trained for (`preprocessing.size`), and its layers (`places`).

    config: of the repository. Its fingerprint is of all that decides logits: weights, normalisation and size, config.
    """

    def __init__(
        self,
        module: nn.Module,
        preprocessing: Preprocessing,
        activation: Activation,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        mean, std, size = preprocessing
        said = {name: value for name, value in (config or {}).items() if name not in PLACES}
        whole = json.dumps([fingerprint(module.state_dict()), preprocessing, said], sort_keys=True, default=str)
        digest = hashlib.sha256(whole.encode()).hexdigest()
        super().__init__(module, mean, std, activation, digest, input_size=size)
        self.preprocessing, self.places = preprocessing, places_of(module)


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
    create: Mapping[str, Any] | None = None,
    download: bool = False,
) -> HubNetwork:
    """Any timm classifier by name; normalisation and size are those of timm's own configuration.

    Args:
        architecture: a name of `timm.list_models()`, with its tag if it has one (resnet50.a1_in1k).
        weights: `pretrained` (timm's own), a .safetensors or .pth file, or null for a seeded random network.
        sha256: checked against the file when given.
        mean, std: instead of timm's.
        classes: outputs; null: as many as the file's last layer, without a file timm's own number.
        create: further arguments of `timm.create_model` (img_size, depth, ...).
        download: whether timm may fetch its weights.
    """
    timm = imported("timm")
    if not timm.is_model(architecture):
        near = ", ".join(timm.list_models(f"*{architecture.split('.')[0][:6]}*")[:10]) or "see timm.list_models()"
        raise ValueError(f"architecture={architecture!r} is not in timm {timm.__version__}; near: {near}")
    if settled := sorted({"num_classes", "pretrained", "checkpoint_path", "model_name"} & set(create or {})):
        raise ValueError(
            f"create has {', '.join(settled)}: outputs are said by model.classes, weights by model.weights, the "
            "network by model.architecture"
        )
    is_pretrained, is_file = weights == "pretrained", weights not in (None, "pretrained")
    if classes is not None and is_pretrained:
        raise ValueError(f"classes={classes}: pretrained weights have their own classes; give a file, or weights=null")
    if is_pretrained and not download:
        raise FileNotFoundError(_not_here_timm(architecture))

    def made(count: int | None) -> Any:
        settings = dict(create or {}) | ({} if count is None else {"num_classes": count})
        return _seeded(lambda: loaded_by(architecture, timm.create_model)(pretrained=is_pretrained, **settings))

    module, notes = build_for(made, str(weights), sha256, classes=classes) if is_file else (made(classes), [])
    config = timm.data.resolve_model_data_config(module)
    size = _both((create or {}).get("img_size", config["input_size"][-2:]))
    preprocessing = _preprocessing(mean or config["mean"], std or config["std"], size)
    network = HubNetwork(module, preprocessing, activation)
    network.notes += notes
    return network


def hf_network(
    repository: str,
    revision: str = "main",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    activation: Activation = "softmax",
    weights: str | None = "saved",
    download: bool = False,
) -> HubNetwork:
    """An image classifier of the Hugging Face hub; normalisation and size are those of its image processor.

    Weights are read from safetensors only, and the repository's own code is never run. Most of these networks cannot
    be traced by torch.fx: their layers are cut in a graph of torch.export (`harness.exporting`).

    Args:
        repository: a folder with config.json, preprocessor_config.json and model.safetensors, or a name
            (microsoft/resnet-50) whose files are in the cache.
        revision: branch, tag or commit; a commit makes the choice permanent.
        mean, std: instead of the processor's; with both no processor is needed.
        weights: `saved` (the repository's), or null for a seeded random network of its config.json.
        download: whether what is not here may be fetched.
    """
    transformers = imported("transformers")
    check_choice("weights", weights or "null", ("saved", "null"))
    options = {"revision": revision, "trust_remote_code": False, "local_files_only": not download}
    kind = transformers.AutoModelForImageClassification
    if weights is None:
        config = loaded_by(repository, transformers.AutoConfig.from_pretrained)(**options)
        model = _seeded(lambda: kind.from_config(config, trust_remote_code=False))
    else:
        model = whole(repository, loaded_by(repository, kind.from_pretrained), options)
    preprocessing, module = preprocessing_of(transformers, repository, options, model, mean, std), LogitsOnly(model)
    return HubNetwork(module, preprocessing, activation, model.config.to_dict())


def whole(repository: str, read: Callable[..., Any], options: dict[str, Any], spared: str = "") -> Any:
    """The model that `from_pretrained` reads; ValueError where its files lack weights, which would be drawn at random.

    spared: how the names begin of weights that may be missing.
    """
    model, found = read(use_safetensors=True, output_loading_info=True, **options)
    lacking = {str(each) for each in found["missing_keys"]} | {str(each[0]) for each in found["mismatched_keys"]}
    if missing := sorted(name for name in lacking if not (spared and name.startswith(spared))):
        raise ValueError(
            f"{repository} has no weights, or of another shape, of {len(missing)} parameters of "
            f"{type(model).__name__}: {', '.join(missing[:5])}; they would be random. Give a checkpoint that was "
            "fine-tuned as such, or all random ones with model.weights=null"
        )
    return model


def preprocessing_of(
    transformers: ModuleType,
    repository: str,
    options: dict[str, Any],
    model: Any,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> Preprocessing:
    """What a repository's image processor says; where mean and std are given, the size may be that of its config."""
    if mean and std and Path(repository).is_dir() and not (Path(repository) / "preprocessor_config.json").is_file():
        return _preprocessing(mean, std, _both(_image_size(repository, model.config)))
    settings = _processor(transformers, repository, options)
    return _preprocessing(mean or settings["image_mean"], std or settings["image_std"], _height_and_width(settings))


def _image_size(repository: str, config: Any) -> Any:
    size = getattr(config, "image_size", None) or getattr(getattr(config, "vision_config", None), "image_size", None)
    if size is None:
        raise ValueError(f"{repository} says no size of images: its config.json has no image_size; add one")
    return size


def _both(size: Any) -> Sequence[int]:
    return (size, size) if isinstance(size, int) else tuple(size)


def _processor(transformers: ModuleType, repository: str, options: dict[str, Any]) -> dict[str, Any]:
    """The image processor's settings; one that does not normalise has mean 0 and deviation 1."""
    settings: dict[str, Any] = loaded_by(repository, transformers.AutoImageProcessor.from_pretrained)(
        **options
    ).to_dict()
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


def loaded_by(name: str, load: Callable[..., Any]) -> Callable[..., Any]:
    """What loads by name, with an error that says how to get what is not here."""

    def loaded(**settings: Any) -> Any:
        try:
            return load(name, **settings)
        except OSError as error:
            raise ValueError(f"could not get {name} ({_first_line(error)}). {_how(name)}") from error

    return loaded


def _first_line(error: OSError) -> str:
    return str(error).strip().partition("\n")[0]


def _how(name: str) -> str:
    if Path(name).is_dir():
        return (
            "The folder needs config.json, model.safetensors (or model.weights=null: random) and "
            "preprocessor_config.json (or model.mean and model.std)"
        )
    folder = f"weights/{name.rpartition('/')[2]}"
    return (
        "Without a connection, give a local file (timm) or folder (Hugging Face). Where there is one: "
        f"hf download {name} --local-dir {folder}, then model.repository={folder}; or model.download=true"
    )


def _not_here_timm(architecture: str) -> str:
    folder = f"weights/{architecture}"
    return (
        f"weights=pretrained of {architecture} would be downloaded: model.download=true lets timm fetch them. Or "
        f"hf download timm/{architecture} model.safetensors --local-dir {folder}, then "
        f"model.weights={folder}/model.safetensors; model.weights=null is a random network"
    )


def imported(package: str) -> Any:
    """A package of the extra; ImportError says how to get it."""
    try:
        return __import__(package)
    except ImportError as error:
        raise ImportError(
            f'{package} is needed for this model and cannot be imported ({error}): pip install ".[hub]", or of the '
            'published package: pip install "assay-harness[hub]"'
        ) from error
