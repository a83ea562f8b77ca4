"""Is a prediction to be trusted? One ranking over errors, shifted images and unknown ones."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import pandas as pd
from assay.harness.curves import RESAMPLES
from assay.harness.detection import TOGETHER
from assay.harness.failures import Mixture, Source
from assay.harness.types import ResultRow

from .ranked import AREAS, CURVES, RANKINGS, Images, Ranked, ends_of

TEST = "test"


@dataclass(frozen=True)
class FailureDetection:
    """Ranks failures of several sources: wrong predictions on the test set and on shifted versions of it, and unknown
    images, every one of which is a failure whatever is predicted (Jaeger et al. 2023).

    Rows of the test set and of each known set (`known: true`) are of that set alone; those of an unknown set, which has
    no right prediction, are of its images among the test set's; `together` are all sets as they are, so that a large
    one weighs more. Quantities are those of `error_detection`. Intervals draw images anew (percentile bootstrap), an
    image and its shifted versions together.

    resamples: of the bootstrap.
    """

    resamples: int = RESAMPLES
    VERSION: ClassVar[int] = 1
    PARTNERS: ClassVar[Literal["sources"]] = "sources"

    def __post_init__(self) -> None:
        if self.resamples < 2:
            raise ValueError(f"resamples={self.resamples}: give at least 2")

    def summarize(self, test: pd.DataFrame, partners: Mapping[str, pd.DataFrame]) -> dict[str, list[ResultRow]]:
        """Rows of each set and of all together."""
        first = _source(TEST, test)
        others = {name: _source(name, partners[name]) for name in sorted(partners)}
        mixes = {name: Mixture.about(first, each) for name, each in {TEST: first, **others}.items()}
        mixes[TOGETHER] = Mixture(first, [first, *others.values()])
        return {name: list(self._rows(mix)) for name, mix in mixes.items()}

    def _rows(self, mix: Mixture) -> Iterator[ResultRow]:
        ranked = self._ranked(mix)
        wrong = ranked.images.wrong
        count = ResultRow("wrong_or_unknown", "n_failures", float(wrong.sum()), len(wrong), unit="count")
        yield replace(count, headline=False)
        yield from ranked.rows((*RANKINGS, *AREAS, *CURVES))

    def _ranked(self, mix: Mixture) -> Ranked:
        images = Images(mix.scores, mix.failures, "all")
        if images.useless:
            return Ranked(images, {}, {}, {})
        values, resampled = mix.bootstrap(self.resamples)
        return Ranked(images, values, resampled, ends_of(Images(*mix.once(), "all"), values))


def _source(name: str, table: pd.DataFrame) -> Source:
    """A score table's; all of its images are of known classes, or none is."""
    return Source.of(name, table, bool(table["known"].all()))
