"""Result rows of detectors: every metric on a detector's tables, kept beside the scores."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import pandas as pd

from ..detection import AVERAGE, TOGETHER, averages_of, shifted_of
from ..engine.costs import Asked
from ..store import identity
from ..store.outcomes import Failure, Finished
from ..store.store import SCORE, CellStore, Group
from ..types import ResultRow
from .cells import ImageSet
from .plan import TEST, VALIDATION, Detection

KINDS = {"ood": "ood", "validation": "error", "sources": "failure"}  # of rows, by what the metric reads
POOLED = (AVERAGE, TOGETHER)  # in place of a set's name


class Reading(NamedTuple):
    """What a metric's rows are about, which sets it needs for any row, which it reads if there are scores, and what
    stands for several of them: its name -> their names."""

    about: set[str]
    needed: set[str]
    partners: set[str]
    pooled: dict[str, set[str]]


def _reading(detection: Detection, metric: Any) -> Reading:
    ood, validation, shifted = set(detection.ood), {VALIDATION} & set(detection.sets), set(shifted_of(metric))
    averages = {AVERAGE: ood - shifted, **{name: set(sets) for name, sets in averages_of(metric).items()}}
    readings = {
        "ood": Reading(ood - shifted, {TEST, *shifted}, ood, averages),
        "validation": Reading({TEST}, {TEST, *validation}, validation, {}),
        "sources": Reading({TEST, *ood}, {TEST}, ood, {TOGETHER: {TEST, *ood}}),
    }
    return readings[metric.PARTNERS]


def rows_of(detection: Detection, detector: str, run_id: str) -> list[Group]:
    """Put the rows of every metric; returns where they are.

    A set without scores has a row that says why; the others have theirs, and what stands for it among others is
    undefined.
    """
    failed = {place for place, each in detection.sets.items() if detector in each.failed()}
    tables = {place: _table(detection, place, detector) for place in detection.sets if place not in failed}
    groups: list[Group] = []
    for metric, made in detection.request.metrics.items():
        reading = _reading(detection, made)
        lost = reading.about if failed & reading.needed else reading.about & failed
        rows: dict[str, list[ResultRow]] = {}
        if lost != reading.about:
            rows = made.summarize(tables[TEST], {place: tables[place] for place in sorted(reading.partners - lost)})
        rows |= {name: _unscored(rows.get(name), sets & lost) for name, sets in reading.pooled.items() if sets & lost}
        put = _Put(detection, detector, metric, run_id, reading.pooled)
        groups += [put.rows(place, each) for place, each in rows.items()]
        groups += [put.failure(place, place if place in failed else min(failed)) for place in sorted(lost)]
    return groups


def asked_of(detection: Detection, detector: str) -> Iterator[Asked]:
    """Where the rows of every metric about each set are, or would be; writes nothing."""
    for metric, made in detection.request.metrics.items():
        reading = _reading(detection, made)
        put = _Put(detection, detector, metric, "", reading.pooled)
        for place in sorted(reading.about):
            chosen = detection.sets[place]
            key, images = identity.digest(put.about(place)["identity"]), chosen.images
            yield Asked(f"{detector} x {metric} on {images.title}", chosen.cells[detector].store.key, key, images.split)


def _unscored(rows: list[ResultRow] | None, lost: set[str]) -> list[ResultRow]:
    """What stands for several sets, some of which have no scores; None: none has."""
    why = f"no scores of {', '.join(sorted(lost))}"
    return [row.undefined(why) for row in rows or [ResultRow("", "", None, 0)]]


def _table(detection: Detection, place: str, detector: str) -> pd.DataFrame:
    return detection.sets[place].table(detector).assign(known=detection.is_known(place))


@dataclass(frozen=True)
class _Put:
    """Puts one metric's rows about one detector."""

    detection: Detection
    detector: str
    metric: str
    run_id: str
    pooled: Mapping[str, set[str]]

    def rows(self, place: str, rows: list[ResultRow]) -> Group:
        """Rows about a set, or about what stands for several of them."""
        if place in self.pooled:
            split = place if place in POOLED else AVERAGE
            return self._put(_described(self._pooled(place), self._about({})), 0, split, rows)
        chosen = self.detection.sets[place]
        return self._put(self._group_of(place), len(chosen), chosen.images.split, rows)

    def _put(self, group: Group, stop: int, split: str, rows: list[ResultRow]) -> Group:
        group.forgive()
        group.finish(stop, Finished(self.run_id, split, [asdict(row) for row in rows]))
        return group

    def failure(self, place: str, culprit: str) -> Group:
        """Where the rows about a set would be, the culprit's failure; those of an earlier run go."""
        group = self._group_of(place)
        group.withdraw(len(self.detection.sets[place]))
        failure = self.detection.sets[culprit].cells[self.detector].group(SCORE).failure()
        group.fail(failure or Failure("no scores"))
        return group

    @property
    def _partners(self) -> str:
        return str(self.detection.request.metrics[self.metric].PARTNERS)

    def _group_of(self, place: str) -> Group:
        """Where the rows about a set are; described."""
        return _described(self.detection.sets[place].cells[self.detector].store, self.about(place))

    def about(self, place: str) -> dict[str, Any]:
        """Who the rows about a set are; what its images count as is part of that."""
        known = {"known": self.detection.is_known(place)} if self._partners == "sources" else {}
        return self._about(known)

    def _about(self, more: dict[str, Any]) -> dict[str, Any]:
        """Who the metric's rows are, with the table that they were compared with."""
        request, sets = self.detection.request, self.detection.sets
        made = request.metrics[self.metric]
        is_error = self._partners == "validation"
        inside = [TEST, *shifted_of(made)]
        about: dict[str, Any] = {
            "identity": identity.metric_identity(
                request.config.metric[self.metric].settings | more,
                made.VERSION,
                getattr(made, "SUMMARY_SETTINGS", ()),
                identity.nested_versions(made),
            ),
            "name": self.metric,
            "paired": [],
            "kind": KINDS[self._partners],
            "reference": "" if is_error else " + ".join(sets[place].images.title for place in inside),
        }
        others = [place for place in (VALIDATION,) if place in sets] if is_error else inside
        about["identity"]["compared"] = {place: self._scores_of(sets[place]) for place in others}
        return about

    def _pooled(self, name: str) -> CellStore:
        """The cell of the unweighted mean of ood sets, or of all sets together: it has rows and no samples."""
        detection = self.detection
        test = detection.sets[TEST].cells[self.detector].about
        sets = self.pooled[name]
        compared = {place: self._scores_of(each) for place, each in detection.ood.items() if place in sets}
        if name == TOGETHER:
            compared = {place: [*each, detection.is_known(place)] for place, each in compared.items()}
        of_all = name in POOLED
        about = {**test["identity"], name if of_all else AVERAGE: compared, **({} if of_all else {"group": name})}
        cell = CellStore(detection.request.root, identity.digest(about))
        cell.describe({"identity": about, "labels": {**test["labels"], "dataset": name}}, {})
        return cell

    def _scores_of(self, chosen: ImageSet) -> list[Any]:
        return [chosen.cells[self.detector].store.key, len(chosen)]


def _described(cell: CellStore, about: dict[str, Any]) -> Group:
    key = identity.digest(about["identity"])
    cell.describe({}, {key: about})
    return cell.group(key)
