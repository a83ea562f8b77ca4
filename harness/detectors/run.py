"""One run of failure detectors: features once a data set, fits, scores, and metrics that read several tables."""

import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ..build import settings
from ..config import ConfigError
from ..detection import AVERAGE
from ..engine.costs import Outcome
from ..engine.job import Job
from ..engine.processes import Rank, compute, merge
from ..results.record import finish
from ..store import identity
from ..store.store import CellStore, Group, write_json
from ..types import ResultRow
from .features import FEATURES
from .pictures import draw_histograms, draw_risk_coverage, draw_roc
from .plan import SCORE, TEST, TRAIN, VALIDATION, Detection, build_detection
from .score import fit, mark_failed, score


def run_detectors(config: DictConfig, overrides: list[str], root: Path, started: float, rank: Rank) -> int:
    """Fit and score what is missing, summarise, and write the tables; returns the exit code."""
    detection = build_detection(config, root)
    if rank.number == 0:
        print(*detection.describe(), sep="\n", flush=True)
    if config.dry_run:
        return 0
    if config.cache == "only" and (missing := detection.incomplete()):
        raise ConfigError(f"cache=only, but scores of {', '.join(missing)} are missing: run with cache=missing")
    if rank.number == 0:
        prepare(detection)
    outcome = score_all(detection, rank)
    if rank.number > 0:
        return int(bool(outcome.failures))
    groups = [group for name in detection.detectors for group in _summarise(detection, name)]
    splits = {each.split for each in detection.sets.values()} | {AVERAGE}
    if outcome.costs:
        _draw(detection, Path(config.results) / "runs" / detection.run_id)
    finish(config, detection.run_id, groups, splits, outcome, overrides, started, detection.device)
    for name, why in outcome.failures.items():
        print(f"FAILED {name}: {why}", file=sys.stderr)
    return int(bool(_failed(detection)))


def _failed(detection: Detection) -> list[str]:
    """Detectors that failed on some set."""
    every = detection.sets.values()
    return [name for name in detection.detectors if any(s.cells[name].group(SCORE).failed.exists() for s in every)]


def prepare(detection: Detection) -> None:
    """Forget what `cache=refresh` asks to forget, and earlier failures: they are tried again."""
    every = [*detection.sets.values(), *([detection.training] if detection.training else [])]
    for image_set in every:
        cells = [image_set.features, *image_set.cells.values()]
        for cell in cells:
            for name in cell.groups:
                if detection.config.cache == "refresh":
                    cell.group(name).clear(image_set.stop)
                cell.group(name).failed.unlink(missing_ok=True)
        if detection.config.cache == "refresh":
            for scored in image_set.cells.values():
                if scored.fit is not None:
                    scored.fit.unlink(missing_ok=True)


def score_all(detection: Detection, rank: Rank) -> Outcome:
    """All missing scores: one pass a data set, fits before scores; a detector that fails does not stop the others.

    Under torchrun the other ranks share the passes over the data; fits and scores are rank 0's.
    """
    outcomes = [Outcome(batch_size=detection.config.compute.batch_size)]
    if detection.training is not None and (names := detection.unfitted()):
        outcomes.append(_pass(detection, TRAIN, names, rank))
        if rank.number == 0 and not _without_features(outcomes[-1]):
            fit(detection, names, outcomes[0])
    for place, image_set in detection.sets.items():
        names = [name for name in detection.detectors if image_set.lacks(name)]
        if rank.number > 0:
            names = [name for name in names if not detection.detectors[name].needs().images]
        if not names:
            continue
        outcomes.append(_pass(detection, place, names, rank))
        plain = [name for name in names if not detection.detectors[name].needs().images]
        if rank.number == 0 and plain and not _without_features(outcomes[-1]):
            score(detection, place, plain, outcomes[0])
    return merge(outcomes)


def _pass(detection: Detection, place: str, names: list[str], rank: Rank) -> Outcome:
    """One pass over a set's images; when it fails, everything that needed it has failed."""
    resolved: Any = OmegaConf.to_container(detection.config, resolve=True)
    rebuild = partial(_rebuild, resolved, detection.root, place, names)
    outcome = compute(_job(detection, place, names), rank, rebuild, place)
    for cell, why in outcome.failures.items():
        failed = cell.split(" x ")[0]
        for name in names if failed == FEATURES else [failed]:
            mark_failed(detection, name, None if place == TRAIN else place, f"{place}: {why}")
    return outcome


def _without_features(outcome: Outcome) -> bool:
    return any(cell.split(" x ")[0] == FEATURES for cell in outcome.failures)


def _job(detection: Detection, place: str, names: list[str]) -> Job:
    if place == TRAIN:
        assert detection.training is not None
        return detection.features_job(detection.training)
    return detection.job(detection.sets[place], names)


def _rebuild(config: dict[str, Any], root: Path, place: str, names: list[str]) -> Job:
    """The same pass in a helper process; identities are written by the parent."""
    return _job(build_detection(OmegaConf.create({**config, "dry_run": True}), root), place, names)


def _summarise(detection: Detection, detector: str) -> list[Group]:
    """Rows of every metric on a detector's tables, kept beside the scores; returns where they are.

    A set without scores has a row that says why; the others have theirs, and their average is undefined.
    """
    failed = {place for place, each in detection.sets.items() if each.cells[detector].group(SCORE).failed.exists()}
    tables = {place: each.table(detector) for place, each in detection.sets.items() if place not in failed}
    groups: list[Group] = []
    for metric, made in detection.metrics.items():
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
        groups += [_put_rows(detection, detector, metric, place, each) for place, each in rows.items()]
        groups += [_put_failure(detection, detector, metric, place, failed) for place in sorted(lost)]
    return groups


def _group(detection: Detection, store: CellStore, detector: str, metric: str) -> Group:
    """Where a metric's rows about one cell are; described, with the table that they were compared with."""
    made, test = detection.metrics[metric], detection.sets[TEST]
    about: dict[str, Any] = {
        "identity": identity.metric_identity(settings(detection.config.metric[metric], "metric"), made.VERSION),
        "name": metric,
        "paired": [],
        "kind": "ood" if made.PARTNERS == "ood" else "error",
        "reference": test.title if made.PARTNERS == "ood" else "",
    }
    others = [TEST] if made.PARTNERS == "ood" else [place for place in (VALIDATION,) if place in detection.sets]
    about["identity"]["compared"] = {
        place: [detection.sets[place].cells[detector].store.key, detection.sets[place].stop] for place in others
    }
    key = identity.digest(about["identity"])
    store.describe({}, {key: about})
    return store.group(key)


def _average_cell(detection: Detection, detector: str) -> CellStore:
    """The cell of the unweighted mean over the ood sets: it has rows and no samples."""
    test = detection.sets[TEST].cells[detector].store.cell()
    about = {
        **test["identity"],
        "average": {p: [s.cells[detector].store.key, s.stop] for p, s in detection.ood.items()},
    }
    store = CellStore(detection.root, identity.digest(about))
    store.describe({"identity": about, "labels": {**test["labels"], "dataset": AVERAGE}}, {})
    return store


def _put_rows(detection: Detection, detector: str, metric: str, place: str, rows: list[ResultRow]) -> Group:
    stop, split, store = 0, AVERAGE, None
    if place != AVERAGE:
        image_set = detection.sets[place]
        stop, split, store = image_set.stop, image_set.split, image_set.cells[detector].store
    group = _group(detection, store or _average_cell(detection, detector), detector, metric)
    group.failed.unlink(missing_ok=True)
    marker, values = group.done(stop), [asdict(row) for row in rows]
    if not marker.exists() or json.loads(marker.read_text())["rows"] != values:
        write_json(marker, {"run_id": detection.run_id, "split": split, "rows": values})
    return group


def _put_failure(detection: Detection, detector: str, metric: str, place: str, failed: set[str]) -> Group:
    """Where the metric's rows about a set would be, why there are none; those of an earlier run go."""
    image_set = detection.sets[place]
    culprit = place if place in failed else sorted(failed)[0]
    group = _group(detection, image_set.cells[detector].store, detector, metric)
    group.done(image_set.stop).unlink(missing_ok=True)
    write_json(group.failed, json.loads(detection.sets[culprit].cells[detector].group(SCORE).failed.read_text()))
    return group


def _draw(detection: Detection, folder: Path) -> None:
    """Pictures of this run's scores; drawn anew when something was scored."""
    failed = _failed(detection)
    tables = {
        name: {place: each.table(name) for place, each in detection.sets.items()}
        for name in detection.detectors
        if name not in failed
    }
    tests = {name: each[TEST] for name, each in tables.items()}
    outside = {name: {place: each[place] for place in detection.ood} for name, each in tables.items()}
    title = f"{detection.config.model.name}, {detection.sets[TEST].name}"
    if detection.ood and tables:
        draw_roc({name: (tests[name], outside[name]) for name in tables}, folder / "roc.png")
        for name in tables:
            draw_histograms(tests[name], outside[name], folder / f"histograms-{name}.png", f"{name}: {title}")
    if tables and any(table["is_error"].any() for table in tests.values()):
        draw_risk_coverage(tests, folder / "risk-coverage.png")
    print(f"pictures: {folder.absolute()}")
