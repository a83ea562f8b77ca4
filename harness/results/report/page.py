"""The page: what the other modules make of a place, rendered into one file."""

from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pandas as pd
from markupsafe import Markup, escape

from ...store.files import write_atomically
from ..compare.judged import FAILURE
from ..text import failures
from ..tidy import runs_table
from . import charts, detected, libraries, paired, pictured, score_charts
from .leaderboard import leaderboard
from .overall import overall
from .places import Place, places
from .provenance import provenance, seconds_an_image
from .scored import Detectors
from .views import views

HERE = Path(__file__).parent


class Behind(NamedTuple):
    """What lies behind the tidy table: per-sample tables, score tables, and what methods took."""

    tables: paired.Tables
    detectors: Detectors
    seconds: dict[tuple[str, str], float]
    pictured: list[pictured.Sample]

    @classmethod
    def of(cls, results: Path) -> "Behind":
        """Of a folder of results; each of its parts may be missing."""
        store = results / "store"
        seconds, samples = seconds_an_image(results / "runs"), pictured.read(results / "report")
        return cls(paired.Tables(store), Detectors(store), seconds, samples)


def write_report(results: pd.DataFrame, folder: Path, floors: Collection[str] = ()) -> Path:
    """Write `index.html` of a tidy result table into `<results>/report`; returns its path.

    Args:
        results: the tidy table.
        folder: `<results>/report`; the store and the records of runs lie beside it.
        floors: methods that every other one has to beat; they are marked.
    """
    moment = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    page = rendered(results, folder, runs_table(folder.parent / "runs"), moment, floors)
    write_atomically(folder / "index.html", page.encode())
    return folder / "index.html"


def rendered(results: pd.DataFrame, folder: Path, runs: pd.DataFrame, moment: str, floors: Collection[str] = ()) -> str:
    """The page as text; as `write_report`, with the records of runs as a table, and when it is made."""
    behind = Behind.of(folder.parent)
    return _template().render(
        sections=[_section(number, place, behind) for number, place in enumerate(places(results, floors))],
        overall=list(overall(results)),
        failures=_failures(results),
        runs=provenance(runs),
        rows=len(results),
        made=moment,
        libraries=libraries,
        style=(HERE / "page.css").read_text(encoding="utf-8"),
        script=(HERE / "page.js").read_text(encoding="utf-8"),
    )


def _template() -> jinja2.Template:
    """The page's text; everything that it is given is escaped."""
    loader = jinja2.FileSystemLoader(HERE)
    made = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    made.filters["breakable"] = breakable
    return made.get_template("page.html")


def breakable(name: str) -> Markup:
    """A name that may be broken behind its signs, escaped."""
    text = escape(name)
    for sign in "_,/":
        text = text.replace(sign, Markup(f"{sign}<wbr>"))
    return text


def _section(number: int, place: Place, behind: Behind) -> dict[str, Any]:
    """What the template shows of a place."""
    scores = score_charts.sides(place.shown, behind.detectors)
    known = list(paired.quantities(place.shown, behind.tables))
    groups = paired.tested(known) | detected.tested(place.shown, behind.detectors)
    return {
        "anchor": f"place-{number}",
        "title": place.name,
        "board": leaderboard(place.shown, groups),
        "tests": {column: made.test for column, made in groups.items()},
        "has_failures": bool((place.shown["kind"] == FAILURE).any()),
        "standings": charts.standings(place.shown, groups),
        "ranks": charts.rank_map(place.shown),
        "agreement": charts.agreement_map(place.shown),
        "curves": charts.curves(place.curves),
        "histograms": score_charts.histograms(scores),
        "rocs": score_charts.rocs(scores),
        "samples": views(place.shown, known, behind.pictured),
        "costs": charts.costs(place.shown, behind.seconds),
    }


def _failures(results: pd.DataFrame) -> list[str]:
    """Of every model and data set: a failure belongs to no part of one."""
    parts = results.groupby(["model", "dataset"], sort=True)
    return [f"{model} on {dataset}: {why}" for (model, dataset), rows in parts for why in failures(rows)]
