"""A table as LaTeX: pandas' Styler escapes and sets it (booktabs), a float a panel."""

import pandas as pd

from .entries import Table
from .rendering import grids, legend

GREEK = {
    "α": "alpha",
    "β": "beta",
    "γ": "gamma",
    "μ": "mu",
    "σ": "sigma",
    "τ": "tau",
    "Ψ": "Psi",
    "±": "pm",
    "·": "cdot",
}
_SIGNS = str.maketrans({sign: rf"$\{name}$" for sign, name in GREEK.items()} | {"–": "--", ">": "$>$", "<": "$<$"})


def latex(table: Table) -> str:
    """A `table` with its caption a panel, to be included as it stands; what a cell holds is said in a comment."""
    parts = [f"% {text}" for text in (table.title, table.source, f"each cell: {legend(table)}")]
    for number, (label, about, texts) in enumerate(grids(table), 1):
        caption = ". ".join(filter(None, [f"{table.title}: {label}", about]))
        parts.append(_tabular(texts, caption, f"tab:{table.name}_{number}"))
    return "\n".join(parts)


def _tabular(texts: pd.DataFrame, caption: str, label: str) -> str:
    style = texts.style.format(_set, escape="latex").hide(axis="index").format_index(_set, escape="latex", axis=1)
    shape = {"column_format": f"l{'r' * (texts.shape[1] - 1)}", "hrules": True, "position": "tbp"}
    return style.to_latex(caption=_escaped(caption), label=label, **shape)


def _set(text: str) -> str:
    """What is left when LaTeX's own signs are escaped: signs that need mathematics."""
    return text.translate(_SIGNS)


def _escaped(text: str) -> str:
    """A text outside of a grid, by the same rules."""
    frame = pd.DataFrame([[text]]).style.format(_set, escape="latex")
    return str(frame.hide(axis="index").hide(axis="columns").to_latex().splitlines()[1].removesuffix(r" \\"))
