"""A ranking for people and for programs: a terminal's table, rows of a CSV, JSON."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..report.cliques import LEVEL
from ..terminal import grid, wrapped
from .significance import Ranking

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def text(made: Ranking) -> str:
    """What is ranked, a line a method (the best first), what was tested, and what was left out."""
    groups = letters(made)
    rows = [
        (name, f"{rank:.2f}", str(made.bests[name]), groups.get(name, ""))
        for name, rank in made.ranks.items()  # the best first
    ]
    title = f"{made.blocks.title}: mean ranks over {counted(made)}"
    heads = ["method", "mean rank", "best in", "groups"]
    return "\n".join([wrapped(title), grid(heads, rows), *map(wrapped, said(made))])


def said(made: Ranking) -> list[str]:
    """What was tested and found, and what was left out, in sentences."""
    lines = []
    if made.friedman is not None:
        verdict = "the methods differ" if made.friedman.p < LEVEL else "it does not show that the methods differ"
        lines.append(f"Friedman: chi2 {made.friedman.chi2:.2f}, p {made.friedman.p:.4f} (permutations): {verdict}")
    if made.cliques is None:
        lines.append(f"{'pairs are not' if made.friedman else 'nothing is'} tested: {made.why}")
    else:
        lines.append(f"methods that share a letter are not told apart ({made.cliques.test}, Holm, 5 %)")
        lines.append(f"Nemenyi's critical difference of two mean ranks: {made.critical:.2f}")
    return [*lines, *notes(made), *(f"left out: {each}" for each in made.blocks.left_out)]


def notes(made: Ranking) -> list[str]:
    """What the tests' numbers must not be read without."""
    return [*_shared(made)]


def _shared(made: Ranking) -> Iterator[str]:
    """Tests take blocks for independent; those of one network on the same images are not."""
    places = made.blocks.losses.index.to_frame()
    tested = places["dataset"].where(places["reference"] == "", places["reference"])
    pairs = len(places.assign(tested=tested)[["model", "weights", "tested"]].drop_duplicates())
    is_tested = made.friedman is not None or made.cliques is not None
    if is_tested and pairs < len(places):
        whole = _number_of(pairs, "pair")
        yield f"{len(places)} blocks of {whole} of network and test set are not independent: p is too small"


def counted(made: Ranking) -> str:
    """How many blocks, of what."""
    places = made.blocks.losses.index.to_frame()
    parts = {"model": ["model", "weights"], "set": ["dataset", "split", "reference"], "seed": ["seed"]}
    counts = [_number_of(len(places[columns].drop_duplicates()), name) for name, columns in parts.items()]
    return f"{_number_of(len(places), 'block')} ({', '.join(counts)})"


def _number_of(count: int, thing: str) -> str:
    return f"{count} {thing}{'s' * (count != 1)}"


def letters(made: Ranking) -> dict[str, str]:
    """Of each method the letters of its groups; none where no pair is tested. Groups begin with their best method."""
    groups = [] if made.cliques is None else made.cliques.groups
    names = [LETTERS[number] if number < len(LETTERS) else f"({number})" for number in range(len(groups))]
    return {
        name: "".join(letter for letter, group in zip(names, groups, strict=True) if name in group)
        for name in made.ranks.index
    }


def records(made: Ranking) -> list[dict[str, Any]]:
    """A row a method, for a CSV."""
    groups = letters(made)
    shared: dict[str, Any] = {"blocks": len(made.blocks.losses), "friedman_chi2": None, "friedman_p": None}
    if made.friedman is not None:
        shared |= {"friedman_chi2": made.friedman.chi2, "friedman_p": made.friedman.p}
    shared |= {"critical_difference": _number(made.critical), "untested": made.why}
    shared |= {"notes": "; ".join(notes(made))}
    return [
        {"ranking": made.blocks.title, "method": name, "mean_rank": float(rank), "best_in": int(made.bests[name])}
        | {"groups": groups.get(str(name), "")}
        | shared
        for name, rank in made.ranks.items()
    ]


def mapping(made: Ranking) -> dict[str, Any]:
    """All of it, for JSON: the methods' rows, groups, corrected p-values of all pairs, what was left out."""
    names = [*map(str, made.ranks.index)]
    first, second = np.triu_indices(len(names), 1)
    values = made.p_values
    pairs = [] if values is None else list(zip(first.tolist(), second.tolist(), strict=True))
    return {
        "ranking": made.blocks.title,
        "methods": records(made),
        "groups": [] if made.cliques is None else made.cliques.groups,
        "test": "" if made.cliques is None else f"{made.cliques.test}, Holm's correction",
        "pairs": [
            {"first": names[one], "second": names[two], "p": float(values[one, two])}
            for one, two in pairs
            if values is not None
        ],
        "notes": notes(made),
        "left_out": made.blocks.left_out,
    }


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value
