"""Ranks of methods under each quantity, and how far quantities agree about them."""

import pandas as pd

DIGITS = 6  # of a value that are ranked: behind them float32 sums differ with the order of their terms


def directed(shown: pd.DataFrame) -> pd.DataFrame:
    """The rows of quantities of which more, or less, is better."""
    return shown[shown["higher_is_better"].notna()]


def ranks(shown: pd.DataFrame) -> pd.DataFrame:
    """Rank of each method (rows) under each quantity (columns) whose good direction is known: 1 is the best.

    Equal values (to DIGITS digits) share the best of their ranks, as in a race. A method without a value has none.
    """
    rows = directed(shown)
    if rows.empty:
        return pd.DataFrame()
    up = rows.drop_duplicates("column").set_index("column")["higher_is_better"].astype(bool)
    values = rows.pivot_table(index="method", columns="column", values="value", aggfunc="first", sort=False)
    losses = values.astype(float).mul(up.map({True: -1.0, False: 1.0}), axis=1)
    return losses.map(rounded).rank(method="min")[list(up.index)]


def rounded(value: float) -> float:
    """To DIGITS significant digits."""
    return float(f"{value:.{DIGITS}g}")


def ordered(shown: pd.DataFrame) -> list[str]:
    """Methods, the best of the first directed quantity first; those without a value of it last, by name."""
    every = sorted(set(shown["method"]))
    made = ranks(shown)
    if made.empty:
        return every
    first = made.iloc[:, 0].dropna().sort_values(kind="stable")
    return [*first.index, *(name for name in every if name not in first.index)]


def agreement(made: pd.DataFrame) -> pd.DataFrame:
    """Kendall's tau-b (1945, Biometrika 33:239) of each two quantities' ranks of the methods that both have.

    1: the same order, -1: the opposite one; nan where fewer than three methods have both, or one ranks all alike.
    """
    return made.corr(method="kendall", min_periods=3)
