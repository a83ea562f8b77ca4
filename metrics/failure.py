"""Is a prediction to be trusted? One ranking over errors, shifted images and unknown ones."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import pandas as pd
from assay.harness.curves import RESAMPLES, Drawn, mixed_bootstrap
from assay.harness.detection import TOGETHER
from assay.harness.seeds import derive_seed
from assay.harness.types import ResultRow

from .ranked import AREAS, CURVES, RANKINGS, Images, Ranked, ends_of

TEST = "test"


class Source(NamedTuple):
    """One set's images: who they are, their scores, and which of them are failures.

    known: whether they are of the test set's classes, and a failure is a wrong prediction; else every one is.
    """

    name: str
    ids: Sequence[str]
    images: Images
    known: bool

    @classmethod
    def of(cls, name: str, table: pd.DataFrame) -> "Source":
        """From a score table; a known set's images without a label are neither right nor wrong."""
        known = bool(table["known"].all())
        table = table[table["label"] >= 0] if known else table
        failures = table["is_error"].to_numpy(bool) if known else np.ones(len(table), bool)
        return cls(name, list(table["image_id"]), Images(table["score"].to_numpy(float), failures, "all"), known)

    def drawn(self, test: "Source") -> Drawn:
        """Versions of the test set's images are drawn with them, other images by themselves."""
        alike = self.known and self.ids == test.ids
        return Drawn(self.images.scores, self.images.wrong, 0 if alike else derive_seed(self.name))


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
        first = Source.of(TEST, test)
        others = {name: Source.of(name, partners[name]) for name in sorted(partners)}
        mixes = {name: [each] if each.known else [first, each] for name, each in others.items()}
        mixes = {TEST: [first], **mixes, TOGETHER: [first, *others.values()]}
        return {name: list(self._rows(first, mix)) for name, mix in mixes.items()}

    def _rows(self, test: Source, mix: Sequence[Source]) -> Iterator[ResultRow]:
        ranked = self._ranked(test, mix)
        wrong = ranked.images.wrong
        count = ResultRow("wrong_or_unknown", "n_failures", float(wrong.sum()), len(wrong), unit="count")
        yield replace(count, headline=False)
        yield from ranked.rows((*RANKINGS, *AREAS, *CURVES))

    def _ranked(self, test: Source, mix: Sequence[Source]) -> Ranked:
        scores, wrong = (np.concatenate([each.images[part] for each in mix]) for part in (0, 1))
        images = Images(scores, wrong, "all")
        if images.useless:
            return Ranked(images, {}, {}, {})
        drawn = [each.drawn(test) for each in mix]
        values, resampled = mixed_bootstrap(drawn, self.resamples)
        versions = sum(each.stream == 0 for each in drawn)
        return Ranked(images, values, resampled, ends_of(_once(images, versions), values))


def _once(images: Images, versions: int) -> Images:
    """Every `versions`-th of right and of wrong ones by score: copies of one image show no more than it does."""
    kept = [np.sort(images.scores[kind])[:: max(1, versions)] for kind in (~images.wrong, images.wrong)]
    return Images(np.concatenate(kept), np.repeat([False, True], [len(each) for each in kept]), images.subset)
