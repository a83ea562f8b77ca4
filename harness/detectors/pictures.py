"""Pictures of score tables: histograms with the 95 % line, ROC curves, risk against coverage.

A score table has the columns `score` (higher = more likely out of distribution, or wrong) and `is_error`. Scores that
are not a number are left out. Colours stand for detectors, the same in every panel.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..curves import acceptance_limit, risk_values, roc_statistics
from ..pictures import Size, encoded, panels, tighten
from ..stats import Array
from ..store.files import write_atomically

BINS = 60
COLUMNS = 3  # panels side by side
INSIDE, OUTSIDE, QUIET = "tab:blue", "tab:orange", "0.35"


def draw_histograms(inside: pd.DataFrame, sets: Mapping[str, pd.DataFrame], path: Path, title: str) -> None:
    """A panel an OOD set: densities of its scores and of the in-distribution scores, and FPR95's threshold.

    The line leaves 95 % of the in-distribution images to its left (`fpr_id_pos` of `harness.curves`); the share of
    OOD images to its left is in the panel's title.
    """
    accepted = _scores(inside)
    figure, axes = _panels(len(sets), 2.4, width=3.2 if len(sets) > 1 else 5.0)
    for axis, (name, table) in zip(axes, sets.items(), strict=True):
        edges = np.linspace(*_range(accepted, _scores(table)), BINS + 1)
        for scores, colour, label in ((accepted, INSIDE, "in distribution"), (_scores(table), OUTSIDE, "OOD")):
            if len(scores):
                kept = np.clip(scores, edges[0], edges[-1])  # what lies further out is counted at the ends
                look = {"histtype": "stepfilled", "alpha": 0.55, "color": colour}  # one outline draws faster than bars
                axis.hist(kept, edges, density=True, label=label, **look)
        axis.set_title(name, fontsize=9)
        if len(accepted) and len(_scores(table)):
            _draw_limit(axis, name, accepted, _scores(table))
        axis.set_yticks([])
        axis.locator_params(axis="x", nbins=5)  # ODIN's scores have five digits
    _label(axes, "score (higher = more likely OOD)", "density")
    _legend_below(figure, axes, title)
    _save(figure, path)


def _draw_limit(axis: Any, name: str, accepted: Array, others: Array) -> None:
    """The line that leaves 95 % to its left, and the others' share there; no line through equal scores."""
    try:
        limit = acceptance_limit(accepted)
    except ValueError:
        axis.set_title(f"{name}: no line leaves 95 % to its left", fontsize=9)
        return
    axis.axvline(limit, color=QUIET, linewidth=1, linestyle="--", label="95 % of in distribution")
    rate = roc_statistics(accepted, others)["fpr_id_pos"]
    axis.set_title(f"{name}: {100 * rate:.1f} % left of the line", fontsize=9)


class Sides(NamedTuple):
    """What the two axes of a ROC curve count."""

    alarms: str
    found: str


OF_IMAGES = Sides("in-distribution images flagged", "OOD images flagged")
OF_PREDICTIONS = Sides("right predictions flagged", "wrong predictions flagged")


def draw_error_roc(detectors: Mapping[str, pd.DataFrame], path: Path) -> None:
    """For each detector the share of wrong predictions found over that of right ones flagged, and its AUROC."""
    known = {name: table[table["label"] >= 0] for name, table in detectors.items()}
    sides = {name: (each[~each["is_error"]], {"test set": each[each["is_error"]]}) for name, each in known.items()}
    draw_roc(sides, path, OF_PREDICTIONS)


def draw_roc(
    detectors: Mapping[str, tuple[pd.DataFrame, Mapping[str, pd.DataFrame]]], path: Path, sides: Sides = OF_IMAGES
) -> None:
    """A panel an OOD set: for each detector the share of OOD images found over that of false alarms, and its AUROC."""
    names = list(dict.fromkeys(name for _, sets in detectors.values() for name in sets))
    figure, axes = _panels(len(names), 3.2, width=4.4)
    for axis, name in zip(axes, names, strict=True):
        for number, (detector, (inside, sets)) in enumerate(detectors.items()):
            negatives, positives = _scores(inside), _scores(sets[name]) if name in sets else np.empty(0)
            if len(negatives) and len(positives):
                area = roc_statistics(negatives, positives)["auroc"]
                alarms, found = _roc(negatives, positives)
                axis.plot(alarms, found, linewidth=1.1, label=f"{detector} {area:.3f}", **_look(number))
        axis.plot([0, 1], [0, 1], color=QUIET, linewidth=0.6, linestyle=":")
        axis.set_title(name, fontsize=9)
        axis.set_aspect("equal")
        _legend_beside(axis, "detector, AUROC", largest_first=True)
    _label(axes, sides.alarms, sides.found)
    _save(figure, path)


def draw_risk_coverage(detectors: Mapping[str, pd.DataFrame], path: Path) -> None:
    """Share of wrong predictions among the surest, for each detector with its AURC, and for a perfect order."""
    figure, axes = _panels(1, 4.2, width=6.4)
    axis = axes[0]
    for number, (detector, table) in enumerate(detectors.items()):
        known = table[table["score"].notna() & (table["label"] >= 0)]
        if len(known):
            scores, wrong = known["score"].to_numpy(float), known["is_error"].to_numpy(bool)
            area = risk_values(scores, wrong)["aurc"]
            axis.plot(*_risk(scores, wrong), linewidth=1.2, label=f"{detector} {area:.4f}", **_look(number))
    if detectors:
        first = next(iter(detectors.values()))
        wrong = np.sort(first[first["label"] >= 0]["is_error"].to_numpy(bool))
        axis.plot(*_risk(np.arange(len(wrong), dtype=np.float64), wrong), color=QUIET, linewidth=0.8, linestyle="--")
        corner = (1 - float(wrong.mean()), 0.0) if len(wrong) else (1.0, 0.0)
        axis.annotate("perfect order", corner, (-4, 3), textcoords="offset points", ha="right", fontsize=7, color=QUIET)
    axis.set_ylim(bottom=0)
    _label(axes, "coverage: share of predictions kept, surest first", "risk: share of them that are wrong")
    _legend_beside(axis, "detector, AURC", largest_first=False)
    _save(figure, path)


def _scores(table: pd.DataFrame) -> Array:
    return table["score"].dropna().to_numpy(np.float64)


def _range(accepted: Array, others: Array) -> tuple[float, float]:
    """Where a histogram begins and ends: all but a few in a thousand, and never further than one width of the
    in-distribution scores beyond them, so that a far OOD set does not squeeze them into one bar."""
    inner, outer = _middle(accepted), _middle(np.concatenate([accepted, others]))
    width = inner[1] - inner[0]
    return max(outer[0], inner[0] - width), min(outer[1], inner[1] + width)


def _middle(scores: Array) -> tuple[float, float]:
    """All but two in a thousand at each end."""
    finite = scores[np.isfinite(scores)]
    low, high = np.quantile(finite, [0.002, 0.998]) if len(finite) else (0.0, 1.0)
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(low) + 0.5)


def _roc(negatives: Array, positives: Array) -> tuple[Array, Array]:
    """Shares of negatives and positives at or above each threshold, from (0, 0) to (1, 1)."""
    distinct = np.unique(np.concatenate([negatives, positives]))[::-1]
    shares = [1 - np.searchsorted(np.sort(each), distinct) / len(each) for each in (negatives, positives)]
    return np.concatenate([[0.0], shares[0]]), np.concatenate([[0.0], shares[1]])


def _risk(scores: Array, wrong: Any) -> tuple[Array, Array]:
    """Coverage and the share of wrong predictions among the surest; of equal scores the mean over their orders."""
    distinct, levels = np.unique(scores, return_inverse=True)
    images, errors = (np.bincount(levels, weights, len(distinct)).cumsum() for weights in (None, wrong))
    kept = np.arange(1, len(scores) + 1)
    return kept / len(scores), np.interp(kept, np.append(0, images), np.append(0, errors)) / kept


# The look


def _panels(count: int, height: float, width: float) -> tuple[Any, list[Any]]:
    """A figure of `count` panels, at most COLUMNS side by side."""
    figure, axes = panels(count, COLUMNS, Size(width, height), margin=Size(0, 0.4))
    for axis in axes:
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    return figure, axes


def _look(number: int) -> dict[str, Any]:
    """A colour each, and dashes from the eleventh on."""
    return {"color": f"C{number % 10}", "linestyle": ("-", "--", ":")[number // 10 % 3]}


def _label(axes: Sequence[Any], below: str, beside: str) -> None:
    for number, axis in enumerate(axes):
        if number >= len(axes) - COLUMNS:
            axis.set_xlabel(below, fontsize=8)
        if number % COLUMNS == 0:
            axis.set_ylabel(beside, fontsize=8)


def _legend_below(figure: Any, axes: Sequence[Any], title: str) -> None:
    """One for all panels, and the title above them."""
    entries = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.suptitle(title, fontsize=10, parse_math=False)
    if entries:
        look = {"ncols": len(entries), "frameon": False, "fontsize": 8}
        figure.legend(list(entries.values()), list(entries), loc="lower center", **look)


def _legend_beside(axis: Any, title: str, largest_first: bool) -> None:
    """Right of the panel, sorted by the number at the end of each label."""
    entries = list(zip(*axis.get_legend_handles_labels(), strict=True))
    entries.sort(key=lambda entry: float(entry[1].rsplit(" ", 1)[1]), reverse=largest_first)
    if entries:
        handles, labels = zip(*entries, strict=True)
        look = {"fontsize": 7, "title_fontsize": 7, "frameon": False, "borderaxespad": 0.2}
        axis.legend(handles, labels, loc="center left", bbox_to_anchor=(1.0, 0.5), title=title, **look)


def _save(figure: Any, path: Path) -> None:
    tighten(figure, below=0.3 if figure.legends else 0)  # room for a legend of the whole figure
    write_atomically(path, encoded(figure))
