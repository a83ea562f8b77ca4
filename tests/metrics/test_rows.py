"""What the rows of every metric of conf/metric say of themselves: headlines, axes, and intervals where pairs agree."""

from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pandas as pd
import pytest
from assay.harness.detection import shifted_of
from assay.harness.types import ResultRow
from omegaconf import OmegaConf

METRICS = sorted(Path("conf/metric").glob("*.yaml"))
CHOSEN = {"dataset": {"tolerance_px": 2}, "model": {"target_layer": "layer"}, "seed": 0}
QUICK: dict[str, dict[str, object]] = {
    "aopc": {"steps": 2},
    "perturbation": {"steps": 2},
    "insertion": {"steps": 2},
    "road": {"steps": 2},
}
QUICK |= {"full_spectrum": {"shifted": ["blur"]}}
DETECTORS = {
    "ood": "far",
    "full_spectrum": "far",
    "error_detection": "validation",
    "failure": "far",
    "label_change": "validation",
    "unit_conductance": "validation",
}  # and a set that each reads

# What terminal and report show of our metrics: one row a quantity, in the papers' convention.
SHOWN = {"mean", "auroc", "fpr95_id_pos", "aurc", "augrc", "auc", "average_drop", "increase_in_confidence"}
SHOWN |= {"exact", "lcr_difference", "spearman_random", "spearman_abs_random", "ssim_random"}
SHOWN |= {"average_drop_in_deletion", "peak_in_cue", "mass_in_cue", "peak_in_cue_of_others", "mass_in_cue_of_others"}
SECOND = {("aurc", "trapezoid")}  # other ways to take what is shown
# Quantities that a map can hold constant by construction, or that have no bounds: the rest is an outcome or a share.
CONSTANT = {
    ("infidelity", "infidelity"),
    ("sensitivity", "mean"),
    ("positive_ratio", "mean"),
    ("outside_inside", "mean"),
    ("average_drop", "average_drop_in_deletion"),
}


def rows_of(file: Path, frame: pd.DataFrame) -> list[ResultRow]:
    """What the metric of a config makes of a sample table, or of two tables of scores."""
    config = OmegaConf.merge(CHOSEN, {"metric": OmegaConf.load(file)}, {"metric": QUICK.get(file.stem, {})})
    metric = hydra.utils.instantiate(config.metric)
    if file.stem not in DETECTORS:
        return metric.summarize(frame)
    other = frame.assign(score=frame["score"] + 1, known=False)
    shifted = dict.fromkeys(shifted_of(metric), frame)
    made = metric.summarize(frame.assign(known=True), {DETECTORS[file.stem]: other, **shifted})
    return [row for rows in made.values() for row in rows]


def table(pairs: Any) -> pd.DataFrame:
    """A sample table with every metric's columns: pairs in [0,1], one number a pair, two pairs an image."""
    n = len(pairs)
    shares = ["inside_share", "positive_ratio", "ratio_all", "ratio_positive", "ratio_min_max", "auc", "aopc", "drop"]
    shares += ["gini", "correlation", "infidelity", "unexplained", "sensitivity"]
    shares += [
        "spearman_random",
        "spearman_abs_random",
        "ssim_random",
        "deletion_drop",
        "cosine",
        "ap",
        "ap_binarised",
        "object_share",
        "mass_in_cue",
        "mass_in_cue_of_others",
        "share",
    ]
    flags = ("exact", "hit", "increase", "clean", "peak_in_cue", "peak_in_cue_of_others", "predicted", "is_error")
    counts = {"empty": False, "confidence": 1, "pixels": 8, "object_pixels": 4, "region_share": 0.2, "boxes": 1}
    for name in ("signed_or_mean", "zero", "mean", "median", "p80"):
        counts |= {f"marked_{name}": 4, f"both_{name}": (4 * pairs).round().astype(int)}
    about = {"image_id": [f"image{row // 2}" for row in range(n)], "label": np.arange(n) % 2, "score": pairs}
    columns = about | dict.fromkeys(shares, pairs) | dict.fromkeys(flags, pairs >= 0.5) | counts
    curves = [np.full(3, round(pair)) for pair in pairs]
    columns |= dict.fromkeys(("curve", "spearman", "spearman_abs", "ssim", "changed"), curves) | {
        "layers": [np.arange(3)] * n
    }
    return pd.DataFrame(columns).assign(difficult=True, has_region=True, predicted=True)


@pytest.mark.parametrize("file", METRICS, ids=lambda file: file.stem)
def test_headlines(file: Path) -> None:
    """The statistics that a reader wants first, and no point of a curve; a point says what it stands at."""
    rows = rows_of(file, table(np.linspace(0, 1, 40)))
    assert {row.stat for row in rows if row.headline}, "a metric shows something"
    for row in rows:
        assert row.headline == (row.stat in SHOWN and (row.stat, row.variant) not in SECOND), row
        assert bool(row.x_label) == (row.x is not None), row


@pytest.mark.parametrize("file", [f for f in METRICS if f.stem not in DETECTORS], ids=lambda file: file.stem)
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_where_all_pairs_agree(file: Path, share: float) -> None:
    """40 pairs of 20 images, all at one end: an interval with a width, or a constant that says so."""
    for row in rows_of(file, table(np.full(40, share))):
        if row.ci_low is None or row.ci_high is None:
            continue
        if (file.stem, row.stat) in CONSTANT:
            assert (row.ci_method, row.ci_low, row.ci_high) == ("constant", row.value, row.value), row
        else:
            assert row.ci_method == "clopper_pearson" and row.ci_high - row.ci_low > 0.01, row
