"""From a request to a detection: the data sets, their features, and the scores that are asked of them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from ..config import Choice, ConfigError, RunConfig
from ..detection import AVERAGE, TOGETHER, Detector, LinearHead, Reading, averages_of
from ..engine.fitting import Fitting, training_images
from ..engine.job import Cell, Job
from ..engine.probe import understood
from ..engine.request import Images, Request, shown_names
from ..engine.targets import whole_images
from ..store import identity
from ..store.store import SAMPLES, SCORE, CellStore, Shard
from .cells import ImageSet, ScoreCell
from .checks import check_detectors, check_shifted
from .features import FeatureCell, linear_head
from .known import check_known, doubtful_labels, is_known
from .readings import KeptReading, kept_readings

FEW_A_CLASS, FEW = 10, 500  # images below which a run says so
TEST, TRAIN, VALIDATION = "test", "train", "validation"  # places of data sets in the config, beside the ood sets
RESERVED = frozenset({TEST, TRAIN, VALIDATION, AVERAGE, TOGETHER})


@dataclass(frozen=True, eq=False)
class Detection:
    """A request of detectors with its image sets: those to be scored, and the one that fits are made on."""

    request: Request
    sets: dict[str, ImageSet]  # `test`, `validation`, and the ood sets by name
    training: ImageSet | None
    readings: Mapping[Reading, KeptReading]

    @property
    def detectors(self) -> dict[str, Detector]:
        """The request's methods."""
        return self.request.methods

    @property
    def ood(self) -> dict[str, ImageSet]:
        """The sets that are to be told from the test set."""
        return {name: each for name, each in self.sets.items() if name not in (TEST, VALIDATION)}

    def is_known(self, place: str) -> bool:
        """Whether a set's images are of the test set's classes."""
        return is_known(self.request.config.ood.get(place))

    def labelled(self) -> list[Images]:
        """The sets whose labels are read, the test set first."""
        places = [place for place in (TEST, VALIDATION) if place in self.sets]
        return [self.sets[place].images for place in places] + ([self.training.images] if self.training else [])

    def everywhere(self) -> list[ImageSet]:
        """All image sets, that of the fits among them."""
        return [*self.sets.values(), *([self.training] if self.training else [])]

    def at(self, place: str) -> ImageSet:
        """The set of a place, or the one that fits are made on."""
        if place != TRAIN:
            return self.sets[place]
        assert self.training is not None
        return self.training

    def readings_of(self, names: Iterable[str]) -> list[Reading]:
        """What these detectors read beside features."""
        return list(dict.fromkeys(each for name in names for each in self.detectors[name].needs().readings))

    @cached_property
    def unable(self) -> dict[str, str]:
        """Detectors that cannot score this network, and why; the others go on."""
        if self.sets[TEST].features.head is not None:
            return {}
        return {name: _no_head(self.request) for name, each in self.detectors.items() if each.needs().penultimate}

    @property
    def able(self) -> list[str]:
        """The other detectors."""
        return [name for name in self.detectors if name not in self.unable]

    def wanted(self) -> list[str]:
        """Detectors that lack scores somewhere."""
        return [name for name in self.able if any(each.lacks(name) for each in self.sets.values())]

    def incomplete(self) -> list[str]:
        """Detectors without scores somewhere, failed ones among them."""
        return [name for name in self.able if any(each.incomplete(name) for each in self.sets.values())]

    def failed(self) -> list[str]:
        """Detectors that failed on some set."""
        return [name for name in self.detectors if any(name in each.failed() for each in self.sets.values())]

    def unfitted(self) -> list[str]:
        """Detectors that lack scores and the state to make them with."""
        return self._unfitted(self.wanted())

    def _unfitted(self, names: list[str]) -> list[str]:
        fits = {name: self.sets[TEST].cells[name].fit for name in names}
        return [name for name, fit in fits.items() if fit is not None and not fit.exists()]

    def unprepared(self) -> list[KeptReading]:
        """Readings that lack what they are prepared to, and are asked of images that have not been read."""
        return [kept for kept in self._lacking(self.wanted()) if self._is_unread(kept)]

    def _lacking(self, names: list[str]) -> list[KeptReading]:
        asked = (self.readings[each] for each in self.readings_of(names))
        lacking = [kept for kept in asked if kept.fit is not None and not kept.fit.exists()]
        return list({each.key: each for each in lacking}.values())

    def _is_unread(self, kept: KeptReading, forgiven: bool = False) -> bool:
        places = [each for each in self.everywhere() if kept.title in each.features.groups]
        groups = [(each.features.group(kept.title), Shard(0, len(each))) for each in places]
        return any(group.missing([whole]) and (forgiven or not group.has_failed) for group, whole in groups)

    def job(self, place: str, names: list[str]) -> Job:
        """The pass over a set's images that these detectors need: features, and scores of those that look at images.

        Without detectors, what all of them share: features without readings.
        """
        looking = [name for name in names if self.detectors[name].needs().images and place != TRAIN]
        chosen, readings = self.at(place), self.readings_of(names)
        cells: list[Cell] = [chosen.features.only(readings)] if len(looking) < len(names) or not names else []
        return Job(self.request, chosen.images, [*cells, *(chosen.cells[name] for name in looking)], whole_images)

    def unseen(self) -> int:
        """Images that missing scores need the network for; what failed is missing, for a run forgives it."""
        asked = self.incomplete()
        unfitted = self._unfitted(asked)
        jobs = [self.job(TRAIN, unfitted)] if self.training is not None and unfitted else []
        jobs += [
            self.job(kept.place, []) for kept in self._lacking(asked) if kept.place and self._is_unread(kept, True)
        ]
        for place, each in self.sets.items():
            if names := [name for name in self.able if each.incomplete(name)]:
                jobs.append(self.job(place, names))
        return sum(shard.stop - shard.start for job in jobs for shard in job.missing())

    def cautions(self) -> Iterator[str]:
        """What the images forbid to conclude."""
        if self.training is not None:
            images, classes = len(self.training), len(self.training.images.dataset.classes)
            if images < FEW_A_CLASS * classes:
                yield f"{images} training images for {classes} classes: class means and percentiles are rough"
        for name, each in self.sets.items():
            if len(each) < FEW:
                yield f"{name}: {len(each)} images, a rate moves by {100 / len(each):.1f} % at once: see the intervals"
        sets = {name: each.images for name, each in self.sets.items()}
        yield from doubtful_labels(sets[TEST], self.request.config.ood, sets)
        yield from (f"{name} will have no scores: {why}" for name, why in self.unable.items())
        yield from chain.from_iterable(each.images.cautions(self.request.network) for each in self.everywhere())


def build_detection(config: RunConfig, root: Path) -> Detection:
    """The detection of a config whose methods are detectors; `root`: of the store. Reads weights, writes nothing."""
    return plan(Request.of(config, root))


def plan(request: Request) -> Detection:
    """Build the image sets of a request and compute the keys of their cells.

    Raises:
        ConfigError: a detector without the training set that it is fitted on, a metric without its data sets, no
            detector that can score this network.
    """
    config, detectors = request.config, request.methods
    check_detectors(config, request.network, detectors)
    _check_sets(config)
    _check_metrics(config, request.metrics)
    places = {TEST: config.dataset, **({VALIDATION: config.validation} if config.validation else {}), **config.ood}
    images = {place: Images.of(request, chosen, config.subset_seed) for place, chosen in places.items()}
    check_known(images[TEST], config.ood, images)
    with understood(request, images[TEST]):
        request = request.settled(images[TEST])
    head = _head(request, images[TEST])
    layers = sorted({layer for detector in detectors.values() for layer in detector.needs().layers})
    learning = [detector for detector in detectors.values() if detector.needs().training]
    if learning or any(each.needs().prepared_on == TRAIN for each in _readings(detectors.values())):
        images[TRAIN] = training_images(request)
    readings = kept_readings(_readings(detectors.values()), request, images)

    def featured(chosen: Images, asked: Iterable[Reading], known: bool = True) -> ImageSet:
        key, kept = identity.digest(chosen.identity), {each: readings[each] for each in asked}
        return ImageSet(chosen, FeatureCell.of(request.root, key, request.network, head, layers, kept, known))

    learned = chain.from_iterable(detector.needs().learned for detector in learning)
    training = featured(images[TRAIN], learned) if TRAIN in images else None
    scored = _readings(detectors.values())
    made = {
        place: featured(each, scored, is_known(config.ood.get(place)))
        for place, each in images.items()
        if place != TRAIN
    }
    sets = {place: _scored(request, each, training, readings) for place, each in made.items()}
    return Detection(request, sets, training, readings)


def _readings(detectors: Iterable[Detector]) -> list[Reading]:
    return list(dict.fromkeys(each for detector in detectors for each in detector.needs().readings))


def _head(request: Request, test: Images) -> LinearHead | None:
    """What the network ends in, found by a pass of the first image."""
    with understood(request, test):
        head = linear_head(request.network, test.dataset[0].image.to(request.device))
    if head is None and all(detector.needs().penultimate for detector in request.methods.values()):
        raise ConfigError(f"{', '.join(request.methods)}: {_no_head(request)}")
    return head


def _no_head(request: Request) -> str:
    obstacle = request.network.obstacle()
    behind = "" if obstacle is None else f" ({obstacle} comes last of what is not linear)"
    return (
        f"reads penultimate features, and {request.config.model.name} does not end in a linear layer{behind}: choose "
        "detectors on the logits (msp, max_logit, entropy, margin, energy, gen, klm)"
    )


def _scored(
    request: Request, chosen: ImageSet, training: ImageSet | None, readings: Mapping[Reading, KeptReading]
) -> ImageSet:
    """The set with a cell for the scores of each detector."""
    for name, detector in request.methods.items():
        read = [readings[each].identity for each in detector.needs().readings]
        chosen.cells[name] = _cell(request, chosen, name, detector, training, read)
    return chosen


def _cell(
    request: Request,
    chosen: ImageSet,
    name: str,
    detector: Detector,
    training: ImageSet | None,
    readings: list[dict[str, Any]],
) -> ScoreCell:
    seed, fitting, nested = request.config.seed, None, identity.nested_versions(detector)
    chosen_settings = identity.by_content(request.config.method[name].settings, detector)
    if detector.needs().training:
        assert training is not None
        settings = {"method": identity.named(chosen_settings), "version": detector.VERSION, "seed": seed, **nested}
        fitting = Fitting.of(request, training.images, settings | ({"readings": readings} if readings else {}))
    labels = request.labels(chosen.images.name, name, "detection", "ood")
    cell = identity.cell_identity(
        chosen.images.identity,
        names=shown_names(labels),
        protocol={},
        method=chosen_settings,
        version=detector.VERSION,
        seed=seed,
        nested=nested,
        training=None if fitting is None else fitting.identity,
        readings=readings,
    )
    return ScoreCell(
        name,
        CellStore(request.root, identity.digest(cell)),
        {SAMPLES: SAMPLES, SCORE: SCORE},
        detector,
        chosen.features,
        None if fitting is None else fitting.fit,
        about={"identity": cell, "labels": labels},
    )


def _check_sets(config: RunConfig) -> None:
    if reserved := sorted(set(config.ood) & RESERVED):
        raise ConfigError(f"ood={reserved}: these names mean something else; give the file of the set another name")
    shown = [config.dataset.name, *(each.name for each in config.ood.values())]
    if repeated := sorted({name for name in shown if shown.count(name) > 1}):
        raise ConfigError(f"two data sets are called {', '.join(repeated)}: give them names (ood.SET.name=...)")


def _check_metrics(config: RunConfig, metrics: dict[str, object]) -> None:
    for name, metric in metrics.items():
        if not hasattr(metric, "PARTNERS"):
            raise ConfigError(f"metric {name} measures attributions, and the methods are detectors: metric=[ood]")
        if metric.PARTNERS != "validation" and not config.ood:
            raise ConfigError(f"metric {name} needs sets to be told from {config.dataset.name}: ood=[NAME,...]")
        for average, sets in averages_of(metric).items():
            _check_average(name, average, sets, config.ood)
        check_shifted(name, metric, config.ood)


def _check_average(metric: str, average: str, sets: Iterable[str], ood: Mapping[str, Choice]) -> None:
    if unknown := sorted(set(sets) - set(ood)):
        group = f"metric.{metric}.groups.{average.removeprefix(AVERAGE).strip()}"
        raise ConfigError(
            f"{group}: {', '.join(unknown)} is no set of this run, whose sets are {', '.join(ood)}: name these, "
            f"add it to ood=[...], or leave the group out (~{group})"
        )
