"""Which sets are of the test set's classes: there a prediction is right or wrong, elsewhere every image is unknown."""

from collections.abc import Iterator, Mapping
from contextlib import suppress

from ..config import Choice, ConfigError
from ..engine.request import Images


def is_known(choice: Choice | None) -> bool:
    """Whether a set of conf/ood says so (`known: true`); what is none of them (None: test, validation) is."""
    return choice is None or bool(choice.notes.get("known"))


def check_known(test: Images, ood: Mapping[str, Choice], images: Mapping[str, Images]) -> None:
    """Raise ConfigError for a known set with another list of classes: its labels say nothing of predictions."""
    for name, choice in ood.items():
        if is_known(choice) and not _alike(images[name], test):
            raise ConfigError(
                f"ood.{name}.known=true: {images[name].name} has other classes than {test.name} "
                f"({len(images[name].dataset.classes)} and {len(test.dataset.classes)}), so its labels say nothing of "
                f"predictions: give it the same list, or leave ood.{name}.known out"
            )


def doubtful_labels(test: Images, ood: Mapping[str, Choice], images: Mapping[str, Images]) -> Iterator[str]:
    """Cautions about sets of unknown images that have labels of the test set's classes."""
    for name, choice in ood.items():
        if not is_known(choice) and test.dataset.classes and _alike(images[name], test) and _labelled(images[name]):
            yield (
                f"{name}: labelled by the classes of {test.name}, and taken as unknown: "
                f"ood.{name}.known=true if these are its images' classes"
            )


def _alike(one: Images, other: Images) -> bool:
    return list(one.dataset.classes) == list(other.dataset.classes)


def _labelled(images: Images) -> bool:
    with suppress(ValueError, OSError):  # what cannot be read is the loop's to name
        return bool(images.dataset[int(images.order[0])].targets)
    return False
