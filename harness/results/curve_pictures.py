"""Pictures of curves: what the network says as more and more of the input is changed, a line a method."""

from collections.abc import Collection, Mapping
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
import pandas as pd

from ..pictures import Size, encoded, panels, tighten
from ..store.files import write_atomically
from .settings import told_apart

ACROSS = 3  # panels side by side
LINE_INCHES = 0.19  # of the legend
TITLE = 60  # letters above a panel
QUANTITY = ["metric", "variant", "subset", "stat"]


def draw_curves(results: pd.DataFrame, path: Path, floors: Collection[str] = ()) -> bool:
    """One panel for each quantity that has values along `x`: a line with its 95 % band for each method.

    Args:
        results: rows of a tidy table, of one model and data set.
        path: of the PNG; not written if no row has an `x`.
        floors: methods that every other one has to beat; they are marked.

    Returns:
        Whether there was anything to draw.
    """
    rows = results[results["x"].notna() & results["value"].notna()]
    if rows.empty:
        return False
    rows = told_apart(rows.assign(column=rows[QUANTITY].agg("\n".join, axis=1)), floors)
    from matplotlib import colormaps
    from matplotlib.lines import Line2D

    quantities = list(rows.groupby([*QUANTITY, "column"], sort=True))
    methods = sorted(set(rows["method"]))
    colours = dict(zip(methods, colormaps["turbo"](np.linspace(0.05, 0.95, len(methods))), strict=True))
    lacking = LINE_INCHES * len(methods) - 3.4 * -(-len(quantities) // ACROSS)  # that the legend is higher than panels
    figure, axes = panels(len(quantities), ACROSS, Size(4, 3.4), margin=Size(2.2, max(0, lacking)))
    for axis, (quantity, part) in zip(axes, quantities, strict=True):
        _draw_quantity(axis, quantity, part, colours)
    lines = [Line2D([], [], color=colours[method]) for method in methods]
    figure.legend(lines, methods, loc="center right", frameon=False, fontsize=8)
    tighten(figure, right=1.6)
    write_atomically(path, encoded(figure))
    return True


def _draw_quantity(axis: Any, quantity: tuple[str, ...], rows: pd.DataFrame, colours: Mapping[str, Any]) -> None:
    metric, variant, subset, stat, column = quantity
    remark = column.removeprefix("\n".join(quantity[:-1]))
    for method, line in rows.sort_values("x").groupby("method", sort=True):
        axis.plot(line["x"], line["value"], color=colours[str(method)], linewidth=1.5)
        band = (line[end].astype(float) for end in ("ci_low", "ci_high"))
        axis.fill_between(line["x"], *band, color=colours[str(method)], alpha=0.12, linewidth=0)
    title = [f"{metric} {'' if subset == 'all' else subset}", *wrap(f"{variant}{remark}", TITLE)]
    axis.set_title("\n".join(title), fontsize=8)
    axis.set_xlabel(rows["x_label"].iloc[0], fontsize=8)
    axis.set_ylabel(stat, fontsize=8)
    axis.grid(alpha=0.3)
