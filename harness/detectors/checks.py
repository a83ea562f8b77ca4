"""What is refused of detectors before anything of them is planned."""

from collections.abc import Mapping

from ..config import Choice, ConfigError, RunConfig
from ..detection import Detector, Reading, averages_of, shifted_of
from ..engine.fitting import check_training
from ..network import Network
from ..outputs import OutputError
from ..reduced import SAME
from .known import is_known
from .readings import check_reading


def check_detectors(config: RunConfig, network: Network, detectors: dict[str, Detector]) -> None:
    """Raise ConfigError for a method that is no detector or lacks a training set or layer; for networks of grids."""
    if config.forward_precision != SAME:
        raise ConfigError(
            f"forward_precision={config.forward_precision}: {', '.join(detectors)} read logits and features of one "
            f"pass, which is in {config.precision}: leave it out"
        )
    _check_single_images(config, network, detectors)
    for name, detector in detectors.items():
        if not hasattr(detector, "score"):
            raise ConfigError(f"method {name} makes maps and scores no images: choose a detector (msp, knn, ...)")
        if detector.needs().training:
            check_training(config, name)
        if detector.needs().images and detector.needs().readings:
            raise ConfigError(f"method {name} looks at images again and asks for readings, which are kept: one of both")
        if detector.needs().images and hasattr(detector, "details"):
            raise ConfigError(
                f"method {name} looks at images again and has details, which are of features: one of both"
            )
        for layer in detector.needs().layers:
            try:
                network.check_layer(layer)
            except ValueError as error:
                raise ConfigError(f"method {name}: {error}. Set method.{name}.layers") from error
            except OutputError as error:
                raise ConfigError(f"model {config.model.name}: {error}") from error
    for reading, name in _first_asked(detectors).items():  # one object for all that ask: what it loads it holds
        check_reading(config, network, name, reading)


def _check_single_images(config: RunConfig, network: Network, detectors: dict[str, Detector]) -> None:
    """A row of features, of logits and of probabilities is an image's own: on a grid they are several images'."""
    if network.cells > 1:
        raise ConfigError(
            f"model {config.model.name} reads {network.cells} x {network.cells} images at once, with outputs of each, "
            f"and {', '.join(detectors)} would judge them as one: choose the network of single images in it"
        )


def _first_asked(detectors: dict[str, Detector]) -> dict[Reading, str]:
    asked: dict[Reading, str] = {}
    for name, detector in detectors.items():
        for reading in detector.needs().readings:
            asked.setdefault(reading, name)
    return asked


def check_shifted(name: str, metric: object, ood: Mapping[str, Choice]) -> None:
    """Raise ConfigError unless the sets that a metric counts as in distribution are known ones, and others are left."""
    setting, shifted = f"metric.{name}.shifted", shifted_of(metric)
    for each in shifted:
        if each not in ood:
            raise ConfigError(
                f"{setting}: {each} is no set of this run, whose sets are {', '.join(ood)}: name these, or add it to "
                "ood=[...]"
            )
        if not is_known(ood[each]):
            raise ConfigError(
                f"{setting}: {each} counts as unknown, and as in distribution here: ood.{each}.known=true if its "
                "images are of the test set's classes"
            )
        if grouped := [group for group, sets in averages_of(metric).items() if each in sets]:
            raise ConfigError(f"{setting}: {each} is in the {grouped[0]} of unknown sets, too: leave it out of one")
    if shifted and not set(ood) - set(shifted):
        raise ConfigError(f"{setting}: all sets of the run count as in distribution: add unknown ones to ood=[...]")
