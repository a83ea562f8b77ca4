"""Heat maps whose figures can be read on every cell: black or white, whichever stands out more."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .figures import axis, figure, plain

Style = dict[str, Any]  # scale and whether it is reversed, range of values, format of figures, hover, title
LINE, MARGINS, SLANTED = 19, 90, 4.5  # pixels: of a row, around them all, and of a letter of a slanted name below
KEY = 110  # pixels of the colours' key at least: beside few rows it goes on beside the names below them
INKS = ("#000000", "#ffffff")  # of which one has a contrast of at least sqrt(21) = 4.58 to any colour


def luminance(rgb: Sequence[float]) -> float:
    """Relative luminance (WCAG 2.2) of red, green and blue in [0,255]."""
    shares = [each / 255 for each in rgb]
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in shares]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(first: Sequence[float], second: Sequence[float]) -> float:
    """Contrast (WCAG 2.2) of two colours, 1 to 21; text of any size should have 4.5."""
    dark, bright = sorted((luminance(first), luminance(second)))
    return (bright + 0.05) / (dark + 0.05)


def ink(rgb: Sequence[float]) -> str:
    """The one of INKS that stands out more."""
    return INKS[int(contrast((255, 255, 255), rgb) > contrast((0, 0, 0), rgb))]


def heat_map(values: NDArray[np.float64], names: tuple[list[str], list[str]], style: Style) -> Any:
    """A figure of values [rows, columns], the first row at the bottom. names: of columns and of rows."""
    across, up = ([*map(plain, each)] for each in names)
    low, high = style["range"]
    cells = {
        "type": "heatmap",
        "z": values,
        "x": across,
        "y": up,
        "colorscale": style["scale"],
        "reversescale": style["reversed"],
        "zmin": low,
        "zmax": high,
        "hovertemplate": style["hover"],
        "colorbar": {
            "title": {"text": style["title"]},
            "thickness": 10,
            "lenmode": "pixels",
            "len": max(KEY, LINE * len(up)),
            "y": 1,
            "yanchor": "top",
        },
        "xgap": 1,
        "ygap": 1,
    }
    rows, columns = np.nonzero(~np.isnan(values))
    shares = (values[rows, columns] - low) / (high - low)
    texts = {
        "type": "scatter",
        "mode": "text",
        "x": [across[column] for column in columns],
        "y": [up[row] for row in rows],
        "text": [style["format"].format(value) for value in values[rows, columns]],
        "textfont": {"size": 10, "color": inks(style["scale"], 1 - shares if style["reversed"] else shares)},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    upwards = axis(type="category", categoryorder="array", categoryarray=up, range=[-0.6, len(up) - 0.4])
    sideways = axis(type="category", categoryorder="array", categoryarray=across, tickangle=-40)
    height = MARGINS + LINE * len(up) + int(SLANTED * max(map(len, names[0])))
    return figure([cells, texts], height, xaxis=sideways, yaxis=upwards)


def inks(scale: str, shares: NDArray[np.float64]) -> list[str]:
    """The ink on the colours of a scale at these shares of it."""
    from plotly.colors import sample_colorscale, unlabel_rgb

    colours = sample_colorscale(scale, shares.tolist()) if len(shares) else []
    return [ink(unlabel_rgb(each)) for each in colours]
