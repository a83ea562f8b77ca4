"""Which score tables a detector's result rows were made from, so that two detectors' rows pair."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, cast

import pandas as pd

from ...store.store import SAMPLES, SCORE
from ..tidy import joined
from .candidates import Candidate, Known

OOD, ERROR = "ood", "error"  # kinds of metrics

T = TypeVar("T")


class Scored(NamedTuple):
    """The scores of the first `stop` images of a cell."""

    cell: Candidate
    stop: int

    def pairs_with(self, other: "Scored") -> bool:
        """Whether the other has scores of the same images."""
        return self.stop == other.stop and self.cell.shares_images(other.cell)

    def table(self) -> pd.DataFrame:
        """sample_id, image_id, label, predicted, score; a row an image."""
        return joined(*(self.cell.store.group(name).read(self.stop) for name in (SAMPLES, SCORE)))


@dataclass(frozen=True)
class Judged:
    """Result rows of one metric about a detector.

    about: the metric's name, kind, identity, and the `reference` of ood rows. split: of the images, or how many sets
    the average is of. sets: the ood sets by name; none where wrong predictions are told.
    """

    about: dict[str, Any]
    split: str
    test: Scored
    sets: dict[str, Scored]

    def setting(self, name: str, default: T) -> T:
        """One of the metric's settings, or what it is where the metric has no such setting."""
        return cast(T, self.about["identity"]["metric"].get(name, default))

    def pairs_with(self, other: "Judged") -> bool:
        """Whether the same metric judged the other on the same images."""
        metric, its = ((each.about["name"], each.about["identity"]["metric"]) for each in (self, other))
        if metric != its or self.sets.keys() != other.sets.keys() or not self.test.pairs_with(other.test):
            return False
        return all(scored.pairs_with(other.sets[name]) for name, scored in self.sets.items())


def judged(cell: Candidate, known: Known) -> Iterator[Judged]:
    """All that is judged of a detector's cell, but for rows made from tables that are no longer there."""
    for group in map(cell.store.group, cell.store.groups()):
        about = group.about()
        for stop in group.stops() if about.get("kind") in (OOD, ERROR) else ():
            test, sets = _tables(cell, about, stop)
            if all(key in known for key, _ in (test, *sets.values())):
                scored = {name: Scored(known[key], images) for name, (key, images) in sets.items()}
                finished = group.finished(stop)
                split = f"{len(sets)} sets" if "average" in cell.identity or not finished else finished.split
                yield Judged(about, split, Scored(known[test[0]], test[1]), scored)


def _tables(cell: Candidate, about: dict[str, Any], stop: int) -> tuple[list[Any], dict[str, list[Any]]]:
    """Key and number of images of the test set's scores, and of those of each ood set by name."""
    own = [cell.store.key, stop]
    if about["kind"] == ERROR:
        return own, {}
    return about["identity"]["compared"]["test"], cell.identity.get("average", {cell.labels["dataset"]: own})
