"""Which score tables a detector's result rows were made from, so that two detectors' rows pair."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar, cast

import pandas as pd

from ...detection import AVERAGE, TOGETHER
from ...store.outcomes import Finished
from ...store.store import SAMPLES, SCORE, Group, Shard
from ..pairs import joined
from .candidates import Candidate, Known

KINDS = OOD, ERROR, FAILURE = "ood", "error", "failure"  # of metrics
RANKING = "auroc"  # a statistic that every metric has which ranks images by their scores

T = TypeVar("T")


class Scored(NamedTuple):
    """The scores of the first `stop` images of a cell."""

    cell: Candidate
    stop: int

    def pairs_with(self, other: "Scored") -> bool:
        """Whether the other has scores of the same images."""
        return self.stop == other.stop and self.cell.shares_images(other.cell)

    def is_whole(self) -> bool:
        """Whether all of them are there: they failed, or are about to be computed anew, where they are not."""
        every = [Shard(0, self.stop)]
        return not any(self.cell.store.group(name).missing(every) for name in (SAMPLES, SCORE))

    def table(self) -> pd.DataFrame:
        """sample_id, image_id, label, predicted, score; a row an image."""
        return joined(*(self.cell.store.group(name).read(self.stop) for name in (SAMPLES, SCORE)))


@dataclass(frozen=True)
class Judged:
    """Result rows of one metric about a detector.

    about: the metric's name, kind, identity, and the `reference` of ood rows. split: of the images, or how many sets
    the average is of. undefined: statistics that the rows call so. sets: the ood sets by name; none where wrong
    predictions are told. shifted: sets that count as in distribution. Of failures: known are the sets of the test set's
    classes, and is_together says whether all sources are ranked as one.
    """

    about: dict[str, Any]
    split: str
    undefined: frozenset[str]
    test: Scored
    sets: dict[str, Scored]
    shifted: dict[str, Scored] = field(default_factory=dict)
    known: frozenset[str] = frozenset()
    is_together: bool = False

    def setting(self, name: str, default: T) -> T:
        """One of the metric's settings, or what it is where the metric has no such setting."""
        return cast(T, self.about["identity"]["metric"].get(name, default))

    def pairs_with(self, other: "Judged") -> bool:
        """Whether the same metric judged the other on the same images."""
        metric, its = ((each.about["name"], each.about["identity"]["metric"]) for each in (self, other))
        mine, theirs = ((each.sets.keys(), each.shifted.keys(), each.known, each.is_together) for each in (self, other))
        if metric != its or mine != theirs or not self.test.pairs_with(other.test):
            return False
        others = other.sets | other.shifted
        return all(scored.pairs_with(others[name]) for name, scored in (self.sets | self.shifted).items())


def judged(cell: Candidate, known: Known) -> Iterator[Judged]:
    """All that is judged of a detector's cell, but for rows made from tables that are not there."""
    for group in map(cell.store.group, cell.store.groups()):
        about = group.about()
        if about.get("kind") in KINDS and _ranks(group):
            made = (_judgement(cell, about, stop, group.finished(stop), known) for stop in group.stops())
            yield from filter(None, made)


def uncompared(cell: Candidate) -> Iterator[str]:
    """Metrics of a detector's cell that no difference is made of: they rank nothing."""
    for group in map(cell.store.group, cell.store.groups()):
        about = group.about()
        if about.get("kind") in KINDS and group.stops() and not _ranks(group):
            yield str(about["name"])


def _ranks(group: Group) -> bool:
    done = filter(None, map(group.finished, group.stops()))
    return any(row["stat"] == RANKING for each in done for row in each.rows)


def _judgement(
    cell: Candidate, about: dict[str, Any], stop: int, finished: Finished | None, known: Known
) -> Judged | None:
    test, sets = _tables(cell, about, stop)
    shifted = _shifted(about)
    if finished is None or not all(key in known for key, _ in (test, *sets.values(), *shifted.values())):
        return None
    pooled = cell.identity.keys() & {AVERAGE, TOGETHER}
    split = f"{len(sets)} sets" if pooled else finished.split
    undefined = frozenset(row["stat"] for row in finished.rows if row["value"] is None and row["subset"] == "all")
    scored, inside = (
        {n: Scored(known[key], images) for n, (key, images) in those.items()} for those in (sets, shifted)
    )
    first, of_known = Scored(known[test[0]], test[1]), _known(cell, about)
    made = Judged(about, split, undefined, first, scored, inside, of_known, TOGETHER in pooled)
    return made if all(each.is_whole() for each in (first, *scored.values(), *inside.values())) else None


def _shifted(about: dict[str, Any]) -> dict[str, list[Any]]:
    """Key and number of images of the scores of each set that counts as in distribution beside the test set."""
    compared = about["identity"]["compared"] if about["kind"] == OOD else {}
    return {name: each for name, each in compared.items() if name != "test"}


def _tables(cell: Candidate, about: dict[str, Any], stop: int) -> tuple[list[Any], dict[str, list[Any]]]:
    """Key and number of images of the test set's scores, and of those of each other set by name."""
    own = [cell.store.key, stop]
    if about["kind"] == ERROR:
        return own, {}
    test = about["identity"]["compared"]["test"]
    if (pooled := cell.identity.get(AVERAGE) or cell.identity.get(TOGETHER)) is not None:
        return test, {name: each[:2] for name, each in pooled.items()}
    return test, {} if about["kind"] == FAILURE and own == test else {cell.labels["dataset"]: own}


def _known(cell: Candidate, about: dict[str, Any]) -> frozenset[str]:
    """Sets of the test set's classes, where failures are told."""
    if about["kind"] != FAILURE:
        return frozenset()
    if (pooled := cell.identity.get(TOGETHER)) is not None:
        return frozenset(name for name, (_, _, known) in pooled.items() if known)
    return frozenset([cell.labels["dataset"]] if about["identity"]["metric"]["known"] else [])
