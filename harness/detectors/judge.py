"""Single images, judged by detectors at a threshold: `python -m harness detect`."""

import re
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ..config import ConfigError, RunConfig
from ..curves import acceptance_limit
from ..engine.rank import Rank
from ..engine.request import Request
from ..overrides import compose_config, quoted
from ..places import place
from ..store.damage import mended
from ..store.store import SCORE
from .plan import TEST, Detection
from .run import DetectorRun, failures

PLACE = "files"  # the user's images, as a set of conf/ood


class NoThreshold(ValueError):
    """No score of a detector leaves the share asked for of the in-distribution images below it."""


class Judged(NamedTuple):
    """What detectors say, and why those that failed say nothing.

    verdicts: image, predicted (class), method, score, threshold, verdict (`in` or `out`).
    """

    verdicts: pd.DataFrame
    failures: dict[str, str]


def judge(images: list[str], overrides: list[str], threshold: str) -> Judged:
    """Score images with the detectors of a config, and say which are out.

    Args:
        images: paths of image files.
        overrides: as for run.py: model, dataset (in-distribution), dataset@train, method.
        threshold: `id95` keeps 95 % of the config's in-distribution images (any percentage), or a number.

    Raises:
        ConfigError: the threshold is neither.

    A detector whose scores of in-distribution images are equal around the percentage has failed: it has no threshold.
    """
    _check(threshold)
    files = ",".join(quoted(str(Path(image).absolute())) for image in images)
    config = compose_config([*overrides, "metric=[error_detection]", f"ood=[{PLACE}]", f"ood.{PLACE}.files=[{files}]"])
    return mended(partial(_judged, _prepared(config), threshold))


def _judged(run: DetectorRun, threshold: str) -> Judged:
    run.compute(Rank.alone(run.request.config.compute))
    detection, said = run.detection, []
    failed = failures(detection)
    for name in [name for name in detection.detectors if name not in failed]:
        try:
            said.append(_verdicts(detection, name, threshold))
        except NoThreshold as error:
            failed[name] = str(error)
    return Judged(pd.concat(said, ignore_index=True) if said else pd.DataFrame(columns=["image"]), failed)


def _check(threshold: str) -> None:
    if not re.fullmatch(r"id\d+(\.\d+)?|[-+]?\d*\.?\d+(e[-+]?\d+)?", threshold):
        raise ConfigError(f"--threshold {threshold}: give id95 (keeps 95 % of the in-distribution images), or a number")


def _prepared(config: RunConfig) -> DetectorRun:
    run = DetectorRun.of(Request.of(config, place(config.results) / "store"))
    for caution in run.detection.sets[PLACE].images.cautions(run.request.network):
        print(f"caution: {caution}", file=sys.stderr)
    run.examine()
    run.prepare(Rank.alone(config.compute))
    return run


def _verdicts(detection: Detection, name: str, threshold: str) -> pd.DataFrame:
    limit = _limit(detection.sets[TEST].table(name)[SCORE], threshold)
    table, classes = detection.sets[PLACE].table(name), detection.sets[TEST].images.dataset.classes
    return pd.DataFrame(
        {
            "image": ["/" + image for image in table["image_id"]],
            "predicted": [classes[label] if label < len(classes) else str(label) for label in table["predicted"]],
            "method": name,
            "score": table[SCORE],
            "threshold": limit,
            "verdict": ["out" if score >= limit else "in" for score in table[SCORE]],
        }
    )


def _limit(scores: pd.Series, threshold: str) -> float:
    """The score from which on an image is out: the index rule of `fpr95_id_pos`, or the number given."""
    if not threshold.startswith("id"):
        return float(threshold)
    share = float(threshold[2:]) / 100
    if not 0 < share < 1:
        raise ConfigError(f"--threshold {threshold}: give a percentage between 0 and 100, as in id95")
    try:
        return acceptance_limit(scores, share)
    except ValueError as error:
        raise NoThreshold(f"--threshold {threshold}: {error}; give a score, or another detector") from error
