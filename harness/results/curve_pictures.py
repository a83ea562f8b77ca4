"""Pictures of curves: what the network says as more and more of the input is changed, a line a method."""

from pathlib import Path

import numpy as np
import pandas as pd

ACROSS = 3  # panels side by side


def draw_curves(results: pd.DataFrame, path: Path) -> bool:
    """One panel for each quantity that has values along `x`: a line with its 95 % band for each method.

    Args:
        results: rows of a tidy table, of one model and data set.
        path: of the PNG; not written if no row has an `x`.

    Returns:
        Whether there was anything to draw.
    """
    rows = results[results["x"].notna() & results["value"].notna()]
    if rows.empty:
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D

    panels = list(rows.groupby(["metric", "variant", "subset", "stat"], sort=True))
    methods = sorted(set(rows["method"]))
    colours = dict(zip(methods, plt.get_cmap("turbo")(np.linspace(0.05, 0.95, len(methods))), strict=True))
    across = min(len(panels), ACROSS)
    down = -(-len(panels) // across)
    figure, axes = plt.subplots(down, across, figsize=(2.2 + 4 * across, 3.4 * down), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, ((metric, variant, subset, stat), part) in zip(axes.flat, panels, strict=False):
        for method, line in part.sort_values("x").groupby("method", sort=True):
            axis.plot(line["x"], line["value"], color=colours[method], linewidth=1.5)
            band = (line[end].astype(float) for end in ("ci_low", "ci_high"))
            axis.fill_between(line["x"], *band, color=colours[method], alpha=0.12, linewidth=0)
        axis.set_title(f"{metric} {'' if subset == 'all' else subset}\n{variant}", fontsize=8)
        axis.set_xlabel(part["x_label"].iloc[0], fontsize=8)
        axis.set_ylabel(stat, fontsize=8)
        axis.grid(alpha=0.3)
    lines = [Line2D([], [], color=colours[method]) for method in methods]
    figure.legend(lines, methods, loc="center right", frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0, 1 - 1.6 / (2.2 + 4 * across), 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True
