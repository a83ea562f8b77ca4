"""One run of failure detectors: features once a data set, fits, scores, and metrics that read several tables."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from ..config import RunConfig
from ..detection import AVERAGE, TOGETHER
from ..engine.costs import Asked, Outcome, Summary, merge
from ..engine.engines import compute
from ..engine.fitting import alone
from ..engine.job import Job
from ..engine.probe import Say, at_chance, probe, say
from ..engine.rank import Rank
from ..engine.request import Request
from ..store import identity
from ..store.outcomes import Failure
from ..store.store import SAMPLES, SCORE, Shard
from .pictures import draw_error_roc, draw_histograms, draw_risk_coverage, draw_roc
from .plan import TEST, TRAIN, Detection, build_detection, plan
from .rows import asked_of, rows_of
from .score import fit, prepare, score


@dataclass(frozen=True, eq=False)
class DetectorRun:
    """A request of detectors, on their several data sets."""

    detection: Detection

    @classmethod
    def of(cls, request: Request) -> "DetectorRun":
        """Build its image sets; writes nothing."""
        return cls(plan(request))

    @property
    def request(self) -> Request:
        """What was asked for."""
        return self.detection.request

    @cached_property
    def run_id(self) -> str:
        """Digest of what was asked for, the same for every invocation of the same request."""
        every = self.detection.sets.items()
        scores = sorted((place, cell.store.key, len(each)) for place, each in every for cell in each.cells.values())
        metrics = [
            identity.named(identity.set_later(chosen.settings)) for chosen in self.request.config.metric.values()
        ]
        return identity.digest([scores, metrics])[:12]

    def describe(self) -> Iterator[str]:
        """One line a detector on each set: key, and whether its scores are there; then cautions."""
        yield from (f"weights: {each}" for each in self.request.network.notes)
        yield from self.request.notes
        for place, each in self.detection.sets.items():
            kept = sum(shard.stop - shard.start for shard in each.features.group(SAMPLES).shards())
            yield f"{place}: {each.images.name}, {len(each)} images, features of {min(kept, len(each))}"
            for title in each.features.titled:
                done = "to do" if each.features.group(title).missing([Shard(0, len(each))]) else "done"
                yield f"{each.features.groups[title]}  {title} {done}"
            for name, cell in each.cells.items():
                state = "to do" if each.incomplete(name) else "done"
                yield f"{cell.store.key}  {name:<22} {'cannot' if name in self.detection.unable else state}"
        yield from (f"caution: {each}" for each in self.cautions())

    def cautions(self) -> Iterator[str]:
        """What the images forbid to conclude."""
        yield from self.detection.cautions()

    def asked(self) -> Iterator[Asked]:
        """Where the rows of every metric of every detector on each set are, or would be."""
        for name in self.detection.detectors:
            yield from asked_of(self.detection, name)

    def missing(self) -> list[str]:
        """Detectors without scores somewhere."""
        return self.detection.incomplete()

    def examine(self, say: Say = say) -> None:
        """Look at the network with the first images, if there is any to pass; `say` hears what is doubtful."""
        if self.detection.unseen() or self.request.config.cache == "refresh":
            probe(self.request, *self.detection.labelled(), say=say)

    def prepare(self, rank: Rank) -> None:
        """Write who the cells are; forget what `cache=refresh` asks to forget, and earlier failures.

        What cannot score this network has failed from the start.
        """
        refresh, launch = self.request.config.cache == "refresh", rank.launch
        for kept in self.detection.readings.values():
            if refresh and kept.fit is not None:
                kept.fit.remove()
        for each in self.detection.everywhere():
            each.features.describe()
            each.features.forget(len(each) if refresh else None, launch)
            for cell in each.cells.values():
                cell.describe()
                cell.forget(len(each) if refresh else None, launch)
                if refresh and cell.fit is not None:
                    cell.fit.remove()
            for name in each.cells.keys() & self.detection.unable.keys():
                each.cells[name].group(SCORE).fail(Failure(self.detection.unable[name]))

    def compute(self, rank: Rank) -> Outcome:
        """All missing scores: one pass a data set, fits before scores; a detector that fails does not stop the others.

        Under torchrun the other ranks share the passes over the data; fits and scores are rank 0's. Without locks every
        process makes those that it does not find, in equal bytes.
        """
        detection = self.detection
        outcomes = [Outcome(batch_size=self.request.config.compute.batch_size)]
        outcomes += prepare_missing(detection, rank)
        if detection.training is not None and (names := detection.unfitted()):
            outcomes.append(pass_over(detection, TRAIN, names, rank))
            if rank.leads:
                fit(detection, names, outcomes[0])
        for place in detection.sets:
            outcomes += _scored(detection, place, rank, outcomes[0])
        return merge(outcomes)

    def summarise(self) -> Summary:
        """Rows of every metric on every detector's tables."""
        detection = self.detection
        groups = [group for name in detection.detectors for group in rows_of(detection, name, self.run_id)]
        splits = {each.images.split for each in detection.sets.values()} | {AVERAGE, TOGETHER}
        return Summary(groups, splits, failures(detection), partial(_draw, detection), self._at_chance())

    def _at_chance(self) -> tuple[str, ...]:
        """Whether predictions on the test set are better than guesses."""
        test = self.detection.sets[TEST]
        scored = [name for name in test.cells if not test.incomplete(name)]
        if not scored or not test.images.dataset.classes:
            return ()
        table = test.table(scored[0])
        labelled = table[table["label"] >= 0]
        return at_chance(test.images, ~labelled["is_error"].to_numpy(), 1 / len(test.images.dataset.classes))


def _scored(detection: Detection, place: str, rank: Rank, outcome: Outcome) -> list[Outcome]:
    """The pass over a set's images, and scores from its features."""
    image_set = detection.sets[place]
    names = [name for name in detection.able if image_set.lacks(name)]
    plain = [name for name in names if not detection.detectors[name].needs().images]
    if not (names := names if rank.leads else plain):
        return []
    if rank.leads:
        image_set.read_fits(names)
    made = pass_over(detection, place, names, rank)
    if rank.leads and plain:
        score(detection, place, plain, outcome)
    return [made]


def prepare_missing(detection: Detection, rank: Rank) -> list[Outcome]:
    """Prepare readings that are to look at a set of images first; one that cannot be has failed on every set.

    Ranks that share locks wait for one another here: the first prepares, and the others find what it left (or the
    failure).

    Raises:
        Damaged: what was left is not as it was written.
    """
    outcomes = []
    for kept in detection.unprepared():
        assert kept.fit is not None and kept.place is not None
        made = pass_over(detection, kept.place, [], rank)
        with alone(kept.fit, rank):
            if kept in detection.unprepared():  # still
                prepare(detection, kept, made)
        outcomes.append(made)
    for kept in map(detection.readings.__getitem__, detection.readings_of(detection.wanted())):
        if kept.fit is not None and kept.fit.exists():
            _ = kept.reader  # what is damaged is known before the loop, and made anew
    return outcomes


def pass_over(detection: Detection, place: str, names: list[str], rank: Rank) -> Outcome:
    """One pass over a set's images, for the detectors `names`."""
    rebuild = partial(_rebuild, detection.request.config, detection.request.root, place, names)
    return compute(detection.job(place, names), rank, rebuild, place)


def _rebuild(config: RunConfig, root: Path, place: str, names: list[str]) -> Job:
    """The same pass in a helper process."""
    return build_detection(config, root).job(place, names)


def failures(detection: Detection) -> dict[str, str]:
    """Why each detector failed that failed somewhere: on the first such set."""
    found: dict[str, str] = {}
    for each in detection.sets.values():
        for name in sorted(each.failed() - found.keys()):
            failure = each.cells[name].group(SCORE).failure()
            found[name] = failure.why if failure else ""
    return found


def _draw(detection: Detection, folder: Path) -> None:
    """Pictures of the scores of detectors that have them everywhere."""
    alive = [name for name in detection.detectors if name not in detection.failed()]
    tables = {name: {place: each.table(name) for place, each in detection.sets.items()} for name in alive}
    tests = {name: each[TEST] for name, each in tables.items()}
    outside = {name: {place: each[place] for place in detection.ood} for name, each in tables.items()}
    title = f"{detection.request.config.model.name}, {detection.sets[TEST].images.name}"
    if detection.ood and tables:
        draw_roc({name: (tests[name], outside[name]) for name in tables}, folder / "roc.png")
        for name in tables:
            draw_histograms(tests[name], outside[name], folder / f"histograms-{name}.png", f"{name}: {title}")
    if any(table["is_error"].any() for table in tests.values()):
        draw_risk_coverage(tests, folder / "risk-coverage.png")
        draw_error_roc(tests, folder / "roc-errors.png")
    print(f"pictures: {folder.absolute()}")
