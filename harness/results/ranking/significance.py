"""Mean ranks over blocks, Friedman's test, paired tests with Holm's correction, the critical difference.

As Demsar recommends (2006, JMLR 7:1-30), with exact or drawn permutations where he has a limit for many blocks.
"""

from math import ceil, inf, log2, nan, sqrt
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from ...seeds import derive_seed
from ...stats import Array
from ..report.cliques import LEVEL, Cliques, cliques, holm
from ..report.ranks import rounded
from .blocks import Blocks

FEWEST = 5  # blocks of which Friedman's test says something
DRAWS = 9999  # permutations of Friedman's test
PART = 500  # held at once


class Friedman(NamedTuple):
    """chi2: the statistic, corrected for ties. p: how often ranks that are drawn anew in each block reach it."""

    chi2: float
    p: float


class Ranking(NamedTuple):
    """Methods of some blocks by their mean ranks.

    ranks: mean rank by method, the best (the lowest) first; ties share the mean of their ranks. bests: in how many
    blocks a method is the best, or shares that. friedman: None for two methods, or fewer than FEWEST blocks. cliques:
    None where the blocks are too few for any pair to be told apart; why then says so. p_values: [M,M] of pairs, with
    Holm's correction. critical: Nemenyi's critical difference of two mean ranks at LEVEL; nan without cliques.
    """

    blocks: Blocks
    ranks: pd.Series
    bests: pd.Series
    friedman: Friedman | None
    cliques: Cliques | None
    p_values: Array | None
    critical: float
    why: str


def ranking(made: Blocks) -> Ranking:
    """Of blocks, at least one."""
    ranks = made.losses.rank(axis=1, method="average")
    mean = ranks.mean().sort_values(kind="stable")
    bests = (made.losses.rank(axis=1, method="min") == 1).sum()[mean.index]
    friedman = _friedman(ranks.to_numpy(float)) if len(mean) > 2 and len(ranks) >= FEWEST else None
    count, least = len(ranks), least_blocks(len(mean))
    if count < least:
        why = f"{count} block{'s' * (count > 1)}: pairs of {len(mean)} methods can be told apart from {least} on"
        return Ranking(made, mean, bests, friedman, None, None, nan, why)
    test, p_values = _pairs(made.losses[list(mean.index)].to_numpy(float), made.is_one_quantity)
    groups = cliques([*mean.index], p_values, test)
    return Ranking(made, mean, bests, friedman, groups, _corrected(p_values), critical_difference(len(mean), count), "")


def least_blocks(methods: int) -> int:
    """With fewer no pair can be told apart at LEVEL: the p-value of n blocks that all agree is 2^(1-n).

    Holm's first threshold is LEVEL over the number of pairs.
    """
    return ceil(1 + log2(methods * (methods - 1) / 2 / LEVEL))


def critical_difference(methods: int, count: int) -> float:
    """Nemenyi's, of two mean ranks over `count` blocks (Demsar 2006, section 3.2.2)."""
    q = stats.studentized_range.ppf(1 - LEVEL, methods, inf) / sqrt(2)
    return float(q * sqrt(methods * (methods + 1) / (6 * count)))


def _friedman(ranks: Array) -> Friedman:
    """Of ranks [N,M]."""
    if (ranks == ranks[:, :1]).all():
        return Friedman(0.0, 1.0)  # all are alike everywhere: SciPy divides by zero
    columns = [*ranks.T]
    drawn = stats.permutation_test(
        columns,
        _spread,
        permutation_type="samples",
        vectorized=True,
        n_resamples=DRAWS,
        batch=PART,
        alternative="greater",
        random_state=np.random.default_rng(derive_seed("friedman")),
    )
    return Friedman(float(stats.friedmanchisquare(*columns).statistic), float(drawn.pvalue))


def _spread(*columns: Array, axis: int) -> Array:
    """What Friedman's statistic grows with while ranks change places in their blocks; exact, for ranks are halves."""
    return np.sum([column.sum(axis=axis) ** 2 for column in columns], axis=0)


def _pairs(losses: Array, is_one_quantity: bool) -> tuple[str, Array]:
    """The test in words, and two-sided p-values [M,M] of losses [N,M]; sizes of other quantities do not compare."""
    test, name = (_wilcoxon, "Wilcoxon signed ranks") if is_one_quantity else (_sign, "sign test")
    p_values = np.ones((losses.shape[1],) * 2)
    for one, two in zip(*np.triu_indices(losses.shape[1], 1), strict=True):
        difference = losses[:, one] - losses[:, two]
        if difference.any():
            p_values[one, two] = p_values[two, one] = test(difference)
    return f"{name} over the blocks", p_values


def _wilcoxon(difference: Array) -> float:
    """Differences that are equal but for their last bits are ties."""
    return float(stats.wilcoxon(np.array([*map(rounded, difference)])).pvalue)


def _sign(difference: Array) -> float:
    """Blocks in which both are alike say nothing."""
    wins = int((difference > 0).sum())
    return float(stats.binomtest(wins, int((difference != 0).sum())).pvalue)


def _corrected(p_values: Array) -> Array:
    one, two = np.triu_indices(len(p_values), 1)
    made = np.ones_like(p_values)
    made[one, two] = made[two, one] = holm(p_values[one, two])
    return made
