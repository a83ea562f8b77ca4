"""What the outputs of published networks are called, in their order, without a data set to read them from."""

from collections.abc import Callable, Sequence
from pathlib import Path

from . import scenes, voc
from .decoding import DataError
from .listing import read_classes

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def _of_weights(architecture: str, *left_out: str) -> Sequence[str]:
    """As torchvision's published weights of an architecture list them; nothing is downloaded."""
    from torchvision.models import get_model_weights

    named: Sequence[str] = get_model_weights(architecture).DEFAULT.meta["categories"]
    return tuple(name for name in named if name not in left_out)


PUBLISHED: dict[str, Callable[[], Sequence[str]]] = {
    "cifar10": lambda: CIFAR10,
    "coco": lambda: _of_weights("fasterrcnn_resnet50_fpn", "__background__", "N/A"),
    "imagenet": lambda: _of_weights("resnet50"),
    "scenes": lambda: scenes.CLASSES,
    "voc": lambda: voc.CLASSES,
}


def class_names(classes: str | Sequence[str] | None) -> Sequence[str]:
    """Class names by index.

    Args:
        classes: the names themselves; one of `PUBLISHED`; a text file with a name a line; None: no names.

    Raises:
        DataError: neither a published list nor a file, or a file that is no list.
    """
    if not isinstance(classes, str):
        return tuple(map(str, classes or ()))
    if classes in PUBLISHED:
        return PUBLISHED[classes]()
    path = Path(classes).expanduser()
    if not path.is_file():
        raise DataError(f"classes={classes}: no file {path.absolute()}, and none of {', '.join(PUBLISHED)}")
    return read_classes(path)
