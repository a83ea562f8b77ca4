"""The look of the report's charts, and the way of a figure into the page.

Colours are those of Okabe and Ito (Color Universal Design, 2008) without yellow, which white swallows; dashes tell
apart what shares a colour. Text and grid take the page's colours (page.css), light or dark.
"""

import json
from collections.abc import Iterable, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    import plotly.graph_objects as go

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#8C6D31")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x")  # as many as DASHES
FLOOR = "#888888"
RANKS = "Viridis"
SIGNED = "RdBu"

Look = dict[str, str]  # colour and dash of a line


def looks(methods: Iterable[str], floors: Iterable[str] = ()) -> dict[str, Look]:
    """Colour and dash of each method; floors are grey."""
    grey, made = set(floors), dict[str, Look]()
    every = list(methods)
    for number, name in enumerate(name for name in every if name not in grey):
        made[name] = {"color": COLOURS[number % len(COLOURS)], "dash": DASHES[number // len(COLOURS) % len(DASHES)]}
    for number, name in enumerate(name for name in every if name in grey):
        made[name] = {"color": FLOOR, "dash": DASHES[number % len(DASHES)]}
    return made


def marks(methods: Iterable[str], floors: Iterable[str] = ()) -> dict[str, Look]:
    """Colour and symbol of each method: those of `looks`, with a symbol for a dash."""
    return {
        name: {"color": look["color"], "symbol": SYMBOLS[DASHES.index(look["dash"])]}
        for name, look in looks(methods, floors).items()
    }


def figure(traces: Iterable[Any], height: int, **layout: Any) -> "go.Figure":
    """Traces with the report's layout; `height` in pixels, the width is the page's."""
    import plotly.graph_objects as go

    look: dict[str, Any] = {
        "template": "none",
        "height": height,
        "margin": {"l": 10, "r": 10, "t": 10, "b": 10, "pad": 4},
        "font": {"family": "system-ui, sans-serif", "size": 12},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hovermode": "closest",
        "dragmode": False,  # or a finger that scrolls the page would draw in a chart
    }
    return go.Figure(list(traces), {**look, **layout})


def axis(title: str = "", **others: Any) -> dict[str, Any]:
    """One axis that makes room for its labels."""
    return {"title": {"text": plain(title), "standoff": 12}, "automargin": True, "zeroline": False, **others}


def plain(text: object) -> str:
    """A name for a chart, where tags would be read as such."""
    return escape(str(text), quote=False)


def hover(names: Mapping[str, str]) -> str:
    """What is said of a point: Plotly's places by what they are called."""
    return "<br>".join(f"{name}: {place}" for name, place in names.items()) + "<extra></extra>"


def embedded(made: "go.Figure") -> Markup:
    """A chart's JSON for a script element of the page."""
    return _safe(str(made.to_json()))


def script_json(made: object) -> Markup:
    """Plain data as JSON for a script element of the page; ValueError for nan, which JSON does not have."""
    return _safe(json.dumps(made, allow_nan=False))


def _safe(text: str) -> Markup:
    """No sign of it ends the element."""
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)
