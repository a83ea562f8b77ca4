"""Result rows of detectors: every metric on a detector's tables, kept beside the scores."""

from dataclasses import asdict, dataclass
from typing import Any

from ..detection import AVERAGE
from ..store import identity
from ..store.store import SCORE, CellStore, Failure, Finished, Group
from ..types import ResultRow
from .cells import ImageSet
from .plan import TEST, VALIDATION, Detection


def rows_of(detection: Detection, detector: str, run_id: str) -> list[Group]:
    """Put the rows of every metric; returns where they are.

    A set without scores has a row that says why; the others have theirs, and their average is undefined.
    """
    failed = {place for place, each in detection.sets.items() if detector in each.failed()}
    tables = {place: each.table(detector) for place, each in detection.sets.items() if place not in failed}
    groups: list[Group] = []
    for metric, made in detection.request.metrics.items():
        about, partners = {TEST}, {VALIDATION} & set(detection.sets)
        if made.PARTNERS == "ood":
            about = partners = set(detection.ood)
        lost = about if failed & ({TEST} if made.PARTNERS == "ood" else {TEST, VALIDATION}) else about & failed
        rows: dict[str, list[ResultRow]] = {}
        if lost != about:
            rows = made.summarize(tables[TEST], {place: tables[place] for place in sorted(partners - lost)})
        if lost and made.PARTNERS == "ood":
            why = f"no scores of {', '.join(sorted(lost))}"
            rows[AVERAGE] = [row.undefined(why) for row in rows.get(AVERAGE, [ResultRow("", "", None, 0)])]
        put = _Put(detection, detector, metric, run_id)
        groups += [put.rows(place, each) for place, each in rows.items()]
        groups += [put.failure(place, place if place in failed else min(failed)) for place in sorted(lost)]
    return groups


@dataclass(frozen=True)
class _Put:
    """Puts one metric's rows about one detector."""

    detection: Detection
    detector: str
    metric: str
    run_id: str

    def rows(self, place: str, rows: list[ResultRow]) -> Group:
        """Rows about a set, or about the average of the ood sets."""
        if place == AVERAGE:
            return self._put(self._average, 0, AVERAGE, rows)
        chosen = self.detection.sets[place]
        return self._put(chosen.cells[self.detector].store, len(chosen), chosen.images.split, rows)

    def _put(self, cell: CellStore, stop: int, split: str, rows: list[ResultRow]) -> Group:
        group = self._group(cell)
        group.forgive()
        group.finish(stop, Finished(self.run_id, split, [asdict(row) for row in rows]))
        return group

    def failure(self, place: str, culprit: str) -> Group:
        """Where the rows about a set would be, the culprit's failure; those of an earlier run go."""
        chosen = self.detection.sets[place]
        group = self._group(chosen.cells[self.detector].store)
        group.withdraw(len(chosen))
        failure = self.detection.sets[culprit].cells[self.detector].group(SCORE).failure()
        group.fail(failure or Failure("no scores"))
        return group

    def _group(self, cell: CellStore) -> Group:
        """Where the metric's rows about a cell are; described, with the table that they were compared with."""
        request, sets = self.detection.request, self.detection.sets
        made = request.metrics[self.metric]
        is_ood = made.PARTNERS == "ood"
        about: dict[str, Any] = {
            "identity": identity.metric_identity(request.config.metric[self.metric].settings, made.VERSION),
            "name": self.metric,
            "paired": [],
            "kind": "ood" if is_ood else "error",
            "reference": sets[TEST].images.title if is_ood else "",
        }
        others = [TEST] if is_ood else [place for place in (VALIDATION,) if place in sets]
        about["identity"]["compared"] = {place: self._scores_of(sets[place]) for place in others}
        key = identity.digest(about["identity"])
        cell.describe({}, {key: about})
        return cell.group(key)

    @property
    def _average(self) -> CellStore:
        """The cell of the unweighted mean over the ood sets: it has rows and no samples."""
        test = self.detection.sets[TEST].cells[self.detector].about
        compared = {place: self._scores_of(each) for place, each in self.detection.ood.items()}
        about = {**test["identity"], "average": compared}
        cell = CellStore(self.detection.request.root, identity.digest(about))
        cell.describe({"identity": about, "labels": {**test["labels"], "dataset": AVERAGE}}, {})
        return cell

    def _scores_of(self, chosen: ImageSet) -> list[Any]:
        return [chosen.cells[self.detector].store.key, len(chosen)]
