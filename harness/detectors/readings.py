"""Readings of a run: who each is, where what it was prepared to is kept, and its values, a group of the features."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from torch import Tensor

from ..config import ConfigError, RunConfig
from ..detection import Reading, State
from ..engine.finite import check_rows, check_state
from ..engine.fitting import check_training
from ..engine.request import Images, Request
from ..forward import ForwardPass
from ..network import Network
from ..seeds import Named, SampleRng
from ..store import identity
from ..store.fits import Fit
from ..training import PreparedReading, TrainingSet


def described(reading: Reading, network: Network) -> dict[str, Any]:
    """Class, version and all that the reading says of itself under a network."""
    kind = type(reading)
    about = {name: _known(value) for name, value in reading.about(network).items()}
    settings = {"_target_": f"{kind.__module__}.{kind.__qualname__}", **about}
    return dict(identity.named(settings)) | {"version": kind.VERSION} | identity.nested_versions(reading)


def _known(value: Any) -> Any:
    """What a config's settings made is known by their content, as models are: without places of files."""
    is_made = isinstance(value, dict) and "_target_" in value
    return identity.digest(identity.content(identity.named(identity.set_later(value)))) if is_made else value


def title_of(about: Mapping[str, Any]) -> str:
    """`Conductance(layer=layer1, steps=10)`, of what `described` says."""
    shown = (f"{name}={value}" for name, value in about.items() if name not in ("_target_", "version", "versions"))
    return f"{about['_target_']}({', '.join(shown)})"


@dataclass(frozen=True, eq=False)
class Reader:
    """A reading with what it was prepared to."""

    reading: Reading
    title: str
    seed: int
    state: State

    def read(self, forward: ForwardPass, images: Named) -> Tensor:
        """Values [B,...] of the images of a pass.

        Raises:
            ValueError: other than one finite row an image.
        """
        rng = SampleRng.of(self.seed, type(self.reading).__name__, images)
        values, count = self.reading.read(forward, rng, self.state).detach(), len(images.image_ids)
        if not values.ndim or len(values) != count:
            raise ValueError(f"{self.title} returned {list(values.shape)} for {count} images: a row each is wanted")
        check_rows(f"{self.title} returned values that are", values, images.image_ids)
        return values


@dataclass(frozen=True, eq=False)
class KeptReading:
    """A reading under the network of a run, whose values are a group of a set's features.

    about: see `described`. identity: that, with the seed of one that draws, and what it is prepared on. place: the set
    on which it is prepared, and fit: where what that leaves is kept; None where there is nothing to prepare.
    """

    reading: Reading
    about: dict[str, Any]
    identity: dict[str, Any]
    seed: int
    place: str | None
    fit: Fit | None

    @classmethod
    def of(cls, reading: Reading, request: Request, images: Mapping[str, Images]) -> "KeptReading":
        """images: of the run's sets, by place."""
        about, needs, seed = described(reading, request.network), reading.needs(), request.config.seed
        made: dict[str, Any] = {"reading": about} | ({"seed": seed} if needs.draws else {})
        if (place := needs.prepared_on) is None:
            return cls(reading, about, made, seed, None, None)
        made["prepared"] = {"data": images[place].identity, "images": images[place].stop}
        return cls(reading, about, made, seed, place, Fit(request.root, identity.digest(made)))

    @property
    def key(self) -> str:
        """Of its group in a set's features, and of what preparing it leaves."""
        return identity.digest(self.identity)

    @property
    def title(self) -> str:
        """What it is called in costs and messages."""
        return title_of(self.about)

    @cached_property
    def reader(self) -> Reader:
        """With what preparing it left.

        Raises:
            Damaged, Incomplete: that is not as it was written, or has gone.
        """
        return Reader(self.reading, self.title, self.seed, {} if self.fit is None else self.fit.read())

    def read(self, forward: ForwardPass, images: Named) -> Tensor:
        """Values of the images of a pass."""
        return self.reader.read(forward, images)

    def prepare(self, images: TrainingSet) -> None:
        """Make and keep what reading needs of a set of images."""
        assert self.fit is not None
        state = cast(PreparedReading, self.reading).prepare(images)
        check_state(self.title, state)
        self.fit.write(state)


def kept_readings(
    readings: Iterable[Reading], request: Request, images: Mapping[str, Images]
) -> dict[Reading, KeptReading]:
    """Where each is kept; those of one key are one."""
    by_key: dict[str, KeptReading] = {}
    made = {reading: KeptReading.of(reading, request, images) for reading in readings}
    return {reading: by_key.setdefault(kept.key, kept) for reading, kept in made.items()}


def check_reading(config: RunConfig, network: Network, name: str, reading: Reading) -> None:
    """Raise ConfigError, for the method `name`, unless the network can be read so and what to prepare on is there."""
    try:
        title = title_of(described(reading, network))
    except ValueError as error:
        raise ConfigError(f"method {name}: {error}") from error
    place = reading.needs().prepared_on
    if place == "train":
        check_training(config, name)
    if place == "validation" and config.validation is None:
        raise ConfigError(
            f"method {name}: {title} is prepared on a validation set: dataset@validation=NAME "
            "(python -m harness ls dataset)"
        )
