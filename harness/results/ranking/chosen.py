"""Which rows of the tidy table are ranked: those of composed configs, or with some words in some columns."""

from collections.abc import Iterable, Sequence

import pandas as pd

from ...config import ConfigError, RunConfig, suggest


def of_configs(results: pd.DataFrame, configs: Iterable[RunConfig], seeds: bool) -> pd.DataFrame:
    """Rows of what some runs compute, of every seed that is stored; with `seeds` of theirs alone."""
    kept = pd.Series(False, index=results.index)
    for config in configs:
        kept |= _of(results, config, seeds)
    return results[kept]


def _of(results: pd.DataFrame, config: RunConfig, seeds: bool) -> pd.Series:
    sets = [config.dataset.name, *(each.name for each in config.ood.values())]
    wanted: dict[str, Sequence[object]] = {
        "model": [config.model.name],
        "dataset": sets,
        "method": [*config.method],
        "metric": [*config.metric],
        **({"seed": [str(config.seed)]} if seeds else {}),
    }
    kept = pd.Series(True, index=results.index)
    for column, values in wanted.items():
        kept &= results[column].astype(str).isin([*map(str, values)])
    against = results["reference"].fillna("").str.split(" ").str[0]
    return kept & against.isin(["", config.dataset.name])


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
