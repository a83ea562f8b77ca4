"""Blocks: each is one quantity of one model on one set of images under one seed, with a value of every method."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from ...detection import AVERAGE, TOGETHER
from ...store.identity import canonical
from ..report.ranks import directed, rounded
from ..settings import method_settings, named_apart, nested

PLACE = ["model", "weights", "dataset", "reference", "split", "subset", "protocol", "precision", "taken"]
QUANTITY = ["metric", "variant", "stat", "x"]
SETTINGS = ["settings", "protocol", "weights", "seed", "precision"]


class Blocks(NamedTuple):
    """What methods are ranked by.

    title: what is ranked. losses: [N,M] a row a block, a column a method; less is better, with the digits that count.
    is_one_quantity: whether their sizes can be compared between blocks. left_out: in words, what is not among them.
    """

    title: str
    losses: pd.DataFrame
    is_one_quantity: bool
    left_out: list[str]


def blocks(results: pd.DataFrame) -> Iterator[Blocks]:
    """Of tidy rows: attributions by all that their metrics call headlines, detectors by one quantity at a time.

    Averages are no blocks: what they are made of is. Nor are subsets, which are parts of other blocks, where there are
    such. A block that some method has no value in is left out.
    """
    rows = _ranked(results)
    for title, part in rows.groupby(_titles(rows), sort=True):
        if part["method"].nunique() > 1:
            yield _blocks(str(title), _named(part))


def _ranked(results: pd.DataFrame) -> pd.DataFrame:
    """Headlines with a finite value and a good direction, of whole sets."""
    results = results.assign(**{name: "" for name in [*PLACE, *SETTINGS] if name not in results})
    rows = directed(results[results["headline"].astype(bool) & results["value"].notna()])
    values = rows["value"].astype(float)
    pooled = rows["dataset"].str.split(" ").str[0].isin([AVERAGE, TOGETHER])
    rows = rows[np.isfinite(values) & ~pooled & (rows["subset"] == "all")].fillna({"reference": ""})
    ways = [nested(each) for each in rows["settings"]]
    taken = [canonical({name: way.get(name) for name in ("metric", "data")}) for way in ways]
    up = rows["higher_is_better"].astype(bool)
    losses = rows["value"].astype(float).where(~up, -rows["value"].astype(float))
    return rows.assign(taken=taken, x=rows["x"].astype(str), loss=losses.map(rounded))


def _titles(rows: pd.DataFrame) -> pd.Series:
    """Numbers of detectors are ranked by quantity: FPR95 and AUROC of one set are nearly one number."""
    detectors = (rows["metric"] + " " + rows["stat"] + " " + rows["variant"]).str.strip()
    return detectors.where(rows["kind"] != "attribution", "attributions")


def _named(rows: pd.DataFrame) -> pd.DataFrame:
    """Methods that a block has twice, with the settings that tell their results apart."""
    twice = rows.duplicated([*PLACE, *QUANTITY, "seed", "method"], keep=False)
    called = rows["method"].isin(set(rows[twice]["method"]))
    several = rows[called]
    said = [_without_place(method_settings(**row)) for row in several[SETTINGS].to_dict("records")]
    methods = rows["method"].copy()
    methods[called] = named_apart([*several["method"]], said)
    return rows.assign(method=methods)


def _without_place(settings: dict[str, object]) -> dict[str, object]:
    """What a block is named by tells no two of its results apart."""
    return {name: value for name, value in settings.items() if name not in SETTINGS}


def _blocks(title: str, rows: pd.DataFrame) -> Blocks:
    place = [*PLACE, *QUANTITY, "seed"]
    twice = rows.duplicated([*place, "method"], keep=False)
    unclear = sorted(set(rows[twice]["method"]))
    wide = rows[~rows["method"].isin(unclear)].pivot(index=place, columns="method", values="loss")
    complete = wide.dropna()
    kept = _once(complete)
    left_out = [*_unclear(unclear), *_lacking(wide), *_repeated(len(complete) - len(kept))]
    quantities = rows[[*QUANTITY]].drop_duplicates()
    return Blocks(title, kept, len(quantities) == 1, left_out)


def _once(losses: pd.DataFrame) -> pd.DataFrame:
    """Blocks that another seed has not given the same values: they would count what was seen once twice."""
    return losses.loc[~losses.reset_index("seed", drop=True).reset_index().duplicated().to_numpy()]


def _unclear(methods: list[str]) -> Iterator[str]:
    if methods:
        yield f"{', '.join(methods)}: two results of one block that no setting tells apart"


def _lacking(wide: pd.DataFrame) -> Iterator[str]:
    """Which methods keep how many blocks out."""
    if lost := int(wide.isna().any(axis=1).sum()):
        absent = wide.isna().sum()
        who = ", ".join(f"{name} in {count}" for name, count in absent[absent > 0].items())
        yield f"{lost} of {len(wide)} blocks lack a value ({who})"


def _repeated(count: int) -> Iterator[str]:
    if count:
        yield f"{count} blocks in which another seed gave the same values"
