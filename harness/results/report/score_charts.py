"""Charts of detectors' scores: how known and unknown images (right and wrong predictions) spread, and ROC curves."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from ...curves import acceptance_limit, roc_statistics
from ...stats import Array
from .charts import Charts
from .figures import COLOURS, DASHES, FLOOR, axis, embedded, figure, hover, looks, plain
from .scored import Detectors, Scores

BINS = 60
POINTS = 200  # of a ROC curve
TAIL = 0.002  # of the scores that are drawn into the outermost bins

Sides = dict[str, Array]  # scores by whose they are, the known or right ones first


def sides(shown: pd.DataFrame, detectors: Detectors) -> dict[str, Sides]:
    """Of each detector of a place, the scores of each set of images that it was judged by."""
    made = {}
    for method, rows in shown[shown["kind"] != "attribution"].groupby("method", sort=True):
        found = [detectors.judgement(row) for row in rows.drop_duplicates("cell_key").itertuples()]
        read = [scores for each in found if each is not None and (scores := detectors.scores(each)) is not None]
        if of_sets := [each for scores in read for each in _of(scores)]:
            made[str(method)] = dict(of_sets)
    return made


def _of(scores: Scores) -> Iterator[tuple[str, Array]]:
    if scores.wrong is None:
        yield "in distribution", scores.inside.scores
        yield from scores.outside.items()
    else:
        yield "right predictions", scores.inside.scores[~scores.wrong]
        yield "wrong predictions", scores.inside.scores[scores.wrong]


def histograms(made: Mapping[str, Sides]) -> Charts:
    """For each detector a chart: densities of the scores of each set, and the line that keeps 95 % of the first."""
    return {method: embedded(_histogram(each)) for method, each in made.items()}


def _histogram(each: Sides) -> Any:
    first = next(iter(each.values()))
    edges = _edges(first, np.concatenate([*each.values()]))
    traces = [
        _density(number, name, scores, edges) for number, (name, scores) in enumerate(each.items()) if len(scores)
    ]
    across = {
        "xaxis": axis("score (higher: likelier unknown or wrong)"),
        "yaxis": axis("density", showticklabels=False),
    }
    legend = {"orientation": "h", "y": -0.22, "yanchor": "top"}
    return figure(traces, 380, legend=legend, shapes=_limit(first), **across)


def _edges(known: Array, every: Array) -> Array:
    """Nowhere further than one width of the known scores beyond them: a far set would squeeze them into one bin."""
    (low, high), (least, most) = _middle(known), _middle(every)
    return np.linspace(max(least, 2 * low - high), min(most, 2 * high - low), BINS + 1)


def _middle(scores: Array) -> tuple[float, float]:
    """Where most of them lie; a width of one around scores that are all equal."""
    finite = scores[np.isfinite(scores)]
    low, high = np.quantile(finite, [TAIL, 1 - TAIL]) if len(finite) else (0.0, 1.0)
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(low) + 0.5)


def _density(number: int, name: str, scores: Array, edges: Array) -> dict[str, Any]:
    """An outline; the first one is filled. What lies further out is counted at the ends."""
    counts, _ = np.histogram(np.clip(scores, edges[0], edges[-1]), edges)
    colour, dash = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": plain(name),
        "x": edges,
        "y": np.append(counts, counts[-1]) / (len(scores) * np.diff(edges)[0]),
        "line": {"shape": "hv", "color": colour, "dash": dash, "width": 1.6},
        "fill": "tozeroy" if number == 0 else "none",
        "fillcolor": f"{colour}33",
        "hovertemplate": hover({plain(name): "%{y:.3g} at %{x:.4g}"}),
    }


def _limit(known: Array) -> list[dict[str, Any]]:
    """A dashed line that leaves 95 % to its left; none where the scores are equal there."""
    try:
        limit = acceptance_limit(known)
    except ValueError:
        return []
    line = {"color": FLOOR, "dash": "dash", "width": 1}
    return [{"type": "line", "x0": limit, "x1": limit, "y0": 0, "y1": 1, "yref": "paper", "line": line}]


def rocs(made: Mapping[str, Sides]) -> Charts:
    """For each set of unknown images (or for wrong predictions) a chart: a line a detector, with its AUROC."""
    look = looks(made)
    names = dict.fromkeys(name for each in made.values() for name in [*each][1:])
    return {name: embedded(_roc(name, made, look)) for name in names}


def _roc(name: str, made: Mapping[str, Sides], look: Mapping[str, dict[str, str]]) -> Any:
    from sklearn.metrics import roc_curve

    lines = []
    for method, each in made.items():
        known = next(iter(each.values()))
        if not len(known) or not len(each.get(name, ())):
            continue
        labels = np.repeat([0, 1], [len(known), len(each[name])])
        alarms, found, _ = roc_curve(labels, np.concatenate([known, each[name]]))
        area = roc_statistics(known, each[name])["auroc"]
        lines.append((area, _line(method, alarms, found, look[method])))
    lines.sort(key=lambda line: -line[0])
    traces = [{**line, "name": f"{line['name']} {area:.3f}"} for area, line in lines]
    chance = {"type": "line", "x0": 0, "x1": 1, "y0": 0, "y1": 1, "line": {"color": FLOOR, "dash": "dot", "width": 1}}
    across = {"xaxis": axis("false alarms", range=[-0.01, 1.01]), "yaxis": axis("found", range=[-0.01, 1.01])}
    legend = {"orientation": "h", "y": -0.18, "yanchor": "top", "title": {"text": "detector, AUROC"}}
    return figure(traces, 430 + 8 * len(traces), legend=legend, shapes=[chance], **across)


def _line(method: str, alarms: Array, found: Array, look: Mapping[str, str]) -> dict[str, Any]:
    """With at most POINTS corners: the area beside it is that of all."""
    kept = np.unique(np.linspace(0, len(alarms) - 1, POINTS).round().astype(int))
    return {
        "type": "scatter",
        "mode": "lines",
        "name": plain(method),
        "x": alarms[kept],
        "y": found[kept],
        "line": {**look, "width": 1.6},
        "hovertemplate": hover({plain(method): "%{y:.3f} found, %{x:.3f} false alarms"}),
    }
