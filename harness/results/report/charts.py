"""Charts of one place: standings with intervals and cliques, ranks, agreement of quantities, curves, cost."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from .cliques import Cliques
from .figures import COLOURS, FLOOR, RANKS, SIGNED, axis, embedded, figure, hover, looks, marks, plain
from .heat import LINE, heat_map
from .leaderboard import ARROWS, direction
from .ranks import agreement, ordered, ranks

GROUPS = 8  # of methods that a chart has room for

Charts = dict[str, Markup]  # by what the reader chooses


def standings(shown: pd.DataFrame, cliques: Mapping[str, Cliques]) -> Charts:
    """For each quantity a point with its interval a method, the best on top, and a bar for each group of equals."""
    return {
        f"{column} {ARROWS[direction(rows.iloc[0])]}".strip(): embedded(_standing(rows, cliques.get(str(column))))
        for column, rows in shown.groupby("column", sort=False)
    }


def _standing(rows: pd.DataFrame, made: Cliques | None) -> Any:
    order = ordered(rows)
    rows = rows.set_index("method").loc[order].reset_index()
    ends = [(rows[end].astype(float) - rows["value"].astype(float)).abs() for end in ("ci_high", "ci_low")]
    high, low = (each.fillna(0).to_numpy() for each in ends)
    points = {
        "type": "scatter",
        "mode": "markers",
        "x": rows["value"].astype(float).to_numpy(),
        "y": [*map(plain, rows["method"])],
        "error_x": {"array": high, "arrayminus": low, "thickness": 1.2, "width": 3, "color": COLOURS[0]},
        "marker": {"color": [FLOOR if floor else COLOURS[0] for floor in rows["floor"]], "size": 8},
        "customdata": np.stack([rows["interval"].replace("", "none"), rows["n"].astype(str)], axis=1),
        "hovertemplate": hover({"%{y}": "%{x:.4f}", "95 % interval": "%{customdata[0]}", "n": "%{customdata[1]}"}),
    }
    bars = [] if made is None else [*_bars(made)]
    across = {"xaxis": axis(domain=[0, 0.86 if bars else 1]), "yaxis": _methods(order)}
    aside = {"xaxis2": axis(domain=[0.88, 1], range=[-0.5, GROUPS - 0.5], showticklabels=False, showgrid=False)}
    return figure([points, *bars], 70 + LINE * len(rows), showlegend=False, **across, **(aside if bars else {}))


def _methods(order: list[str]) -> dict[str, Any]:
    """A vertical axis with the first method on top."""
    names = [*map(plain, order)]
    return axis(type="category", categoryorder="array", categoryarray=names[::-1], range=[-0.6, len(names) - 0.4])


def _bars(made: Cliques) -> Iterator[dict[str, Any]]:
    """A line through each group of methods that no test tells apart, dots where its members are."""
    several = [group for group in made.groups if len(group) > 1]
    for number, group in enumerate(several[:GROUPS]):
        yield {
            "type": "scatter",
            "mode": "lines+markers",
            "xaxis": "x2",
            "x": [number] * len(group),
            "y": [*map(plain, group)],
            "line": {"color": COLOURS[number % len(COLOURS)], "width": 2},
            "marker": {"size": 5},
            "hovertemplate": "no test tells these apart<br>" + "<br>".join(map(plain, group)) + "<extra></extra>",
        }


def rank_map(shown: pd.DataFrame) -> Markup | None:
    """Methods by quantities, coloured by rank; None where there is nothing to rank."""
    made = ranks(shown)
    if made.empty or len(made) < 2:
        return None
    best_first = [name for name in ordered(shown) if name in made.index]
    made = made.loc[best_first[::-1]]  # from below, as Plotly takes them
    style = {
        "scale": RANKS,
        "reversed": True,  # dark is behind, bright is ahead
        "range": (1, max(2.0, float(np.nanmax(made.to_numpy(float))))),
        "format": "{:.0f}",
        "hover": hover({"%{y}": "rank %{z} under %{x}"}),
        "title": "rank",
    }
    names = [*made.columns], [*made.index]
    return embedded(heat_map(made.to_numpy(float), names, style))


def agreement_map(shown: pd.DataFrame) -> Markup | None:
    """Quantities by quantities: Kendall's tau of the orders of methods; None for fewer than two."""
    made = agreement(ranks(shown)) if len(shown) else pd.DataFrame()
    if len(made) < 2 or made.isna().all(axis=None):
        return None
    style = {
        "scale": SIGNED,
        "reversed": False,
        "range": (-1, 1),
        "format": "{:.2f}",
        "hover": hover({"%{y}": "%{z:.3f} with %{x}"}),
        "title": "tau",
    }
    names = [*made.columns], [*made.columns][::-1]
    return embedded(heat_map(made.to_numpy(float)[::-1], names, style))


def curves(points: pd.DataFrame) -> Charts:
    """For each quantity along an x a line with its 95 % band a method."""
    floors = points[points["floor"]]["method"]
    look = looks(sorted(set(points["method"])), floors)
    return {
        str(column): embedded(_curves(rows, look)) for column, rows in points.groupby("column", sort=True) if len(rows)
    }


def _curves(rows: pd.DataFrame, look: Mapping[str, dict[str, str]]) -> Any:
    traces: list[dict[str, Any]] = []
    for method, line in rows.sort_values("x", kind="stable").groupby("method", sort=True):
        traces += _line(plain(method), line.astype({"x": float, "value": float}), look[str(method)])
    across = {"xaxis": axis(rows["x_label"].iloc[0]), "yaxis": axis(rows["stat"].iloc[0])}
    legend = {"orientation": "h", "y": -0.18, "yanchor": "top"}
    return figure(traces, 430 + 8 * len(traces) // 2, legend=legend, **across)


def _line(method: str, line: pd.DataFrame, look: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """A band and the line in it; one entry of the legend hides both."""
    banded = line[line["ci_low"].notna()]
    shared = {"type": "scatter", "legendgroup": method, "name": method}
    ends = np.concatenate([banded["ci_high"].to_numpy(float), banded["ci_low"].to_numpy(float)[::-1]])
    around = np.concatenate([banded["x"].to_numpy(), banded["x"].to_numpy()[::-1]])
    colour = look["color"]
    yield {
        **shared,
        "x": around,
        "y": ends,
        "fill": "toself",
        "fillcolor": f"{colour}12",
        "line": {"width": 0},
        "mode": "lines",
        "hoverinfo": "skip",
        "showlegend": False,
    }
    yield {
        **shared,
        "x": line["x"].to_numpy(),
        "y": line["value"].to_numpy(),
        "mode": "lines",
        "line": {**look, "width": 1.8},
        "hovertemplate": hover({method: "%{y:.4f} at %{x}"}),
    }


def costs(shown: pd.DataFrame, seconds: Mapping[tuple[str, str], float]) -> Charts:
    """For each directed quantity its value over seconds an image, a point a method.

    seconds: of (run_id, the method's own name); a run that computed nothing of a method is not in it.
    """
    keys = zip(shown["run_id"], shown["called"], strict=True)
    timed = shown.assign(seconds=[seconds.get(key, np.nan) for key in keys])
    timed = timed[timed["seconds"].notna() & timed["higher_is_better"].notna()]
    return {
        f"{column} {ARROWS[direction(rows.iloc[0])]}": embedded(_cost(str(column), rows))
        for column, rows in timed.groupby("column", sort=False)
    }


def _cost(column: str, rows: pd.DataFrame) -> Any:
    """A mark a method, named in the legend (names in the chart would lie over each other), and the front."""
    rows = rows.set_index("method").loc[ordered(rows)].reset_index()
    look = marks(sorted(rows["method"]), rows[rows["floor"]]["method"])
    points = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": plain(row.method),
            "x": [float(row.seconds)],
            "y": [float(row.value)],
            "marker": {**look[row.method], "size": 9},
            "hovertemplate": hover({plain(row.method): "%{y:.4f} at %{x:.4g} s an image"}),
            "cliponaxis": False,
        }
        for row in rows.itertuples()
    ]
    across = {"xaxis": axis("seconds an image, of the method alone", type="log"), "yaxis": axis(column)}
    legend = {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"}
    return figure([_front(rows), *points], 430 + 8 * len(points), legend=legend, **across)


def _front(rows: pd.DataFrame) -> dict[str, Any]:
    """A line through the methods that none beats which takes no longer."""
    up = bool(rows["higher_is_better"].iloc[0])
    by_time = rows.sort_values(["seconds", "value"], ascending=[True, not up], kind="stable")
    values = by_time["value"].astype(float)
    best = values.cummax() if up else values.cummin()
    ahead = by_time[best != best.shift()]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "best for its time",
        "x": ahead["seconds"].to_numpy(float),
        "y": ahead["value"].to_numpy(float),
        "line": {"color": FLOOR, "width": 1, "dash": "dot", "shape": "hv"},
        "hoverinfo": "skip",
    }


def mean_ranks(ranks: Mapping[str, float], made: Cliques | None) -> Markup:
    """A point a method, the best on top, and a bar for each group that no test tells apart."""
    names = [*ranks]
    points = {
        "type": "scatter",
        "mode": "markers",
        "x": [*ranks.values()],
        "y": [*map(plain, names)],
        "marker": {"color": COLOURS[0], "size": 8},
        "hovertemplate": hover({"%{y}": "mean rank %{x:.2f}"}),
    }
    bars = [] if made is None else [*_bars(made)]
    across = {"xaxis": axis("mean rank", domain=[0, 0.86 if bars else 1]), "yaxis": _methods(names)}
    aside = {"xaxis2": axis(domain=[0.88, 1], range=[-0.5, GROUPS - 0.5], showticklabels=False, showgrid=False)}
    traces = [points, *bars]
    return embedded(figure(traces, 90 + LINE * len(names), showlegend=False, **across, **(aside if bars else {})))
