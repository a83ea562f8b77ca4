"""Which rows of the tidy table are ranked: those that some runs ask for, or with some words in some columns."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from ...config import ConfigError, suggest
from ...engine.costs import Asked

NAMED = 3  # of what is missing


class Job(NamedTuple):
    """What a run asks for, under each seed that counts, and the command that computes it."""

    again: str
    asked: tuple[Asked, ...]


def of_jobs(results: pd.DataFrame, jobs: Iterable[Job]) -> pd.DataFrame:
    """Rows of what jobs ask for, failed ones among them: keys say with which settings, splits of how many images.

    Raises:
        ConfigError: something was computed under none of the seeds.
    """
    rows = [*zip(results["cell_key"], results["metric_key"], results["split"].fillna(""), strict=True)]
    stored, wanted = set(rows), set[tuple[str, str, str]]()
    for job in jobs:
        found = [(each, {_key(each), _key(each._replace(split=""))}) for each in job.asked]
        _check(job, {each.name for each, _ in found} - {each.name for each, keys in found if keys & stored})
        wanted |= {key for _, keys in found for key in keys}
    return results[np.array([row in wanted for row in rows], dtype=bool)]


def _key(asked: Asked) -> tuple[str, str, str]:
    return asked.cell, asked.metric, asked.split


def _check(job: Job, missing: set[str]) -> None:
    if missing:
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        raise ConfigError(
            f"not computed with these settings: {', '.join(sorted(missing)[:NAMED])}{more}: compute it with "
            f"{job.again}, or choose among what is stored with --where alone"
        )


def where(results: pd.DataFrame, conditions: Sequence[str]) -> pd.DataFrame:
    """Rows of which every condition, `COLUMN=VALUE` or `COLUMN=VALUE,VALUE`, is true.

    Raises:
        ConfigError: no such column, or no row has one of the values.
    """
    for condition in conditions:
        column, sign, values = condition.partition("=")
        if not sign or column not in results:
            raise ConfigError(f"--where {condition}: {suggest(column, results.columns, 'column of results.csv')}")
        texts = results[column].astype(str)
        for value in values.split(","):
            if value not in set(texts):
                raise ConfigError(f"--where {condition}: {suggest(value, set(texts), f'{column} of these results')}")
        results = results[texts.isin(values.split(","))]
    return results
