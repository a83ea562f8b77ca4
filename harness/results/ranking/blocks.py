"""Blocks: each is one quantity of one model on one set of images under one seed, with a value of every method."""

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from ...detection import AVERAGE, TOGETHER
from ...store.identity import canonical
from ..report.ranks import directed, rounded
from ..settings import method_settings, named_apart, nested
from .sieve import largest, newest

PLACE = ["model", "weights", "dataset", "reference", "split", "subset", "protocol", "precision", "taken"]
QUANTITY = ["metric", "variant", "stat", "x"]
SETTINGS = ["settings", "protocol", "weights", "seed", "precision"]
# Settings that a network (its layers) or a set (what is fitted on beside it) may decide, by dotted name.
BOUND = re.compile(r"^(protocol|training|readings)\.|(^|[._])layers?(\.\d+)?$")


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
    such, nor results of an older VERSION, nor smaller parts of a set. A block that some method has no value in is left
    out.
    """
    rows = _ranked(results)
    for title, part in rows.groupby(_titles(rows), sort=True):
        if part["method"].nunique() > 1:
            kept, left_out = newest(part)
            yield _blocks(str(title), _named(kept), left_out)


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
    """Methods with several settings over the blocks, with what tells them apart: they are several methods."""
    every = [_without_place(method_settings(**row)) for row in rows[SETTINGS].to_dict("records")]
    said = pd.Series(every, index=rows.index, dtype=object)
    methods = rows["method"].copy()
    for _, group in rows.groupby("method", sort=False):
        told = _without_bound(group, said[group.index])
        methods[group.index] = named_apart([*group["method"]], told)
    return rows.assign(method=methods)


def _without_place(settings: dict[str, object]) -> dict[str, object]:
    """What a block is named by tells no two of its results apart."""
    return {name: value for name, value in settings.items() if name not in SETTINGS}


def _without_bound(rows: pd.DataFrame, said: pd.Series) -> list[dict[str, object]]:
    """Settings of one method's results without those that its networks and sets decide, one in each place."""
    places = [*rows[PLACE].astype(str).itertuples(index=False, name=None)]
    names = {name for settings in said for name in settings if BOUND.search(name)}
    bound = {name for name in names if _is_decided([str(each.get(name)) for each in said], places)}
    return [{name: value for name, value in settings.items() if name not in bound} for settings in said]


def _is_decided(values: list[str], places: list[tuple[str, ...]]) -> bool:
    return len(set(zip(places, values, strict=True))) == len(set(places))


def _blocks(title: str, rows: pd.DataFrame, left_out: list[str]) -> Blocks:
    place = [*PLACE, *QUANTITY, "seed"]
    twice = rows.duplicated([*place, "method"], keep=False)
    unclear = sorted(set(rows[twice]["method"]))
    wide = rows[~rows["method"].isin(unclear)].pivot(index=place, columns="method", values="loss")
    complete = wide.dropna()
    whole, smaller = largest(complete)
    kept = _once(whole)
    left_out = [*left_out, *_unclear(unclear), *_lacking(wide), *smaller, *_repeated(len(whole) - len(kept))]
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
