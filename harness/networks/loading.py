"""Building networks and loading their weights: embedded, torchvision by name, CIFAR, the pointing game's."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..choices import check_choice
from ..modules import fingerprint
from ..network import Activation, Network
from ..networks import caffe as caffe_networks
from ..networks import cifar as cifar_networks
from ..networks import scenes as small_networks
from .class_maps import read_class_map
from .weights import Convert, Module, _find_published, _is_file_name, build_for, load_weights

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def scenes_network(architecture: str, weights: str | None, sha256: str | None = None) -> Network:
    """One of the embedded networks (`ScenesVGG`, `ScenesResNet`, `ScenesViT`): 11 sigmoid logits of 64x64 images.

    weights: a file, or null for a seeded random network.
    """
    names = ("ScenesVGG", "ScenesResNet", "ScenesViT")
    check_choice("architecture", architecture, names)
    module = _seeded(lambda: getattr(small_networks, architecture)())
    return _network(module, weights, sha256, small_networks.MEAN, small_networks.STD, "sigmoid")


def torchvision_network(
    architecture: str,
    weights: str | None = "DEFAULT",
    sha256: str | None = None,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    activation: Activation = "softmax",
    classes: int | None = None,
) -> Network:
    """Any torchvision classifier by name.

    Args:
        architecture: a name of `torchvision.models.list_models()`.
        weights: a local .safetensors / .pth file, the name of a torchvision weights enum entry
            (downloaded on first use), or null for a seeded random network.
        sha256: checked against the file when given.
        classes: outputs; null: as many as the file's last layer, without a file 1000.
    """
    models = _torchvision_models()
    known = models.list_models(module=models)
    if architecture not in known:
        raise ValueError(f"architecture={architecture!r} is not in torchvision; choose one of {', '.join(known)}")
    size = _published_size(models, architecture)

    check_classes(classes)

    def made(count: int | None) -> nn.Module:
        settings = _published_form(architecture) | ({} if count is None else {"num_classes": count})
        return _seeded(lambda: models.get_model(architecture, weights=None, **settings))

    if weights is None:
        return _network(made(classes), None, sha256, mean, std, activation)
    if _is_file_name(weights):
        convert = _without_auxiliary_heads if architecture == "googlenet" else dict
        module, notes = build_for(made, weights, sha256, convert, classes)
        return _noted(_network(module, None, None, mean, std, activation, input_size=size), notes)
    if classes is not None:
        raise ValueError(
            f"classes={classes}: the published weights {weights} have their own classes; give a file, or weights=null"
        )
    entries = [entry.name for entry in models.get_model_weights(architecture)]
    if weights not in ("DEFAULT", *entries):
        raise ValueError(
            f"weights={weights!r} of {architecture}: give a .safetensors or .pth file, one of DEFAULT, "
            f"{', '.join(entries)}, or null for random weights"
        )
    return _network(_download(models, architecture, weights), None, sha256, mean, std, activation, input_size=size)


def cifar_network(
    architecture: str,
    weights: str | None,
    mean: Sequence[float],
    std: Sequence[float],
    sha256: str | None = None,
    classes: int = 10,
) -> Network:
    """A CIFAR network (`resnet20`, `resnet56`, `resnet18`, `densenet_bc100`): softmax logits of 32x32 images.

    Args:
        architecture: a name of `cifar_networks.ARCHITECTURES`.
        weights: a file, also as its authors saved it under DataParallel, or null for a seeded random network.
        mean, std: the normalisation of its training (the published networks differ).
        sha256: checked against the file when given.
        classes: 10 or 100.
    """
    known = cifar_networks.ARCHITECTURES
    check_choice("architecture", architecture, known)
    module = _seeded(lambda: known[architecture](classes))
    return _network(module, weights, sha256, mean, std, "softmax")


def caffe_network(
    architecture: str,
    weights: str | None,
    sha256: str | None,
    classes: int,
    pixel_mean: Sequence[float],
    spatial: caffe_networks.Spatial = "log_mean_exp",
) -> Network:
    """A network of the pointing game (`vgg16`, `resnet50`), fully convolutional: sigmoid logits of any size of image.

    Args:
        architecture: which one.
        weights: the published file (see `caffe_networks.URL`), or null for a seeded random network.
        sha256: checked against the file when given; the published names end in its first eight digits.
        classes: 20 (VOC) or 80 (COCO).
        pixel_mean: RGB mean of pixels from 0 to 255, subtracted; nothing is divided.
        spatial: how logits at several positions become one a class, see `caffe_networks.SpatialLogits`.
    """
    known = caffe_networks.ARCHITECTURES
    check_choice("architecture", architecture, known)
    models = _torchvision_models()
    plain = {"init_weights": False} if architecture == "vgg16" else {}  # torchvision's own takes seconds
    module = _seeded(lambda: known[architecture](models.get_model(architecture, **plain), classes, spatial))
    if weights is not None:
        _find_published(weights, caffe_networks.URL)
    mean, std = [value / 255 for value in pixel_mean], [1 / 255] * 3
    return _network(module, weights, sha256, mean, std, "sigmoid", module.converted)


def class_groups(network: Network, class_map: str, classes: Sequence[str]) -> Network:
    """An ImageNet network read as a classifier of another data set's classes.

    Args:
        network: with a softmax over ImageNet's 1000 classes.
        class_map: table of groups, see `harness.class_maps`; a class without members is never a target.
        classes: the data set's class names, in its order.

    Raises:
        ValueError: a network whose outputs have names of their own: they need not be ImageNet's, in its order.
    """
    if network.classes is not None:
        raise ValueError(
            "class groups are of ImageNet's 1000 outputs by number, and this network's outputs have names "
            f"({', '.join(network.classes[:3])}, ...): give it the data set's own classes instead"
        )
    groups = read_class_map(class_map, classes)
    identity = hashlib.sha256(f"{network.fingerprint} {groups}".encode()).hexdigest()
    mean, std = network.statistics
    made = Network(network.module, mean, std, network.activation, identity, groups, network.input_size)
    made.places = network.places
    return _noted(made, network.notes)


def check_classes(classes: int | None) -> None:
    """Raise ValueError for a network of no outputs."""
    if classes is not None and classes < 1:
        raise ValueError(f"classes={classes}: give the number of outputs, at least 1, or null")


def check_statistics(mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise ValueError unless images of three colours, or grey ones, can be normalised by these."""
    if len(mean) != len(std) or len(mean) not in (1, 3):
        raise ValueError(f"mean={list(mean)} and std={list(std)}: give three numbers each, or one for grey images")
    if min(std) <= 0:
        raise ValueError(f"std={list(std)}: give deviations above 0, of pixels in [0,1]")


def _download(models: Any, architecture: str, weights: str) -> nn.Module:
    try:
        return models.get_model(architecture, weights=weights)
    except OSError as error:
        raise ValueError(
            f"could not download {architecture} weights {weights} ({error}). Without a connection, give a local file: "
            f"model.weights=/path/to/{architecture}.safetensors"
        ) from error


def _published_size(models: Any, architecture: str) -> tuple[int, int]:
    """The crop that torchvision evaluates its weights with."""
    side = int(models.get_model_weights(architecture).DEFAULT.transforms.keywords["crop_size"])
    return side, side


def _published_form(architecture: str) -> dict[str, Any]:
    """What torchvision's builder sets when it downloads: inputs normalised anew, GoogLeNet without auxiliary heads."""
    forms = {
        "googlenet": {"init_weights": False, "transform_input": True, "aux_logits": False},
        "inception_v3": {"init_weights": False, "transform_input": True},
    }
    return forms.get(architecture, {})


def _without_auxiliary_heads(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """GoogLeNet's published file carries heads that only training uses."""
    return {name: value for name, value in state.items() if not name.startswith(("aux1.", "aux2."))}


def _torchvision_models() -> Any:
    try:
        from torchvision import models
    except (ImportError, RuntimeError, AttributeError) as error:
        raise ImportError(
            f"torchvision cannot be imported beside torch {torch.__version__} ({error}). The two must be a matching "
            "pair: pip install torch==2.14.0 torchvision==0.29.2 (or 2.6.0 with 0.21.0)"
        ) from error
    return models


def _seeded(build: Callable[[], Module]) -> Module:
    """Build with a fixed seed, so that a network without weights is the same network every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


def _network(
    module: nn.Module,
    weights: str | None,
    sha256: str | None,
    mean: Sequence[float],
    std: Sequence[float],
    activation: Activation,
    convert: Convert = dict,
    input_size: tuple[int, int] | None = None,
) -> Network:
    check_statistics(mean, std)
    notes = [] if weights is None else load_weights(module, weights, sha256, convert)
    made = Network(module, mean, std, activation, fingerprint(module.state_dict()), input_size=input_size)
    return _noted(made, notes)


def _noted(network: Network, notes: Sequence[str]) -> Network:
    network.notes += notes
    return network
