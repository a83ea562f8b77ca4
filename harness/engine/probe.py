"""One look at a network before anything is computed: are its outputs logits, one row an image, of its classes?

Each check is of a kind of network that people have and that would otherwise give wrong numbers without an error. Runs
of both wings, galleries, exported maps, single explanations and detectors in memory take the same look. What no single
batch shows, classes in another order, is looked for in the accuracy of all.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor

from ..config import ConfigError
from ..network import NO_VIEW, Network
from ..outputs import OutputError
from ..types import Sample
from .request import Images, Request

PROBED = 4  # images, together and the first one alone
FEW = 20  # images whose accuracy says nothing
SUSPICIOUS = 8  # numbers that are all between 0 and 1 by chance in no network


Say = Callable[[str], None]  # what hears a caution


def say(caution: str) -> None:
    """Print it."""
    print(f"caution: {caution}", flush=True)


def probe(request: Request, images: Images, *labelled: Images, say: Say = say) -> None:
    """Look at a request's network on its first images, and at the number of its classes.

    labelled: further sets whose classes are to be the network's. say: hears cautions.

    Raises:
        ConfigError: as `look`; fewer outputs than the data has classes.
    """
    samples, name = _first(images), request.config.model.name
    pixels = torch.stack([sample.image for sample in samples]).to(request.device)
    outputs = look(request.network, name, pixels, [sample.id for sample in samples], images.name, say)
    for each in (images, *labelled):
        _check_classes(request, each, outputs)
        _check_names(request, each)


def probe_once(request: Request, images: Images, say: Say = say) -> None:
    """The same for callers that come back with the same network, image by image: the first time alone."""
    if not is_known(request.network):
        probe(request, images, say=say)


_LOOKED_AT: WeakSet[Network] = WeakSet()


def is_known(network: Network) -> bool:
    """Whether a look has found it in order."""
    return network in _LOOKED_AT


def look(network: Network, name: str, pixels: Tensor, ids: Sequence[str], data: str, say: Say = say) -> int:
    """Send images through the network, and the first of them twice alone; their passes are counted.

    Two results are the same when they differ by at most half of the digits, sqrt(eps) of the largest logit (3e-4 in
    float32): rounding takes fewer digits, dropout and statistics of a batch more.

    Args:
        name, ids, data: of the network, the images and where they are from, for messages.
        pixels: [N,3,H,W] in [0,1]. say: hears cautions.

    Returns:
        How many classes it has.

    Raises:
        ConfigError: the network cannot run on them; outputs that are no logits [B,C], not finite, not the same twice,
            not the same for an image alone as in its batch, probabilities; channels that the network does not take.
    """
    several = pixels if len(pixels) > 1 else torch.cat([pixels, 1 - pixels])  # an image needs a neighbour
    inputs = network.normalise(several)
    with torch.no_grad(), _understood(network, name, data):
        together, alone, again = network(inputs), network(inputs[:1]), network(inputs[:1])
    check_finite(name, together[: len(pixels)], ids)
    if not _same(alone, again):
        raise ConfigError(
            f"{name} gives the same image other logits the second time ({_apart(alone, again)}): dropout or noise "
            "outside of training. Give dropout `training=self.training`, and draw nothing in eval mode"
        )
    if not _same(together[:1], alone):
        raise ConfigError(_depends_on_batch(name, _apart(together[:1], alone)))
    _check_logits(name, network, together, say)
    _check_groups(name, network, together.shape[1])
    _LOOKED_AT.add(network)
    return network.scores(together).shape[1]


def _check_groups(name: str, network: Network, outputs: int) -> None:
    """Raise ConfigError for a class group with an output that the network does not have."""
    members = sorted({member for group in network.groups or () for member in group})
    if strangers := [member for member in members if not 0 <= member < outputs]:
        raise ConfigError(
            f"{name} has {outputs} outputs, and its class groups name {', '.join(map(str, strangers[:5]))}: give "
            f"members 0 to {outputs - 1} (model.class_map is a table of the network's own outputs)"
        )


def _first(images: Images) -> list[Sample]:
    """The first image, and those of the next few that have its shape."""
    samples = [images.dataset[int(index)] for index in images.order[: min(images.stop, PROBED)]]
    return [sample for sample in samples if sample.image.shape == samples[0].image.shape]


def understood(request: Request, images: Images) -> AbstractContextManager[None]:
    """What a network cannot do with images, and what it returns that is no logits, as a ConfigError."""
    return _understood(request.network, request.config.model.name, images.name)


ALONE = "more than 1 value per channel when training"
CHANNELS = r"to have (\d+) channels, but got (\d+)"


@contextmanager
def _understood(network: Network, name: str, data: str) -> Iterator[None]:
    try:
        yield
    except (ConfigError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ConfigError(_in_words(error, network, name, data)) from error


def _in_words(error: Exception, network: Network, name: str, data: str) -> str:
    """What stopped a network, and the mend where it is known."""
    if isinstance(error, OutputError):
        return f"model {name}: {error}"
    if ALONE in str(error):
        return _depends_on_batch(name, "an image alone has none")
    if found := re.search(CHANNELS, str(error)):
        return (
            f"model {name} reads {found[1]} channels and gets {found[2]} of {data}: the network's mean and std have a "
            f"number a channel (one of them: images are made grey), and here they have {len(network.statistics[0])}"
        )
    if NO_VIEW in str(error) and network.memory_format == torch.channels_last:
        return (
            f"model {name} flattens by `view`, which takes the usual layout alone: leave compute.memory_format out, or "
            "write `flatten`"
        )
    first = (str(error).strip().splitlines() or [""])[0]
    return (
        f"model {name} cannot be run on images of {data} ({type(error).__name__}: {first}): it is given several images "
        f"together and one alone, in {network.mean.dtype}; does it take images of another size "
        "(dataset.transform.size=N, where the data set has a transform), or another number of them?"
    )


def _depends_on_batch(name: str, how: str) -> str:
    return (
        f"{name} gives an image other logits alone than in a batch ({how}): statistics of the batch, as of batch-norm "
        "with track_running_stats=False, make numbers depend on the batch size. Give it running statistics, or "
        "normalise each image by itself (GroupNorm, InstanceNorm)"
    )


def _same(one: Tensor, other: Tensor) -> bool:
    tolerance = torch.finfo(one.dtype).eps ** 0.5 * float(one.abs().max())
    return torch.allclose(one, other, rtol=0, atol=tolerance)


def _apart(one: Tensor, other: Tensor) -> str:
    return f"up to {float((one - other).abs().max()):.3g} at logits up to {float(one.abs().max()):.3g}"


def check_finite(name: str, logits: Tensor, ids: Sequence[str]) -> None:
    """Raise ConfigError unless the logits [B,C] of the images `ids` are numbers."""
    if bool((is_finite := logits.isfinite().all(1)).all()):
        return
    bad = [each for each, fine in zip(ids, is_finite.tolist(), strict=True) if not fine]
    masked = " -inf for a class that is masked? Give it -1e4, or leave the output out" if _is_masked(logits) else ""
    raise ConfigError(
        f"{name}: logits of {', '.join(bad[:5])} are not finite: look at these images, the weights, and the network's "
        f"mean and std (a standard deviation of 0?){masked}"
    )


def _is_masked(logits: Tensor) -> bool:
    """Whether all that is not finite is -inf, and in the same classes of each image."""
    is_low = logits == -torch.inf
    return bool((logits.isfinite() | is_low).all() and (is_low == is_low[:1]).all())


def _check_logits(name: str, network: Network, logits: Tensor, say: Say) -> None:
    """Refuse probabilities, and a softmax of one number; say where something looks like probabilities."""
    if logits.shape[1] == 1 and network.activation == "softmax":
        raise ConfigError(f"{name} has one output, whose softmax is always 1: activation=binary makes it two classes")
    within = bool(((logits >= 0) & (logits <= 1)).all())
    if logits.shape[1] > 1 and within and _are(logits.sum(1), 1):
        raise ConfigError(
            f"{name} returns probabilities (each row is in [0,1] and has the sum 1): a softmax inside the network, and "
            f"{network.activation} is taken of it again. Take the softmax out of the module: methods explain, and "
            "detectors read, the logits before it"
        )
    if within and logits.numel() >= SUSPICIOUS:
        then = "is taken twice" if network.activation == "sigmoid" else "makes probabilities, whose softmax is taken"
        say(f"all outputs of {name} are in [0,1]: a sigmoid inside the network {then}")
    if logits.shape[1] > 1 and _are(logits.logsumexp(1), 0):
        say(
            f"{name} returns logarithms of probabilities (log_softmax): probabilities are right, but energy is 0 for "
            "every image, max_logit is msp, and methods explain log p"
        )


def _are(values: Tensor, number: float) -> bool:
    return bool(((values - number).abs() < 1e-4).all())


def _check_classes(request: Request, images: Images, outputs: int) -> None:
    """Raise ConfigError where the data has more classes than the network, unless its labels are not read."""
    classes = images.dataset.classes
    if len(classes) <= outputs or request.config.protocol.targets.startswith("top"):
        return
    names = f"{', '.join(map(str, classes[:5]))}{', ...' if len(classes) > 5 else ''}"
    two = ": one output is two classes with activation=binary" if outputs == 1 and len(classes) == 2 else ""
    raise ConfigError(
        f"{images.name} has {len(classes)} classes ({names}) and {request.config.model.name} {outputs} outputs{two}: "
        "choose the network that was trained on these classes, or a part of the data (for a folder: its wnids list the "
        "class folders in the order of the outputs)"
    )


def _check_names(request: Request, images: Images) -> None:
    """Raise ConfigError where the outputs have names and the data has others: boxes and detectors go by the number."""
    known, found = request.network.classes, [str(each) for each in images.dataset.classes]
    if known is None or not found:
        return
    for number, (ours, theirs) in enumerate(zip(known, found, strict=False)):
        if _plain(ours) != _plain(theirs):
            raise ConfigError(
                f"class {number} is {theirs!r} in {images.name} and {ours!r} in {request.config.model.name}: put the "
                "rows of the network's classes and their names into the order of the data's, and call them alike"
            )


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def at_chance(images: Images, right: np.ndarray, chance: float) -> tuple[str, ...]:
    """A caution where predictions are no better than guesses.

    Args:
        right: whether each image's highest class is among its labels, bool [N].
        chance: the share of images for which a guess is.
    """
    noise = 2 * (chance * (1 - chance) / max(1, len(right))) ** 0.5  # two standard deviations of guesses
    if len(right) < FEW or right.mean() > chance + noise:
        return ()
    classes = [str(each) for each in images.dataset.classes]
    names = f"{', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''}"
    return (
        f"{right.mean():.3f} of the {len(right)} images of {images.name} are classified right, and guesses would be "
        f"{chance:.3f}: are the data's classes ({names}) in the order of the network's outputs? (For a folder: "
        "dataset.order=number, or dataset.wnids=FILE)",
    )
