"""One run of attribution methods: maps and metrics of what is missing, then the rows of every finished metric."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import chain

import pandas as pd

from ..engine.costs import Asked, Outcome, Summary, merge
from ..engine.engines import compute
from ..engine.job import Cell, Job
from ..engine.probe import Say, at_chance, probe, say
from ..engine.rank import Rank
from ..engine.request import Request
from ..engine.samples import check_ids
from ..results.pairs import joined
from ..store import identity
from ..store.outcomes import Finished
from ..store.store import SAMPLES
from ..types import ResultRow
from .cell import AttributionCell
from .fitted import fit_missing
from .plan import build_job, plan

NO_PAIRS = ResultRow("", "mean", None, 0, status="undefined:the protocol leaves no (image, class) pair")


@dataclass(frozen=True, eq=False)
class AttributionRun:
    """A request of attribution methods, on its one data set."""

    job: Job

    @classmethod
    def of(cls, request: Request) -> "AttributionRun":
        """Build its cells; writes nothing."""
        return cls(plan(request))

    @property
    def request(self) -> Request:
        """What was asked for."""
        return self.job.request

    @cached_property
    def run_id(self) -> str:
        """Digest of what was asked for, the same for every invocation of the same request."""
        asked = sorted((cell.store.key, *sorted(cell.groups.values())) for cell in self.job.cells)
        return identity.digest([asked, self.job.images.stop])[:12]

    def describe(self) -> Iterator[str]:
        """One line a cell, then cautions."""
        yield from self.job.describe()
        yield from (f"weights: {each}" for each in self.request.network.notes)
        yield from self.request.notes
        yield from (f"caution: {each}" for each in self.cautions())

    def cautions(self) -> Iterator[str]:
        """What is odd about the images."""
        yield from self.job.images.cautions(self.request.network)

    def asked(self) -> Iterator[Asked]:
        """Where the rows of every metric of every method are, or would be."""
        images = self.job.images
        for cell in self.job.cells:
            for name in self.request.metrics:
                yield Asked(f"{cell.name} x {name} on {images.title}", cell.store.key, cell.groups[name], images.split)

    def missing(self) -> list[str]:
        """Methods of which something is not in the store."""
        return sorted({name for wanted in self.job.missing().values() for name in wanted})

    def examine(self, say: Say = say) -> None:
        """Look at the network with the first images, if there is anything to compute; `say` hears what is doubtful."""
        if self.missing() or self.request.config.cache == "refresh":
            probe(self.request, self.job.images, say=say)

    def prepare(self, rank: Rank) -> None:
        """Write who the cells are; forget what `cache=refresh` asks to forget, and earlier failures."""
        refresh = self.request.config.cache == "refresh"
        for cell in self.job.cells:
            cell.describe()
            if refresh and isinstance(cell, AttributionCell) and cell.fitting is not None:
                cell.fitting.fit.remove()
            for name in cell.groups:
                if refresh and name != SAMPLES:
                    cell.group(name).clear(self.job.images.stop)
                cell.group(name).forgive(rank.launch)

    def compute(self, rank: Rank) -> Outcome:
        """Fit, attribute and measure what is missing."""
        fitted = fit_missing(self.job, rank)
        rebuild = partial(build_job, self.request.config, self.request.root)
        return merge([fitted, compute(self.job, rank, rebuild, self.run_id)])

    def summarise(self) -> Summary:
        """Rows of the metrics whose shards are all present."""
        for cell in self.job.cells:
            self._summarise(cell)
        every = [(cell, name) for cell in self.job.cells for name in cell.groups]
        groups = [cell.group(name) for cell, name in every if name != SAMPLES]
        failures = dict(chain.from_iterable(map(_failures, self.job.cells)))
        return Summary(groups, {self.job.images.split}, failures, cautions=self._at_chance())

    def _at_chance(self) -> tuple[str, ...]:
        """Where the explained classes are the data's labels: whether predictions are better than guesses."""
        tables = [cell.group(SAMPLES) for cell in self.job.cells if not cell.group(SAMPLES).missing(self.job.shards)]
        if self.request.config.protocol.targets != "labels" or not tables:
            return ()
        images = self.job.images
        table = tables[0].read(images.stop)
        if not len(table):
            return ()
        by_image = table.assign(right=table["label"] == table["top"]).groupby("image_id")["right"]
        chance = by_image.size().mean() / max(1, len(images.dataset.classes))
        return at_chance(images, by_image.any().to_numpy(), float(chance))

    def _summarise(self, cell: Cell) -> None:
        samples: pd.DataFrame | None = None
        images = self.job.images
        for name, metric in self.request.metrics.items():
            group = cell.group(name)
            if group.has_failed or group.missing(self.job.shards):
                continue
            if samples is None:
                samples = cell.group(SAMPLES).read(images.stop)
                check_ids(samples)
            table = joined(samples, group.read(images.stop))
            made = metric.summarize(table) if len(table) else [NO_PAIRS]
            rows, before = [asdict(row) for row in made], group.finished(images.stop)
            earlier = before.left_by(rows) if before else ()
            group.finish(images.stop, Finished(self.run_id, images.split, rows, earlier))


def _failures(cell: Cell) -> Iterator[tuple[str, str]]:
    """Why a method failed or, one by one, its metrics."""
    failures = {name: failure.why for name in cell.groups if (failure := cell.group(name).failure())}
    if SAMPLES in failures:
        yield cell.name, failures[SAMPLES]
    else:
        yield from ((f"{cell.name} x {name}", why) for name, why in failures.items())
