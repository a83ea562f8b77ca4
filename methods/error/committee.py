"""Committees: what several networks, or one network with units dropped at random, make of an image."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol, get_args
from weakref import WeakKeyDictionary

import torch
from assay.harness.detection import DetectorNeeds, Features, ReadingNeeds, State
from assay.harness.forward import ForwardPass
from assay.harness.network import Network
from assay.harness.seeds import SampleRng
from torch import Tensor, nn
from torch.nn.functional import one_hot

Form = Literal["mean_softmax", "disagreement", "mutual_information"]


def class_logits(network: Network, logits: Tensor) -> Tensor:
    """Logits [B,C] of the classes whose softmax is the opinion of a network with these outputs.

    A binary network's one logit z stands there as [-z, z]; halved, their softmax is its own probability, sigmoid(z).
    """
    scores = network.scores(logits)
    return scores / 2 if network.reads[1] == "binary" else scores


def opinions(logits: Tensor) -> Tensor:
    """What members with logits of classes [M,B,C] (-inf: a class without outputs) say of each image: [B,2C+1], float32.

    The mean of their softmax probabilities [C], the share of them that predicts each class [C], and the mutual
    information of class and member, in nats: the mean of sum_c p (log p - log mean p), which is never below 0.
    """
    logs = logits.double().log_softmax(2)
    mean_log = logs.logsumexp(0) - torch.tensor(len(logs), dtype=torch.float64).log()
    apart = torch.where(logs > -torch.inf, logs.exp() * (logs - mean_log), 0).sum(2).mean(0)
    votes = one_hot(logits.argmax(2), logits.shape[2]).double().mean(0)
    return torch.cat([mean_log.exp(), votes, apart[:, None]], 1).float()


def _mean_softmax(opinion: Tensor, predicted: Tensor) -> Tensor:
    classes = opinion.shape[1] // 2
    return opinion[:, :classes].double().scatter(1, predicted[:, None], 0).sum(1)  # 1 - p, and sure ones do not tie


def _disagreement(opinion: Tensor, predicted: Tensor) -> Tensor:
    classes = opinion.shape[1] // 2
    return 1 - opinion[:, classes:-1].double().gather(1, predicted[:, None])[:, 0]


FORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean_softmax": _mean_softmax,
    "disagreement": _disagreement,
    "mutual_information": lambda opinion, predicted: opinion[:, -1].double(),
}


def _check_form(form: str) -> None:
    if form not in FORMS:
        raise ValueError(f"form={form!r}: choose one of {', '.join(get_args(Form))}")


# Monte Carlo dropout


@contextmanager
def dropping(module: nn.Module, rng: SampleRng) -> Iterator[None]:
    """Within, the module's dropout layers drop what `rng` draws, image by image; nothing else leaves eval mode."""

    def drop(layer: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> Tensor:
        values, share = inputs[0], float(layer.p)  # type: ignore[arg-type]
        kept = rng.noise(_dropped_together(layer, values), values.device).uniform()[:, 0].to(values) >= share
        return values * kept / (1 - share)

    hooks = [layer.register_forward_hook(drop) for layer in dropout_layers(module).values()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _dropped_together(layer: nn.Module, values: Tensor) -> list[int]:
    """The shape of an image's draws: Dropout2d and the like drop whole maps."""
    if isinstance(layer, nn.Dropout):
        return list(values.shape[1:])
    return [values.shape[1], *[1] * (values.ndim - 2)]


def dropout_layers(module: nn.Module) -> dict[str, nn.Module]:
    """Layers that drop something in training, by name; not those that keep mean and variance (AlphaDropout)."""
    kinds = nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d
    return {name: each for name, each in module.named_modules() if isinstance(each, kinds) and 0 < each.p < 1}


@dataclass(frozen=True)
class Dropped:
    """Opinions of passes with dropout: [B,2C+1]. Draws depend on the image's name, whatever the batch or process."""

    passes: int
    VERSION: ClassVar[int] = 3

    def needs(self) -> ReadingNeeds:
        """The normalised images, and draws."""
        return ReadingNeeds(draws=True)

    def about(self, network: Network) -> dict[str, Any]:
        """Passes, and the layers that drop.

        Raises:
            ValueError: the network has none.
        """
        layers = dropout_layers(network.module)
        if not layers:
            raise ValueError(
                f"{type(network.module).__name__} has no dropout layer (nn.Dropout, 1d to 3d, with 0 < p < 1): every "
                "pass would be the same; choose ensemble, or msp"
            )
        return {"passes": self.passes, "layers": {name: float(each.p) for name, each in layers.items()}}  # type: ignore[arg-type]

    def read(self, forward: ForwardPass, rng: SampleRng, state: State) -> Tensor:
        """`passes` whole passes."""
        network = forward.network
        with torch.no_grad(), dropping(network.module, rng):
            logits = [class_logits(network, network(forward.inputs)) for _ in range(self.passes)]
        return opinions(torch.stack(logits))


@dataclass(frozen=True)
class MCDropout:
    """Monte Carlo dropout (Gal and Ghahramani 2016): the network's training-time dropout, drawn anew in each pass.

    Switched on are its layers nn.Dropout, Dropout1d, 2d and 3d with 0 < p < 1 (`about` names them). Not switched on, as
    in evaluation, are dropout called as a function (torch.nn.functional.dropout, attention's `dropout_p`), layers that
    keep mean and variance (AlphaDropout) and stochastic depth, which leaves out whole blocks. A network with none of
    the first kind is refused.

    form: `mean_softmax` is one minus the passes' mean probability of the class that the network predicts (without
    dropout); `disagreement` the share of passes that predict another; `mutual_information` that of class and pass
    (BALD). passes: each costs one forward pass an image. The softmax is taken where classes do not exclude each other
    (sigmoid), too; of a binary network p is sigmoid(z), as everywhere.
    """

    form: Form = "mean_softmax"
    passes: int = 20
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _check_form(self.form)
        if self.passes < 2:
            raise ValueError(f"passes={self.passes}: give at least 2")

    def needs(self) -> DetectorNeeds:
        """The passes' opinions, which forms share."""
        return DetectorNeeds(readings=(Dropped(self.passes),))

    def score(self, features: Features, state: State) -> Tensor:
        """[N], float64, from 0."""
        return FORMS[self.form](features.reading(Dropped(self.passes)), features.predicted)


# Deep ensembles


class Loader(Protocol):
    """Other weights of a network's architecture (`harness.networks.members`, which a config names)."""

    def digest(self, weights: str) -> str:
        """Of what is in the file."""

    def load(self, network: Network, weights: str) -> Network:
        """The network with the file's weights in place of its own."""


@dataclass(frozen=True)
class Members:
    """Opinions of a network and of others of its architecture: [B,2C+1]."""

    weights: tuple[str, ...]
    loader: Loader
    VERSION: ClassVar[int] = 2

    def needs(self) -> ReadingNeeds:
        """The normalised images."""
        return ReadingNeeds()

    def about(self, network: Network) -> dict[str, Any]:
        """What is in the files, in order.

        Raises:
            ValueError: none is given, one is given twice, or does not fit the network.
        """
        if not self.weights:
            raise ValueError("weights=[]: an ensemble needs other weights of this architecture: weights=[FILE,...]")
        digests = [self.loader.digest(each) for each in self.weights]
        if twice := [name for name, each in zip(self.weights, digests, strict=True) if digests.count(each) > 1]:
            raise ValueError(f"weights: {' and '.join(twice)} hold the same: members must be trained apart")
        self._others(network)
        return {"members": digests}

    def read(self, forward: ForwardPass, rng: SampleRng, state: State) -> Tensor:
        """One pass of each other member."""
        with torch.no_grad():
            others = [class_logits(each, each(forward.inputs)) for each in self._others(forward.network)]
        return opinions(torch.stack([class_logits(forward.network, forward.logits), *others]))

    @cached_property
    def _loaded(self) -> "WeakKeyDictionary[Network, list[Network]]":
        return WeakKeyDictionary()

    def _others(self, network: Network) -> list[Network]:
        if network not in self._loaded:
            self._loaded[network] = [self._other(network, each) for each in self.weights]
        return self._loaded[network]

    def _other(self, network: Network, weights: str) -> Network:
        other = self.loader.load(network, weights)
        pairs = zip(network.module.parameters(), other.module.parameters(), strict=True)
        if all(torch.equal(own, their) for own, their in pairs):
            raise ValueError(f"weights: {weights} holds the network's own: members must be trained apart")
        return other


@dataclass(frozen=True)
class Ensemble:
    """A deep ensemble (Lakshminarayanan et al. 2017): the network, and others of its architecture trained apart.

    form: as of `MCDropout`, the network itself being a member; what is judged is its prediction, not the ensemble's.
    weights: files of the other members, each of which costs one forward pass an image and is held in memory.
    """

    loader: Loader
    weights: Sequence[str] = ()
    form: Form = "mean_softmax"
    FILES: ClassVar[frozenset[str]] = frozenset({"weights"})  # which the reading identifies by what is in them
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _check_form(self.form)

    def needs(self) -> DetectorNeeds:
        """The members' opinions, which forms share."""
        return DetectorNeeds(readings=(self._members,))

    @cached_property
    def _members(self) -> Members:
        return Members(tuple(self.weights), self.loader)

    def score(self, features: Features, state: State) -> Tensor:
        """[N], float64, from 0."""
        return FORMS[self.form](features.reading(self._members), features.predicted)
