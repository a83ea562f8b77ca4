"""From the tidy table to something to look at: a chart a data set, and one page with all of them."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from ..pictures import Size, encoded, panels, tighten
from ..store.files import write_atomically
from .curve_pictures import draw_curves
from .text import failures, headlines

ACROSS = 6  # panels side by side
SMALL = 0.2  # quantities below it have an axis of their own

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Assay results</title>
<style>
 body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1100px; padding: 0 1rem; color: #222 }
 table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .2rem .7rem; text-align: right }
 th { border-bottom: 1px solid #999; text-align: right } td:first-child, th:first-child { text-align: left }
 tr:nth-child(even) { background: #f5f5f5 } small { color: #777 } img { max-width: 100% } .failed { color: #b00 }
</style>
<h1>Assay results</h1>
<p>Means over (image, class) pairs with 95&nbsp;% intervals. Every number, with its conventions, is in
<code>tidy/results.csv</code>; what it took is in <code>tidy/runs.csv</code>.</p>
{% for section in sections %}
<h2>{{ section.title }}</h2>
{% if section.picture %}<img src="{{ section.picture }}" alt="{{ section.title }}: means, 95 % intervals">{% endif %}
{% if section.curves %}<img src="{{ section.curves }}" alt="{{ section.title }}: curves, 95 % bands">{% endif %}
<table><tr><th>method</th>{% for column in section.columns %}<th>{{ column }}</th>{% endfor %}</tr>
{% for method, cells in section.rows %}<tr><td>{{ method }}</td>
{% for cell in cells %}<td>{% if cell %}{{ "%.3f"|format(cell.value) }}
 <small>{{ cell.interval }}</small>{% endif %}</td>{% endfor %}</tr>
{% endfor %}</table>
{% endfor %}
{% if failures %}<h2>Failed</h2>{% endif %}
{% for failure in failures %}<p class="failed">{{ failure }}</p>{% endfor %}
{% for run, pictures in runs %}
<h2>Scores, run {{ run }}</h2>
{% for picture in pictures %}<img src="{{ picture }}" alt="{{ picture }}">{% endfor %}
{% endfor %}
</html>
"""


def write_report(results: pd.DataFrame, folder: Path, floors: Collection[str] = ()) -> Path:
    """Charts (PNG) and `index.html` of a tidy result table; returns the page's path.

    floors: methods that every other one has to beat; they are marked.
    """
    sections = []
    for title, part in results[results["split"] != ""].groupby(_titles(results), sort=True):
        shown = headlines(part, floors)
        picture = _file_name(title) if len(shown) else ""
        if picture:
            _draw(shown, folder / picture)
        for model, rows in part.groupby("model", sort=True):
            curves = _file_name(f"curves {model} {title}")
            drawn = draw_curves(rows, folder / curves, floors)
            section = _section(f"{model} on {title}", shown[shown["model"] == model], picture)
            sections.append({**section, "curves": curves if drawn else ""})
    template = jinja2.Environment(autoescape=True).from_string(PAGE)
    page = template.render(sections=sections, failures=_failures(results), runs=_pictures(folder))
    write_atomically(folder / "index.html", page.encode())
    return folder / "index.html"


def _failures(results: pd.DataFrame) -> list[str]:
    """Of every model and data set: a failure belongs to no part of one."""
    places = results.groupby(["model", "dataset"], sort=True)
    return [f"{model} on {dataset}: {why}" for (model, dataset), rows in places for why in failures(rows)]


def _file_name(title: str) -> str:
    return f"{title}.png".translate(str.maketrans("[]:@ /", "______"))


def _pictures(folder: Path) -> list[tuple[str, list[str]]]:
    """What runs of detectors have drawn beside their results, by run; paths relative to the report's folder."""
    runs = sorted({path.parent for path in (folder.parent / "runs").glob("*/*.png")})
    return [(run.name, [f"../runs/{run.name}/{path.name}" for path in sorted(run.glob("*.png"))]) for run in runs]


def _titles(results: pd.DataFrame) -> pd.Series:
    """What a row is shown under: its data set and part, or what ood sets are told from."""
    plain = results["dataset"] + " " + results["split"]
    reference = results["reference"].fillna("")
    return plain.where(reference == "", reference + " against other sets")


def _section(title: str, shown: pd.DataFrame, picture: str) -> dict[str, Any]:
    columns = list(dict.fromkeys(shown["column"]))
    cells = {(row.method, row.column): row for row in shown.itertuples()}
    methods = sorted(set(shown["method"]))
    rows = [(method, [cells.get((method, column)) for column in columns]) for method in methods]
    return {"title": title, "picture": picture, "columns": columns, "rows": rows}


def _limits(rows: pd.DataFrame) -> tuple[float, float]:
    """An axis that holds a quantity's points: a share's, or one of its own for what is small, large or negative."""
    ends = rows[["value", "ci_low", "ci_high"]].astype(float)
    lowest, highest = min(0.0, ends.min(axis=None)), ends.max(axis=None)
    highest = SMALL if highest < SMALL else max(1.0, highest)  # or all points of a small one would fall together
    margin = 0.03 * (highest - lowest)
    return lowest - margin, highest + margin


def _draw(shown: pd.DataFrame, path: Path) -> None:
    """One panel a quantity: a point with its interval for each method, a colour for each model."""
    columns, methods = list(dict.fromkeys(shown["column"])), sorted(set(shown["method"]), reverse=True)
    models = sorted(set(shown["model"]))
    each = Size(2.6, 0.8 + 0.24 * len(methods) * max(1, len(models) / 2))
    figure, axes = panels(len(columns), ACROSS, each, margin=Size(2.2, 0.4), share_y=True)
    for axis, column in zip(axes, columns, strict=True):
        _draw_quantity(axis, column, shown[shown["column"] == column], methods, models)
    for axis in axes[::ACROSS]:
        axis.set_yticks(range(len(methods)), methods)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=len(models), frameon=False)
    tighten(figure, below=0.25)
    write_atomically(path, encoded(figure))


def _draw_quantity(axis: Any, title: str, rows: pd.DataFrame, methods: list[str], models: list[str]) -> None:
    for number, model in enumerate(models):
        part = rows[rows["model"] == model]
        offset = (number - (len(models) - 1) / 2) * 0.25
        y = np.array([methods.index(name) for name in part["method"]]) - offset
        value = part["value"].to_numpy(float)
        spread = np.abs(np.stack([value - part["ci_low"].astype(float), part["ci_high"].astype(float) - value]))
        axis.errorbar(value, y, xerr=spread, fmt="o", markersize=4, capsize=2, label=model)
    axis.set_title(title.replace(" ", "\n", 1), fontsize=8)
    axis.set_xlim(*_limits(rows))
    axis.grid(axis="x", alpha=0.3)
